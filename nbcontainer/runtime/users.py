"""Users of a container, by its own files."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import NamedTuple

_MOST_BYTES = 1 << 22
ROOTS_NAMES = ("root", "0", "")
PASSWD, GROUP = "/etc/passwd", "/etc/group"


class User(NamedTuple):
    uid: int
    gid: int
    home: str
    groups: tuple[int, ...]


_ROOT = User(0, 0, "/root", ())


def read_text(path: str) -> str:
    """The beginning of a regular file; empty for what is none. The container's root may put there whatever it likes."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return os.read(fd, _MOST_BYTES).decode(errors="replace") if stat.S_ISREG(os.fstat(fd).st_mode) else ""
    finally:
        os.close(fd)


def find_user(text: str, read: Callable[[str], str] = read_text) -> User:
    """``NAME`` or ``UID``, and perhaps ``:GID``, by the container's own /etc/passwd and /etc/group.

    Raises KeyError. Not by the C library: that loads what the container's /etc/nsswitch.conf names, with all capabilities.
    """
    name, _, group = text.partition(":")
    if name in ROOTS_NAMES:
        return _ROOT
    entry = next((fields for fields in _entries(read(PASSWD), 7) if name in (fields[0], fields[2])), None)
    if entry is None and not name.isdecimal():
        raise KeyError(name)
    uid, gid, home = (int(name), int(name), "/") if entry is None else (int(entry[2]), int(entry[3]), entry[5] or "/")
    if group:
        return User(uid, int(group), home, ())
    others = [fields for fields in _entries(read(GROUP), 4) if entry is not None and entry[0] in fields[3].split(",")]
    return User(uid, gid, home, tuple(int(fields[2]) for fields in others if int(fields[2]) != gid))


def _entries(text: str, count: int) -> list[list[str]]:
    """The lines with so many fields, of which the third is a number."""
    lines = [line.strip().split(":") for line in text.splitlines()]
    numbers = (2, 3) if count == 7 else (2,)
    return [fields for fields in lines if len(fields) == count and all(fields[place].isdecimal() for place in numbers)]
