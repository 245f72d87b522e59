"""Connections to published ports, many on the one channel to a guest: what both ends of it do.

At most WINDOW_BYTES of a stream are under way in each direction; there is room for more when the other end has written them. So a
connection that nobody reads from holds up neither the others nor the containers' events, and what lies in memory is bounded.

    {"t": "stream", stream, what, ...}   what is one of
    open   (host to guest) run, port, protocol: connect to this port of the container of that run
    data   data: base64; of datagrams, one
    room   bytes: so many were written, as many more may be sent
    end    no more data in this direction; the other goes on
    close  it is broken off, or over: what came before is still delivered
"""

from __future__ import annotations

import base64
import contextlib
import errno
import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from nbcontainer.runtime.protocol import ProtocolError

WINDOW_BYTES = 128 << 10
PIECE_BYTES = 32 << 10
LARGEST_DATAGRAM = 65535
MOST_STREAMS = 512
_CONNECTING = (errno.EINPROGRESS, errno.EAGAIN)


@dataclass(slots=True, eq=False)
class Stream:
    """One connection. ``peer``: of datagrams at the host's end, who sends them; the socket is then the port's, for all its peers."""

    number: int
    run: int
    sock: socket.socket
    datagrams: bool = False
    peer: Any = None
    connecting: bool = False
    room: int = WINDOW_BYTES
    """Bytes that may still be sent to the other end."""
    written: int = 0
    """Bytes that the other end has not been told of."""
    pending: deque[bytes] = field(default_factory=deque)
    pending_bytes: int = 0
    said_end: bool = False
    heard_end: bool = False
    shut: bool = False
    closing: bool = False
    """Nothing is read any more; what is pending is written, then it is closed."""
    draining: bool = False
    """Its container has ended: what is there to be read is sent, then it is closed."""
    used_seconds: float = field(default_factory=time.monotonic)


class Tunnel:
    """One end. ``send``: puts a message on the channel; ``fail``: what the other end said cannot be believed.

    Methods with an underscore run in a thread of its own, the others may be called from any.
    """

    def __init__(self, send: Callable[[dict[str, Any]], None], fail: Callable[[str], None]) -> None:
        self._send, self._fail = send, fail
        self._streams: dict[int, Stream] = {}
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._jobs: deque[Callable[[], None]] = deque()
        self._lock = threading.Lock()
        self._over = False
        self._epoll = select.epoll()
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._wake_fd, select.EPOLLIN)
        self._thread = threading.Thread(target=self._work, name="nbcontainer-tunnel", daemon=True)
        self._thread.start()

    def take(self, message: Mapping[str, Any]) -> None:
        """From the channel. Raises ProtocolError; returns at once."""
        number, what = message.get("stream"), message.get("what")
        if not isinstance(number, int):
            raise ProtocolError("a stream without a number")
        if what == "data":
            try:
                data = base64.b64decode(message.get("data", None), validate=True)
            except (TypeError, ValueError):
                raise ProtocolError("data of a stream that is not base64") from None
            self.do(partial(self._take_data, number, data))
        elif what == "room":
            size = message.get("bytes")
            if type(size) is not int or not 0 < size <= WINDOW_BYTES + LARGEST_DATAGRAM:
                raise ProtocolError("room in a stream that is no size")
            self.do(partial(self._take_room, number, size))
        elif what == "end":
            self.do(partial(self._take_end, number))
        elif what == "close":
            self.do(partial(self._take_close, number))
        else:
            raise ProtocolError("something unknown about a stream")

    def do(self, job: Callable[[], None]) -> bool:
        """In the tunnel's thread, soon. False where it is closed: then never."""
        with self._lock:
            if not self._over:
                self._jobs.append(job)
                os.eventfd_write(self._wake_fd, 1)
            return not self._over

    def do_now(self, job: Callable[[], None]) -> None:
        """Returns when it is done, or the tunnel closed."""
        done = threading.Event()

        def do() -> None:
            job()
            done.set()

        if self.do(do):
            while not done.wait(0.1) and self._thread.is_alive():
                pass

    def close(self) -> None:
        """All streams end. Returns when they have, but for a call from the tunnel's own thread."""

        def end() -> None:
            raise SystemExit

        self.do(end)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    # ---- the thread

    def _work(self) -> None:
        try:
            while True:
                for fd, _ in self._epoll.poll(self._tick()):
                    if fd == self._wake_fd:
                        os.eventfd_read(fd)
                    elif fd in self._callbacks:
                        self._callbacks[fd]()
                while self._jobs:
                    self._jobs.popleft()()
        except ProtocolError as error:
            self._fail(str(error))
        except SystemExit:
            pass
        finally:
            with self._lock:
                self._over = True
            self._release()
            self._epoll.close()
            os.close(self._wake_fd)

    def _tick(self) -> float | None:
        """Called before each wait; how many seconds to wait at most."""
        return None

    def _release(self) -> None:
        for stream in list(self._streams.values()):
            self._drop(stream)

    def _watch(self, fd: int, callback: Callable[[], None], events: int) -> None:
        """Without events: no more. A descriptor that is watched for nothing would still be said to be broken, again and again."""
        watched = fd in self._callbacks
        if not events:
            if watched:
                del self._callbacks[fd]
                self._epoll.unregister(fd)
            return
        self._callbacks[fd] = callback
        (self._epoll.modify if watched else self._epoll.register)(fd, events)

    def _say(self, stream: Stream, what: str, **content: Any) -> None:
        self._send({"t": "stream", "stream": stream.number, "what": what, **content})

    def _add(self, stream: Stream) -> None:
        self._streams[stream.number] = stream
        if not stream.datagrams:
            stream.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._interest(stream)

    def _interest(self, stream: Stream) -> None:
        if stream.peer is not None or stream.number not in self._streams:
            return
        reads = not (stream.connecting or stream.said_end or stream.closing) and stream.room > 0
        writes = stream.connecting or bool(stream.pending)
        self._watch(stream.sock.fileno(), partial(self._ready, stream), select.EPOLLIN * reads | select.EPOLLOUT * writes)

    def _ready(self, stream: Stream) -> None:
        if stream.connecting:
            if stream.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self._break(stream)  # nobody listens there
                return
            stream.connecting = False
        self._write(stream)
        if stream.number in self._streams:
            self._read(stream)

    def _read(self, stream: Stream) -> None:
        """One piece, for the other streams' sake; all there is of one that ends."""
        while not (stream.connecting or stream.said_end or stream.closing) and stream.room > 0:
            data: bytes | None = None
            try:
                data = stream.sock.recv(LARGEST_DATAGRAM if stream.datagrams else min(PIECE_BYTES, stream.room))
            except BlockingIOError:
                data = b"" if stream.draining else None
            except OSError:
                if stream.datagrams and not stream.draining:
                    break  # nobody listens there now
                self._break(stream)
                return
            if data is None:
                break
            if data or (stream.datagrams and not stream.draining):
                self._pass_on(stream, data)
            else:
                stream.said_end = True
                self._say(stream, "end")
            if not stream.draining:
                break
        self._settle(stream)

    def _pass_on(self, stream: Stream, data: bytes) -> None:
        stream.room -= len(data)
        stream.used_seconds = time.monotonic()
        self._say(stream, "data", data=base64.b64encode(data).decode("ascii"))

    def _write(self, stream: Stream) -> None:
        while stream.pending and not stream.connecting:
            data = stream.pending[0]
            try:
                written = stream.sock.send(data) if stream.peer is None else stream.sock.sendto(data, stream.peer)
            except BlockingIOError:
                if not stream.datagrams:
                    break
                written = len(data)  # datagrams may get lost
            except OSError:
                if not stream.datagrams:
                    self._break(stream)
                    return
                written = len(data)
            stream.pending_bytes -= written
            stream.written += written
            if written == len(data):
                stream.pending.popleft()
            else:
                stream.pending[0] = data[written:]
        if stream.written >= WINDOW_BYTES // 2:
            self._say(stream, "room", bytes=stream.written)
            stream.written = 0
        self._settle(stream)

    def _settle(self, stream: Stream) -> None:
        """What has come to its end ends."""
        if stream.heard_end and not stream.pending and not stream.connecting and not stream.shut:
            stream.shut = True
            if stream.peer is None:
                with contextlib.suppress(OSError):
                    stream.sock.shutdown(socket.SHUT_WR)
        if stream.draining and (stream.said_end or stream.closing):
            self._break(stream)
        elif (stream.closing or (stream.said_end and stream.shut)) and not stream.pending:
            self._drop(stream)
        else:
            self._interest(stream)

    def _break(self, stream: Stream) -> None:
        self._say(stream, "close")
        self._drop(stream)

    def _drop(self, stream: Stream) -> None:
        if self._streams.pop(stream.number, None) is not None and stream.peer is None:
            self._watch(stream.sock.fileno(), partial(self._ready, stream), 0)
            stream.sock.close()

    def _of_run(self, run: int) -> list[Stream]:
        return [stream for stream in self._streams.values() if stream.run == run]

    # ---- what the other end says

    def _take_data(self, number: int, data: bytes) -> None:
        stream = self._streams.get(number)
        if stream is None or stream.closing:
            return
        if stream.pending_bytes + stream.written + len(data) > WINDOW_BYTES + LARGEST_DATAGRAM or stream.heard_end:
            raise ProtocolError("more of a stream than there is room for")
        stream.pending.append(data)
        stream.pending_bytes += len(data)
        stream.used_seconds = time.monotonic()
        self._write(stream)

    def _take_room(self, number: int, size: int) -> None:
        stream = self._streams.get(number)
        if stream is not None:
            stream.room = min(stream.room + size, WINDOW_BYTES)
            if stream.draining:
                self._read(stream)
            else:
                self._interest(stream)

    def _take_end(self, number: int) -> None:
        stream = self._streams.get(number)
        if stream is not None:
            stream.heard_end = True
            self._settle(stream)

    def _take_close(self, number: int) -> None:
        stream = self._streams.get(number)
        if stream is not None:
            stream.closing = True
            if stream.connecting:
                stream.pending.clear()
            self._settle(stream)


def connect(address: tuple[str, int], *, datagrams: bool) -> tuple[socket.socket, bool]:
    """A socket on its way to ``address``, and whether it is not there yet. Raises OSError."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM if datagrams else socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        code = sock.connect_ex(address)
        if code and code not in _CONNECTING:
            raise OSError(code, os.strerror(code))
    except BaseException:
        sock.close()
        raise
    return sock, bool(code)
