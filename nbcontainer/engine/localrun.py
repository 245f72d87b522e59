"""The run of a whole container on this host."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Generator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from nbcontainer.engine.changes import Change
from nbcontainer.engine.controls import Controls
from nbcontainer.engine.kernel_log import OomReport, oom_report
from nbcontainer.engine.line import LineProbe
from nbcontainer.engine.processes import is_exiting, session_of
from nbcontainer.engine.transfer import Transfer
from nbcontainer.engine.verdict import judge, usage_since
from nbcontainer.errors import SetupError
from nbcontainer.events import Changed, Event, Finished, Paused, Readings, Resumed, Sample, Started, Usage
from nbcontainer.runtime.plan import Plan
from nbcontainer.spec import ContainerSpec, Limits
from nbcontainer.state import ContainerRecord

if TYPE_CHECKING:
    from nbcontainer.engine import Run
    from nbcontainer.engine.box import Box
    from nbcontainer.engine.local import LocalEngine

from nbcontainer.engine.watch import ProcessRun


class LocalRun(ProcessRun):
    """A whole container: its end is the end of its first process, and of all others."""

    def __init__(self, engine: LocalEngine, box: Box, spec: ContainerSpec, first: Sample, transfer: Transfer | None = None) -> None:
        super().__init__(box.container_id, spec, box.process, box.cgroup, first)
        self._streams.transfer = transfer
        self._engine, self._box = engine, box
        self._controls = Controls(box.cgroup, spec.limits, box.process.pid, self._say, lambda limits: engine.networks.limit(box, spec, limits))
        self.joined: set[int] = set()
        """Process ids of what was started in it later, each the leader of a session."""
        # Not the process's any more: whoever looks at the files may be late, and the number be another file's by then.
        self._files_fd, box.process.scratch_fd = box.process.scratch_fd, -1
        self._files_lock = threading.Lock()
        self.join_plans: dict[str, Plan] = {}
        self._published = False
        self._created_unix_seconds = time.time()
        self.whole_usage = Usage()
        """At the end: also what making the container took."""
        self.is_killed = False
        """Its processes have been sent SIGKILL: the first one may be the last to know."""
        self._line = LineProbe(box.process)

    # ---- from anywhere

    @property
    def is_ending(self) -> bool:
        return self.is_killed or self.has_ended or is_exiting(self.pid)

    def pause(self) -> None:
        self._controls.pause()

    def resume(self) -> None:
        self._controls.resume()

    def update(self, **changes: Any) -> Limits:
        return self._controls.update(changes)

    def readings(self) -> Readings:
        return self._controls.readings("net" in self.spec.namespaces)

    def signal(self, number: int) -> None:
        if number == signal.SIGKILL:
            self.kill()
        elif number == signal.SIGINT and self.spec.init:
            self.interrupt_all()  # an init ignores it, as it gets it from whoever interrupts all
        else:
            self.signal_process(number)

    def interrupt_all(self) -> None:
        """SIGINT to what belongs to its first process, but not to programs that were started beside it."""
        others = self.joined
        self._cgroup.signal_all(signal.SIGINT, None if not others else lambda pid: session_of(pid) not in others)
        self.release()

    def signal_group(self, number: int) -> None:
        """To the first process's process group, as a terminal and Jupyter do. Nothing after the end."""
        if number == signal.SIGINT and self.spec.init:
            self.interrupt_all()
        else:
            self._controls.signal_group(number)

    def within(self, spec: ContainerSpec, code: str, transfer: Transfer | None = None) -> Run:
        return self._engine.run_within(self, spec, code, transfer)

    def processes(self) -> list[int]:
        return sorted(self._cgroup.pids())

    @property
    def limits(self) -> Limits:
        return self._controls.limits

    def changes(self) -> list[Change]:
        with self._files_lock:
            fd = self._files_fd if self._files_fd < 0 else os.dup(self._files_fd)
        try:
            return self._engine.changes_in(self.spec, fd)
        finally:
            if fd >= 0:
                os.close(fd)

    def forget(self) -> None:
        with self._files_lock:
            if self._files_fd >= 0:
                os.close(self._files_fd)
                self._files_fd = -1

    def release(self) -> None:
        """Let frozen processes see a signal."""
        self._controls.release()

    def _say(self, event: Paused | Resumed | Changed) -> None:
        self._said.append(event)
        self._publish()  # whoever controls it looks for it, however young it is
        self._wake()

    # ---- the loop

    def events(self) -> Generator[Event, None, None]:
        name = self.spec.name or self.container_id
        try:
            if self.spec.background:
                self._publish()  # whoever began it may ask for it at once
            yield Started(self.container_id, name, self._process.pid, self._started)
            yield from self._new()
            yield from self._watch()
            status = self._exit_status()
            self._end_what_is_left()
            for said in self._streams.read_rest():
                yield from self._on_said(said)
            finished = self._finish(status)
        finally:
            self._controls.close()
            try:
                self._stop_watching()
            finally:
                if not self.spec.keep:
                    self.forget()
                self._engine.ended(self._box)
        yield from self._new()
        if self._streams.failure is not None:
            raise self._streams.failure
        yield finished

    def _end_what_is_left(self) -> None:
        try:
            left = self._cgroup.pids()
        except OSError as error:  # such as: this process has no more descriptors
            raise SetupError("look for processes that are left", error.errno or 0, str(error.filename or "")) from None
        if left:
            self._cgroup.kill()

    def _let_go(self) -> None:
        self._cgroup.kill()

    def _signal(self, number: int) -> None:
        if number == signal.SIGKILL:
            self.is_killed = True
            self._cgroup.kill()
        else:
            self._cgroup.signal_all(number)
            self._controls.release()

    def _begin_sampling(self) -> None:
        super()._begin_sampling()
        if not self._published:
            self._publish()

    def _publish(self) -> None:
        """For ps and stats, also those of other kernels."""
        self._published = True
        spec = self.spec
        self._engine.state.add(
            ContainerRecord(
                os.getpid(),
                self.container_id,
                spec.name or self.container_id,
                self._process.pid,
                "paused" if self._controls.paused else "running",
                self._created_unix_seconds,
                " ".join(spec.program) or "python",
                self._controls.limits.memory_bytes,
                str(spec.root),
                ports=", ".join(map(str, spec.ports)),
                networks=spec.network_names,
                mounts=spec.mount_sources,
            )
        )

    def _take_sample(self, sample: Sample) -> None:
        super()._take_sample(sample)
        self._controls.note_memory(sample)
        self._look_at_cell(sample)

    def _look_at_cell(self, sample: Sample) -> None:
        """At its line, and at what it has printed without the end of a line."""
        with self._wake_lock:  # a session's cell may be sampled still when the session has ended, and its files are closed
            if not self._ended:
                self._line.note(sample, self._controls.limits.memory_bytes)
                if self._streams.look_for_held(sample.monotonic_seconds):
                    self._wake()

    def _finish(self, status: int) -> Finished:
        last = self._end_sampling()
        self.whole_usage = self._cgroup.usage(time.monotonic() - self._started, last)
        usage = usage_since(self._first, self.whole_usage)
        received, sent = self._engine.networks.detach(self._box)
        usage = replace(usage, net_rx_bytes=received, net_tx_bytes=sent)
        inner, error = self._streams.inner_status, self._streams.error
        if inner is not None and 0 <= inner <= 0xFFFF:
            status = inner
        verdict = judge(status, self._reason, usage.oom_kills, error)
        report = oom_report(self.container_id, self._process.pid) if usage.oom_kills else OomReport()
        # The last sample may have been long before: a gigabyte is asked for in a moment.
        by_kind = report.memory_by_kind or (self._controls.memory_by_kind if usage.oom_kills else {})
        line = self._line.last() if verdict.outcome == "oom" and verdict.signal else None
        note = self._streams.note_after(verdict.note)
        return Finished(verdict.outcome, verdict.exit_code, verdict.signal, error, usage, note, by_kind, report.killed, line=line)
