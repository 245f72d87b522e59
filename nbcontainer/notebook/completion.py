"""Tab completion on ``%%container`` lines: options and their values, variables, programs, names of containers, volumes and signals."""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any

from nbcontainer import verbs
from nbcontainer.notebook import fields
from nbcontainer.options import OF_PROCESSES, OPTIONS, Option

SIGNALS = ("TERM", "INT", "HUP", "KILL", "QUIT", "USR1", "USR2", "STOP", "CONT")
MAGICS = ("%%container", "%container")
FRESH_SECONDS = 10.0
_BY_NAME = {name: option for option in OPTIONS for name in option.names if not option.later}
_TEMPLATE = re.compile(r"""(?:--format|-f)[ =](['"])((?:(?!\1).)*)$""")
_MOST_PATHS = 200
_VARIABLES = ("input", "output", "result", "out", "err")

_programs: tuple[float, list[str]] = (-FRESH_SECONDS, [])


def complete(line: str, variables: Mapping[str, Any] | None = None) -> list[str]:
    """What can follow ``line`` (the text up to the cursor): whole words, or values of the option before."""
    words = line.split(" ")
    if words[0] not in MAGICS or len(words) < 2:
        return []
    *given, last = words[1:]
    if words[0] == "%container":
        if not given:
            return _beginning(verbs.NAMES, last)
        verb = given.pop(0)
        if verb not in verbs.OF_CELLS:
            return _verb(verb, given, last)
        option, names = _state(given)
        if verb != "run" and option is None and not names and not last.startswith("-"):
            return _beginning(container_names(), last) if verb == "exec" else []
        if verb != "run" and names:
            given = [*given[: -len(names)], *names[1:]]
        within = verb == "exec"
        if within and names and last.startswith("-"):
            return []
    else:
        within = "--exec" in given
    option, program = _state(given)
    if option is not None:
        return _values(option, last, variables or {})
    if program:
        return []
    return _options_or_programs(last, variables or {}, within=within)


def _options_or_programs(last: str, variables: Mapping[str, Any], *, within: bool) -> list[str]:
    """``within``: for something in a container that is there already."""
    if last.startswith("-"):
        name, equals, value = last.partition("=")
        if equals:
            return [f"{name}={found}" for found in _values(_BY_NAME[name], value, variables)] if name in _BY_NAME else []
        known = [option for option in OPTIONS if not option.later and (not within or option.key in OF_PROCESSES)]
        return [option.names[0] for option in known if option.names[0].startswith(last)]
    return _beginning(programs(), last) if last and "/" not in last else []


def _verb(verb: str, given: list[str], last: str) -> list[str]:
    """After any other verb, by what its parser takes."""
    if verb in verbs.FAMILIES:
        if not given:
            return _beginning(verbs.members(verb), last)
        verb, given = f"{verb} {given[0]}", given[1:]
    if verb == "doctor" or verb not in {*verbs.NAMES, *(known.name for known in verbs.VERBS)}:
        return []
    actions = verbs.find(verb).parser()._actions
    with_value = {name: action for action in actions if action.nargs != 0 for name in action.option_strings}
    names: list[str] = []
    before: argparse.Action | None = None
    for word in given:
        names += [word] if word and before is None and not word.startswith("-") else []
        before = with_value.get(word) if before is None else None
    template = _template_begun(" ".join([*given, last]))
    if template is not None:
        return fields.of_template(verb, template, last)
    if before is not None:
        return _of_verb_option(verb, before, last)
    name, equals, value = last.partition("=")
    if equals and name in with_value:
        return [f"{name}={found}" for found in _of_verb_option(verb, with_value[name], value)]
    if last.startswith("-"):
        return _beginning(sorted(name for action in actions for name in action.option_strings if name.startswith("--")), last)
    takes = {action.dest: action.nargs for action in actions if not action.option_strings}
    if "names" not in takes and ("name" not in takes or names):
        return []
    return [name for name in _names_for(verb) if name.startswith(last) and name not in names]


def _template_begun(text: str) -> str | None:
    """What of a template in quotes stands before the cursor, where blanks are in it."""
    begun = _TEMPLATE.search(text)
    return begun[2] if begun is not None and " " in begun[2] else None


def _names_for(verb: str) -> list[str]:
    if verb.endswith((" create", " ls", " prune")):
        return []
    if verb.startswith("volume "):
        return volume_names()
    if verb.startswith("network "):
        return [name for name in network_names() if name != "bridge" or verb == "network inspect"]
    return container_names()


def _of_verb_option(verb: str, option: argparse.Action, last: str) -> list[str]:
    if option.dest == "filter":
        return fields.of_filter(verb, last, _names_for)
    if option.dest == "format":
        return fields.of_template(verb, last, last)
    name = option.option_strings[0]
    known = SIGNALS if option.dest == "signal" else _BY_NAME[name].choices if name in _BY_NAME else ()
    return _beginning(map(str, option.choices or known), last)


def _beginning(names: Iterable[str], text: str) -> list[str]:
    return [name for name in names if name.startswith(text)]


def _state(given: list[str]) -> tuple[Option | None, list[str]]:
    """(the option whose value comes next, the words from the first one on that is no option)."""
    option: Option | None = None
    for place, word in enumerate(given):
        if option is not None:
            option = None
        elif word.startswith("-") and word != "--":
            found = _BY_NAME.get(word)
            option = found if found is not None and found.value else None
        elif word:
            return None, given[place:]
    return option, []


def _values(option: Option, text: str, variables: Mapping[str, Any]) -> list[str]:
    if option.key in ("input", "output"):
        head, comma, tail = text.rpartition(",")
        taken = set(head.split(","))
        return [f"{head}{comma}{name}" for name in _names(variables) if name.startswith(tail) and name not in taken]
    if option.key in _VARIABLES:
        return _beginning(_names(variables), text)
    if option.key == "exec":
        return _beginning(container_names(), text)
    if option.key == "volume":
        return _volume(text)
    if option.key in ("cap_add", "cap_drop"):
        return _capabilities(text)
    if option.key == "net":
        head, comma, tail = text.rpartition(",")
        taken = set(head.split(","))
        # Several networks are joined by commas; none and host are alone.
        alone = () if comma else ("none", "host")
        return [f"{head}{comma}{name}" for name in (*alone, *network_names()) if name.startswith(tail) and name not in taken]
    if option.value != "LIST":
        return _beginning(option.choices, text)
    head, comma, tail = text.rpartition(",")
    taken = {*head.split(","), "all"} if comma else set()
    return [f"{head}{comma}{choice}" for choice in option.choices if choice.startswith(tail) and choice not in taken]


def _volume(text: str) -> list[str]:
    """``SRC:DST[:ro]``: volumes and paths, with the colon where they may end."""
    source, colon, target = text.partition(":")
    if colon:
        where, second, mode = target.partition(":")
        return [f"{source}:{where}:{choice}" for choice in ("ro", "rw") if choice.startswith(mode)] if second else []
    if "/" not in text:
        here = [place for place in (".:", "./", "../", "~/") if place.startswith(text)] if not text or text[0] in ".~" else []
        return [*_beginning((f"{name}:" for name in volume_names()), text), *here]
    directory, _, start = text.rpartition("/")
    try:
        with os.scandir(os.path.expanduser(f"{directory}/")) as entries:
            found = sorted((entry.name, entry.is_dir()) for entry in entries if entry.name.startswith(start) and (start or not entry.name.startswith(".")))
    except OSError:
        return []
    itself = [f"{directory}:"] if directory and not start else []
    return itself + [f"{directory}/{name}{'/' if is_directory else ':'}" for name, is_directory in found[:_MOST_PATHS] if " " not in name and ":" not in name]


def _capabilities(text: str) -> list[str]:
    from nbcontainer.linux.capabilities import CAPABILITIES

    prefix = "CAP_" if text.upper().startswith("CAP_") else ""
    return _beginning((f"{prefix}{name}" for name in (*(() if prefix else ("ALL",)), *sorted(CAPABILITIES))), text.upper())


def _names(variables: Mapping[str, Any]) -> list[str]:
    module = type(sys)
    return sorted(name for name, value in variables.items() if not name.startswith("_") and not isinstance(value, module))


def container_names() -> list[str]:
    """Of this kernel's containers, also of those that were kept, and of those of this user's others."""
    from nbcontainer.containers import CONTAINERS
    from nbcontainer.state import list_containers

    return sorted({*(container.name for container in CONTAINERS.all()), *(record.name for record in list_containers())})


def network_names() -> tuple[str, ...]:
    from nbcontainer import networks

    return networks.names()


def volume_names() -> list[str]:
    from nbcontainer import volumes

    return [volume.name for volume in volumes.find_all()]


def programs() -> list[str]:
    """What a container of the default root finds on its PATH."""
    global _programs
    read_at, names = _programs
    if time.monotonic() - read_at > FRESH_SECONDS:
        from nbcontainer.runtime.client import PATH

        found: set[str] = set()
        for directory in (f"{sys.prefix}/bin", *PATH.split(":")):
            try:
                with os.scandir(directory) as entries:
                    found.update(entry.name for entry in entries)
            except OSError:
                continue
        names = sorted(found)
        _programs = time.monotonic(), names
    return names


def _matcher(context: Any) -> Any:
    from IPython.core.completer import SimpleCompletion
    from IPython.core.getipython import get_ipython

    line = context.line_with_cursor if hasattr(context, "line_with_cursor") else context.full_text
    line = context.full_text.split("\n")[context.cursor_line][: context.cursor_position] or line
    shell: Any = get_ipython()
    hidden = getattr(shell, "user_ns_hidden", {})
    found = complete(line, {name: value for name, value in getattr(shell, "user_ns", {}).items() if name not in hidden})
    return {
        "completions": [SimpleCompletion(text=text, type="option") for text in found],
        "suppress": bool(found),
        "ordered": True,
        "matched_fragment": line.rpartition(" ")[2],
    }


_matcher.matcher_api_version = 2  # type: ignore[attr-defined]
_matcher.matcher_identifier = "nbcontainer"  # type: ignore[attr-defined]


def register(ipython: Any) -> None:
    unregister(ipython)
    ipython.Completer.custom_matchers.append(_matcher)


def unregister(ipython: Any) -> None:
    if _matcher in ipython.Completer.custom_matchers:
        ipython.Completer.custom_matchers.remove(_matcher)
