"""The archive format of an initramfs, cpio "newc", written."""

from __future__ import annotations

import os
import stat
from typing import IO

MAGIC = b"070701"
TRAILER = "TRAILER!!!"


class Writer:
    """Writes entries; directories above a file are made when they are first needed."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._paths: set[str] = set()

    def __contains__(self, path: str) -> bool:
        return path.strip("/") in self._paths

    def directory(self, path: str, mode: int = 0o755) -> None:
        self._parents(path)
        self._entry(path, stat.S_IFDIR | mode, b"")

    def link(self, path: str, target: str) -> None:
        self._parents(path)
        self._entry(path, stat.S_IFLNK | 0o777, os.fsencode(target))

    def device(self, path: str, mode: int, major: int, minor: int) -> None:
        self._parents(path)
        self._entry(path, stat.S_IFCHR | mode, b"", device=(major, minor))

    def file(self, path: str, data: bytes, mode: int = 0o644, modified_seconds: int = 0) -> None:
        """``modified_seconds`` is kept, because Python compares it with what its .pyc files say."""
        self._parents(path)
        self._entry(path, stat.S_IFREG | mode, data, modified_seconds)

    def close(self) -> None:
        """The end mark; the file itself is the caller's."""
        self._entry(TRAILER, 0, b"")

    def _parents(self, path: str) -> None:
        parts = path.strip("/").split("/")[:-1]
        for depth in range(1, len(parts) + 1):
            self._entry("/".join(parts[:depth]), stat.S_IFDIR | 0o755, b"")

    def _entry(self, path: str, mode: int, data: bytes, modified: int = 0, device: tuple[int, int] = (0, 0)) -> None:
        name = path.strip("/")
        if name in self._paths:
            return
        self._paths.add(name)
        encoded = os.fsencode(name) + b"\0"
        fields = (len(self._paths), mode, 0, 0, 1, modified & 0xFFFFFFFF, len(data), 0, 0, *device, len(encoded), 0)
        header = MAGIC + b"".join(b"%08X" % field for field in fields) + encoded
        self._file.write(header + b"\0" * (-len(header) % 4))
        self._file.write(data + b"\0" * (-len(data) % 4))
