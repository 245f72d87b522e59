"""Text that a Python cell has printed without the end of its line: shown soon, and not lost where the process was killed.

It waits in the process, and stands in its memory file, see :mod:`nbcontainer.runtime.stdio`. The kernel shows it from there, also while
the process is busy in C and could not be asked; when the process writes it in the end, it is left out of what is read. What is in the
file may be forged: it is output of the cell, no more.

There, before the text: its length, and two marks of the kernel's, which the process clears with the length. A mark that is still there
says that the text has not been written since; where it is gone, the text is in the pipe, or is about to be.
"""

from __future__ import annotations

import os
import time

from nbcontainer.runtime.protocol import HELD_BYTES, HELD_HEADER, HELD_OFFSET, HELD_STREAMS

WAIT_SECONDS = 0.1
"""A print that waits for so long is shown; faster ones come with the end of their line."""
GIVE_UP_SECONDS = 1.0
"""What the process has written is in the pipe sooner, or went elsewhere."""
_SEEN_AT, _SHOWN_AT = 2, 3
_MARK = b"\1"


class HeldText:
    """Of one stream of a cell process. :meth:`is_due` is called by the sampler's thread, all else by the one that reads."""

    def __init__(self, line_fd: int, stream: str) -> None:
        self._fd = line_fd
        self._place = HELD_OFFSET + HELD_STREAMS.index(stream) * HELD_BYTES
        self._since_seconds = 0.0
        self._shown = b""
        """Of what waits; or of what has been written, until it is found in the pipe."""
        self._written_seconds: float | None = None
        self._beginning = b""
        """The end of what was read last: that of ``_shown`` may begin there."""

    def _read(self) -> tuple[bool, bool, bytes]:
        """(it was seen, it was shown, what waits)."""
        data = os.pread(self._fd, HELD_BYTES, self._place) if self._fd >= 0 else b""
        if len(data) < HELD_BYTES:
            return False, False, b""
        length, seen, shown = HELD_HEADER.unpack_from(data)
        return bool(seen), bool(shown), data[HELD_HEADER.size :][:length]

    def is_due(self, now_seconds: float) -> bool:
        """Something has been waiting since an earlier call."""
        seen, _, text = self._read()
        if len(text) <= len(self._shown):
            self._since_seconds = now_seconds
        elif not seen:
            self._since_seconds = now_seconds
            os.pwrite(self._fd, _MARK, self._place + _SEEN_AT)
        return len(text) > len(self._shown) and now_seconds - self._since_seconds >= WAIT_SECONDS

    def take(self) -> bytes:
        """What waits and has not been shown; it counts as shown. The pipe has just been read."""
        if self._shown and not self._waits_still() and not self._is_lost():
            return b""
        # The mark goes first: where the text is there after it, the process clears both before it writes.
        os.pwrite(self._fd, _MARK, self._place + _SHOWN_AT)
        _, marked, text = self._read()
        new = text[len(self._shown) :] if marked else b""
        self._shown += new
        return new

    def _waits_still(self) -> bool:
        _, marked, text = self._read()
        return marked and text.startswith(self._shown)

    def unshown(self, data: bytes) -> bytes:
        """Of what was just read from the pipe: all but what has been shown."""
        if not self._shown or self._waits_still():
            return data
        data, self._beginning = self._beginning + data, b""
        if self._is_lost():
            return data
        before, found, after = data.partition(self._shown)
        if found:
            self._shown, self._written_seconds = b"", None
            return before + after
        for length in range(min(len(self._shown) - 1, len(data)), 0, -1):
            if data.endswith(self._shown[:length]):
                self._beginning = data[-length:]
                return data[:-length]
        return data

    def _is_lost(self) -> bool:
        """What was shown was written long ago, and has not come by the pipe."""
        now = time.monotonic()
        self._written_seconds = self._written_seconds or now
        if now - self._written_seconds > GIVE_UP_SECONDS:
            self._shown, self._written_seconds = b"", None
        return not self._shown

    def rest(self) -> bytes:
        """At the end, when the pipe has been read: what nobody has seen."""
        beginning, self._beginning = self._beginning, b""
        waits = self._read()[2]
        return beginning + (waits[len(self._shown) :] if self._shown and self._waits_still() else waits)
