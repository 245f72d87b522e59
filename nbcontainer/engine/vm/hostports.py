"""Published ports of containers in a guest: this process listens on the host, and what comes goes through the channel.

Not QEMU's user networking: the guest would have a card and a way out by it, which nobody asked for.
"""

from __future__ import annotations

import itertools
import select
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from nbcontainer.engine.vm.tunnel import LARGEST_DATAGRAM, MOST_STREAMS, Stream, Tunnel
from nbcontainer.network.forward import MOST_UDP_CLIENTS, UDP_IDLE_SECONDS, listen, not_published
from nbcontainer.ports import Port

LINGER_SECONDS = 5.0
"""What a container sent before its end is still delivered, to whoever takes it within this time."""
FULL_SECONDS = 0.1
_DATAGRAMS_AT_ONCE = 64


@dataclass(slots=True, eq=False)
class Listener:
    """One port. ``port``: with the number that was chosen where it was 0."""

    port: Port
    sock: socket.socket
    peers: dict[Any, Stream] = field(default_factory=dict)


def bind(ports: Iterable[Port]) -> tuple[Listener, ...]:
    """Sockets of this host, all or none. Raises SpecError or SetupError."""
    found: list[Listener] = []
    try:
        for port in ports:
            try:
                sock = listen(port)
            except OSError as error:
                raise not_published(port, error) from None
            found.append(Listener(port.at(sock.getsockname()[1]), sock))
    except BaseException:
        for listener in found:
            listener.sock.close()
        raise
    return tuple(found)


class HostPorts(Tunnel):
    """The host's end of one guest's channel."""

    def __init__(self, send: Callable[[dict[str, Any]], None], fail: Callable[[str], None]) -> None:
        self._listeners: dict[int, tuple[Listener, ...]] = {}
        self._numbers = itertools.count(1)
        self._lingering: dict[int, float] = {}
        """Runs whose container has ended, and until when."""
        self._full_until = 0.0
        super().__init__(send, fail)

    def begin(self, run: int, listeners: tuple[Listener, ...]) -> None:
        """From now on connections lead to the container of this run. The sockets are this object's."""
        if not self.do(partial(self._begin, run, listeners)):
            for listener in listeners:
                listener.sock.close()

    def end(self, run: int) -> None:
        """It has ended. When this returns, the ports are free."""
        self.do_now(partial(self._end, run))

    # ---- the thread

    def _tick(self) -> float | None:
        now = time.monotonic()
        for run in [run for run, until in self._lingering.items() if now >= until]:
            del self._lingering[run]
            for stream in self._of_run(run):
                self._break(stream)
        if self._full_until and now >= self._full_until:
            self._full_until = 0.0
            self._listen_again()
        moments = [*self._lingering.values(), *([self._full_until] if self._full_until else [])]
        return max(0.0, min(moments) - now) if moments else None

    def _release(self) -> None:
        for run in list(self._listeners):
            self._stop_listening(run)
        super()._release()

    def _begin(self, run: int, listeners: tuple[Listener, ...]) -> None:
        self._listeners[run] = listeners
        for listener in listeners:
            self._watch_listener(run, listener)

    def _watch_listener(self, run: int, listener: Listener) -> None:
        take = self._take_datagrams if listener.port.protocol == "udp" else self._accept
        self._watch(listener.sock.fileno(), partial(take, run, listener), select.EPOLLIN)

    def _listen_again(self) -> None:
        for run, listeners in self._listeners.items():
            for listener in listeners:
                self._watch_listener(run, listener)

    def _end(self, run: int) -> None:
        self._stop_listening(run)
        if self._of_run(run):
            self._lingering[run] = time.monotonic() + LINGER_SECONDS

    def _stop_listening(self, run: int) -> None:
        for listener in self._listeners.pop(run, ()):
            for stream in list(listener.peers.values()):
                self._break(stream)
            self._watch(listener.sock.fileno(), lambda: None, 0)
            listener.sock.close()

    def _accept(self, run: int, listener: Listener) -> None:
        try:
            if len(self._streams) >= MOST_STREAMS:
                raise OSError
            sock, _ = listener.sock.accept()
        except BlockingIOError:
            return
        except OSError:
            # Too many, or out of descriptors: the others wait in the backlog until some have been closed.
            self._watch(listener.sock.fileno(), lambda: None, 0)
            self._full_until = time.monotonic() + FULL_SECONDS
            return
        sock.setblocking(False)
        self._open(run, listener, Stream(next(self._numbers), run, sock))

    def _open(self, run: int, listener: Listener, stream: Stream) -> None:
        self._say(stream, "open", run=run, port=listener.port.container_port, protocol=listener.port.protocol)
        self._add(stream)

    def _take_datagrams(self, run: int, listener: Listener) -> None:
        for _ in range(_DATAGRAMS_AT_ONCE):
            try:
                data, peer = listener.sock.recvfrom(LARGEST_DATAGRAM)
            except BlockingIOError:
                return
            except OSError:
                continue  # what ICMP said about an answer of ours
            stream = listener.peers.get(peer)
            if stream is None or stream.number not in self._streams:
                stream = self._new_peer(run, listener, peer)
            if stream is not None and stream.room > 0:
                self._pass_on(stream, data)

    def _new_peer(self, run: int, listener: Listener, peer: Any) -> Stream | None:
        before = time.monotonic() - UDP_IDLE_SECONDS
        for other, stream in list(listener.peers.items()):
            if stream.number not in self._streams or stream.used_seconds < before:
                del listener.peers[other]
                if stream.number in self._streams:
                    self._break(stream)
        if len(listener.peers) >= MOST_UDP_CLIENTS or len(self._streams) >= MOST_STREAMS:
            return None
        stream = listener.peers[peer] = Stream(next(self._numbers), run, listener.sock, datagrams=True, peer=peer)
        self._open(run, listener, stream)
        return stream
