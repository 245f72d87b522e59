"""Watching a process of a local container, from its first event to its end: the loop, and the run of a whole container."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from nbcontainer.cgroups import Cgroup
from nbcontainer.cgroups.sampler import SAMPLER
from nbcontainer.engine.attendants import TICK_SECONDS, Attendants
from nbcontainer.engine.streams import CellDone, Said, Streams
from nbcontainer.engine.verdict import Reason
from nbcontainer.errors import InternalError
from nbcontainer.events import Changed, Event, Paused, Resumed, Running, Sample
from nbcontainer.runtime.client import Cloned
from nbcontainer.runtime.protocol import LINE, NO, encode_answer
from nbcontainer.spec import ContainerSpec

GRACE_SECONDS = 1.0
HELD_SECONDS = 1.0
IDLE_SECONDS = 0.3  # samples wait this long to be passed on, where nobody watches them live


class ProcessRun(ABC):
    """Watches one process of a container; what kinds of runs differ in, they override. See :class:`nbcontainer.engine.Run`."""

    sample_after_seconds = 0.01
    """What ends sooner is not sampled while it runs."""

    def __init__(self, container_id: str, spec: ContainerSpec, process: Cloned, cgroup: Cgroup, first: Sample) -> None:
        self.container_id = container_id
        self.spec = spec
        self._process, self._cgroup = process, cgroup
        self._first = first
        self._started = first.monotonic_seconds
        self._samples: deque[Sample] = deque([first], maxlen=4096)
        self._said: deque[Running | Paused | Resumed | Changed] = deque()
        self._answers: deque[bytes] = deque()
        """For the cell, which only the thread that iterates may write to."""
        self._attendants = Attendants()
        self._streams = Streams(process, init=spec.init, session=spec.session, endless=spec.background)
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        # Reentrant: a signal handler may interrupt the very thread that holds it.
        self._wake_lock = threading.RLock()
        self._interrupts = 0
        self._reason: Reason = ""
        self._kill_at: float | None = None
        self._deadline = None if spec.timeout_seconds is None else self._started + spec.timeout_seconds
        self._token: Any = None
        self._sample_at: float | None = self._started + self.sample_after_seconds
        self._ended = False
        self._under_way = not spec.background

    # ---- what differs

    @abstractmethod
    def _signal(self, number: int) -> None:
        """To all that this run stands for."""

    def _begin_sampling(self) -> None:
        """Only for what takes longer than the blink of an eye: a thread and a file would slow the others down."""
        self._token = SAMPLER.add(self._cgroup, None, self.spec.interval_seconds, self._take_sample)

    def _take_sample(self, sample: Sample) -> None:
        self._samples.append(sample)

    def _on_said(self, said: Said) -> Iterator[Event]:
        """What the process said, on its way out."""
        if not isinstance(said, CellDone):
            yield said

    def _look(self) -> None:
        """Called in each turn of the loop."""
        if not self._under_way and self._streams.under_way:
            self._under_way = True
            self._said.append(Running(time.monotonic()))

    @abstractmethod
    def _let_go(self) -> None:
        """End whoever traces the process, which has ended."""

    # ---- from anywhere

    @property
    def pid(self) -> int:
        """As this host sees it."""
        return self._process.pid

    @property
    def name(self) -> str:
        """As users call it."""
        return self.spec.name or self.container_id

    @property
    def cgroup(self) -> Cgroup:
        return self._cgroup

    @property
    def has_ended(self) -> bool:
        with self._wake_lock:
            if self._ended:
                return True
            poller = select.poll()
            poller.register(self._process.pidfd, select.POLLIN)
            return bool(poller.poll(0))

    def signal_process(self, number: int) -> None:
        """To the process alone; nothing after the end."""
        with self._wake_lock, contextlib.suppress(ProcessLookupError):
            if not self._ended:
                signal.pidfd_send_signal(self._process.pidfd, number)

    def interrupt(self) -> None:
        self._interrupts += 1
        self._wake()

    def kill(self) -> None:
        self._reason = self._reason or "killed"
        self._kill_at = 0.0
        self._wake()

    def answer_input(self, line: str | None, why: str = "") -> None:
        self._answers.append(encode_answer(NO, why) if line is None else encode_answer(LINE, line))
        self._wake()

    def is_over(self) -> bool:
        late = self._deadline is not None and time.monotonic() >= self._deadline
        return late or self._kill_at is not None or self.has_ended

    def attend(self, callback: Callable[[], None], fd: int = -1) -> None:
        self._attendants.add(callback, fd)

    def _wake(self) -> None:
        with self._wake_lock:
            if not self._ended:
                os.eventfd_write(self._wake_fd, 1)

    # ---- the loop

    def _watch(self) -> Iterator[Event]:
        """Until the process has ended (its pidfd says so, not end of file: children may keep the pipes)."""
        poller = select.poll()
        process, streams = self._process, self._streams
        streams.register(poller)
        poller.register(process.pidfd, select.POLLIN)
        poller.register(self._wake_fd, select.POLLIN)
        self._attendants.wait_with(poller)
        interrupts_seen = 0
        while True:
            ready = dict(poller.poll(self._poll_milliseconds()))
            if process.pidfd in ready:
                return
            for said in streams.read_ready(ready, poller):
                yield from self._on_said(said)
            now = time.monotonic()  # whoever was asked something may have taken minutes
            if self._wake_fd in ready:
                os.eventfd_read(self._wake_fd)
            if self._interrupts > interrupts_seen:
                interrupts_seen = self._interrupts
                self._on_interrupt(now)
            self._enforce(now)
            if self._sample_at is not None and now >= self._sample_at:
                self._sample_at = None
                self._begin_sampling()
            while self._answers:
                streams.answer(self._answers.popleft())
            self._look()
            yield from self._new()
            self._attendants.call(ready)

    def _poll_milliseconds(self) -> float | None:
        now = time.monotonic()
        if self._sample_at is not None:
            return max(1.0, (self._sample_at - now) * 1000)
        waits = [moment - now for moment in (self._deadline, self._kill_at) if moment is not None]
        if self._attendants or self._token is not None:
            waits.append(TICK_SECONDS if self._attendants else IDLE_SECONDS)
        return max(0.0, min(waits)) * 1000 + 0.5 if waits else None

    def _new(self) -> Iterator[Sample | Running | Paused | Resumed | Changed]:
        while self._said:
            yield self._said.popleft()
        while self._samples:
            yield self._samples.popleft()

    def _on_interrupt(self, now: float) -> None:
        self._reason = self._reason or "interrupted"
        if self._kill_at is None:
            self._kill_at = now + GRACE_SECONDS
            self._signal(signal.SIGINT)
        else:
            self._kill_at = 0.0

    def _enforce(self, now: float) -> None:
        if self._deadline is not None and now >= self._deadline:
            self._reason = self._reason or "timeout"
            self._kill_at, self._deadline = 0.0, None
        if self._streams.too_much and self._reason != "output-limit":
            self._reason = "output-limit"
            self._kill_at = 0.0
        if self._kill_at is not None and now >= self._kill_at:
            self._signal(signal.SIGKILL)
            self._kill_at = now + GRACE_SECONDS

    # ---- the end

    def _exit_status(self) -> int:
        """The wait status from the zygote, which alone can know it.

        A process of the container that traces this one can keep the zygote from it: until we let it go.
        """
        poller = select.poll()
        poller.register(self._process.control, select.POLLIN)
        while not poller.poll(HELD_SECONDS * 1000):
            self._let_go()
        try:
            data = self._process.control.recv(4096)
        except ConnectionResetError:
            data = b""
        if not data:
            raise InternalError("the zygote died, and with it the container's exit status; the next cell starts a new one")
        return int(json.loads(data)["status"])

    def _end_sampling(self) -> Sample | None:
        """The last sample, where it was not the sampler that took it."""
        if self._token is not None:
            SAMPLER.remove(self._token)
            self._token = None
            return None
        last = self._cgroup.sample()
        self._samples.append(last)
        return last

    def _stop_watching(self) -> None:
        """Safe to call twice."""
        try:
            if self._token is not None:
                SAMPLER.remove(self._token)
        finally:
            with self._wake_lock:
                if not self._ended:
                    self._ended = True
                    os.close(self._wake_fd)
