"""Defaults and caps from files: a project's ``pyproject.toml``, and the administrator's /etc/nbcontainer/config.toml.

    [tool.nbcontainer]          # pyproject.toml, of the notebook's directory or the nearest above it
    mem = "512M"

    [defaults]                  # /etc/nbcontainer/config.toml
    cpus = 1
    [caps]
    mem = "2G"                  # the most; where nothing is asked for, what is used
    net = ["none"]              # nothing else
    cap_add = false             # not at all

What a project's file may set closes doors or limits; it opens none, because directories are often somebody else's work.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbcontainer.errors import SpecError
from nbcontainer.spelling import nearest
from nbcontainer.units import parse_number, parse_size, shown

SYSTEM_FILE = "/etc/nbcontainer/config.toml"
PROJECT_FILE = "pyproject.toml"
PROJECT_MAY_SET = frozenset(
    "mem memory_high swap cpus cpu_weight cpuset pids io_read io_write disk shm_size timeout max_output ulimit hostname tmpfs read_only cap_drop "
    "env workdir workspace init interval".split()
)
PROJECT_MAY_ONLY = {"root": ("system",), "net": ("none",), "security": ("default",)}
_SIZES = ("mem", "memory_high", "swap", "io_read", "io_write", "disk", "shm_size", "max_output")
_NUMBERS = ("cpus", "pids", "timeout")
_ALIASES = {"volumes": "volume"}
_UNLIMITED_BY_DEFAULT = ("cpus", "timeout", "io_read", "io_write")


@dataclass(frozen=True)
class Profile:
    """What one file says: default values by option key, and caps."""

    path: str
    defaults: Mapping[str, Any]
    caps: Mapping[str, Any]


_cache: dict[str, tuple[tuple[int, int, int], Profile]] = {}


def profiles_for(base: str, names: frozenset[str]) -> list[Profile]:
    """The files that hold for a notebook in ``base``, the weakest first; ``names``: all option keys. Raises SpecError for a wrong one."""
    system = _read(SYSTEM_FILE, _system_profile, names)
    found = [system] if system is not None else []
    for path in _project_files(base):
        project = _read(path, _project_profile, names)
        if project is not None and project.defaults:
            return [*found, project]
    return found


@functools.lru_cache(maxsize=64)
def _project_files(base: str) -> tuple[str, ...]:
    """Where one may be, the nearest first."""
    directory = Path(os.path.realpath(base))
    return tuple(str(above / PROJECT_FILE) for above in (directory, *directory.parents))


def _read(path: str, make: Callable[[str, dict[str, Any], frozenset[str]], Profile], names: frozenset[str]) -> Profile | None:
    if not os.access(path, os.F_OK):  # a tenth of the time of an exception, for every cell
        return None
    try:
        status = os.stat(path)
    except OSError:
        return None
    stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
    known = _cache.get(path)
    if known is not None and known[0] == stamp:
        return known[1]
    import tomllib

    try:
        with open(path, "rb") as file:
            content = tomllib.load(file)
    except (OSError, ValueError) as error:
        if make is _project_profile and isinstance(error, OSError):
            return None  # somebody else's file
        raise SpecError(f"{path}: cannot be read: {' '.join(str(error).split())}") from None
    profile = make(path, content, names)
    _cache[path] = stamp, profile
    return profile


def _project_profile(path: str, content: dict[str, Any], names: frozenset[str]) -> Profile:
    tools = content.get("tool", {})
    table = tools.get("nbcontainer", {}) if isinstance(tools, dict) else {}
    defaults = _options(path, "[tool.nbcontainer]", table, names)
    for key, value in defaults.items():
        if key in ("volume", "volumes"):
            _check_volumes(path, value)
        elif key not in PROJECT_MAY_SET and value not in PROJECT_MAY_ONLY.get(key, ()):
            raise SpecError(
                f"{path}: {key} = {shown(value)} would open something, and a project's file may not; write it in the cell, "
                f"or in your own IPython configuration as c.ContainerMagics.{key}"
            )
    return Profile(path, defaults, {})


def _check_volumes(path: str, value: Any) -> None:
    """Only directories of the project itself."""
    home = os.path.dirname(os.path.realpath(path))
    for volume in [value] if isinstance(value, str) else value if isinstance(value, list) else [None]:
        source = volume.partition(":")[0] if isinstance(volume, str) else ""
        real = os.path.realpath(os.path.join(home, source))
        if not source.startswith(".") or not (real == home or real.startswith(home + "/")):
            raise SpecError(f"{path}: volume {shown(volume)} is not below the project's own directory, such as ./data:/data:ro; write others in the cell")


def _system_profile(path: str, content: dict[str, Any], names: frozenset[str]) -> Profile:
    for key in content:
        if key not in ("defaults", "caps"):
            raise SpecError(f"{path}: [{key}] is neither [defaults] nor [caps]")
    defaults = _options(path, "[defaults]", content.get("defaults", {}), names)
    caps = _options(path, "[caps]", content.get("caps", {}), names)
    for key, value in caps.items():
        if key in (*_SIZES, *_NUMBERS):
            _number(key, value, f"{path}: {key}")
        elif value is not False and not isinstance(value, list):
            raise SpecError(f"{path}: {key} = {shown(value)} is neither a list of what is allowed nor false")
    return Profile(path, defaults, caps)


def _options(path: str, where: str, table: Any, names: frozenset[str]) -> dict[str, Any]:
    if not isinstance(table, dict):
        raise SpecError(f"{path}: {where} is not a table")
    options = {}
    for name, value in table.items():
        key = name.replace("-", "_")
        if key not in names:
            near = nearest(key, names)
            raise SpecError(f"{path}: {where} has {shown(name)}, and there is no such option" + (f"; did you mean {near}?" if near else ""))
        options[_ALIASES.get(key, key)] = value
    return options


def _number(key: str, value: Any, name: str) -> float:
    if key in _SIZES:
        if key in ("io_read", "io_write") and isinstance(value, str):
            value = value.removesuffix("/s")
        return parse_size(value, name, minimum=0)
    return parse_number(value, name, minimum=0, maximum=1e12)


def with_defaults(given: Mapping[str, Any], profiles: list[Profile]) -> tuple[dict[str, Any], dict[str, str]]:
    """(options with the files' defaults below those given, the file that each such default is from)."""
    options: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for profile in profiles:
        options.update(profile.defaults)
        sources.update(dict.fromkeys(profile.defaults, profile.path))
    given = {_ALIASES.get(key, key): value for key, value in given.items()}
    options.update(given)
    for key in given:
        sources.pop(key, None)
    return options, sources


def check_caps(options: dict[str, Any], profiles: list[Profile], default_memory_bytes: int) -> None:
    """Raise SpecError for what a cap forbids, and set what is not given to what is allowed."""
    for profile in profiles:
        for key, cap in profile.caps.items():
            value = options.get(key)
            if cap is False:
                if value not in (None, False, (), [], ""):
                    raise SpecError(f"--{_shown(key)}: is not allowed here ({profile.path})")
            elif isinstance(cap, list):
                _check_choice(key, value, cap, profile.path)
            elif value is None:
                if key in _UNLIMITED_BY_DEFAULT or (key == "mem" and default_memory_bytes > _number(key, cap, key)):
                    options[key] = cap
            elif _number(key, value, f"--{_shown(key)}") > _number(key, cap, key):
                raise SpecError(f"--{_shown(key)}: {shown(value)} is more than the {shown(cap)} that {profile.path} allows")


def check_changes(changes: Mapping[str, Any], names: frozenset[str]) -> None:
    """The administrator's caps for limits that change while a container runs; None takes one away. Raises SpecError."""
    system = _read(SYSTEM_FILE, _system_profile, names)
    if system is None:
        return
    for key, value in changes.items():
        if value is None and key in system.caps:
            raise SpecError(f"update: {key} cannot be without a limit; {system.path} allows {shown(system.caps[key])}")
    given = {key: value for key, value in changes.items() if value is not None}
    check_caps(given, [Profile(system.path, {}, {key: cap for key, cap in system.caps.items() if key in given})], 0)


def _check_choice(key: str, value: Any, allowed: list[Any], path: str) -> None:
    for one in value if isinstance(value, list | tuple) else [value]:
        if one is not None and str(one) not in map(str, allowed):
            raise SpecError(f"--{_shown(key)}: {shown(one)} is not allowed here; {path} allows {', '.join(map(str, allowed)) or 'nothing'}")


def _shown(key: str) -> str:
    return key.replace("_", "-")
