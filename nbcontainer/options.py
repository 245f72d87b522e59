"""The options of ``%%container`` and ``nbcontainer run``: one table, one parser, and messages of one line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nbcontainer import dockers
from nbcontainer.errors import SpecError
from nbcontainer.spelling import nearest


@dataclass(frozen=True, slots=True)
class Option:
    """One option: its spellings (the first is the one in messages), and what its value is called ("" for a switch)."""

    names: tuple[str, ...]
    value: str
    group: str
    help: str
    repeat: bool = False
    choices: tuple[str, ...] = ()
    """Values for completion; others may be allowed."""
    later: bool = False
    """Recognised, and refused with a clear line, until it is there."""

    @property
    def key(self) -> str:
        return self.names[0].removeprefix("--").replace("-", "_")


def _option(names: str, value: str, group: str, text: str, **more: Any) -> Option:
    return Option(tuple(names.split()), value, group, text, **more)


_SIZES = ("32M", "64M", "128M", "256M", "512M", "1G")
OPTIONS: tuple[Option, ...] = (
    _option("--mem -m --memory", "SIZE", "resources", "memory limit, swap 0 (half of what is available)", choices=_SIZES),
    _option("--memory-high", "SIZE", "resources", "slow down above this much memory (cgroup v2)", choices=_SIZES),
    _option("--swap", "SIZE", "resources", "swap on top of --mem (0)"),
    _option("--cpus", "N", "resources", "CPU quota in cores, such as 0.5 (none)", choices=("0.25", "0.5", "1", "2")),
    _option("--cpu-weight", "N", "resources", "share when CPUs are busy, 1 to 10000 (100)"),
    _option("--cpuset --cpuset-cpus", "LIST", "resources", "CPUs that may be used, such as 0-1"),
    _option("--pids --pids-limit", "N", "resources", "processes and threads (256)", choices=("16", "64", "256")),
    _option("--io-read", "RATE", "resources", "bytes read from disk per second, such as 1M"),
    _option("--io-write", "RATE", "resources", "bytes written to disk per second"),
    _option("--net-rate", "RATE", "resources", "bytes per second on a network, in each direction, such as 1M", choices=("100K", "1M", "10M")),
    _option("--net-delay", "TIME", "resources", "delay of what is sent and received on a network, such as 50ms"),
    _option("--disk", "SIZE", "resources", "writable layer (the smaller of 1G and half of --mem; it counts as memory)"),
    _option("--shm-size", "SIZE", "resources", "/dev/shm, the memory that processes share (64M; it counts as memory)", choices=_SIZES),
    _option("--timeout", "SECONDS", "resources", "kill the cell after this long"),
    _option("--max-output", "SIZE", "resources", "output to show (10M); the rest is in the result"),
    _option("--ulimit", "NAME=SOFT[:HARD]", "resources", "such as nofile=64", repeat=True),
    _option(
        "--unshare", "LIST", "isolation", "namespaces to make (pid,net,mnt,ipc,uts,user,cgroup; also time)",
        choices=("all", "pid", "net", "mnt", "ipc", "uts", "user", "cgroup", "time"),
    ),
    _option(
        "--share", "LIST", "isolation", "namespaces of the host's to keep", choices=("pid", "net", "mnt", "ipc", "uts", "user", "cgroup")
    ),
    _option("--root", "ROOT", "isolation", "system, host, none or DIR[:rw] (system)", choices=("system", "host", "none")),
    _option("--bare", "", "isolation", "no mount of ours in the root (with --root DIR)"),
    _option("--image", "REF", "isolation", "the layers of an OCI image", later=True),
    _option("--net --network", "NETWORK", "isolation", "none, host, bridge or networks of %container network create, the way out by the first that is not internal (none)", repeat=True, choices=("none", "host", "bridge")),
    _option("--publish -p", "[ADDR:]HOSTPORT:PORT[/udp]", "isolation", "a port of this host (on loopback) that leads into the container", repeat=True),
    _option("--hostname", "NAME", "isolation", "host name in the container (its id)"),
    _option("--volume -v", "SRC:DST[:ro]", "isolation", "bind mount; a relative SRC starts at the notebook", repeat=True),
    _option("--tmpfs", "DST[:size=SIZE]", "isolation", "memory file system at DST", repeat=True),
    _option("--read-only", "", "isolation", "nothing of the root can be written"),
    _option("--user -u", "USER", "isolation", "NAME, UID or UID:GID (root of the container)"),
    _option("--cap-add", "CAP", "isolation", "add a capability", repeat=True),
    _option("--cap-drop", "CAP", "isolation", "take a capability away", repeat=True, choices=("ALL",)),
    _option(
        "--security", "NAME", "isolation", "unconfined: without the seccomp filter (default)", choices=("default", "unconfined")
    ),
    _option("--env -e", "NAME=VALUE", "isolation", "environment variable", repeat=True),
    _option("--workdir -w", "DIR", "isolation", "directory to start in (/workspace)"),
    _option("--workspace", "none", "isolation", "none: an empty /workspace", choices=("none",)),
    _option("--engine", "ENGINE", "isolation", "auto, local or vm: where it runs (auto: this host if it can, else a virtual machine)", choices=("auto", "local", "vm")),
    _option("--name", "NAME", "life", "name of the container (its id)"),
    _option("--detach -d", "", "life", "run in the background; its output comes below this cell"),
    _option("--keep", "", "life", "keep what ran in the background when it has ended, with its log and files"),
    _option("--rm", "", "life", "as Docker has it; what --keep does not keep is removed anyway"),
    _option("--init", "", "life", "a reaping init as pid 1, the cell as its child"),
    _option("--exec", "NAME", "life", "run in a running container: a session's next cell, or another process"),
    _option("--input -i", "NAMES", "data", "variables to bring in, such as x,df ('*': all); a program gets texts and numbers in its environment", repeat=True),
    _option("--output -o", "NAMES", "data", "variables to bring out: data, arrays, tables", repeat=True),
    _option("--result", "NAME", "data", "store the Result in this variable"),
    _option("--out", "NAME", "data", "store standard output in this variable instead of showing it"),
    _option("--err", "NAME", "data", "store standard error in this variable instead of showing it"),
    _option("--live", "", "show", "live chart and controls from the start (without it: after 0.5 s)"),
    _option("--no-live", "", "show", "no live chart, only the figure at the end"),
    _option("--interval", "SECONDS", "show", "between samples (5 ms in the first second, then 0.1)"),
    _option("--trust-output", "", "show", "show what the cell displays as it is, scripts included: they run with your rights"),
    _option("--quiet", "", "show", "only the cell's own output: no chart, no notes"),
    _option("--explain", "", "show", "print each step of the plan, then run"),
    _option("--dry-run", "", "show", "print the plan and do not run"),
    _option("--no-raise-error", "", "show", "print how the cell failed instead of raising"),
    _option("--help -h", "", "show", "this text"),
)
COMMAND_OPTIONS: tuple[Option, ...] = (
    _option("--interactive -i", "", "data", "the program gets what comes on standard input, read to its end before it starts"),
)
"""Options of ``nbcontainer run`` besides; they go before what the notebook means by the same name."""
NOTEBOOK_ONLY = frozenset(("detach", "keep", "rm", "exec", "input", "output", "interactive", "quiet", "explain", "dry_run", "no_raise_error", "out", "err", "result", "help", "live", "no_live", "trust_output"))
"""Keys that belong to the front end, not to the container."""
_IN_NOTEBOOKS = frozenset(("detach", "keep", "exec", "input", "output", "out", "err", "result", "no_raise_error", "trust_output", "live", "no_live"))

_TERMINALS = ("-t", "-it", "-ti", "--tty")

_BY_NAME = {name: option for option in OPTIONS for name in option.names}
_COMMAND_BY_NAME = _BY_NAME | {name: option for option in COMMAND_OPTIONS for name in option.names}


@dataclass(frozen=True, slots=True)
class ParsedLine:
    """A line taken apart: the container's options by keyword name, the front end's, and PROGRAM with its arguments."""

    container: dict[str, Any]
    front: dict[str, Any]
    program: tuple[str, ...]


def parse_options(words: Sequence[str], *, command: bool = False) -> ParsedLine:
    """Options up to PROGRAM (the first word that is none, or what follows ``--``). Raises SpecError of one line.

    ``command``: as ``nbcontainer run`` has them.
    """
    by_name = _COMMAND_BY_NAME if command else _BY_NAME
    container: dict[str, Any] = {}
    front: dict[str, Any] = {}
    position = 0
    while position < len(words):
        word = words[position]
        if word == "--":
            position += 1
            break
        if not word.startswith("-") or word == "-":
            break
        name, equals, value = word.partition("=") if word.startswith("--") else _short(word)
        option = _find(name, word, by_name)
        position += 1
        if option.value and not equals:
            if position == len(words):
                raise SpecError(f"{name}: a value is missing; write {name} {option.value}")
            value = words[position]
            position += 1
        elif equals and not option.value:
            raise SpecError(f"{name}: takes no value")
        _store(front if option.key in NOTEBOOK_ONLY else container, option, value, name)
    return ParsedLine(container, front, tuple(words[position:]))


def parse_exec(words: Sequence[str], *, command: bool = False) -> ParsedLine:
    """``exec [OPTIONS] NAME PROGRAM [ARG...]``, as a line of ``--exec``. Raises SpecError."""
    parsed = parse_options(words, command=command)
    if parsed.front.get("help"):
        return parsed
    if len(parsed.program) < 2:
        raise SpecError("exec: a NAME and a PROGRAM are needed, such as: exec lab ps aux")
    return ParsedLine(parsed.container, {**parsed.front, "exec": parsed.program[0]}, parsed.program[1:])


def _short(word: str) -> tuple[str, str, str]:
    """``-m64M`` and ``-m=64M`` as (name, "=", value), as ``docker run`` takes them."""
    return word[:2], word[2:] and "=", word[2:].removeprefix("=")


def _find(name: str, word: str, by_name: dict[str, Option]) -> Option:
    option = by_name.get(name)
    if word in _TERMINALS:
        raise SpecError(f"{word}: containers have no terminals; leave {word} out")
    if option is None and name in dockers.OPTIONS:
        raise SpecError(f"{name}: there is no such option; {dockers.OPTIONS[name]}")
    if option is None or (not option.value and not option.later and name != word and not word.startswith("--")):
        # Without the hyphens, which would make any two of them look alike.
        known = {other.lstrip("-"): other for other, one in by_name.items() if not one.later}
        near = nearest(word.partition("=")[0].lstrip("-"), known, 0.65)
        hint = f"did you mean {known[near]}?" if near else "--help lists the options"
        said = name if word.startswith("--") else word
        raise SpecError(f"{said if said.isprintable() else repr(said)}: there is no such option; {hint}")
    if option.later:
        raise SpecError(f"{name}: is not available yet")
    return option


def _store(values: dict[str, Any], option: Option, value: str, name: str) -> None:
    if option.repeat:
        values.setdefault(option.key, []).append(value)
    elif option.key in values:
        raise SpecError(f"{name}: was given twice")
    elif option.key in ("result", "out", "err") and not value.isidentifier():
        raise SpecError(f"{name}: {value!r} is not a name for a variable")
    else:
        values[option.key] = value if option.value else True


def help_text() -> str:
    """The magic's help, by group."""
    about = "Run this cell in a container. Without PROGRAM it is Python; with PROGRAM it is that program's standard input."
    return _help("%%container [OPTIONS] [PROGRAM [ARG...]]", about, OPTIONS)


def command_help_text() -> str:
    """The help of ``nbcontainer run``, by group."""
    about = "Run a program in a container. Its standard input is empty unless -i is given."
    options = tuple(option for option in OPTIONS if option.key not in _IN_NOTEBOOKS)
    return _help("nbcontainer run [OPTIONS] [--] PROGRAM [ARG...]", about, COMMAND_OPTIONS + options)


OF_PROCESSES = frozenset("timeout max_output interval env workdir user detach input result out err live no_live quiet trust_output no_raise_error help".split())
"""Keys of what can be chosen for something that runs in a container that is there already."""
_OF_CELLS = frozenset("input output exec detach result out err live no_live no_raise_error".split())


def verb_help_text(verb: str) -> str:
    """The help of ``%container run``, ``start`` or ``exec``, by group."""
    if verb == "run":
        about = "Run a program in a new container; with -d, in the background. Its standard input is empty: %%container gives it a cell."
        return _help("%container run [OPTIONS] PROGRAM [ARG...]", about, tuple(option for option in OPTIONS if option.key != "exec"))
    if verb == "start":
        about = "Start a Python session, which keeps its variables from one %%container --exec NAME to the next. With PROGRAM, that runs instead."
        options = tuple(option for option in OPTIONS if option.key not in _OF_CELLS)
        return _help("%container start [OPTIONS] NAME [OPTIONS] [PROGRAM [ARG...]]", about, options)
    about = "Run a program as a new process in a running container; with -d, in the background."
    return _help("%container exec [OPTIONS] NAME PROGRAM [ARG...]", about, tuple(option for option in OPTIONS if option.key in OF_PROCESSES))


def _help(usage: str, about: str, options: Sequence[Option]) -> str:
    return "\n".join([f"usage: {usage}", "", about, *help_of(options)])


def help_of(options: Sequence[Option]) -> list[str]:
    """Lines about ``options``, by group."""
    lines: list[str] = []
    for group in ("resources", "isolation", "life", "data", "show"):
        members = [option for option in options if option.group == group and not option.later]
        lines += ["", f"{group}:"] if members else []
        for option in members:
            left = ", ".join(option.names) + (f" {option.value}" if option.value else "")
            lines.append(f"  {left:<34} {option.help}")
    return [*lines, "", "SIZE: 128M, 1.5G, 64KiB or bytes (powers of 1024). RATE: SIZE per second."]
