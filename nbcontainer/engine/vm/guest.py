"""A running guest as the kernel's side sees it: one stream, many runs, and a verdict when it stops answering."""

from __future__ import annotations

import base64
import itertools
import os
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable
from dataclasses import asdict
from typing import Any

from nbcontainer.engine.vm import wire
from nbcontainer.engine.vm.layout import Share, stamp
from nbcontainer.engine.vm.qemu import Process
from nbcontainer.errors import InternalError, NbcontainerError, SpecError
from nbcontainer.events import Event, Finished, Readings, Started
from nbcontainer.runtime.protocol import FrameReader, ProtocolError, encode
from nbcontainer.spec import ContainerSpec, Limits, change_limits

READ_BYTES = 1 << 18
SEED_BYTES = 64
PING_SECONDS = 5.0
SILENCE_SECONDS = 30.0
"""A guest that says nothing for this long, though it was asked, hangs."""
GRACE_SECONDS = 15.0
"""From an end that was asked for (kill, second interrupt, timeout) to giving the guest up."""
QUEUED_EVENTS = 4096
ANSWER_SECONDS = 5.0
TICK_SECONDS = 0.1
Said = Event | NbcontainerError
Answer = Limits | Readings | NbcontainerError | None


class Guest:
    """Owns a QEMU process and two threads. Methods may be called from any thread."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.release = ""
        """Version of its Linux, once it has said hello."""
        self._offset_seconds = 0.0
        self._runs: dict[int, VmRun] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._failure = ""
        self._heard = time.monotonic()
        self._signs: dict[str, queue.SimpleQueue[dict[str, Any]]] = {name: queue.SimpleQueue() for name in ("hello", "settled")}
        # A queue and a thread, because a signal handler must be able to send, whatever it has interrupted.
        self._outgoing: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=target, name="nbcontainer-guest", daemon=True) for target in (self._receive, self._send)]
        for thread in self._threads:
            thread.start()

    # ---- the stream

    def send(self, message: dict[str, Any]) -> None:
        self._outgoing.put(encode(message))

    def _send(self) -> None:
        while (data := self._outgoing.get()) is not None:
            try:
                self.process.stream.sendall(data)
            except OSError:
                return  # the receiving thread sees the end too, and says so

    def _receive(self) -> None:
        reader = FrameReader()
        reason = "the virtual machine ended"
        try:
            while data := self.process.stream.recv(READ_BYTES):
                self._heard = time.monotonic()
                for message in reader.feed(data):
                    self._take(message)
        except ProtocolError as error:
            reason = f"the virtual machine said {error}"
        except OSError:
            pass  # closed by us, or reset by its end
        self.fail(reason)

    def _take(self, message: dict[str, Any]) -> None:
        kind = message["t"]
        if kind in ("event", "refused"):
            number = message.get("run")
            run = self._runs.get(number) if isinstance(number, int) else None
            said: Said = wire.event_from_json(message, self._offset_seconds) if kind == "event" else wire.error_from_json(message)
            if run is not None:
                run.put(said)
        elif kind == "answer":
            number, ask = message.get("run"), message.get("ask")
            run = self._runs.get(number) if isinstance(number, int) else None
            answer = wire.answer_from_json(message, self._offset_seconds)
            if run is not None and isinstance(ask, int):
                run.take_answer(ask, answer)
        elif kind in ("hello", "broken"):
            self._signs["hello"].put(message)
        elif kind == "settled":
            self._signs["settled"].put(message)
        elif kind != "pong":
            raise ProtocolError("something unknown")

    def fail(self, reason: str) -> None:
        """Give this guest up: every run ends with an InternalError, and QEMU ends."""
        with self._lock:
            if self._failure:
                return
            words = self.process.last_words()
            self._failure = reason + (f" ({words})" if words else "")
            runs = list(self._runs.values())
        for run in runs:
            run.put(InternalError(f"{self._failure}; the next cell starts a new one"))
        for sign in self._signs.values():
            sign.put({"t": "failed"})
        self._outgoing.put(None)
        self.process.end()

    @property
    def alive(self) -> bool:
        return not self._failure and self.process.alive

    @property
    def busy(self) -> bool:
        return bool(self._runs)

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
        silent = time.monotonic() - self._heard
        if silent > SILENCE_SECONDS:
            self.fail(f"the virtual machine has not answered for {silent:.0f} s")
        elif silent > PING_SECONDS:
            self.send({"t": "ping"})

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

    def resume(self, shares: Iterable[Share], timeout_seconds: float) -> None:
        """Give it the time, entropy and shares; every guest needs this before its first container."""
        seed = base64.b64encode(os.urandom(SEED_BYTES)).decode()
        plain = [asdict(share) for share in shares]
        self.send({"t": "resume", "unix_seconds": time.time(), "seed": seed, "shares": plain})
        self.await_hello(timeout_seconds)

    def settle(self, timeout_seconds: float) -> None:
        """Have it drop what it made in advance."""
        self.send({"t": "settle"})
        try:
            message = self._signs["settled"].get(timeout=timeout_seconds)
        except queue.Empty:
            raise InternalError("the virtual machine did not settle") from None
        if message["t"] != "settled":
            raise InternalError(self._failure)

    def start(self, spec: ContainerSpec, inside: ContainerSpec, code: str, ended: Callable[[VmRun], None]) -> VmRun:
        """Returns when the container runs; ``inside`` is ``spec`` with the guest's paths.

        Raises what the guest's engine raised, or InternalError.
        """
        number = next(self._numbers)
        try:
            data = encode({"t": "start", "run": number, "spec": wire.spec_to_json(inside), "code": code, "stamp": stamp()})
        except ProtocolError:
            raise SpecError(
                f"code: {len(code)} characters are more than a message to a container can hold (64 MiB); bring it in with -v"
            ) from None
        run = VmRun(self, number, spec, ended)
        with self._lock:
            if self._failure:
                raise InternalError(self._failure)
            self._runs[number] = run
            self._heard = time.monotonic()
        self._outgoing.put(data)
        try:
            run.await_start()
        except BaseException:
            self.forget(run)
            raise
        return run

    def forget(self, run: VmRun) -> None:
        self._runs.pop(run.number, None)


class VmRun:
    """See :class:`nbcontainer.engine.Run`."""

    def __init__(self, guest: Guest, number: int, spec: ContainerSpec, ended: Callable[[VmRun], None]) -> None:
        self.number = number
        self.container_id = ""
        self.started: Started | None = None
        self.spec = spec
        self._guest, self._on_end = guest, ended
        self._said: queue.Queue[Said] = queue.Queue(QUEUED_EVENTS)
        self._give_up_at: float | None = None
        self._interrupts = 0
        self._abandoned = False
        self._asks = itertools.count(1)
        self._answers: dict[int, queue.SimpleQueue[Answer]] = {}
        self._attendants: list[Callable[[], None]] = []
        self._attend_at = 0.0

    def put(self, said: Said) -> None:
        """From the receiving thread: waits where the reader of events is slow, so that memory stays bounded."""
        while not self._abandoned:
            try:
                self._said.put(said, timeout=0.5)
                return
            except queue.Full:
                continue

    def _next(self) -> Said:
        while True:
            self._call_attendants()
            try:
                return self._said.get(timeout=TICK_SECONDS if self._attendants else 0.5)
            except queue.Empty:
                pass
            if self._give_up_at is not None and time.monotonic() > self._give_up_at:
                self._give_up_at = None
                self._guest.fail("the virtual machine did not end a container that it was told to end")
            self._guest.check_silence()

    def _call_attendants(self) -> None:
        now = time.monotonic()
        if now >= self._attend_at:
            self._attend_at = now + TICK_SECONDS
            for callback in self._attendants:
                callback()

    def await_start(self) -> None:
        said = self._next()
        if isinstance(said, NbcontainerError):
            raise said
        if not isinstance(said, Started):
            self._guest.fail("the virtual machine said events out of order")
            raise InternalError(self._guest.failure)
        self.started, self.container_id = said, said.container_id
        if self.spec.timeout_seconds is not None:
            self._give_up_at = time.monotonic() + self.spec.timeout_seconds + GRACE_SECONDS

    # ---- from anywhere

    def interrupt(self) -> None:
        self._interrupts += 1
        self._ask("interrupt")

    def kill(self) -> None:
        self._ask("kill")

    def pause(self) -> None:
        self._control("pause")

    def resume(self) -> None:
        self._control("resume")

    def update(self, **changes: Any) -> Limits:
        # Checked here too: the guest has another memory and other CPUs, and its words for that would be odd.
        change_limits(self.spec.limits, changes)
        answer = self._control("update", changes)
        if not isinstance(answer, Limits):
            raise InternalError("the virtual machine gave another answer than was asked for")
        return answer

    def readings(self) -> Readings:
        answer = self._control("readings")
        if not isinstance(answer, Readings):
            raise InternalError("the virtual machine gave another answer than was asked for")
        return answer

    def _control(self, what: str, changes: dict[str, Any] | None = None) -> Limits | Readings | None:
        if self._abandoned:
            raise SpecError(f"{what}: the container has ended")
        ask, answers = next(self._asks), queue.SimpleQueue[Answer]()
        self._answers[ask] = answers
        try:
            self._guest.send({"t": "ask", "run": self.number, "ask": ask, "what": what, "changes": changes or {}})
            answer = answers.get(timeout=ANSWER_SECONDS)
        except queue.Empty:
            raise SpecError(f"{what}: the container has ended, or its virtual machine is too slow to answer") from None
        finally:
            del self._answers[ask]
        if isinstance(answer, NbcontainerError):
            raise answer
        return answer

    def take_answer(self, ask: int, answer: Answer) -> None:
        """From the receiving thread."""
        waiting = self._answers.get(ask)
        if waiting is not None:
            waiting.put(answer)

    def attend(self, callback: Callable[[], None], fd: int = -1) -> None:
        """``fd`` is looked at ten times a second, as all of it: events come through a queue here."""
        self._attendants.append(callback)

    def _ask(self, what: str) -> None:
        soon = time.monotonic() + GRACE_SECONDS
        self._give_up_at = soon if self._give_up_at is None else min(soon, self._give_up_at)
        self._guest.send({"t": what, "run": self.number})

    # ---- the loop

    def events(self) -> Generator[Event, None, None]:
        finished = False
        try:
            if self.started is not None:
                yield self.started
            while True:
                said = self._next()
                finished = isinstance(said, Finished | NbcontainerError)
                if isinstance(said, NbcontainerError):
                    raise said
                if finished:
                    break
                yield said
        finally:
            if not finished:
                self._end()
            self._abandoned = True
            self._guest.forget(self)
            self._on_end(self)
        yield said

    def _end(self) -> None:
        """The reader has gone away: wait until nothing of the container is left."""
        self._attendants.clear()
        self.kill()
        while not isinstance(self._next(), Finished | NbcontainerError):
            pass
