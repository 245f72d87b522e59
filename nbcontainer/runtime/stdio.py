"""A Python cell's sys.stdout and sys.stderr: buffered by lines, and still nothing that was printed gets lost.

Text without the end of its line waits in the process, as Python has it, so that lines of several processes are not mixed. It stands
in a memory that the kernel shares, too: there the kernel sees that some is waiting, and asks for it; and when the process has been
killed, it takes the text from there. See :mod:`nbcontainer.engine.held`.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from types import FrameType
from typing import Any

from nbcontainer.linux.syscalls import map_shared
from nbcontainer.runtime.protocol import FLUSH_SIGNAL, HELD_BYTES, HELD_FD, HELD_LENGTH, HELD_OFFSET, HELD_STREAMS

_write = io.TextIOWrapper.write
_NOTHING = HELD_LENGTH.pack(0)
_MOST_BYTES = HELD_BYTES - len(_NOTHING)


class LineStream(io.TextIOWrapper):
    """:meth:`share` says where the kernel looks. Each printed line comes here twice: for its text, and for its end."""

    __slots__ = ("_held_bytes", "_memory")

    def __init__(self, binary: Any) -> None:
        self._held_bytes = 0
        self._memory: memoryview | None = None
        super().__init__(binary, "utf-8", "backslashreplace", line_buffering=True)

    def write(self, text: str, /) -> int:
        count = _write(self, text)
        if (memory := self._memory) is not None:
            if "\n" in text or "\r" in text:  # it has written all of it
                if self._held_bytes:
                    memory[:2] = _NOTHING
                    self._held_bytes = 0
            elif text:
                self._hold(text, memory)
        return count

    def _hold(self, text: str, memory: memoryview) -> None:
        data = text.encode("utf-8", "backslashreplace")
        start, end = self._held_bytes, self._held_bytes + len(data)
        if end > _MOST_BYTES:
            self.flush()
            return
        self._held_bytes = end
        if start:
            memory[2 + start : 2 + end] = data
            memory[:2] = HELD_LENGTH.pack(end)
        else:
            memory[: 2 + end] = HELD_LENGTH.pack(end) + data

    def flush(self) -> None:
        super().flush()
        if self._held_bytes and self._memory is not None:
            self._memory[:2] = _NOTHING
            self._held_bytes = 0

    def share(self, memory: memoryview | None) -> None:
        self._memory, self._held_bytes = memory, 0

    @property
    def holds_text(self) -> bool:
        return bool(self._held_bytes)


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
    signal.signal(FLUSH_SIGNAL, _flush_held)
    signal.siginterrupt(FLUSH_SIGNAL, False)


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


def _flush_held(number: int, frame: FrameType | None) -> None:
    """The handler of FLUSH_SIGNAL."""
    for stream in _STREAMS:
        if stream.holds_text:
            try:
                stream.flush()
            except (OSError, ValueError, RuntimeError):
                pass  # closed, or it was interrupted in the middle of a write: the kernel asks again
