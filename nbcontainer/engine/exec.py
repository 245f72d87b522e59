"""A further process in a running container, as ``docker exec``: a run of its own, whose end is not the container's."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Generator

from nbcontainer.cgroups.files import GONE
from nbcontainer.engine.localrun import LocalRun
from nbcontainer.engine.processes import session_of
from nbcontainer.engine.transfer import Transfer
from nbcontainer.engine.verdict import judge, usage_between
from nbcontainer.engine.watch import GRACE_SECONDS, ProcessRun
from nbcontainer.engine.within import Within
from nbcontainer.errors import NbcontainerError, SetupError, SpecError
from nbcontainer.events import Event, Finished, Sample, Started
from nbcontainer.runtime.client import Cloned, Launch, ZygoteClient
from nbcontainer.runtime.rootfs import Surroundings, make_join_plan
from nbcontainer.spec import ContainerSpec

ENDED_TOO = "the container has ended, and this with it"


class ExecRun(Within, ProcessRun):
    """Signals go to what this process has started, as far as it stayed in its session; the controls are the container's."""

    def __init__(
        self, container: LocalRun, spec: ContainerSpec, process: Cloned, first: Sample, go: bytes, transfer: Transfer | None
    ) -> None:
        super().__init__(container.container_id, spec, process, container.cgroup, first)
        self._container = container
        self._last = self._first
        self._highest_bytes = self._first.memory_bytes
        self._streams.send(go)
        self._streams.transfer = self._input = transfer

    # ---- from anywhere

    def signal(self, number: int) -> None:
        self.signal_process(number)

    # ---- the loop

    def events(self) -> Generator[Event, None, None]:
        """Closing it early ends the process and what it has started."""
        over = False
        try:
            yield Started(self.container_id, self.spec.name or self.container_id, self.pid, self._started)
            yield from self._new()
            yield from self._watch()
            over = True
            status = self._exit_status()
            for said in self._streams.read_rest():
                yield from self._on_said(said)
            finished = self._finish(status)
        finally:
            if not over:
                self._abandon()
            try:
                self._stop_watching()
            finally:
                self._process.close()
        yield from self._new()
        if self._streams.failure is not None:
            raise why_not(self._container, self._streams.failure)
        yield finished

    def _look(self) -> None:
        super()._look()
        if self._input is not None and self._streams.is_flushed:
            self._input.limit_bytes = self._container.limits.memory_bytes
            self._input.give(self._streams.send_memory)
            self._input = None

    def _take_sample(self, sample: Sample) -> None:
        super()._take_sample(sample)
        self._last = sample
        self._highest_bytes = max(self._highest_bytes, sample.memory_bytes)

    def _signal(self, number: int) -> None:
        """Its session: the processes that it has started, and their children, unless they left it."""
        self.signal(number)
        for pid in self._cgroup.pids():
            with contextlib.suppress(ProcessLookupError, FileNotFoundError):
                fd = os.pidfd_open(pid)
                try:
                    # After the pidfd: it is the same process whose session this is.
                    if pid != self.pid and session_of(pid) == self.pid:
                        signal.pidfd_send_signal(fd, number)
                finally:
                    os.close(fd)
        if number != signal.SIGKILL:
            self._container.release()

    def _let_go(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            tracer = _status_number(_status_number(self.pid, "TracerPid:"), "Tgid:")  # it may be a thread
            fd = os.pidfd_open(tracer)
            try:
                # Of ours nobody traces: whoever does is in the container.
                if tracer in self._cgroup.pids():
                    signal.pidfd_send_signal(fd, signal.SIGKILL)
                    self._container.is_killed |= tracer == self._container.pid
            finally:
                os.close(fd)

    def _abandon(self) -> None:
        poller = select.poll()
        poller.register(self._process.pidfd, select.POLLIN)
        while True:
            self._signal(signal.SIGKILL)
            self._container.release()
            if poller.poll(GRACE_SECONDS * 1000):
                return

    # ---- the end

    def _end_sampling(self) -> Sample | None:
        try:
            last = super()._end_sampling()
        except (OSError, ValueError):
            last = None  # the container's cgroup is gone
        if last is not None:
            self._last = last
        return last

    def _finish(self, status: int) -> Finished:
        self._end_sampling()
        usage = usage_between(self._first, self._last, self._highest_bytes, time.monotonic() - self._started)
        verdict = judge(status, self._reason, usage.oom_kills, self._streams.error)
        gone = self._container.is_ending
        note = "; ".join(filter(None, (self._streams.note_after(verdict.note), ENDED_TOO if gone else "")))
        return Finished(verdict.outcome, verdict.exit_code, verdict.signal, self._streams.error, usage, note, goes_on=not gone)


def why_not(container: LocalRun, failure: NbcontainerError) -> NbcontainerError:
    """Joining fails in many ways where the container ends meanwhile."""
    if isinstance(failure, SetupError) and container.is_ending:
        return SpecError(f"exec: {container.name} has ended")
    return failure


def start_within(
    run: LocalRun, spec: ContainerSpec, go: bytes, around: Surroundings, client: ZygoteClient, transfer: Transfer | None
) -> ExecRun:
    """Raises SpecError where the container has ended, SetupError, InternalError."""
    kind = "program" if spec.program else "python"
    try:
        first = run.cgroup.sample()
        plan = run.join_plans.get(kind)
        if plan is None:
            plan = run.join_plans[kind] = make_join_plan(spec, around, len(run.cgroup.task_fds()))
        process = client.launch(Launch(plan, "", None, run.pid), run.cgroup)
    except OSError as error:
        if error.errno not in GONE:
            raise
        raise SpecError(f"exec: {run.name} has ended") from error
    try:
        client.finish(process)
    except NbcontainerError as error:
        process.close()
        raise why_not(run, error) from error
    except BaseException:
        process.close()
        raise
    run.joined.add(process.pid)
    return ExecRun(run, spec, process, first, go, transfer)


def _status_number(pid: int, field: str) -> int:
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(field))
