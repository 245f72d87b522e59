"""A session: a container whose process runs one Python cell after the other, and each of those cells as a run of its own."""

from __future__ import annotations

import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from nbcontainer.cgroups.sampler import SAMPLER
from nbcontainer.engine.inbox import Inbox
from nbcontainer.engine.localrun import LocalRun
from nbcontainer.engine.streams import CLOSED, SPOOL_LIMIT_BYTES, CellDone, Said
from nbcontainer.engine.transfer import Transfer
from nbcontainer.engine.verdict import Reason, judge, usage_between, usage_since
from nbcontainer.engine.watch import GRACE_SECONDS
from nbcontainer.engine.within import Within
from nbcontainer.errors import InternalError, NbcontainerError, SpecError
from nbcontainer.events import CellError, Event, Finished, OutcomeName, Output, Sample, Started
from nbcontainer.runtime.protocol import NEXT_CELL
from nbcontainer.spec import ContainerSpec

if TYPE_CHECKING:
    from nbcontainer.engine.box import Box
    from nbcontainer.engine.local import LocalEngine

KEPT_BYTES, KEPT_PIECES = 1 << 16, 256
"""Of what is written between two cells, the last so much is shown with the next. Far less than what an inbox takes without a reader."""
HINT = "\n[interrupted, and still running; stop it once more, and the whole session ends with its variables]\n"
GONE = "the session has ended with it, and its variables are gone"


@dataclass(frozen=True, slots=True)
class _Ended:
    """The container has ended while the cell ran."""

    finished: Finished | NbcontainerError
    """The error where nobody knows how."""


class SessionRun(LocalRun):
    """Iterated by a thread of its own, as long as the container lives; cells are run by any thread, one at a time."""

    def __init__(self, engine: LocalEngine, box: Box, spec: ContainerSpec, first: Sample) -> None:
        super().__init__(engine, box, spec, first)
        self._turn = threading.Lock()
        self._cell: CellRun | None = None
        self._between: deque[Output] = deque()
        self._requests: deque[tuple[bytes, Transfer | None]] = deque()
        self._input: Transfer | None = None
        """Whose variables are to follow what was sent."""
        self._over: _Ended | None = None
        self._fell_silent = False

    # ---- from anywhere

    def begin_cell(self, spec: ContainerSpec, message: bytes, code: str, transfer: Transfer | None) -> CellRun:
        """``message``: the encoded Go, in which ``code`` is. Raises SpecError where another cell is running, or the session has ended."""
        name = self.spec.name or self.container_id
        with self._turn:
            first = self.sample()
            if self._over is not None or first is None:
                raise SpecError(f"--exec: {name} has ended; start it anew: %container start {name}")
            if self._cell is not None:
                raise SpecError(f"--exec: {name} is running another cell; wait for it, or interrupt it: %container kill -s INT {name}")
            cell = CellRun(self, spec, first)
            for output in self._between:
                cell.inbox.put(output)
            self._between.clear()
            self._cell = cell
            self._line.cell_is(code)
            self._requests.append((NEXT_CELL + message, transfer))
        self._wake()
        return cell

    def leave_cell(self, cell: CellRun) -> None:
        with self._turn:
            if self._cell is cell:
                self._cell = None

    def sample(self) -> Sample | None:
        """None once the container is gone."""
        try:
            return self._cgroup.sample()
        except (OSError, ValueError):
            return None

    def watch_samples(self, interval_seconds: float | None, take: Callable[[Sample], None]) -> Any:
        def on_sample(sample: Sample) -> None:
            self._controls.note_memory(sample)
            self._look_at_cell(sample)
            take(sample)

        return SAMPLER.add(self._cgroup, None, interval_seconds, on_sample)

    @property
    def memory_by_kind(self) -> dict[str, int]:
        return self._controls.memory_by_kind

    # ---- in the thread that iterates

    def events(self) -> Generator[Event, None, None]:
        try:
            for event in super().events():
                if isinstance(event, Finished):
                    self._end(event)
                yield event
        except NbcontainerError as error:
            self._end(error)
            raise
        finally:
            self._end(InternalError("a session was given up"))

    def _begin_sampling(self) -> None:
        """Cells sample, while they run."""
        self._publish()

    def _look(self) -> None:
        super()._look()
        while self._requests:
            message, self._input = self._requests.popleft()
            self._streams.transfer = self._input
            self._streams.send(message)
        if self._input is not None and self._streams.is_flushed:
            self._input.limit_bytes = self._controls.limits.memory_bytes
            self._input.give(self._streams.send_memory)
            self._input = None
        # A process that ends closes its channel first.
        if self._streams.speechless and self._kill_at is None:
            self._kill_at = time.monotonic() + GRACE_SECONDS
            self._fell_silent = True

    def _signal(self, number: int) -> None:
        if number == signal.SIGKILL and self._fell_silent and not self._reason:
            self._streams.complaint = self._streams.complaint or CLOSED
        super()._signal(number)

    def _on_said(self, said: Said) -> Iterator[Event]:
        with self._turn:
            cell = self._cell
            if cell is None and isinstance(said, Output):
                self._keep(said)
            elif isinstance(said, CellDone):
                self._cell = None
        if cell is not None:
            cell.inbox.put(said)
        yield from super()._on_said(said)

    def _keep(self, output: Output) -> None:
        kept = self._between
        before = kept.pop().text if kept and kept[-1].stream == output.stream else ""
        kept.append(replace(output, text=(before + output.text)[-KEPT_BYTES:]))
        while len(kept) > KEPT_PIECES or (len(kept) > 1 and sum(len(piece.text) for piece in kept) > KEPT_BYTES):
            kept.popleft()

    def _end(self, finished: Finished | NbcontainerError) -> None:
        with self._turn:
            if self._over is not None:
                return
            self._over = _Ended(finished)
            cell, self._cell = self._cell, None
        if cell is not None:
            cell.inbox.put(self._over)


class CellRun(Within):
    """One cell of a session. See :class:`nbcontainer.engine.Run`; to kill it is to end the session."""

    def __init__(self, session: SessionRun, spec: ContainerSpec, first: Sample) -> None:
        self.container_id, self.spec = session.container_id, spec
        self.inbox: Inbox[Event | CellDone | _Ended] = Inbox()
        self._session = self._container = session
        self._first = first
        self._began = time.monotonic()
        self._samples: deque[Sample] = deque([first], maxlen=4096)
        self._sample_at: float | None = self._began + LocalRun.sample_after_seconds
        self._token: Any = None
        self._interrupts = self._interrupts_seen = 0
        self._reason: Reason = ""
        self._give_up_at: float | None = None
        self._hint_at: float | None = None
        self._deadline = None if spec.timeout_seconds is None else self._began + spec.timeout_seconds
        self._error: CellError | None = None
        self._output_bytes = 0
        self._highest_bytes = first.memory_bytes
        self._done = False

    # ---- from anywhere

    @property
    def pid(self) -> int:
        return self._session.pid

    def interrupt(self) -> None:
        self._interrupts += 1
        self.inbox.wake()

    def kill(self) -> None:
        self._reason = self._reason or "killed"
        self._session.kill()

    def signal(self, number: int) -> None:
        self._session.signal(number)

    def answer_input(self, line: str | None, why: str = "") -> None:
        self._session.answer_input(line, why)

    def is_over(self) -> bool:
        late = self._deadline is not None and time.monotonic() >= self._deadline
        return late or bool(self._reason) or self._session.is_over()

    def attend(self, callback: Callable[[], None], fd: int = -1) -> None:
        self.inbox.attendants.add(callback, fd)

    # ---- the loop

    def events(self) -> Generator[Event, None, None]:
        """Closing it early interrupts the cell; where that does not help within a second, the session ends."""
        session, end = self._session, None
        try:
            yield Started(self.container_id, self.spec.name or self.container_id, session.pid, self._began)
            while end is None:
                said = self.inbox.next(self._seconds())
                if isinstance(said, CellDone | _Ended):
                    end = said
                elif said is not None:
                    self._note(said)
                    yield said
                    self.inbox.attendants.call()
                yield from self._enforce(time.monotonic())
                yield from self._new_samples()
            self._done = True
            finished = self._finish(end)
        finally:
            if not self._done:
                self._abandon()
            if self._token is not None:
                SAMPLER.remove(self._token)
            self.inbox.close()
            session.leave_cell(self)
        yield from self._new_samples()
        yield finished

    def _seconds(self) -> float:
        now = time.monotonic()
        moments = [moment for moment in (self._sample_at, self._deadline, self._give_up_at, self._hint_at) if moment is not None]
        waits = [moment - now for moment in moments] + ([0.3] if self._token is not None else [3600.0])
        return max(0.0, min(waits))

    def _note(self, event: Event) -> None:
        if isinstance(event, CellError):
            self._error = event
        elif isinstance(event, Output):
            self._output_bytes += len(event.text)

    def _enforce(self, now: float) -> Iterator[Event]:
        if self._sample_at is not None and now >= self._sample_at:
            self._sample_at = None
            self._token = self._session.watch_samples(self.spec.interval_seconds, self._take_sample)
        if self._interrupts > self._interrupts_seen:
            self._interrupts_seen = self._interrupts
            self._stop("interrupted", now, gives_up=self._reason == "interrupted")
        if self._deadline is not None and now >= self._deadline:
            self._deadline = None
            self._stop("timeout", now, gives_up=False)
            self._give_up_at = now + GRACE_SECONDS
        if self._output_bytes > SPOOL_LIMIT_BYTES and self._reason != "output-limit":
            self._stop("output-limit", now, gives_up=False)
            self._give_up_at = now + GRACE_SECONDS
        if self._give_up_at is not None and now >= self._give_up_at:
            self._give_up_at = None
            self._session.kill()
        if self._hint_at is not None and now >= self._hint_at:
            self._hint_at = None
            yield Output("stderr", HINT)

    def _stop(self, reason: Reason, now: float, *, gives_up: bool) -> None:
        """SIGINT, so that the session's variables survive; ``gives_up``: end the session."""
        self._reason = self._reason or reason
        if gives_up:
            self._session.kill()
            return
        self._session.interrupt_all()
        self._hint_at = now + GRACE_SECONDS if reason == "interrupted" else None

    def _abandon(self) -> None:
        self._session.interrupt_all()
        deadline = time.monotonic() + GRACE_SECONDS
        self.inbox.attendants.clear()
        while (left := deadline - time.monotonic()) > 0:
            if isinstance(self.inbox.next(left), CellDone | _Ended):
                return
        self._session.kill()
        while not isinstance(self.inbox.next(GRACE_SECONDS), CellDone | _Ended):
            continue

    def _take_sample(self, sample: Sample) -> None:
        self._samples.append(sample)
        self._highest_bytes = max(self._highest_bytes, sample.memory_bytes)

    def _new_samples(self) -> Iterator[Sample]:
        while self._samples:
            yield self._samples.popleft()

    # ---- the end

    def _finish(self, end: CellDone | _Ended) -> Finished:
        wall_seconds = time.monotonic() - self._began
        if isinstance(end, _Ended):
            return self._finish_with_session(end.finished, wall_seconds)
        if self._token is not None:
            SAMPLER.remove(self._token)
            self._token = None
        last = self._session.sample() or self._first
        self._take_sample(last)
        usage = usage_between(self._first, last, self._highest_bytes, wall_seconds)
        verdict = judge(end.exit_code << 8, self._reason, usage.oom_kills, self._error)
        outcome: OutcomeName = verdict.outcome
        if self._reason in ("timeout", "output-limit") and end.exit_code:
            outcome = "timeout" if self._reason == "timeout" else "output-limit"
        by_kind = self._session.memory_by_kind if usage.oom_kills else {}
        return Finished(outcome, verdict.exit_code, verdict.signal, self._error, usage, verdict.note, by_kind, goes_on=True)

    def _finish_with_session(self, finished: Finished | NbcontainerError, wall_seconds: float) -> Finished:
        if isinstance(finished, NbcontainerError):
            raise finished
        usage = replace(usage_since(self._first, self._session.whole_usage), wall_seconds=wall_seconds)
        outcome = self._reason if self._reason and finished.outcome in ("killed", "signalled") else finished.outcome
        note = f"{finished.note}; {GONE}" if finished.note else GONE
        return replace(finished, outcome=outcome, error=self._error, usage=usage, note=note)
