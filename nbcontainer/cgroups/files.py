"""The files of the cgroup file system: what is written, and how it is read."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

MAKE = "make the cgroup"
GONE = (errno.ENOENT, errno.ENODEV)
"""What a reading of a cgroup that was removed says."""
READ_BYTES = 16384


@dataclass(frozen=True, slots=True)
class CgroupWrite:
    """One effect on the cgroup file system: ``value`` goes to the file ``path``; "" makes the directory ``path``."""

    path: str
    value: str
    why: str


def lines(path: str) -> list[str]:
    return read_text(path).splitlines()


def read_text(path: str) -> str:
    """The file's content; raises OSError."""
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read()


def text_or_nothing(path: str) -> str:
    """The file's content without white space around it; "" where it is not there."""
    try:
        return read_text(path).strip()
    except FileNotFoundError:
        return ""


def write_text(path: str, value: str) -> None:
    """One write(2), as cgroup files want it; raises OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def carry_out(write: CgroupWrite) -> None:
    """Raises OSError."""
    if write.value:
        write_text(write.path, write.value)
    else:
        os.mkdir(write.path)


def number(data: bytes) -> int:
    """A file that holds one number; 0 for what is not there."""
    return int(data) if data else 0


def field(data: bytes, key: bytes) -> int:
    """The number after ``key`` (``b"inactive_file "``) at the start of a line; 0 where there is none."""
    _, found, rest = (b"\n" + data).partition(b"\n" + key)
    return int(rest.partition(b"\n")[0]) if found else 0


class KeptFiles:
    """Readings by pread on kept fds cost a third of open, read and close. Other threads may read while one closes."""

    def __init__(self) -> None:
        self._fds: dict[str, int] = {}
        self._lock = threading.Lock()
        self._closed = False
        self._holders = 0

    def open(self, path: str, flags: int = os.O_RDONLY) -> int:
        """A kept fd; raises OSError, ENODEV once all are closed."""
        with self._lock:
            return self._open(path, flags)

    def read(self, path: str) -> bytes:
        """The file's content now; ``""`` is a file that is not there. Raises OSError, ENODEV once all are closed."""
        if not path:
            return b""
        # Not without the lock: the number of a closed fd is soon another file's.
        with self._lock:
            fd = None if self._closed else self._fds.get(path)
            return os.pread(self._open(path, os.O_RDONLY) if fd is None else fd, READ_BYTES, 0)

    def _open(self, path: str, flags: int) -> int:
        if self._closed:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), path)
        if path not in self._fds:
            self._fds[path] = os.open(path, flags | os.O_CLOEXEC)
        return self._fds[path]

    @contextmanager
    def held(self) -> Iterator[None]:
        """Whoever closes meanwhile leaves the fds to this."""
        with self._lock:
            self._holders += 1
        try:
            yield
        finally:
            with self._lock:
                self._holders -= 1
                self._let_go()

    def close(self) -> None:
        """For good."""
        with self._lock:
            self._closed = True
            self._let_go()

    def _let_go(self) -> None:
        if self._closed and not self._holders:
            fds, self._fds = list(self._fds.values()), {}
            for fd in fds:
                os.close(fd)
