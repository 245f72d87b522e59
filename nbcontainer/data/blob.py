"""How variables lie in one piece of memory: a head of JSON, then parts of any size, each at a multiple of 64 bytes.

The head says how long each part is; where they lie follows from that. What arrays and tables need is aligned for them, so that
they can be used where they are.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

PREFIX = struct.Struct("<8sQ")
MAGIC = b"nbcvars1"
ALIGNMENT = 64
MAX_HEAD_BYTES = 64 << 20
MAX_PARTS = 1 << 16
WRITE_BYTES = 1 << 30
"""write(2) takes at most 2 GiB at once."""


class DataError(Exception):
    """What is there is not what it says it is; one line."""


@dataclass(frozen=True, slots=True)
class Lazy:
    """A part whose bytes are made while it is written, so that there is never a copy of all of it: ``pieces`` are contiguous buffers."""

    nbytes: int
    pieces: Callable[[], Iterable[Any]]


def size_of(part: Any) -> int:
    """How many bytes a part of a blob takes."""
    return int(part.nbytes) if isinstance(part, Lazy) else memoryview(part).nbytes


class Blob:
    """Variables that are about to be written: ``head`` is a JSON object, ``parts`` are contiguous buffers (bytes, arrays, ...) or Lazy."""

    def __init__(self, head: dict[str, Any], parts: Sequence[Any]) -> None:
        sizes = [size_of(part) for part in parts]
        body = json.dumps({**head, "sizes": sizes}, separators=(",", ":")).encode()
        self._parts: list[tuple[int, Any]] = [(0, PREFIX.pack(MAGIC, len(body)) + body)]
        offset = PREFIX.size + len(body)
        for part, size in zip(parts, sizes, strict=True):
            offset = _aligned(offset)
            self._parts.append((offset, part))
            offset += size
        self.size_bytes = offset

    def write(self, fd: int) -> None:
        """To a file that is large enough already, or grows. Raises OSError."""
        for offset, part in self._parts:
            for piece in part.pieces() if isinstance(part, Lazy) else (part,):
                view = memoryview(piece).cast("B")
                while view:
                    written = os.pwrite(fd, view[:WRITE_BYTES], offset)
                    view, offset = view[written:], offset + written


def _aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT


def read_blob(memory: memoryview, max_head_bytes: int = MAX_HEAD_BYTES) -> tuple[dict[str, Any], list[memoryview]]:
    """(head, parts), the parts where they lie in ``memory``. Raises DataError for anything that is no blob."""
    if memory.nbytes < PREFIX.size:
        raise DataError("nothing was written")
    magic, length = PREFIX.unpack_from(memory)
    if magic != MAGIC or length > min(max_head_bytes, memory.nbytes - PREFIX.size):
        raise DataError("no variables are in there")
    offset = PREFIX.size + length
    try:
        head = json.loads(bytes(memory[PREFIX.size : offset]))
    except (ValueError, RecursionError):
        raise DataError("their head is not JSON") from None
    sizes = head.get("sizes") if isinstance(head, dict) else None
    if not isinstance(sizes, list) or len(sizes) > MAX_PARTS:
        raise DataError("their head does not say how long they are")
    parts = []
    for size in sizes:
        offset = _aligned(offset)
        if type(size) is not int or not 0 <= size <= memory.nbytes - offset:
            raise DataError("a part lies outside of the memory")
        parts.append(memory[offset : offset + size])
        offset += size
    return head, parts
