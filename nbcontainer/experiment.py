"""Experiments: the same code under many limits, and the charts of several runs in one."""

from __future__ import annotations

import itertools
import os
import queue
import signal
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any

from nbcontainer.container import run
from nbcontainer.engine import Run
from nbcontainer.errors import NbcontainerError, SpecError
from nbcontainer.linux.meminfo import host_memory_bytes
from nbcontainer.result import Result
from nbcontainer.spec import ContainerSpec
from nbcontainer.trials import Sweep, Trial, as_labelled, describe_point
from nbcontainer.units import check_text
from nbcontainer.validate import make_spec

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_RUNS = 1000
MOST_AT_ONCE = 64
LISTS_BY_THEMSELVES = frozenset("program volume volumes tmpfs env ulimit cap_add cap_drop unshare share".split())
"""Options whose one value may be a list: they vary when they are a list of lists (or of dicts)."""
_LOOK_SECONDS = 0.25


def sweep(
    code: str | Mapping[str, str],
    *,
    repeat: int = 1,
    parallel: int = 1,
    progress: bool = True,
    program: str | Sequence[Any] = (),
    **options: Any,
) -> Sweep:
    """Run ``code`` once for each combination of options: ``sweep(code, mem=["32M", "64M"], cpus=[0.5, 1], repeat=3)``.

    Any option of :func:`nbcontainer.run` may be a list of values (``engine`` too). ``code`` may be a dict of codes by name.
    ``repeat``: how often; all combinations once, then all again, so that a machine that gets slower does not favour one.
    ``parallel``: how many at once, at most; a run waits until its own ``mem`` and ``cpus`` fit beside those of the
    others, so that each gets all that its limits allow. Without ``cpus``, runs compete, which may be what is to be seen.

    What a combination's code does is in its trial; so is why this host would not run it. Stopping (the stop button,
    Ctrl-C) ends what runs, and returns what there is. Raises SpecError for wrong options, before anything is started, and
    HostError, SetupError or InternalError where no combination could be run.
    """
    repeat = _whole("repeat", repeat, MOST_RUNS)
    parallel = _whole("parallel", parallel, MOST_AT_ONCE)
    codes = _codes(code)
    every = {**({"program": program} if program else {}), **options}
    varied: dict[str, list[Any]] = {"code": list(codes)} if isinstance(code, Mapping) else {}
    varied |= {name: values for name, value in every.items() if (values := _values(name, value)) is not None}
    points = [dict(zip(varied, values, strict=True)) for values in itertools.product(*varied.values())]
    if not 0 < len(points) * repeat <= MOST_RUNS:
        raise SpecError(f"sweep: {len(points) * repeat} runs; give each list at least one value, and all of them 1 to {MOST_RUNS} runs")
    fixed = {name: value for name, value in every.items() if name not in varied}
    jobs = [
        _job(index, repetition, point, codes, fixed) for repetition in range(1, repeat + 1) for index, point in enumerate(points)
    ]
    finished = _Bench(jobs, parallel).run(progress)
    trials = [trial for _, trial in sorted(finished, key=lambda pair: (pair[0].index, pair[0].repetition))]
    return Sweep(tuple(trials), varied, len(jobs))


def compare(results: Any, labels: Sequence[str] | None = None, *, same_clock: bool = False) -> Figure:
    """Memory and CPU of several runs over each other, with their limits: noisy neighbours, CPU weights side by side.

    ``results``: a list of Results, a dict of them by label, or a Sweep. ``same_clock``: draw them by when they ran, instead
    of each from its own start. Raises SpecError.
    """
    from nbcontainer.notebook.overlay import plot_overlay

    return plot_overlay(as_labelled(results, labels), same_clock=same_clock)


# ---- what is to be run


@dataclass(frozen=True, eq=False)
class _Job:
    index: int
    """Of its point."""
    repetition: int
    point: dict[str, Any]
    code: str
    options: dict[str, Any]
    spec: ContainerSpec
    """What the options ask for; only looked at."""

    @property
    def in_guest(self) -> bool:
        return (self.options.get("engine") or os.environ.get("NBCONTAINER_ENGINE")) == "vm"


def _whole(name: str, value: Any, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise SpecError(f"{name}: {value!r} is not a whole number from 1 to {most}")
    return value


def _codes(code: Any) -> dict[str, str]:
    """By name; one without a name has the name ""."""
    codes = dict(code) if isinstance(code, Mapping) else {"": code}
    for name, text in codes.items():
        if not isinstance(name, str) or not isinstance(text, str):
            raise SpecError(f"code: {type(text).__name__} is not a str, nor a dict of them by name")
        check_text(text, "code")
    return codes


def _values(name: str, value: Any) -> list[Any] | None:
    """The values that an option takes, None where it has but one."""
    if hasattr(value, "tolist"):
        value = value.tolist()  # a NumPy array, a pandas Series
    if not isinstance(value, list | tuple | range):
        return None
    if name in LISTS_BY_THEMSELVES and not (value and all(isinstance(item, list | tuple | set | Mapping) for item in value)):
        return None
    if any(item in value[:position] for position, item in enumerate(value)):
        raise SpecError(f"{name}: a value is in the list twice; repeat=2 runs each twice")
    return list(value)


def _job(index: int, repetition: int, point: dict[str, Any], codes: dict[str, str], fixed: dict[str, Any]) -> _Job:
    options = {**fixed, **point}
    code = codes[options.pop("code", "")]
    asked = {name: value for name, value in options.items() if name != "engine"}
    return _Job(index, repetition, point, code, options, make_spec(asked))


def _room(in_guest: bool) -> tuple[int, float]:
    """(bytes of memory, cores) that runs can have together."""
    if not in_guest:
        return host_memory_bytes()[1], float(os.cpu_count() or 1)
    from nbcontainer.engine.vm.engine import RESERVED_MIB, guest_cpus, guest_memory_mib

    return (guest_memory_mib() - RESERVED_MIB) << 20, float(guest_cpus())


# ---- running


class _Bench:
    """Runs jobs in threads, as many at once as fit, and ends all of them on SIGINT."""

    def __init__(self, jobs: list[_Job], parallel: int) -> None:
        self._waiting = deque(jobs)
        self._count, self._parallel = len(jobs), min(parallel, len(jobs))
        self._changed = threading.Condition()
        self._running: list[_Job] = []
        self._live: dict[_Job, Run] = {}
        self._stopped = False
        self._done: queue.SimpleQueue[tuple[_Job, Trial] | BaseException | None] = queue.SimpleQueue()
        self._rooms = {in_guest: _room(in_guest) for in_guest in {job.in_guest for job in jobs}}
        self._first_error: NbcontainerError | None = None

    def run(self, progress: bool) -> list[tuple[_Job, Trial]]:
        """The jobs that were done, in any order."""
        in_main_thread = threading.current_thread() is threading.main_thread()
        previous = signal.signal(signal.SIGINT, self._on_signal) if in_main_thread else None
        threads = [threading.Thread(target=self._work, name=f"nbcontainer-sweep-{number}") for number in range(self._parallel)]
        try:
            for thread in threads:
                thread.start()
            finished = self._collect(progress)
        finally:
            self._stop()
            for thread in threads:
                thread.join()
            if in_main_thread:
                signal.signal(signal.SIGINT, previous)
        if self._first_error is not None and not any(trial.result for _, trial in finished):
            raise self._first_error
        return finished

    def _collect(self, progress: bool) -> list[tuple[_Job, Trial]]:
        from nbcontainer.notebook.progress import open_progress

        finished: list[tuple[_Job, Trial]] = []
        working = self._parallel
        bar = open_progress(self._count, progress)
        try:
            while working:
                try:
                    done = self._done.get(timeout=_LOOK_SECONDS)
                except queue.Empty:
                    bar.refresh()
                    continue
                if done is None:
                    working -= 1
                elif isinstance(done, BaseException):
                    raise done
                else:
                    finished.append(done)
                    bar.step(f"{describe_point(done[1].point)}: {done[1].verdict}")
        finally:
            bar.close()
        return finished

    # ---- in the threads

    def _work(self) -> None:
        try:
            while (job := self._next()) is not None:
                try:
                    trial = self._try(job)
                finally:
                    with self._changed:
                        self._running.remove(job)
                        self._changed.notify_all()
                if trial is not None:
                    self._done.put((job, trial))
        except BaseException as error:  # to be raised where somebody waits for the results
            self._done.put(error)
        self._done.put(None)

    def _next(self) -> _Job | None:
        """Wait for the next job to fit, in order, so that a large one has its turn."""
        with self._changed:
            while self._waiting and not self._stopped:
                if self._fits(self._waiting[0]):
                    job = self._waiting.popleft()
                    self._running.append(job)
                    return job
                self._changed.wait(_LOOK_SECONDS)
            return None

    def _fits(self, job: _Job) -> bool:
        together = [job, *(other for other in self._running if other.in_guest == job.in_guest)]
        room_bytes, cores = self._rooms[job.in_guest]
        # A limit by default is half of what was available a moment ago.
        memory = sum(room_bytes // 2 if one.spec.memory_by_default else one.spec.limits.memory_bytes or 0 for one in together)
        return len(together) == 1 or (memory <= room_bytes and sum(one.spec.limits.cpus or 0.0 for one in together) <= cores)

    def _try(self, job: _Job) -> Trial | None:
        """None: it was stopped, and says nothing about its point."""

        def on_start(run: Run) -> None:
            self._live[job] = run
            if self._stopped:
                run.interrupt()

        result: Result | None = None
        why_not = ""
        try:
            result = run(job.code, on_start=on_start, **job.options)
        except NbcontainerError as error:
            why_not = str(error)
            self._first_error = self._first_error or error
        finally:
            self._live.pop(job, None)
        if self._stopped and (result is None or result.outcome in ("interrupted", "killed", "signalled")):
            return None
        return Trial(job.point, job.repetition, result, why_not)

    # ---- the end

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._stop()

    def _stop(self) -> None:
        """Takes no lock, because a signal handler may interrupt whoever has it. A second time kills."""
        self._stopped = True
        for current in list(self._live.values()):
            current.interrupt()
