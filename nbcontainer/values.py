"""The values of single options, as users write them. Each refusal is a one-line SpecError that names option, value and what is allowed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from nbcontainer.errors import SpecError
from nbcontainer.mounts import Root
from nbcontainer.spec import ALL_NAMESPACES, CONTAINER_IDS, NAMESPACES, Network
from nbcontainer.spelling import hint, nearest
from nbcontainer.units import check_text, clean, current_directory, parse_cpu_list, parse_size, shown, word, words

SECURITY_PROFILES = ("default", "unconfined")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_HOSTNAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_USER = re.compile(r"([^:]{1,256}?)(?::(\d{1,10}))?", re.ASCII)
_SYSTEM_DIRECTORIES = frozenset("/ /bin /boot /dev /etc /home /lib /lib32 /lib64 /libx32 /proc /root /run /sbin /sys /usr /var".split())
_ALL_OF_SYSTEM_DIRECTORIES = ("/boot/", "/dev/", "/etc/", "/proc/", "/sys/")


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
    for name in sorted(names - set(ALL_NAMESPACES)):
        raise SpecError(f"{option}: {shown(name)} is not a namespace; {hint(name, ALL_NAMESPACES)}")
    return names


def parse_rate(value: Any, option: str) -> int | None:
    if value is None:
        return None
    return parse_size(value.removesuffix("/s") if isinstance(value, str) else value, option)


def parse_net_rate(value: Any) -> int | None:
    rate = parse_rate(value, "--net-rate")
    if rate is not None and not 1024 <= rate < 1 << 32:
        raise SpecError(f"--net-rate: {shown(value)} is not from 1K to 4095M a second")
    return rate


def parse_cpuset(value: Any, cpu_count: int) -> str | None:
    if value is None:
        return None
    cpu_list = parse_cpu_list(word(value, "--cpuset"))
    for number in re.findall(r"\d+", cpu_list):
        if int(number) >= cpu_count:
            raise SpecError(f"--cpuset: this host has no CPU {number}; it has 0-{cpu_count - 1}")
    return cpu_list


def parse_root(value: Any, namespaces: frozenset[str]) -> Root:
    if value is None:
        return Root("system" if "mnt" in namespaces else "none")
    root = value if isinstance(value, Root) else Root.parse(word(value, "--root"))
    if root.kind != "none" and "mnt" not in namespaces:
        raise SpecError(f"--root: {value} needs a mount namespace; add mnt to --unshare, or write --root none")
    return root


def parse_base(value: Any) -> str:
    """The notebook's directory: where relative volume sources start, and what /workspace shows."""
    if value is None:
        return current_directory()
    path = check_text(word(value, "base"), "base")
    if not os.path.isabs(path):
        path = os.path.join(current_directory(), path)
    if "\0" in path or not os.path.isdir(path):
        raise SpecError(f"base: {shown(path)} is not a directory on this host")
    return path


def parse_workspace(value: Any, base: str, root: Root, bare: bool) -> tuple[str | None, list[str]]:
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


def keys_in_workspace(workspace: str) -> tuple[str, ...]:
    """Where in it Jupyter keeps the connection files of its kernels, whose keys would give a cell the kernel; relative to it."""
    get = os.environ.get
    data = get("JUPYTER_DATA_DIR") or os.path.join(get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share"), "jupyter")
    places = {os.path.realpath(path) for path in (get("JUPYTER_RUNTIME_DIR"), os.path.join(data, "runtime")) if path}
    inside = [path for path in sorted(places) if path.startswith(workspace.rstrip("/") + "/") and os.path.isdir(path)]
    return tuple(os.path.relpath(path, workspace) for path in inside)


def parse_hostname(value: Any, namespaces: frozenset[str]) -> str | None:
    if value is None:
        return None
    if "uts" not in namespaces:
        raise SpecError("--hostname: would rename the host, because the uts namespace is shared; add uts to --unshare")
    if len(str(value)) > 64 or _HOSTNAME.fullmatch(str(value)) is None:
        raise SpecError(f"--hostname: {shown(value)} is not a host name (letters, digits, hyphens and dots; at most 64)")
    return str(value)


def parse_network(value: Any, namespaces: frozenset[str], *, asked: bool) -> tuple[Network, tuple[str, ...]]:
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


def parse_environment(value: Any) -> tuple[tuple[str, str], ...]:
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


def parse_user(value: Any, namespaces: frozenset[str]) -> str:
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


def parse_workdir(value: Any) -> str | None:
    if value is None:
        return None
    path = clean(word(value, "--workdir"), "--workdir")
    if not path.startswith("/"):
        raise SpecError(f"--workdir: {shown(value)} must be an absolute path in the container")
    return os.path.normpath("/" + path.strip("/"))


def parse_name(value: Any) -> str | None:
    if value is not None and NAME.fullmatch(str(value)) is None:
        raise SpecError(f"--name: {shown(value)} is not a name (letters, digits, _ . -, at most 63, a letter or digit first)")
    return None if value is None else str(value)


def parse_program(value: Any) -> tuple[str, ...]:
    program = words(value, "PROGRAM")
    if any("\0" in argument for argument in program) or (program and not program[0]):
        raise SpecError(f"PROGRAM: {shown(program)} is not a program and its arguments")
    return tuple(check_text(argument, "PROGRAM") for argument in program)


def parse_capability(name: str, option: str) -> str:
    from nbcontainer.linux.capabilities import CAPABILITIES

    plain = name.upper().removeprefix("CAP_")
    if plain != "ALL" and plain not in CAPABILITIES:
        near = nearest(plain, (*CAPABILITIES, "ALL"))
        raise SpecError(f"{option}: {shown(name)} is not a capability" + (f"; did you mean {near}?" if near else " such as NET_RAW (or ALL)"))
    return plain


def parse_security(value: Any) -> str:
    if value not in SECURITY_PROFILES:
        raise SpecError(f"--security: {shown(value)} is not a profile; {hint(str(value), SECURITY_PROFILES)}")
    return str(value)
