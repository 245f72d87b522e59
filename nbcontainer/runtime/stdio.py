"""A Python cell's sys.stdout and sys.stderr: buffered by lines, and still nothing that was printed gets lost.

Text without the end of its line waits in the process, as Python has it, so that lines of several processes are not mixed. It stands
in a memory that the kernel shares, too, which shows it from there when it has waited for long, or the process has been killed. See
:mod:`nbcontainer.engine.held`.

Text of C, such as a library's printf, is buffered by lines as at a terminal.
"""

from __future__ import annotations

import io
import os
import sys
from typing import Any

from nbcontainer.linux.syscalls import buffer_c_by_lines, map_shared
from nbcontainer.runtime.protocol import HELD_BYTES, HELD_FD, HELD_HEADER, HELD_OFFSET, HELD_STREAMS

_write, _flush = io.TextIOWrapper.write, io.TextIOWrapper.flush
_START = HELD_HEADER.size
_NOTHING = bytes(_START)
_MOST_BYTES = HELD_BYTES - _START


class LineStream(io.TextIOWrapper):
    """:meth:`share` says where the kernel looks. Each printed line comes here twice: for its text, and for its end.

    Python changes threads, and calls signal handlers, only where something has been called: what the memory says and what
    waits change together.
    """

    __slots__ = ("_held_bytes", "_length", "_memory", "_shared")

    def __init__(self, binary: Any) -> None:
        self._held_bytes = 0
        self.share(None)
        super().__init__(binary, "utf-8", "backslashreplace", line_buffering=True)

    def write(self, text: str, /) -> int:
        memory = self._memory
        if memory is None:
            return _write(self, text)
        try:
            ends = "\n" in text or "\r" in text
        except TypeError:
            return _write(self, text)  # raises Python's own
        if ends:  # it writes all of it
            if self._held_bytes:
                self._held_bytes = 0
                memory[:_START] = _NOTHING
            return _write(self, text)
        data = text.encode("utf-8", "backslashreplace")
        size = len(data)
        start = self._held_bytes
        if start + size > _MOST_BYTES:
            count = _write(self, text)
            self.flush()
            return count
        self._held_bytes = start + size
        memory[_START + start : _START + start + size] = data
        self._length[0] = start + size
        return _write(self, text)

    def flush(self) -> None:
        if self._held_bytes and (memory := self._memory) is not None:
            self._held_bytes = 0
            memory[:_START] = _NOTHING
        _flush(self)

    def share(self, memory: memoryview | None) -> None:
        self._shared = self._memory = memory
        self._length = memoryview(bytearray(2) if memory is None else memory[:2]).cast("H")
        self._held_bytes = 0

    def reconfigure(self, **options: Any) -> None:
        super().reconfigure(**options)
        by_lines = self.line_buffering and (self.encoding, self.errors) == ("utf-8", "backslashreplace")
        self._memory = self._shared if by_lines else None

    def close(self) -> None:
        try:
            super().close()
        finally:
            self.share(None)

    def detach(self) -> Any:
        try:
            return super().detach()
        finally:
            self.share(None)


_STREAMS: list[LineStream] = []


def install() -> None:
    """In the zygote, once: its standard streams are what every cell has."""
    for name in HELD_STREAMS:
        old: Any = getattr(sys, name)
        stream = LineStream(old.detach())
        stream.mode = "w"  # type: ignore[misc]  # as Python's own
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
        _STREAMS.append(stream)
    buffer_c_by_lines()


def share_held() -> None:
    """In a cell's process, before its code: what waits in it is to be seen by the kernel from now on."""
    try:
        memory = map_shared(HELD_FD, HELD_BYTES * len(_STREAMS), HELD_OFFSET)
    except OSError:
        return  # no such file here: Python's own behaviour
    for number, stream in enumerate(_STREAMS):
        stream.share(memory[number * HELD_BYTES : (number + 1) * HELD_BYTES])
    os.register_at_fork(after_in_child=_keep_to_oneself)


def _keep_to_oneself() -> None:
    """A forked child has a buffer of its own, and the memory is its parent's."""
    for stream in _STREAMS:
        stream.share(None)
