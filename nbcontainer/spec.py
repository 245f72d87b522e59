"""What a container is to be: frozen dataclasses, and the validation of all options, alone and together.

Sizes are bytes, rates bytes per second, times seconds, CPU shares cores. Everything that a user can get wrong is
refused here, with a one-line :class:`~nbcontainer.errors.SpecError`, before anything is started.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from nbcontainer.errors import SpecError
from nbcontainer.mounts import Mount, Root
from nbcontainer.ports import Port, parse_ports
from nbcontainer.profiles import check_caps, check_changes, profiles_for, with_defaults
from nbcontainer.units import (
    GIB,
    KIB,
    MIB,
    check_text,
    clean,
    current_directory,
    flag,
    format_size,
    parse_cpu_list,
    parse_number,
    parse_seconds,
    parse_size,
    shown,
    word,
    words,
)

NAMESPACES = ("pid", "net", "mnt", "ipc", "uts", "user", "cgroup")
"""The namespaces of a container by default; ``time`` exists too and is only made when it is asked for."""
ALL_NAMESPACES = (*NAMESPACES, "time")
SECURITY_PROFILES = ("default", "unconfined")
DEFAULT_PIDS = 256
DEFAULT_MAX_OUTPUT_BYTES = 10 * MIB
DEFAULT_SHM_BYTES = 64 * MIB
"""Docker's; of a writable layer that is smaller, as much as that."""
MINIMUM_NOFILE = 16
"""The runtime itself needs some descriptors until the cell begins."""
CONTAINER_IDS = 65536
"""User and group ids of a container with a user namespace of its own."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_HOSTNAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_USER = re.compile(r"([^:]{1,256}?)(?::(\d{1,10}))?", re.ASCII)
_ULIMITS = (
    "as core cpu data fsize memlock msgqueue nice nofile nproc rss rtprio rttime sigpending stack"
).split()


@dataclass(frozen=True, slots=True)
class Limits:
    """What a container may use. ``None`` means: no limit of its own (its parents' still hold)."""

    memory_bytes: int | None = None
    memory_high_bytes: int | None = None
    swap_bytes: int = 0
    cpus: float | None = None
    cpu_weight: int | None = None
    """1 to 10000, 100 is what everybody has (cgroup v2's scale)."""
    cpuset: str | None = None
    pids: int | None = DEFAULT_PIDS
    io_read_bytes_per_second: int | None = None
    io_write_bytes_per_second: int | None = None
    net_bytes_per_second: int | None = None
    """On each network, in each direction."""
    net_delay_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Ulimit:
    """One resource limit (setrlimit); ``name`` as in ``ulimit``/Docker, such as ``nofile``."""

    name: str
    soft: int
    hard: int

    @classmethod
    def parse(cls, text: str) -> Ulimit:
        """``nofile=64`` or ``nofile=64:128``; -1 is unlimited."""
        name, equals, values = text.partition("=")
        parts = values.split(":")
        if name not in _ULIMITS or not equals or len(parts) > 2:
            raise SpecError(f"--ulimit: {shown(text)} is not NAME=SOFT[:HARD] with NAME one of {', '.join(_ULIMITS)}")
        limits = [int(parse_number(part, "--ulimit", minimum=-1, maximum=2**62, whole=True)) for part in parts]
        if limits[-1] != -1 and not 0 <= limits[0] <= limits[-1]:
            raise SpecError(f"--ulimit: {text!r} has a soft limit above the hard one")
        if name == "nofile" and 0 <= limits[0] < MINIMUM_NOFILE:
            raise SpecError(f"--ulimit: {text!r} leaves no descriptors to start with; give nofile={MINIMUM_NOFILE} or more")
        return cls(name, limits[0], limits[-1])


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """One container, completely described; build it with :func:`make_spec`."""

    limits: Limits = Limits()
    namespaces: frozenset[str] = frozenset(NAMESPACES)
    root: Root = dataclasses.field(default_factory=Root)
    bare: bool = False
    hostname: str | None = None
    mounts: tuple[Mount, ...] = ()
    read_only: bool = False
    user: str = "root"
    environment: tuple[tuple[str, str], ...] = ()
    workdir: str | None = None
    """None: /workspace where there is one, else /."""
    workspace: str | None = None
    """Host directory that is /workspace, copy-on-write; None: an empty /workspace."""
    network: Literal["none", "host", "bridge"] = "none"
    networks: tuple[str, ...] = ()
    """Where ``network`` is ``bridge``: the networks that it is on, the first of them with its default route."""
    ports: tuple[Port, ...] = ()
    disk_bytes: int = 256 * MIB
    shm_bytes: int = DEFAULT_SHM_BYTES
    """Size of /dev/shm."""
    timeout_seconds: float | None = None
    max_output_bytes: int = DEFAULT_MAX_OUTPUT_BYTES
    ulimits: tuple[Ulimit, ...] = ()
    init: bool = False
    name: str | None = None
    program: tuple[str, ...] = ()
    """Empty: the code is Python, run by the kernel's own Python."""
    interval_seconds: float | None = None
    """None: every 5 ms in the first second, then every 0.1 s."""
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    security: str = "default"
    """``default``: with a seccomp filter; ``unconfined``: without."""
    memory_by_default: bool = False
    """``--mem`` was not given: an engine with less memory may lower the limit."""
    session: bool = False
    """Its process runs Python cells that come one after the other."""
    keep: bool = False
    """What it has written stays when it has ended."""
    background: bool = False
    """Nobody waits for it: what it writes goes to a log that forgets."""
    notes: tuple[str, ...] = ()
    """Sentences for the reader about what was chosen, such as an empty /workspace."""
    once: bool = False
    """No other container of this kind is to be expected: none is made in advance."""
    cell_number: int = 0
    """The number of the notebook's cell, as in ``In [5]``; 0: none."""

    def replace(self, **changes: Any) -> ContainerSpec:
        return dataclasses.replace(self, **changes)


def parse_namespaces(unshare: str | Iterable[str] | None, share: str | Iterable[str] | None) -> frozenset[str]:
    """The namespaces to make: ``unshare`` replaces the default set, ``share`` takes away from it."""
    chosen = set(NAMESPACES) if unshare is None else _namespace_list(unshare, "--unshare")
    if share is not None:
        chosen -= _namespace_list(share, "--share")
    return frozenset(chosen)


def _namespace_list(value: str | Iterable[str], option: str) -> set[str]:
    items = value.split(",") if isinstance(value, str) else words(value, option)
    names = {item.strip() for item in items if item.strip()}
    if "all" in names:
        names = (names - {"all"}) | set(NAMESPACES)
    for name in names - set(ALL_NAMESPACES):
        raise SpecError(f"{option}: {shown(name)} is not a namespace; there are {', '.join(ALL_NAMESPACES)}")
    return names


def host_memory_bytes() -> tuple[int, int]:
    """(total, available) memory of the host in bytes, from /proc/meminfo."""
    fields: dict[str, int] = {}
    with open("/proc/meminfo", encoding="ascii") as meminfo:
        for line in meminfo:
            key, value = line.split(":")
            fields[key] = int(value.split()[0]) * KIB
            if "MemAvailable" in fields:
                break
    return fields["MemTotal"], fields["MemAvailable"]


def make_spec(options: Mapping[str, Any] | None = None, **keywords: Any) -> ContainerSpec:
    """A validated spec from option names with ``_`` for ``-``: ``make_spec(mem="128M", cpus=0.5)``.

    Values may be strings as on the magic line or the obvious Python types; ``None`` stands for the default. Raises
    SpecError that names the option, the value and what is allowed.
    """
    given = {key: value for key, value in {**(options or {}), **keywords}.items() if value is not None}
    for key in given:
        if key not in OPTION_NAMES:
            raise SpecError(f"unknown option {key!r}; the options are {', '.join(sorted(OPTION_NAMES))}")
    base = _base(given.get("base"))
    profiles = profiles_for(base, OPTION_NAMES)
    if not profiles:
        return _make_spec(given, base)
    options, sources = with_defaults(given, profiles)
    check_caps(options, profiles, host_memory_bytes()[1] // 2)
    try:
        return _make_spec(options, base)
    except SpecError as error:
        source = sources.get(str(error).partition(":")[0].removeprefix("--").replace("-", "_"))
        if source is None:
            raise
        raise SpecError(f"{error} ({source})") from None


def _make_spec(given: dict[str, Any], base: str) -> ContainerSpec:
    get = given.get
    namespaces = parse_namespaces(get("unshare"), get("share"))
    ports = parse_ports(words(get("publish", ()), "--publish"))
    network, networks = _network(get("net", "bridge" if ports else None), namespaces, asked=get("unshare") is not None)
    if network == "host":
        namespaces -= {"net"}
    root = _root(get("root"), namespaces)
    limits = _limits(given)
    workspace, notes = _workspace(get("workspace"), base, root, flag(given, "bare"))
    mounts = [Mount.parse_volume(text, base) for text in words(get("volume", get("volumes", ())), "--volume")]
    mounts += [Mount.parse_tmpfs(text) for text in words(get("tmpfs", ()), "--tmpfs")]
    memory = limits.memory_bytes or GIB
    disk = parse_size(given["disk"], "--disk") if "disk" in given else max(min(GIB, memory // 2), 64 * KIB)
    spec = ContainerSpec(
        limits=limits,
        namespaces=namespaces,
        root=root,
        bare=flag(given, "bare"),
        hostname=_hostname(get("hostname"), namespaces),
        mounts=tuple(mounts),
        read_only=flag(given, "read_only"),
        user=_user(get("user", "root"), namespaces),
        environment=_environment(get("env", ())),
        workdir=_workdir(get("workdir")),
        workspace=workspace,
        network=network,
        networks=networks,
        ports=ports,
        disk_bytes=disk,
        shm_bytes=parse_size(get("shm_size", min(DEFAULT_SHM_BYTES, disk)), "--shm-size"),
        timeout_seconds=parse_number(given["timeout"], "--timeout", minimum=0.001, maximum=1e9) if "timeout" in given else None,
        max_output_bytes=parse_size(get("max_output", DEFAULT_MAX_OUTPUT_BYTES), "--max-output"),
        ulimits=tuple(Ulimit.parse(text) for text in words(get("ulimit", ()), "--ulimit")),
        init=flag(given, "init"),
        name=_name(get("name")),
        program=_program(get("program", ())),
        interval_seconds=parse_number(given["interval"], "--interval", minimum=0.005, maximum=3600) if "interval" in given else None,
        cap_add=tuple(_capability(name, "--cap-add") for name in words(get("cap_add", ()), "--cap-add")),
        cap_drop=tuple(_capability(name, "--cap-drop") for name in words(get("cap_drop", ()), "--cap-drop")),
        security=_security(get("security", "default")),
        memory_by_default="mem" not in given,
        notes=tuple(notes),
    )
    _check_together(spec, given)
    return spec


OPTION_NAMES = frozenset(
    "mem memory_high swap cpus cpu_weight cpuset pids io_read io_write disk shm_size timeout max_output ulimit unshare share root bare "
    "net publish net_rate net_delay hostname volume volumes tmpfs read_only user cap_add cap_drop security env workdir workspace name init program interval base".split()
)


def _limits(given: Mapping[str, Any]) -> Limits:
    total, available = host_memory_bytes()
    memory = parse_size(given["mem"], "--mem") if "mem" in given else max(available // 2, 64 * MIB)
    if "mem" in given and memory > total:
        raise SpecError(f"--mem: {shown(given['mem'])} is more than this host's {format_size(total)} of memory")
    cpu_count = os.cpu_count() or 1
    cpus = parse_number(given["cpus"], "--cpus", minimum=0.01, maximum=cpu_count) if "cpus" in given else None
    high = parse_size(given["memory_high"], "--memory-high") if "memory_high" in given else None
    if high is not None and high > memory:
        raise SpecError(f"--memory-high: {shown(given['memory_high'])} is above --mem ({format_size(memory)}) and would never be reached")
    weight = parse_number(given["cpu_weight"], "--cpu-weight", minimum=1, maximum=10000, whole=True) if "cpu_weight" in given else None
    return Limits(
        memory_bytes=memory,
        memory_high_bytes=high,
        swap_bytes=parse_size(given.get("swap", 0), "--swap", minimum=0),
        cpus=cpus,
        cpu_weight=None if weight is None else int(weight),
        cpuset=_cpuset(given.get("cpuset"), cpu_count),
        pids=int(parse_number(given.get("pids", DEFAULT_PIDS), "--pids", minimum=1, maximum=4194304, whole=True)),
        io_read_bytes_per_second=_rate(given.get("io_read"), "--io-read"),
        io_write_bytes_per_second=_rate(given.get("io_write"), "--io-write"),
        net_bytes_per_second=_net_rate(given.get("net_rate")),
        net_delay_seconds=parse_seconds(given["net_delay"], "--net-delay", maximum=10) if "net_delay" in given else None,
    )


_LIMIT_FIELDS = {
    "mem": "memory_bytes",
    "memory_high": "memory_high_bytes",
    "swap": "swap_bytes",
    "cpus": "cpus",
    "cpu_weight": "cpu_weight",
    "cpuset": "cpuset",
    "pids": "pids",
    "io_read": "io_read_bytes_per_second",
    "io_write": "io_write_bytes_per_second",
    "net_rate": "net_bytes_per_second",
    "net_delay": "net_delay_seconds",
}
"""A running container's limits can be changed by these options; the field of each."""


def change_limits(limits: Limits, changes: Mapping[str, Any]) -> Limits:
    """``limits`` with ``changes`` by option name; None takes a limit away. Raises SpecError."""
    for key in changes:
        if key not in _LIMIT_FIELDS:
            raise SpecError(f"update: {key!r} cannot be changed while a container runs; {', '.join(sorted(_LIMIT_FIELDS))} can")
    check_changes(changes, OPTION_NAMES)
    given = {key: value for key, value in changes.items() if value is not None}
    mem = changes.get("mem", limits.memory_bytes)
    if mem is not None:
        given["mem"] = mem  # --memory-high is checked against it
    checked = _limits(given)
    if "swap" in changes and changes["swap"] is None:
        raise SpecError("update: swap cannot be without a limit; give a size")
    fields: dict[str, Any] = {_LIMIT_FIELDS[key]: None for key in changes}
    fields.update({_LIMIT_FIELDS[key]: getattr(checked, _LIMIT_FIELDS[key]) for key in changes if key in given})
    return dataclasses.replace(limits, **fields)


def _rate(value: Any, option: str) -> int | None:
    if value is None:
        return None
    return parse_size(value.removesuffix("/s") if isinstance(value, str) else value, option)


def _net_rate(value: Any) -> int | None:
    rate = _rate(value, "--net-rate")
    if rate is not None and not 1024 <= rate < 1 << 32:
        raise SpecError(f"--net-rate: {shown(value)} is not from 1K to 4095M a second")
    return rate


def _cpuset(value: Any, cpu_count: int) -> str | None:
    if value is None:
        return None
    cpu_list = parse_cpu_list(word(value, "--cpuset"))
    for number in re.findall(r"\d+", cpu_list):
        if int(number) >= cpu_count:
            raise SpecError(f"--cpuset: this host has no CPU {number}; it has 0-{cpu_count - 1}")
    return cpu_list


def _root(value: Any, namespaces: frozenset[str]) -> Root:
    if value is None:
        return Root("system" if "mnt" in namespaces else "none")
    root = value if isinstance(value, Root) else Root.parse(word(value, "--root"))
    if root.kind != "none" and "mnt" not in namespaces:
        raise SpecError(f"--root: {value} needs a mount namespace; add mnt to --unshare, or write --root none")
    return root


def _base(value: Any) -> str:
    """The notebook's directory: where relative volume sources start, and what /workspace shows."""
    if value is None:
        return current_directory()
    path = check_text(word(value, "base"), "base")
    if not os.path.isabs(path):
        path = os.path.join(current_directory(), path)
    if "\0" in path or not os.path.isdir(path):
        raise SpecError(f"base: {shown(path)} is not a directory on this host")
    return path


_SYSTEM_DIRECTORIES = frozenset("/ /bin /boot /dev /etc /home /lib /lib32 /lib64 /libx32 /proc /root /run /sbin /sys /usr /var".split())
_ALL_OF_SYSTEM_DIRECTORIES = ("/boot/", "/dev/", "/etc/", "/proc/", "/sys/")


def _workspace(value: Any, base: str, root: Root, bare: bool) -> tuple[str | None, list[str]]:
    if value is not None and value != "none":
        raise SpecError(f"--workspace: {shown(value)} is not none; use -v DIRECTORY:/workspace to choose the directory")
    if value == "none" or root.kind == "none" or bare:
        return None, []
    real = os.path.realpath(base)
    home = os.path.realpath(os.path.expanduser("~"))
    what = ""
    if real == home:
        what = "a home directory"
    elif home.startswith(real.rstrip("/") + "/"):
        what = "above the home directories"
    elif real in _SYSTEM_DIRECTORIES or real.startswith(_ALL_OF_SYSTEM_DIRECTORIES):
        what = "a directory of the system"
    if what:
        return None, [f"/workspace is empty, because the notebook's directory {real} is {what}"]
    return real, []


def _hostname(value: Any, namespaces: frozenset[str]) -> str | None:
    if value is None:
        return None
    if "uts" not in namespaces:
        raise SpecError("--hostname: would rename the host, because the uts namespace is shared; add uts to --unshare")
    if len(str(value)) > 64 or _HOSTNAME.fullmatch(str(value)) is None:
        raise SpecError(f"--hostname: {shown(value)} is not a host name (letters, digits, hyphens and dots; at most 64)")
    return str(value)


_Network = Literal["none", "host", "bridge"]


def _network(value: Any, namespaces: frozenset[str], *, asked: bool) -> tuple[_Network, tuple[str, ...]]:
    """``asked``: the namespaces were listed by the user, so that ``host`` may contradict them."""
    if value is None:
        return ("none" if "net" in namespaces else "host"), ()
    names = tuple(name.strip() for text in words(value, "--net") for name in text.split(","))
    for name in names:
        if NAME.fullmatch(name) is None:
            raise SpecError(f"--net: {shown(name)} is not none, host, bridge or the name of a network")
    if len(set(names)) < len(names):
        raise SpecError(f"--net: {shown(value)} names a network twice")
    if names == ("host",):
        if asked and "net" in namespaces:
            raise SpecError("--net: host is the host's network namespace; leave net out of --unshare")
        return "host", ()
    if "net" not in namespaces:
        raise SpecError(f"--net: {names[0]} needs a network namespace; add net to --unshare")
    if names == ("none",):
        return "none", ()
    for name in {"none", "host"} & set(names):
        raise SpecError(f"--net: {name} cannot be had together with a network")
    return "bridge", names


def _environment(value: Any) -> tuple[tuple[str, str], ...]:
    if isinstance(value, Mapping):
        pairs = list(value.items())
    else:
        pairs = [(name, content if equals else None) for name, equals, content in (text.partition("=") for text in words(value, "--env"))]
    result = []
    for name, content in pairs:
        if not isinstance(name, str) or _ENV_NAME.fullmatch(name) is None:
            raise SpecError(f"--env: {shown(name)} is not NAME=VALUE")
        if content is None:
            raise SpecError(f"--env: {name} has no value; write {name}=VALUE (a container gets nothing of the kernel's environment)")
        text = check_text(word(content, f"--env: {name}"), f"--env: {name}")
        if "\0" in text:
            raise SpecError(f"--env: {name} has a value with a NUL character in it")
        result.append((name, text))
    return tuple(result)


def _user(value: Any, namespaces: frozenset[str]) -> str:
    text = clean(word(value, "--user"), "--user")
    match = _USER.fullmatch(text)
    if match is None:
        raise SpecError(f"--user: {shown(text)} is not NAME, UID, UID:GID or NAME:GID")
    if match[1] in ("root", "0") and int(match[2] or 0):
        raise SpecError(f"--user: {shown(text)} is root with another group; leave the group out, or choose another user")
    largest = CONTAINER_IDS - 1 if "user" in namespaces else 2**32 - 2
    ids = [part for part in match.groups() if part is not None and part.isascii() and part.isdigit()]
    if any(len(part) > 10 or int(part) > largest for part in ids):
        raise SpecError(f"--user: {shown(text)} has an id above {largest}, the last one of the container")
    return text


def _workdir(value: Any) -> str | None:
    if value is None:
        return None
    path = clean(word(value, "--workdir"), "--workdir")
    if not path.startswith("/"):
        raise SpecError(f"--workdir: {shown(value)} must be an absolute path in the container")
    return os.path.normpath("/" + path.strip("/"))


def _name(value: Any) -> str | None:
    if value is not None and NAME.fullmatch(str(value)) is None:
        raise SpecError(f"--name: {shown(value)} is not a name (letters, digits, _ . -, at most 63, a letter or digit first)")
    return None if value is None else str(value)


def _program(value: Any) -> tuple[str, ...]:
    program = words(value, "PROGRAM")
    if any("\0" in argument for argument in program) or (program and not program[0]):
        raise SpecError(f"PROGRAM: {shown(program)} is not a program and its arguments")
    return tuple(check_text(argument, "PROGRAM") for argument in program)


def _capability(name: str, option: str) -> str:
    from nbcontainer.linux.capabilities import CAPABILITIES

    plain = name.upper().removeprefix("CAP_")
    if plain != "ALL" and plain not in CAPABILITIES:
        raise SpecError(f"{option}: {shown(name)} is not a capability such as NET_RAW (or ALL)")
    return plain


def _security(value: Any) -> str:
    if value not in SECURITY_PROFILES:
        raise SpecError(f"--security: {shown(value)} is not one of {', '.join(SECURITY_PROFILES)}")
    return str(value)


def _check_together(spec: ContainerSpec, given: Mapping[str, Any]) -> None:
    """What single options cannot say: combinations that would do nothing, or something to the host."""
    if spec.bare and spec.root.kind != "dir":
        raise SpecError("--bare: only with --root DIRECTORY (the other roots need /proc, /dev and the like)")
    if spec.bare and spec.mounts:
        raise SpecError("--bare: no mount of ours is made in a bare root, so -v and --tmpfs cannot be used with it")
    if spec.mounts and "mnt" not in spec.namespaces:
        raise SpecError("--volume, --tmpfs: would be mounted on the host, because the mnt namespace is shared")
    if "shm_size" in given and (spec.bare or spec.root.kind == "none"):
        raise SpecError(f"--shm-size: with {'--bare' if spec.bare else '--root none'} the container has no /dev/shm of its own")
    if spec.read_only and spec.root.kind == "none":
        raise SpecError("--read-only: needs a root of the container's own; --root none is the host's tree")
    if spec.root.kind == "none" and "workdir" not in given and spec.workspace is not None:
        raise SpecError("--workspace: --root none has no /workspace")
    if spec.root.kind == "dir" and not spec.program and not _has_python(spec.root.path):
        raise SpecError(
            f"--root: {spec.root.path} has no Python in it; run a program of its own, such as: %%container --root {spec.root} sh"
        )
    if spec.root.kind == "dir" and not spec.program:
        raise SpecError(f"--root: a Python cell needs the kernel's own Python; run the directory's: --root {spec.root} python3 -")
    if "MKNOD" in spec.cap_add and "user" not in spec.namespaces:
        raise SpecError("--cap-add: MKNOD with the host's user namespace would open every disk; leave user in --unshare")
    if spec.ports and spec.network != "bridge":
        why = "all ports are the host's already" if spec.network == "host" else "nothing can be reached there"
        raise SpecError(f"--publish: not with --net {spec.network}, where {why}; leave --net out, or use --net bridge")
    check_network_limits(spec, spec.limits)
    if spec.init and spec.limits.pids == 1:
        raise SpecError("--init: needs two processes, itself and the cell; give --pids 2 or more")
    seen: set[str] = set()
    for mount in spec.mounts:
        if mount.target in seen:
            raise SpecError(f"--volume, --tmpfs: two mounts at {mount.target}")
        seen.add(mount.target)


def check_network_limits(spec: ContainerSpec, limits: Limits) -> None:
    """Whether ``limits`` are such as ``spec`` can have. Raises SpecError."""
    options = [("--net-rate", limits.net_bytes_per_second), ("--net-delay", limits.net_delay_seconds)]
    given = next((option for option, value in options if value is not None), None)
    if given is None:
        return
    if spec.network != "bridge":
        what = "the host's interfaces are not ours to slow down" if spec.network == "host" else "there is nothing to slow down"
        raise SpecError(f"{given}: with --net {spec.network}, {what}; add --net bridge")
    if {"NET_ADMIN", "ALL"} & (set(spec.cap_add) - set(spec.cap_drop)) and not ("ALL" in spec.cap_add and "NET_ADMIN" in spec.cap_drop):
        raise SpecError(f"{given}: with --cap-add NET_ADMIN the cell could take the limit away; leave one of the two out")


def _has_python(root: str) -> bool:
    return any(os.path.lexists(os.path.join(root, directory, "python3")) for directory in ("bin", "usr/bin", "usr/local/bin"))


PROCESS_OPTIONS = ("timeout", "max_output", "interval", "env", "workdir", "user")
"""What can be chosen for something that runs in a container that is there already."""


def parse_process(spec: ContainerSpec, program: str | Iterable[str], options: Mapping[str, Any]) -> ContainerSpec:
    """``spec``, a running container's, for another process or cell in it. Raises SpecError."""
    given = {key: value for key, value in options.items() if value is not None}
    for key in given:
        if key not in PROCESS_OPTIONS:
            known = ", ".join(f"--{name.replace('_', '-')}" for name in PROCESS_OPTIONS)
            raise SpecError(f"--{key.replace('_', '-')}: belongs to the container, which is there already; with --exec there are {known}")
    for key in ("env", "workdir", "user"):
        if key in given and spec.session and not program:
            raise SpecError(f"--{key}: a session's process is there already; os.environ and os.chdir change it from a cell")
    return spec.replace(
        program=_program(program),
        timeout_seconds=parse_number(given["timeout"], "--timeout", minimum=0.001, maximum=1e9) if "timeout" in given else None,
        max_output_bytes=parse_size(given["max_output"], "--max-output") if "max_output" in given else spec.max_output_bytes,
        interval_seconds=parse_number(given["interval"], "--interval", minimum=0.005, maximum=3600) if "interval" in given else None,
        environment=(*spec.environment, *_environment(given.get("env", ()))),
        workdir=_workdir(given.get("workdir")) or spec.workdir,
        user=_user(given["user"], spec.namespaces) if "user" in given else spec.user,
        background=False,
        init=False,
        notes=(),
        cell_number=0,
    )
