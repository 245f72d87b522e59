"""``%container network VERB``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nbcontainer import networks
from nbcontainer.errors import SpecError

USAGE = "network create [--subnet 10.77.0.0/24] [--internal] NAME | ls | inspect [NAME] | rm NAME... | prune"
VERBS = ("create", "ls", "inspect", "rm", "prune")
OPTIONS = {"create": ("--engine", "--internal", "--subnet"), **dict.fromkeys(VERBS[1:], ("--engine",))}
"""By verb."""


def run(words: Sequence[str]) -> None:
    """Print or show what came of it. Raises SpecError of one line, and what the engine raises."""
    verb, rest = (words[0], list(words[1:])) if words else ("--help", [])
    if verb in ("--help", "-h"):
        print(f"usage: %container {USAGE}")
        return
    if verb not in VERBS:
        raise SpecError(f"network: {verb!r} is not one of {', '.join(VERBS)}; it is: {USAGE}")
    options = {"engine": _take(rest, "--engine")}
    if verb == "create":
        _create(rest, options)
        return
    unknown = next((word for word in rest if word.startswith("-")), None)
    if unknown is not None:
        raise SpecError(f"network {verb}: there is no option {unknown}; it is: {USAGE}")
    if verb == "inspect":
        if len(rest) > 1:
            raise SpecError("network inspect: takes one name")
        _show(networks.inspect(rest[0] if rest else networks.DEFAULT, **options))
    elif verb == "rm":
        if not rest:
            raise SpecError("network rm: a NAME is missing; %container network ls shows them")
        for name in rest:
            networks.rm(name, **options)
            print(name)
    elif rest:
        raise SpecError(f"network {verb}: takes no arguments")
    elif verb == "ls":
        print(networks.as_table(networks.ls(**options)))
    else:
        removed = networks.prune(**options)
        print("\n".join([*removed, f"{len(removed)} removed"]))


def _create(rest: list[str], options: dict[str, Any]) -> None:
    subnet = _take(rest, "--subnet")
    internal = "--internal" in rest
    names = [word for word in rest if word != "--internal"]
    if len(names) != 1 or names[0].startswith("-"):
        raise SpecError(f"network create: give one NAME; it is: {USAGE}")
    made = networks.create(names[0], subnet=subnet, internal=internal, **options)
    print(f"{made.name}: {made.subnet}, gateway {made.gateway}")


def _take(words: list[str], option: str) -> str | None:
    """The option's value, taken out of ``words``; None where it is not there."""
    for position, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name == option:
            if not equals and position + 1 == len(words):
                raise SpecError(f"{option}: a value is missing")
            found = value if equals else words[position + 1]
            del words[position : position + (1 if equals else 2)]
            return found
    return None


def _show(picture: Any) -> None:
    import IPython.display
    from IPython.core.getipython import get_ipython

    from nbcontainer.notebook.live import is_kernel

    if is_kernel(get_ipython()):
        IPython.display.display(picture)  # type: ignore[no-untyped-call]
    else:
        print(picture)
