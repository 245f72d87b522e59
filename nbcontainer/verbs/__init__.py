"""The verbs of ``%container`` and the command: what they are called, what they take, and what they answer.

A verb answers with something to show (text, a Table, a Document) or with an iterator of log records. No front end in here.
"""

from __future__ import annotations

import argparse
import importlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from nbcontainer import dockers
from nbcontainer.errors import NbcontainerError, SpecError
from nbcontainer.logs import Record
from nbcontainer.spelling import hint, nearest
from nbcontainer.verbs.shown import Document, Table

if TYPE_CHECKING:
    from nbcontainer.network.described import NetworkPicture

    Answer = str | Table | Document | NetworkPicture | Iterator[Record]
OF_CELLS = ("run", "start", "exec")
"""Verbs that run something, which each front end does in its own way."""
LATER = ("commit", "export", "images", "pull", "push", "build", "history", "rmi", "image", "import", "load", "login", "save", "search", "tag")


class _Parser(argparse.ArgumentParser):
    """Errors are SpecErrors of one line."""

    def error(self, message: str) -> NoReturn:
        raise SpecError(f"{self.prog}: {self._in_our_words(message)}; {self.prog} --help says more")

    def _in_our_words(self, message: str) -> str:
        one = re.fullmatch(r"argument (\S+): (.*)", message)
        if one is not None:
            return f"{one[1].split('/')[-1]}: {'a value is missing' if one[2] == 'expected one argument' else one[2]}"
        unknown = message.removeprefix("unrecognized arguments: ").split(" ")[0]
        if unknown == message.split(" ")[0] or not unknown.startswith("-"):
            return message
        asked = unknown.partition("=")[0]
        if self.prog == "update" and asked in dockers.OPTIONS:
            return f"there is no option {asked}; {dockers.OPTIONS[asked]}"
        near = nearest(asked, self._option_string_actions)
        return f"there is no option {unknown}" + (f"; did you mean {near}?" if near else "")

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        raise SpecError((message or "").strip())


@dataclass(frozen=True, slots=True)
class Verb:
    name: str
    summary: str
    module: str
    """Where ``<name>(arguments) -> Answer`` and ``<name>_arguments(parser)`` are, with ``_`` for the blank of ``volume ls``."""
    of_containers: bool = False
    """Its NAMEs are containers, which may be other kernels' of this user."""

    def _part(self, suffix: str = "") -> Any:
        return getattr(importlib.import_module(f"nbcontainer.verbs.{self.module}"), f"{self.name.replace(' ', '_')}{suffix}", None)

    def parser(self) -> _Parser:
        # Without -h: argparse would print and leave, and --format may need it.
        parser = _Parser(prog=self.name, description=self.summary, add_help=False, allow_abbrev=False)
        add: Callable[[argparse.ArgumentParser], None] | None = self._part("_arguments")
        if add is not None:
            add(parser)
        parser.add_argument("--help", action="store_true", help="this text")
        return parser

    def options(self) -> list[str]:
        return [name for action in self.parser()._actions for name in action.option_strings if name.startswith("--")]

    def answer(self, words: Sequence[str]) -> Answer:
        """Raises SpecError, HostError, SetupError, InternalError."""
        parser = self.parser()
        if "--help" in words:
            return parser.format_help().rstrip().replace("usage: ", "usage: %container ", 1)
        given = parser.parse_args(list(words))
        return self._answer_anywhere(given) if self.of_containers else self.act(given)

    def act(self, given: argparse.Namespace) -> Answer:
        """On this kernel's containers."""
        act: Callable[[argparse.Namespace], Answer] = self._part()
        return act(given)

    def _answer_anywhere(self, given: argparse.Namespace) -> Answer:
        """Each kernel answers for its own containers; what is nobody's is this one's to explain."""
        from nbcontainer.containers import CONTAINERS

        names: list[str] = given.names if "names" in given else [given.name]
        places: dict[str | None, list[str]] = {}
        for name in names:
            place = None
            if not CONTAINERS.knows(name):
                from nbcontainer import elsewhere

                place = elsewhere.place_of(name)
            places.setdefault(place, []).append(name)
        answers: list[Answer] = []
        failure: NbcontainerError | None = None
        for place, members in places.items():
            part = argparse.Namespace(**{**vars(given), **({"names": members} if "names" in given else {})})
            try:
                answers.append(self.act(part) if place is None else elsewhere.call(place, self.name, part))
            except NbcontainerError as error:
                failure = failure or error
        if failure is not None:
            raise failure
        return _joined(answers)


def _joined(answers: list[Answer]) -> Answer:
    if len(answers) == 1:
        return answers[0]
    if all(isinstance(answer, Document) for answer in answers):
        return Document([one for answer in answers if isinstance(answer, Document) for one in answer.content])
    return "\n".join(map(str, answers))


VERBS: tuple[Verb, ...] = (
    Verb("ps", "Containers: all of this user's that run; with -a, also those that have ended and were kept.", "listing"),
    Verb("stats", "CPU, memory, network, disk and processes of the containers that run.", "listing"),
    Verb("top", "The processes of a container, with their ids on the host.", "looking", of_containers=True),
    Verb("port", "Published ports of a container: port NAME [PORT[/udp]].", "looking", of_containers=True),
    Verb("logs", "What a container in the background has written.", "output", of_containers=True),
    Verb("attach", "Show what a container writes from now on, until it ends; the stop button goes to the container.", "output", of_containers=True),
    Verb("inspect", "All that is known of a container, as JSON.", "looking", of_containers=True),
    Verb("diff", "Files of a container's root that were added (A), changed (C) or deleted (D).", "looking", of_containers=True),
    Verb("tree", "Namespaces and cgroups of this kernel and of its containers, side by side, with inode numbers.", "looking"),
    Verb("pause", "Freeze all processes of containers.", "acting", of_containers=True),
    Verb("resume", "Let frozen containers run again (also: unpause).", "acting", of_containers=True),
    Verb("update", "Change limits of a running container.", "acting", of_containers=True),
    Verb("stop", "SIGTERM, and after ten seconds SIGKILL.", "acting", of_containers=True),
    Verb("kill", "Send a signal to containers; SIGKILL without -s.", "acting", of_containers=True),
    Verb("wait", "Wait for the end of containers; prints their exit codes.", "acting", of_containers=True),
    Verb("rm", "Forget containers that have ended; with -f, end them first.", "acting", of_containers=True),
    Verb("prune", "Remove kept containers that have ended, and what killed kernels have left.", "acting"),
    Verb("volume create", "Make named volumes.", "storage"),
    Verb("volume ls", "Named volumes of this user.", "storage"),
    Verb("volume inspect", "All that is known of volumes, as JSON.", "storage"),
    Verb("volume rm", "Remove volumes with all that is in them.", "storage"),
    Verb("volume prune", "Remove all volumes that no container has.", "storage"),
    Verb("network create", "Make a network.", "connecting"),
    Verb("network ls", "Networks of this notebook.", "connecting"),
    Verb("network inspect", "A network with everything on it, as a picture.", "connecting"),
    Verb("network rm", "Remove networks.", "connecting"),
    Verb("network prune", "Remove the networks that no container is on.", "connecting"),
)
FAMILIES = {"volume": "Named volumes", "network": "Networks of containers"}
"""Verbs of two words begin with one of these."""
_ALSO = {"list": "ps", "ls": "ps", "unpause": "resume", "remove": "rm"}
NAMES = tuple(sorted({*OF_CELLS, "doctor", *(verb.name.split(" ")[0] for verb in VERBS)}))


def find(name: str) -> Verb:
    """Raises SpecError with the nearest spelling."""
    verb = next((verb for verb in VERBS if verb.name == _ALSO.get(name, name)), None)
    if verb is not None:
        return verb
    if name in LATER:
        raise SpecError(f"{name}: is not available yet; it comes with images")
    if name in dockers.VERBS:
        raise SpecError(f"{name}: there is no such verb; {dockers.VERBS[name]}")
    if name.startswith("-"):
        raise SpecError(f"{name}: a verb comes first, such as: %container run {name} ...; the options of a cell stand behind %%container, with two %")
    near = nearest(name, [*NAMES, *_ALSO, *LATER], 0.5)
    raise SpecError(f"{name}: there is no such verb; {f'did you mean {near}?' if near else 'there are ' + ', '.join(NAMES)}")


def members(family: str) -> tuple[str, ...]:
    """The second words of its verbs."""
    return tuple(verb.name.split(" ")[1] for verb in VERBS if verb.name.startswith(f"{family} "))


def answer(name: str, words: Sequence[str]) -> Answer:
    """Of a verb, also of a family's. Raises SpecError, HostError, SetupError, InternalError."""
    if name not in FAMILIES:
        return find(name).answer(words)
    second, rest = (words[0], words[1:]) if words else ("", [])
    if second in ("--help", "-h"):
        return family_help_text(name)
    second = {"list": "ls", "remove": "rm"}.get(second, second)
    if second.startswith("-") or (not second and name == "volume"):
        second, rest = "ls", words
    if second not in members(name):
        raise SpecError(f"{name}: {second!r} is not one of {', '.join(members(name))}; {hint(second, members(name)) if second else f'{name} --help says more'}")
    return find(f"{name} {second}").answer(rest)


def family_help_text(family: str) -> str:
    lines = [f"usage: %container {family} VERB [ARGUMENTS]", ""]
    lines += [f"  {verb.name.split(' ')[1]:<8} {verb.summary}" for verb in VERBS if verb.name.startswith(f"{family} ")]
    return "\n".join([*lines, "", f"%container {family} VERB --help says what a verb takes."])


def help_text() -> str:
    rows = [
        ("run", "Run a program in a new container: run [OPTIONS] PROGRAM [ARG...]"),
        ("start", "Start a Python session: start [OPTIONS] NAME, and then %%container --exec NAME."),
        ("exec", "Run a program in a running container: exec [OPTIONS] NAME PROGRAM [ARG...]"),
        *((verb.name, verb.summary) for verb in VERBS if " " not in verb.name),
        *((family, f"{about}: {', '.join(members(family))}.") for family, about in FAMILIES.items()),
        ("doctor", "What this host can do, and what to type where it cannot."),
    ]
    lines = ["usage: %container VERB [ARGUMENTS]", "", *(f"  {name:<8} {text}" for name, text in rows)]
    return "\n".join([*lines, "", "%container VERB --help says what a verb takes, %%container --help is about cells."])
