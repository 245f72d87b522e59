"""Options to a spec: every option, alone and together, before anything is started.

Everything that a user can get wrong is refused here, with a one-line :class:`~nbcontainer.errors.SpecError`.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Iterable, Mapping
from typing import Any

from nbcontainer.errors import SpecError
from nbcontainer.linux.meminfo import host_memory_bytes
from nbcontainer.mounts import Mount
from nbcontainer.ports import parse_ports
from nbcontainer.profiles import check_caps, check_changes, profiles_for, with_defaults
from nbcontainer.spec import DEFAULT_MAX_OUTPUT_BYTES, DEFAULT_PIDS, DEFAULT_SHM_BYTES, ContainerSpec, Limits, Ulimit
from nbcontainer.units import GIB, KIB, MIB, flag, format_size, parse_number, parse_seconds, parse_size, shown, words
from nbcontainer.values import (
    keys_in_workspace,
    parse_base,
    parse_capability,
    parse_cpuset,
    parse_environment,
    parse_hostname,
    parse_name,
    parse_namespaces,
    parse_net_rate,
    parse_network,
    parse_program,
    parse_rate,
    parse_root,
    parse_security,
    parse_user,
    parse_workdir,
    parse_workspace,
)

OPTION_NAMES = frozenset(
    "mem memory_high swap cpus cpu_weight cpuset pids io_read io_write disk shm_size timeout max_output ulimit unshare share root bare "
    "net publish net_rate net_delay hostname volume volumes tmpfs read_only user cap_add cap_drop security env workdir workspace name init program interval base".split()
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
PROCESS_OPTIONS = ("timeout", "max_output", "interval", "env", "workdir", "user")
"""What can be chosen for something that runs in a container that is there already."""


def make_spec(options: Mapping[str, Any] | None = None, **keywords: Any) -> ContainerSpec:
    """A validated spec from option names with ``_`` for ``-``: ``make_spec(mem="128M", cpus=0.5)``.

    Values may be strings as on the magic line or the obvious Python types; ``None`` stands for the default. Raises
    SpecError that names the option, the value and what is allowed.
    """
    given = {key: value for key, value in {**(options or {}), **keywords}.items() if value is not None}
    for key in given:
        if key not in OPTION_NAMES:
            near = " or ".join(difflib.get_close_matches(key, sorted(OPTION_NAMES), 2, 0.6))
            hint = f"did you mean {near}? T" if near else "t"
            raise SpecError(f"unknown option {key!r}; {hint}he options are {', '.join(sorted(OPTION_NAMES))}")
    base = parse_base(given.get("base"))
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
    network, networks = parse_network(get("net", "bridge" if ports else None), namespaces, asked=get("unshare") is not None)
    if network == "host":
        namespaces -= {"net"}
    root = parse_root(get("root"), namespaces)
    limits = _limits(given)
    workspace, notes = parse_workspace(get("workspace"), base, root, flag(given, "bare"))
    mounts = [Mount.parse_volume(text, base) for text in words(get("volume", get("volumes", ())), "--volume")]
    mounts += [Mount.parse_tmpfs(text) for text in words(get("tmpfs", ()), "--tmpfs")]
    memory = limits.memory_bytes or GIB
    disk = parse_size(given["disk"], "--disk") if "disk" in given else max(min(GIB, memory // 2), 64 * KIB)
    spec = ContainerSpec(
        limits=limits,
        namespaces=namespaces,
        root=root,
        bare=flag(given, "bare"),
        hostname=parse_hostname(get("hostname"), namespaces),
        mounts=tuple(mounts),
        read_only=flag(given, "read_only"),
        user=parse_user(get("user", "root"), namespaces),
        environment=parse_environment(get("env", ())),
        workdir=parse_workdir(get("workdir")),
        workspace=workspace,
        workspace_hidden=() if workspace is None else keys_in_workspace(workspace),
        network=network,
        networks=networks,
        ports=ports,
        disk_bytes=disk,
        shm_bytes=parse_size(get("shm_size", min(DEFAULT_SHM_BYTES, disk)), "--shm-size"),
        timeout_seconds=parse_number(given["timeout"], "--timeout", minimum=0.001, maximum=1e9) if "timeout" in given else None,
        max_output_bytes=parse_size(get("max_output", DEFAULT_MAX_OUTPUT_BYTES), "--max-output"),
        ulimits=tuple(Ulimit.parse(text) for text in words(get("ulimit", ()), "--ulimit")),
        init=flag(given, "init"),
        name=parse_name(get("name")),
        program=parse_program(get("program", ())),
        interval_seconds=parse_number(given["interval"], "--interval", minimum=0.005, maximum=3600) if "interval" in given else None,
        cap_add=tuple(parse_capability(name, "--cap-add") for name in words(get("cap_add", ()), "--cap-add")),
        cap_drop=tuple(parse_capability(name, "--cap-drop") for name in words(get("cap_drop", ()), "--cap-drop")),
        security=parse_security(get("security", "default")),
        memory_by_default="mem" not in given,
        notes=tuple(notes),
    )
    _check_together(spec, given)
    return spec


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
        cpuset=parse_cpuset(given.get("cpuset"), cpu_count),
        pids=int(parse_number(given.get("pids", DEFAULT_PIDS), "--pids", minimum=1, maximum=4194304, whole=True)),
        io_read_bytes_per_second=parse_rate(given.get("io_read"), "--io-read"),
        io_write_bytes_per_second=parse_rate(given.get("io_write"), "--io-write"),
        net_bytes_per_second=parse_net_rate(given.get("net_rate")),
        net_delay_seconds=parse_seconds(given["net_delay"], "--net-delay", maximum=10) if "net_delay" in given else None,
    )


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
        program=parse_program(program),
        timeout_seconds=parse_number(given["timeout"], "--timeout", minimum=0.001, maximum=1e9) if "timeout" in given else None,
        max_output_bytes=parse_size(given["max_output"], "--max-output") if "max_output" in given else spec.max_output_bytes,
        interval_seconds=parse_number(given["interval"], "--interval", minimum=0.005, maximum=3600) if "interval" in given else None,
        environment=(*spec.environment, *parse_environment(given.get("env", ()))),
        workdir=parse_workdir(given.get("workdir")) or spec.workdir,
        user=parse_user(given["user"], spec.namespaces) if "user" in given else spec.user,
        background=False,
        init=False,
        notes=(),
        cell_number=0,
    )
