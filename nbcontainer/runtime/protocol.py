"""How the kernel, the zygote and a cell process talk: frames, and the named messages of the handshake.

The handshake of one container, K the kernel, Z the zygote, C the cell process (pid 1 of the container):

1. K → Z  LaunchRequest on the launch socket, with Z's ends of control, channel and pipes as descriptors (pickled: Z
   trusts K, and nobody else has that socket); the plan comes along when Z does not have it yet
2. Z      executes the plan's host steps, clones C, writes C's id maps, releases C
3. Z → K  ``{"t": "cloned", "pid"}`` and C's pidfd on the container's control socket, or ``{"t": "failed", ...}``
4. C → K  ``{"t": "ready"}`` on the channel after the plan's inside steps, or ``{"t": "failed", step, errno, path}``
5. K      writes the limits; only now may user code exist
6. K → C  Go: code or program, environment, user (pickled, behind its length: C trusts K)
7. C → K  displays, errors, results, each answered by one byte (see cell.Channel); ``{"t": "failed"}`` where the program cannot be executed
8. Z → K  ``{"t": "exited", "status"}`` on the control socket, from waitid

K never unpickles and accepts no descriptor from C. What C sends is JSON in bounded frames, and a cell can forge it: it
describes that cell's output and nothing else.
"""

from __future__ import annotations

import json
import os
import pickle
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

HEADER = struct.Struct("<I")
MAX_FRAME_BYTES = 64 << 20
"""One display: a larger one is refused in the cell, and ends the channel in the kernel."""


class ProtocolError(Exception):
    """The other side sent something that is not a frame."""


class LaunchRequest(NamedTuple):
    """Message 1, sent as a plain tuple. Descriptors that travel with it, in order: control, channel, stdout, stderr,
    cgroup (if any), tasks…"""

    hostname: str
    id_map: tuple[int, int] | None
    """(first host id, count); None where ids are the host's."""
    cgroup_directories: tuple[str, ...]
    has_cgroup_fd: bool
    plan_number: int
    plan: bytes
    """Pickled; empty where the zygote knows this number from an earlier launch."""


class Go(NamedTuple):
    """Message 6, sent as a plain tuple: what to run, and as whom."""

    code: str
    """Python, or the program's standard input."""
    program: tuple[str, ...]
    environment: dict[str, str]
    directories: tuple[str, ...]
    """The first that exists is where it starts; if none does, that is an error."""
    user: str
    capability_mask: int
    init: bool


def encode_go(go: Go) -> bytes:
    """Raises ProtocolError where the code is too large."""
    body = pickle.dumps(tuple(go))
    if len(body) > MAX_FRAME_BYTES:
        raise ProtocolError(f"a message of {len(body)} bytes is over the limit of {MAX_FRAME_BYTES}")
    return HEADER.pack(len(body)) + body


def encode(message: dict[str, Any]) -> bytes:
    """One frame: length, then JSON in UTF-8 (lone surrogates become question marks)."""
    body = json.dumps(message, separators=(",", ":")).encode("utf-8", "replace")
    if len(body) > MAX_FRAME_BYTES:
        raise ProtocolError(f"a message of {len(body)} bytes is over the limit of {MAX_FRAME_BYTES}")
    return HEADER.pack(len(body)) + body


class FrameReader:
    """Takes bytes as they come and gives whole messages; anything malformed raises ProtocolError."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[dict[str, Any]]:
        self._buffer += data
        while len(self._buffer) >= HEADER.size:
            (length,) = HEADER.unpack_from(self._buffer)
            if length > MAX_FRAME_BYTES:
                raise ProtocolError(f"a frame of {length} bytes is over the limit of {MAX_FRAME_BYTES}")
            end = HEADER.size + length
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[HEADER.size : end])
            del self._buffer[:end]
            try:
                message = json.loads(body)
            except (ValueError, RecursionError) as error:
                raise ProtocolError(f"a frame that is not JSON: {error}") from None
            if not isinstance(message, dict) or not isinstance(message.get("t"), str):
                raise ProtocolError("a frame that is not a message")
            yield message


READY = encode({"t": "ready"})


def send_failure(channel_fd: int, step: str, number: int, path: str) -> None:
    """Tell the kernel which step failed; used where nothing but the descriptor may be relied on."""
    os.write(channel_fd, encode({"t": "failed", "step": step, "errno": number, "path": path}))
