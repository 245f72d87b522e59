"""What files a container has: its root, bind mounts and memory file systems, as users write them."""

from __future__ import annotations

import os
from dataclasses import dataclass

from nbcontainer import volumes
from nbcontainer.errors import SpecError
from nbcontainer.spelling import nearest
from nbcontainer.units import clean, current_directory, parse_size


@dataclass(frozen=True, slots=True)
class Mount:
    """A bind mount (``kind="bind"``: ``source`` is an absolute host path) or a tmpfs of ``size_bytes``."""

    target: str
    source: str = ""
    kind: str = "bind"
    read_only: bool = False
    size_bytes: int | None = None
    owner: tuple[int, int] = (0, 0)
    """Which user and group of the container the host's root and its group are here; set by the engine, see :mod:`nbcontainer.engine.owners`."""

    @property
    def shown_source(self) -> str:
        """The name of a volume, or a path of the host; empty where there is none."""
        return volumes.name_of(self.source) or self.source

    @classmethod
    def parse_volume(cls, text: str, base: str) -> Mount:
        """``SRC:DST[:ro|:rw]``; a relative source (``./x``, ``../x``, ``.``) starts at ``base``."""
        clean(text, "--volume")
        parts = text.split(":")
        if len(parts) not in (2, 3) or not parts[0] or (len(parts) == 3 and parts[2] not in ("ro", "rw")):
            raise SpecError(f"--volume: {text!r} is not SOURCE:TARGET or SOURCE:TARGET:ro")
        source, target = parts[0], _target(parts[1], "--volume")
        if "/" not in source and source not in (".", "..", "~"):
            return cls(target, str(volumes.create(volumes.check_name(source, "--volume")).path), "bind", len(parts) == 3 and parts[2] == "ro")
        path = os.path.normpath(os.path.join(base, os.path.expanduser(source)))
        if not os.path.exists(path):
            raise SpecError(f"--volume: {path} does not exist on this host; make it first, or correct {source!r}")
        real = os.path.realpath(path)
        for own in ("/proc", "/sys", "/dev"):
            if real == own or (real.startswith(own + "/") and own != "/dev"):
                raise SpecError(f"--volume: {path} is Linux's view of the host's processes and devices; every container has a {own} of its own")
        return cls(target, real, "bind", len(parts) == 3 and parts[2] == "ro")

    @classmethod
    def parse_tmpfs(cls, text: str) -> Mount:
        """``DST`` or ``DST:size=64M``."""
        clean(text, "--tmpfs")
        target, _, option = text.partition(":")
        size = None
        if option:
            key, _, value = option.partition("=")
            if key != "size":
                raise SpecError(f"--tmpfs: {text!r} is not TARGET or TARGET:size=64M")
            size = parse_size(value, "--tmpfs")
        return cls(_target(target, "--tmpfs"), "", "tmpfs", False, size)


def _target(path: str, option: str) -> str:
    normal = os.path.normpath("/" + path.strip("/"))  # normpath alone keeps a second / at the start
    if not path.startswith("/") or normal == "/":
        raise SpecError(f"{option}: the target {path!r} must be an absolute path below /, such as /data")
    if normal.split("/")[1] in ("proc", "sys", "dev"):
        raise SpecError(f"{option}: the target {path!r} lies in /proc, /sys or /dev, which belong to the container itself")
    return normal


@dataclass(frozen=True, slots=True)
class Root:
    """``kind``: ``system``, ``host``, ``none`` or ``dir`` (then ``path`` is absolute)."""

    kind: str = "system"
    path: str = ""
    writable: bool = False
    """Only for ``dir``: writes go through to the directory (``DIR:rw``)."""

    @classmethod
    def parse(cls, text: str) -> Root:
        if text in ("system", "host", "none"):
            return cls(text)
        clean(text, "--root")
        path, colon, mode = text.rpartition(":")
        if not colon or mode not in ("rw", "ro"):
            path, mode = text, "ro"
        if "/" not in path:
            near = nearest(path, ("system", "host", "none"))
            hint = f"; did you mean {near}?" if near else f" such as ./{text}"
            raise SpecError(f"--root: {text!r} is not system, host, none or a directory{hint}")
        path = os.path.expanduser(path)
        if not os.path.isabs(path):
            raise SpecError(f"--root: {path!r} is relative; write {os.path.normpath(os.path.join(current_directory(), path))}")
        if not os.path.isdir(path):
            raise SpecError(f"--root: {path} is not a directory on this host")
        real = os.path.realpath(path)
        if real == "/":
            return cls("host") if mode == "ro" else cls("none")
        return cls("dir", real, mode == "rw")

    def __str__(self) -> str:
        return f"{self.path}{':rw' if self.writable else ''}" if self.kind == "dir" else self.kind
