"""Verbs that do something to containers."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from nbcontainer.containers import CONTAINERS
from nbcontainer.errors import NbcontainerError, SpecError
from nbcontainer.options import OPTIONS
from nbcontainer.running import STOP_SECONDS, RunningContainer
from nbcontainer.units import format_size, parse_number

_CHANGEABLE = ("mem", "memory_high", "swap", "cpus", "cpu_weight", "cpuset", "pids", "io_read", "io_write")


def _names(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", metavar="NAME", nargs="+", help="name, id, or the beginning of an id")


def _each(verb: str, names: list[str], act: Callable[[RunningContainer], object]) -> str:
    """All that can be done is done; the first that fails is raised afterwards."""
    done: list[str] = []
    failure: NbcontainerError | None = None
    for name in names:
        try:
            said = act(CONTAINERS.find(name, verb))
            done.append(name if said is None else str(said))
        except NbcontainerError as error:
            failure = failure or error
    if failure is not None:
        raise failure
    return "\n".join(done)


pause_arguments = resume_arguments = _names


def pause(given: argparse.Namespace) -> str:
    return _each("pause", given.names, RunningContainer.pause)


def resume(given: argparse.Namespace) -> str:
    return _each("resume", given.names, RunningContainer.resume)


def update_arguments(parser: argparse.ArgumentParser) -> None:
    for option in OPTIONS:
        if option.key in _CHANGEABLE:
            parser.add_argument(*option.names, dest=option.key, metavar=option.value, help=f"{option.help}; none takes it away".replace("%", "%%"))
    _names(parser)


def update(given: argparse.Namespace) -> str:
    changes = {key: getattr(given, key) for key in _CHANGEABLE if getattr(given, key) is not None}
    if not changes:
        raise SpecError("update: nothing is to be changed; write for example: update --mem 256M NAME")
    changes = {key: None if value == "none" else value for key, value in changes.items()}

    def act(container: RunningContainer) -> str:
        limits = container.update(**changes)
        memory = format_size(limits.memory_bytes) if limits.memory_bytes else "no limit"
        cpus = f"{limits.cpus:g}" if limits.cpus else "no limit"
        return f"{container.name}: memory {memory}, cpus {cpus}, pids {limits.pids or 'no limit'}"

    return _each("update", given.names, act)


def stop_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-t", "--time", "--timeout", metavar="SECONDS", dest="seconds", help=f"until SIGKILL ({STOP_SECONDS:g})")
    _names(parser)


def stop(given: argparse.Namespace) -> str:
    seconds = STOP_SECONDS if given.seconds is None else parse_number(given.seconds, "stop: -t", minimum=0, maximum=1e6)
    return _each("stop", given.names, lambda container: container.stop(seconds))


def kill_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-s", "--signal", metavar="SIGNAL", default="KILL", help="such as TERM, INT, HUP or 10 (KILL)")
    _names(parser)


def kill(given: argparse.Namespace) -> str:
    return _each("kill", given.names, lambda container: container.kill(given.signal))


wait_arguments = _names


def wait(given: argparse.Namespace) -> str:
    def act(container: RunningContainer) -> int | str:
        result = container.wait()
        return "?" if result is None else result.status_code

    def wait_for(name: str) -> str:
        code = CONTAINERS.status_code_of_gone(name)
        return str(code) if code is not None else _each("wait", [name], act)

    return "\n".join(map(wait_for, given.names))


def rm_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-f", "--force", action="store_true", help="end it first")
    _names(parser)


def rm(given: argparse.Namespace) -> str:
    return _each("rm", given.names, lambda container: container.remove(force=given.force))


def prune_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-f", "--force", action="store_true", help="as Docker has it; nothing is asked anyway")


def prune(given: argparse.Namespace) -> str:
    from nbcontainer.state import prune as sweep

    lines = []
    for container in CONTAINERS.all():
        if container.status == "exited":
            container.remove()
            lines.append(f"removed {container.name}")
    lines += [f"removed {what}" for what in sweep()]
    return "\n".join([*lines, f"{len(lines)} removed"])
