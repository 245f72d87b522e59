"""A running guest as the kernel's side sees it: one stream, many runs, and a verdict when it stops answering."""

from __future__ import annotations

import base64
import itertools
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from nbcontainer.engine.transfer import Transfer
from nbcontainer.engine.vm import wire
from nbcontainer.engine.vm.layout import Share, stamp
from nbcontainer.engine.vm.qemu import Process
from nbcontainer.engine.vm.run import Said, VmRun
from nbcontainer.errors import InternalError, SpecError
from nbcontainer.runtime.protocol import FrameReader, ProtocolError, encode
from nbcontainer.runtime.search import Hidden
from nbcontainer.spec import ContainerSpec

if TYPE_CHECKING:
    from nbcontainer.engine.vm.hostports import HostPorts, Listener

READ_BYTES = 1 << 18
SEED_BYTES = 64
NETWORK_SECONDS = 120.0
MOST_OUTGOING = 1 << 14
"""Messages that wait for the guest to read them; variables of any size are one."""
SOCKET_BYTES = 1 << 20
"""More than this is not sent before the guest has read some of it."""
PING_SECONDS = 5.0
SILENCE_SECONDS = 30.0
"""A guest that says nothing for this long, though it was asked, hangs."""


class Guest:
    """Owns a QEMU process and two threads. Methods may be called from any thread."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.release = ""
        """Version of its Linux, once it has said hello."""
        self._offset_seconds = 0.0
        self._runs: dict[int, VmRun] = {}
        self._kept: dict[int, VmRun] = {}
        self._numbers = itertools.count(1)
        self._questions: dict[int, queue.SimpleQueue[dict[str, Any]]] = {}
        self._pings: dict[int, threading.Event] = {}
        self._lock = threading.Lock()
        self._failure = ""
        self._ports: HostPorts | None = None
        self.networks: set[str] = set()
        """Names of those that were made in it."""
        self._heard = time.monotonic()
        self._taking = False
        self._signs: dict[str, queue.SimpleQueue[dict[str, Any]]] = {name: queue.SimpleQueue() for name in ("hello", "settled")}
        # A queue and a thread, because a signal handler must be able to send, whatever it has interrupted.
        self._outgoing: queue.SimpleQueue[bytes | Iterator[bytes] | None] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=target, name="nbcontainer-guest", daemon=True) for target in (self._receive, self._send)]
        for thread in self._threads:
            thread.start()

    # ---- the stream

    def send(self, message: dict[str, Any]) -> None:
        self._outgoing.put(encode(message))

    def _send(self) -> None:
        """Messages, and variables in pieces when there is no message: they may take minutes."""
        large: deque[Iterator[bytes]] = deque()
        while True:
            try:
                data = self._outgoing.get(block=not large)
            except queue.Empty:
                data = next(large[0], b"")
                if not data:
                    large.popleft()
            if data is None:
                return
            if not isinstance(data, bytes):
                large.append(data)
                continue
            try:
                self.process.stream.sendall(data)
            except OSError:
                return  # the receiving thread sees the end too, and says so
            if len(data) > SOCKET_BYTES:
                self._heard = time.monotonic()  # it reads, though it has nothing to say

    def _receive(self) -> None:
        reader = FrameReader()
        reason = ""
        try:
            while data := self.process.stream.recv(READ_BYTES):
                self._taking = True  # a run whose reader is slow holds us up: the guest is not silent then
                for message in reader.feed(data):
                    self._take(message)
                self._heard, self._taking = time.monotonic(), False
        except ProtocolError as error:
            reason = f"the virtual machine said {error}"
        except OSError:
            pass  # closed by us, or reset by its end
        except Exception as error:  # whatever it was: nobody may wait for a thread that is no more
            reason = f"the virtual machine said something that cannot be taken ({type(error).__name__}: {error})"
        self.fail(reason or f"the virtual machine {self.process.how_it_ended()}")

    def _take(self, message: dict[str, Any]) -> None:
        if self._outgoing.qsize() > MOST_OUTGOING:
            raise ProtocolError("more than it reads the answers to")
        kind = message["t"]
        if kind in ("event", "refused"):
            number = message.get("run")
            run = self._runs.get(number) if isinstance(number, int) else None
            said: Said = wire.event_from_json(message, self._offset_seconds) if kind == "event" else wire.error_from_json(message)
            if run is not None:
                run.put(said)
        elif kind == "values":
            number = message.get("run")
            run = self._runs.get(number) if isinstance(number, int) else None
            if run is not None:
                run.take_values(message)
        elif kind == "answer":
            number = message.get("run")
            run = self._runs.get(number) or self._kept.get(number) if isinstance(number, int) else None
            answer = wire.answer_from_json(message, self._offset_seconds)
            if run is not None:
                run.answer(message.get("ask"), answer)
        elif kind == "networked":
            question = self._questions.get(message["ask"]) if isinstance(message.get("ask"), int) else None
            if question is not None:
                question.put(message)
        elif kind == "stream":
            if self._ports is not None:
                self._ports.take(message)
        elif kind in ("hello", "broken"):
            self._signs["hello"].put(message)
        elif kind == "settled":
            self._signs["settled"].put(message)
        elif kind == "pong":
            waiting = self._pings.get(message["ask"]) if isinstance(message.get("ask"), int) else None
            if waiting is not None:
                waiting.set()
        else:
            raise ProtocolError("something unknown")

    def fail(self, reason: str) -> None:
        """Give this guest up: every run ends with an InternalError, and QEMU ends."""
        with self._lock:
            if self._failure:
                return
            words = self.process.last_words()
            self._failure = reason + (f" ({words})" if words else "")
            runs, kept = list(self._runs.values()), list(self._kept.values())
        for run in kept:
            run.lose()
        for run in runs:
            run.put(InternalError(f"{self._failure}; the next cell starts a new one"))
        for sign in self._signs.values():
            sign.put({"t": "failed"})
        for question in list(self._questions.values()):
            question.put({"t": "failed"})
        for waiting in list(self._pings.values()):
            waiting.set()
        if self._ports is not None:
            self._ports.close()
        self._outgoing.put(None)
        self.process.end()

    @property
    def alive(self) -> bool:
        return not self._failure and self.process.alive

    @property
    def busy(self) -> bool:
        """It has containers, or files of some that were kept."""
        return bool(self._runs or self._kept)

    @property
    def failure(self) -> str:
        return self._failure

    def close(self) -> None:
        """End it; returns when nothing of it is left."""
        self.fail("the virtual machine was closed")
        self.process.kill()
        for thread in self._threads:
            thread.join()

    def check_silence(self) -> None:
        """Called while somebody waits: ask, and in the end give up."""
        silent = 0.0 if self._taking else time.monotonic() - self._heard
        if silent > SILENCE_SECONDS:
            self.fail(f"the virtual machine has not answered for {silent:.0f} s")
        elif silent > PING_SECONDS:
            self.send({"t": "ping", "ask": 0})

    def responds(self) -> bool:
        """Whether it lives, by asking it: a process that was killed just now may look alive for a while."""
        ask, answered = next(self._numbers), threading.Event()
        self._pings[ask] = answered
        try:
            self.send({"t": "ping", "ask": ask})
            answered.wait(SILENCE_SECONDS)
        finally:
            del self._pings[ask]
        if not answered.is_set():
            self.fail(f"the virtual machine has not answered for {SILENCE_SECONDS:.0f} s")
        return not self._failure

    # ---- what it is asked

    def await_hello(self, timeout_seconds: float) -> None:
        """Until the agent serves. Raises InternalError."""
        try:
            message = self._signs["hello"].get(timeout=timeout_seconds)
        except queue.Empty:
            raise InternalError(f"the virtual machine did not start within {timeout_seconds:.0f} s") from None
        now = time.monotonic()
        if message["t"] != "hello":
            raise InternalError(f"the virtual machine did not start: {self._failure or message.get('why')}")
        there, release = message.get("monotonic_seconds"), message.get("release")
        if not isinstance(there, float) or not isinstance(release, str):
            raise InternalError("the virtual machine said hello in an unknown way")
        self._offset_seconds, self.release = now - there, release

    def resume(self, shares: Iterable[Share], hidden: Callable[[], Hidden], timeout_seconds: float) -> None:
        """Give it the time, entropy and shares, and tell it what to hide; every guest needs this before its first container.

        ``hidden`` is asked while it mounts the shares. Raises InternalError, and what that raises.
        """
        seed = base64.b64encode(os.urandom(SEED_BYTES)).decode()
        plain = [asdict(share) for share in shares]
        self.send({"t": "resume", "unix_seconds": time.time(), "seed": seed, "shares": plain})
        self.send({"t": "hide", **asdict(hidden())})
        self.await_hello(timeout_seconds)

    def settle(self, timeout_seconds: float) -> None:
        """Have it run what every cell runs, and drop what it made in advance."""
        self.send({"t": "settle"})
        try:
            message = self._signs["settled"].get(timeout=timeout_seconds)
        except queue.Empty:
            raise InternalError("the virtual machine did not settle") from None
        if message["t"] != "settled":
            raise InternalError(self._failure)

    def ask_networks(self, what: str, arguments: dict[str, Any]) -> Any:
        """The result of a verb about networks, as JSON that nobody has checked. Raises what the guest's engine raised, or InternalError."""
        ask, question = next(self._numbers), queue.SimpleQueue[dict[str, Any]]()
        self._questions[ask] = question
        try:
            self.send({"t": "network", "ask": ask, "what": what, "arguments": arguments})
            message = question.get(timeout=NETWORK_SECONDS)
        except queue.Empty:
            raise InternalError(f"the virtual machine did not answer within {NETWORK_SECONDS:.0f} s") from None
        finally:
            del self._questions[ask]
        if message["t"] == "failed":
            raise InternalError(self._failure)
        if "kind" in message:
            raise wire.error_from_json(message)
        return message.get("result")

    def start(
        self,
        spec: ContainerSpec,
        inside: ContainerSpec,
        code: str,
        ended: Callable[[VmRun], None],
        within: int = 0,
        transfer: Transfer | None = None,
    ) -> VmRun:
        """Returns when the container runs; ``inside`` is ``spec`` with the guest's paths, ``within`` the container to run it in.

        Raises what the guest's engine raised, or InternalError.
        """
        number = next(self._numbers)
        message = {"t": "start", "run": number, "spec": wire.spec_to_json(inside), "code": code, "stamp": stamp(), "within": within, "published": bool(spec.ports)}
        if transfer is not None:
            transfer.limit_bytes = inside.limits.memory_bytes
            message["transfer"] = {"outputs": list(transfer.outputs), "lenient": transfer.lenient}
        try:
            data = encode(message)
        except ProtocolError:
            raise SpecError(
                f"code: {len(code)} characters are more than a message to a container can hold (64 MiB); bring it in with -v"
            ) from None
        run = VmRun(self, number, spec, inside, ended, a_cell=within > 0 and not spec.program)
        with self._lock:
            if self._failure:
                raise InternalError(self._failure)
            self._runs[number] = run
            self._heard = time.monotonic()
        if transfer is not None:
            run.transfer = transfer
        if transfer is not None and transfer.input_bytes:
            self.send({"t": "expect", "run": number})
            self._outgoing.put(self._with_input(number, transfer, data))
        else:
            self._outgoing.put(data)
        try:
            run.await_start()
        except BaseException:
            self.send({"t": "kill", "run": number})  # where it was an interrupt
            run.close()
            raise
        return run

    def _with_input(self, number: int, transfer: Transfer, start: bytes) -> Iterator[bytes]:
        """The variables that go in, read when there is room for them, and then the message to start."""
        for piece in wire.pieces_to_json("input", number, transfer.input_bytes, transfer.read_input):
            if not piece["data"] or number not in self._runs:
                yield encode({"t": "forget", "run": number})  # nobody waits for it any more
                return
            yield encode(piece)
        yield start

    def publish(self, run: VmRun, listeners: tuple[Listener, ...]) -> None:
        """Ports of this host lead to ports of its container, until it ends."""
        from nbcontainer.engine.vm.hostports import HostPorts

        with self._lock:
            if self._ports is None:
                self._ports = HostPorts(self.send, self.fail)
                if self._failure:
                    self._ports.close()
        self._ports.begin(run.number, listeners)

    def forget(self, run: VmRun) -> None:
        self._kept.pop(run.number, None)
        self._runs.pop(run.number, None)
        if self._ports is not None:
            self._ports.end(run.number)

    def keep(self, run: VmRun) -> None:
        """It has ended, and its files stay until it is forgotten."""
        self.forget(run)
        self._kept[run.number] = run

    def keeps(self, run: VmRun) -> bool:
        return run.number in self._kept
