"""How the kernel, the zygote and a cell process talk: frames, and the named messages of the handshake.

The handshake of one container, K the kernel, Z the zygote, C the cell process (pid 1 of the container):

1. K → Z  LaunchRequest on the launch socket, with Z's ends of control, channel and pipes as descriptors (pickled: Z
   trusts K, and nobody else has that socket); the plan comes along when Z does not have it yet
2. Z      executes the plan's host steps, clones C, writes C's id maps, releases C
3. Z → K  ``{"t": "cloned", "pid"}`` and C's pidfd on the container's control socket, or ``{"t": "failed", ...}``; with a
          descriptor of the writable layer, for K to look at. Rootless, C sends that itself, before 4: ``{"t": "scratch"}``
4. C → K  ``{"t": "ready"}`` on the channel after the plan's inside steps, or ``{"t": "failed", step, errno, path}``
5. K      writes the limits; only now may user code exist
6. K → C  Go: code or program, environment, user (pickled, behind its length: C trusts K)
7. C → K  ``{"t": "started"}``: a Python cell's code begins. Before it, ``failed`` (no such user, directory or program) is
   still true; whatever says so later is forged. A program has no channel, so that nothing can be forged
8. C → K  displays, errors, results, each answered by one byte (see channel.Channel); ``{"t": "input", "password"}``, answered by a
          line of text; ``{"t": "values", "size"}``, answered by memory of that size, and ``{"t": "filled"}`` when C has filled it
9. Z → K  ``{"t": "exited", "status"}`` on the control socket, from waitid

In a session (``Go.session``) the code comes later, cell by cell, and 7 says that it may:

a. K → C  ``c`` and a Go, of which the code counts; the byte tells it from the answers of 8
b. C → K  displays, errors, results, as in 8; at the end of the cell ``{"t": "done", "code"}``, which has no answer

K never unpickles and accepts no descriptor from C. What C sends is JSON in bounded frames, and a cell can forge it: it
describes that cell's output and nothing else.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import struct
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

LENGTH, FRAME = struct.Struct("<I"), struct.Struct("<II")
LINE_FD = 4
"""A file of the kernel's, in which the process of a Python cell says where it is: see :mod:`nbcontainer.engine.line`."""
LINE_SIGNAL = signal.SIGRTMAX - 2
"""Asks it to: it answers from C, also in the middle of a call that does not return."""
HELD_FD, HELD_OFFSET, HELD_BYTES = LINE_FD, 16384, 2048
"""Where text without the end of its line stands, for each of the two streams: behind the two places for answers in the same file."""
HELD_STREAMS, HELD_HEADER = ("stdout", "stderr"), struct.Struct("=HBB")
"""Before it: its length, and two marks of the kernel's, see :mod:`nbcontainer.engine.held`."""
MOST_VALUES = 5_000_000
"""Of one frame: each takes some 60 bytes in Python, and 2 in a frame."""
MAX_FRAME_BYTES = 64 << 20
"""One display: a larger one is refused in the cell, and ends the channel in the kernel."""


def is_json(mime_type: str) -> bool:
    """Values of this type are not texts."""
    return mime_type == "application/json" or mime_type.endswith("+json")


class ProtocolError(Exception):
    """The other side sent something that is not a frame."""


class LaunchRequest(NamedTuple):
    """Message 1, sent as a plain tuple. Descriptors that travel with it, in order: control, channel, stdout, stderr,
    line (of a Python cell), cgroup (if any), user namespace (with ``below``), tasks…"""

    hostname: str
    id_map: tuple[int, int] | None
    """(first host id, count); None where ids are the host's."""
    subordinate: tuple[int, int, int] | None
    """See IdMap."""
    cgroup_directories: tuple[str, ...]
    has_cgroup_fd: bool
    plan_number: int
    plan: bytes
    """Pickled; empty where the zygote knows this number from an earlier launch."""
    within: int = 0
    """Process id of the container that the new process is to join; 0: it is a container of its own."""
    below: bool = False
    """Its user namespace is to be a child of the one whose descriptor travels with this."""


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
    session: bool = False
    """There is no code yet: cells follow."""
    has_input: bool = False
    """Variables follow: one byte with the descriptor that they lie in."""
    lenient: bool = False
    """Of these, those that the code does not speak of, or that cannot be rebuilt, are left out."""
    outputs: tuple[str, ...] = ()
    """Variables that are wanted back."""
    cell_number: int = 0
    """For tracebacks and ``Out``; 0: no notebook's."""


NEXT_CELL = b"c"
ACKNOWLEDGED, LINE, NO, MEMORY = b"a", b"l", b"n", b"m"
"""How K's answers begin: nothing follows, a text, the text of a refusal, or a descriptor comes along."""
MAX_LINE_BYTES = 1 << 16
MAX_MESSAGE_CHARACTERS, MAX_TRACEBACK_CHARACTERS = 10_000, 1 << 18
"""Of what is shown of an exception's text, or a question, and of a traceback."""


def cut(text: str, characters: int) -> str:
    """``text``, without its middle where it is longer: C does so before it sends something, and K with all that comes."""
    if len(text) <= characters:
        return text
    half = (characters - 100) // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half} characters ...]\n{text[-half:]}"


def encode_answer(kind: bytes, text: str) -> bytes:
    """LINE or NO, with ``text`` cut to what a cell may have to hold."""
    data = text.encode("utf-8", "replace")[:MAX_LINE_BYTES]
    return kind + LENGTH.pack(len(data)) + data


def encode_go(go: Go) -> bytes:
    """Raises ProtocolError where the code is too large."""
    body = pickle.dumps(tuple(go))
    if len(body) > MAX_FRAME_BYTES:
        raise ProtocolError(f"a message of {len(body)} bytes is over the limit of {MAX_FRAME_BYTES}")
    return LENGTH.pack(len(body)) + body


def encode(message: dict[str, Any], parts: Mapping[str, str] | None = None) -> bytes:
    """One frame: two lengths, the message as JSON, and ``parts``, texts of any size, in UTF-8 behind it."""
    encoded = {name: text.encode("utf-8", "replace") for name, text in (parts or {}).items()}
    if encoded:
        message = {**message, "parts": [[name, len(data)] for name, data in encoded.items()]}
    body, tail = json.dumps(message, separators=(",", ":")).encode(), b"".join(encoded.values())
    if len(body) + len(tail) > MAX_FRAME_BYTES:
        raise ProtocolError(f"a message of {len(body) + len(tail)} bytes is over the limit of {MAX_FRAME_BYTES}")
    return FRAME.pack(len(body), len(tail)) + body + tail


class FrameReader:
    """Takes bytes as they come and gives whole messages; anything malformed raises ProtocolError.

    A message's ``parts`` are then a dict of texts. JSON can take fifty times its size in memory: who does not trust the
    sender sets ``max_json_bytes``, and takes what is large from the parts.
    """

    def __init__(self, max_json_bytes: int = MAX_FRAME_BYTES) -> None:
        self._buffer = bytearray()
        self._max_json_bytes = max_json_bytes

    @property
    def is_in_a_message(self) -> bool:
        """The rest of it has not come."""
        return bool(self._buffer)

    def feed(self, data: bytes) -> Iterator[dict[str, Any]]:
        self._buffer += data
        while len(self._buffer) >= FRAME.size:
            json_bytes, part_bytes = FRAME.unpack_from(self._buffer)
            if json_bytes > self._max_json_bytes or json_bytes + part_bytes > MAX_FRAME_BYTES:
                raise ProtocolError(f"a frame of {json_bytes} and {part_bytes} bytes is over the limit")
            middle = FRAME.size + json_bytes
            end = middle + part_bytes
            if len(self._buffer) < end:
                return
            body, tail = bytes(self._buffer[FRAME.size : middle]), bytes(self._buffer[middle:end])
            del self._buffer[:end]
            yield _decode(body, tail)


def _decode(body: bytes, tail: bytes) -> dict[str, Any]:
    if len(body) > MOST_VALUES and sum(map(body.count, (b"[", b"{", b","))) > MOST_VALUES:
        raise ProtocolError("a frame with too many values")
    try:
        message = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"a frame that is not JSON: {error}") from None
    if not isinstance(message, dict) or not isinstance(message.get("t"), str):
        raise ProtocolError("a frame that is not a message")
    if tail or "parts" in message:
        message["parts"] = _divide(message.get("parts"), tail)
    return message


def _divide(lengths: Any, tail: bytes) -> dict[str, str]:
    parts: dict[str, str] = {}
    begin = 0
    try:
        for name, length in lengths:
            if not isinstance(name, str) or not 0 <= length <= len(tail) - begin:
                raise ProtocolError("parts of a frame that do not fit")
            parts[name] = tail[begin : begin + length].decode("utf-8", "replace")
            begin += length
    except (TypeError, ValueError):
        raise ProtocolError("parts of a frame that are no list of names and lengths") from None
    return parts


READY, STARTED = encode({"t": "ready"}), encode({"t": "started"})


def send_failure(channel_fd: int, step: str, number: int, path: str, why: str = "", near: str = "") -> None:
    """Tell the kernel which step failed; used where nothing but the descriptor may be relied on. ``near``: names that may be meant."""
    parts = {"near": near} if near else None
    os.write(channel_fd, encode({"t": "failed", "step": step, "errno": number, "path": path, "why": why}, parts))
