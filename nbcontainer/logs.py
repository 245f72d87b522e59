"""What containers in the background have written: kept in files without names, of which the older half is forgotten."""

from __future__ import annotations

import errno
import math
import os
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from nbcontainer.errors import HostError

IN_MEMORY_BYTES = 1 << 20
SEGMENT_BYTES = 10 << 20
"""A log holds the last one to two times as much."""
_HEAD = struct.Struct("<d?I")
"""Unix seconds, whether it is stderr, bytes."""


@dataclass(frozen=True, slots=True)
class Record:
    """Some text, written at once; or, from :meth:`Log.lines`, one line with its end."""

    unix_seconds: float
    stream: Literal["stdout", "stderr"]
    text: str


class _Segment:
    """Raises HostError where there is no room for it."""

    def __init__(self) -> None:
        try:
            fd, path = tempfile.mkstemp(prefix="nbcontainer-")
        except OSError as error:
            raise _no_room(error) from error
        os.unlink(path)
        self._fd = fd
        self.size = 0

    def append(self, data: bytes) -> None:
        try:
            written = os.pwrite(self._fd, data, self.size)
        except OSError as error:
            raise _no_room(error) from error
        if written < len(data):
            raise _no_room(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        self.size += len(data)

    def read(self, offset: int) -> bytes:
        return os.pread(self._fd, self.size - offset, offset)

    def __del__(self) -> None:
        if hasattr(self, "_fd"):
            os.close(self._fd)


class _Held:
    """A segment that needs no file, or no more."""

    def __init__(self, data: bytes = b"") -> None:
        self._data = bytearray(data)

    @property
    def size(self) -> int:
        return len(self._data)

    def append(self, data: bytes) -> None:
        self._data += data

    def read(self, offset: int) -> bytes:
        return bytes(self._data[offset:])


def _no_room(error: OSError) -> HostError:
    return HostError(
        f"a container's log cannot be kept in {tempfile.gettempdir()}: {error.strerror}",
        "free space there, or choose another directory before the notebook starts: export TMPDIR=...",
    )


class Log:
    """Written by one thread, read by any. Without ``on_disk`` it is in memory, and a tenth as long."""

    def __init__(self, *, on_disk: bool = True) -> None:
        self._segment_bytes = SEGMENT_BYTES if on_disk else IN_MEMORY_BYTES
        self._make: Callable[[], _Segment | _Held] = _Segment if on_disk else _Held
        self._segments: dict[int, _Segment | _Held] = {}
        self._newest = -1
        self._changed = threading.Condition()
        self._closed = False

    def append(self, stream: Literal["stdout", "stderr"], text: str) -> None:
        data = text.encode("utf-8", "replace")
        record = _HEAD.pack(time.time(), stream == "stderr", len(data)) + data
        with self._changed:
            if self._newest < 0 or self._segments[self._newest].size > self._segment_bytes:
                self._newest += 1
                self._segments[self._newest] = self._make()
                self._segments.pop(self._newest - 2, None)
            self._segments[self._newest].append(record)
            self._changed.notify_all()

    def close(self) -> None:
        """Nothing is written any more; what is there can be read. A short log needs no file from now on."""
        with self._changed:
            self._closed = True
            if sum(segment.size for segment in self._segments.values()) <= IN_MEMORY_BYTES:
                self._into_memory()
            self._changed.notify_all()

    def forget(self) -> None:
        """Close its files; what is short enough for the memory can be read still."""
        with self._changed:
            while sum(segment.size for segment in self._segments.values()) > IN_MEMORY_BYTES:
                del self._segments[min(self._segments)]
            self._into_memory()

    def _into_memory(self) -> None:
        self._segments = {number: _Held(segment.read(0)) for number, segment in self._segments.items()}

    def records(self) -> list[Record]:
        """All that is kept."""
        with self._changed:
            return list(_split(b"".join(self._segments[number].read(0) for number in sorted(self._segments))))

    def lines(self, tail: int | None = None) -> list[Record]:
        """Whole lines; what was written in pieces is one line again, with the time of its beginning. The last ``tail``."""
        found: list[Record] = []
        begun: dict[str, tuple[float, list[str]]] = {}  # pieces: a line may come in a million of them
        for record in self.records():
            for piece in record.text.splitlines(keepends=True):
                seconds, pieces = begun.setdefault(record.stream, (record.unix_seconds, []))
                pieces.append(piece)
                if piece.endswith("\n"):
                    del begun[record.stream]
                    found.append(Record(seconds, record.stream, "".join(pieces)))
        found += (Record(seconds, "stderr" if stream == "stderr" else "stdout", "".join(pieces)) for stream, (seconds, pieces) in begun.items())
        return found if tail is None else found[max(0, len(found) - tail) :]

    def text(self, stream: str) -> str:
        return "".join(record.text for record in self.records() if record.stream == stream)

    def texts(self) -> tuple[LogText, LogText]:
        """stdout and stderr, for a Result."""
        return LogText(self, "stdout"), LogText(self, "stderr")

    def follow(self, until: float | None = None) -> Iterator[Record]:
        """What is written from now on (the call, not the first iteration), until the container has ended, or until these Unix seconds."""
        with self._changed:
            number, offset = self._newest, self._segments[self._newest].size if self._newest >= 0 else 0
        return self._follow(number, offset, math.inf if until is None else until)

    def _follow(self, number: int, offset: int, until: float) -> Iterator[Record]:
        while True:
            with self._changed:
                oldest = min(self._segments, default=self._newest)
                if number < oldest:
                    number, offset = oldest, 0
                data = self._segments[number].read(offset) if number in self._segments else b""
                if not data and number >= self._newest:
                    left = until - time.time()
                    if self._closed or left <= 0:
                        return
                    self._changed.wait(min(1.0, left))
                    continue
            if not data:
                number, offset = number + 1, 0
            offset += len(data)
            for record in _split(data):
                if record.unix_seconds > until:
                    return
                yield record


class LogText:
    """One stream of a log, as a Result reads it. What is written to it is in the log already."""

    def __init__(self, log: Log, stream: str) -> None:
        self._log, self._stream = log, stream

    def write(self, text: str) -> None: ...

    def text(self) -> str:
        return self._log.text(self._stream)


def _split(data: bytes) -> Iterator[Record]:
    offset = 0
    while offset < len(data):
        seconds, is_error, size = _HEAD.unpack_from(data, offset)
        offset += _HEAD.size
        yield Record(seconds, "stderr" if is_error else "stdout", data[offset : offset + size].decode("utf-8", "replace"))
        offset += size
