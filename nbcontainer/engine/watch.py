"""Watching one local container: its output, its end, and telling its outcomes apart without guessing."""

from __future__ import annotations

import codecs
import contextlib
import json
import os
import select
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from nbcontainer.cgroups.sampler import SAMPLER
from nbcontainer.engine.controls import Controls
from nbcontainer.engine.kernel_log import killed_processes
from nbcontainer.engine.messages import read_display, read_error, read_failure
from nbcontainer.errors import InternalError, NbcontainerError
from nbcontainer.events import (
    CellError,
    Changed,
    Event,
    Finished,
    OutcomeName,
    Output,
    Paused,
    Readings,
    Resumed,
    Sample,
    Started,
    Usage,
)
from nbcontainer.runtime.protocol import FrameReader, ProtocolError
from nbcontainer.spec import ContainerSpec, Limits
from nbcontainer.state import ContainerRecord

if TYPE_CHECKING:
    from nbcontainer.engine.box import Box
    from nbcontainer.engine.local import LocalEngine

GRACE_SECONDS = 1.0
SAMPLE_AFTER_SECONDS = 0.01
IDLE_SECONDS = 0.3  # samples wait this long to be passed on, where nobody watches them live
TICK_SECONDS = 0.1
SPOOL_LIMIT_BYTES = 1 << 30
"""A cell that writes more than this is ended with the outcome ``output-limit``."""
PIECE_BYTES = 1 << 16
MAX_JSON_BYTES = 1 << 16
"""The part of a frame that is parsed at once; everything large comes as text."""
PIPE_BYTES = 1 << 20
"""The most that a pipe can hold for a process without privileges (fs.pipe-max-size)."""


class _Pipe:
    """One of the two text streams."""

    def __init__(self, fd: int, stream: Literal["stdout", "stderr"]) -> None:
        self.fd = fd
        self.stream = stream
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.open = True
        os.set_blocking(fd, False)


class LocalRun:
    """See :class:`nbcontainer.engine.Run`."""

    def __init__(self, engine: LocalEngine, box: Box, spec: ContainerSpec, first: Sample) -> None:
        self.container_id = box.container_id
        self.spec = spec
        self._engine, self._box = engine, box
        self._first = first
        self._started = first.monotonic_seconds
        self._samples: deque[Sample] = deque([first], maxlen=4096)
        self._said: deque[Paused | Resumed | Changed] = deque()
        self._controls = Controls(box.cgroup, spec.limits, box.process.pid, self._say)
        self._attendants: list[tuple[Callable[[], None], int]] = []
        self._attend_at = 0.0
        self._poller: select.poll | None = None
        self._pipes = {box.process.stdout_fd: _Pipe(box.process.stdout_fd, "stdout")}
        self._pipes[box.process.stderr_fd] = _Pipe(box.process.stderr_fd, "stderr")
        self._reader = FrameReader(MAX_JSON_BYTES)
        self._may_fail = True
        """The cell's process can still say that its set-up failed: there is no user code that could forge it."""
        self._channel_open = True
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        # Reentrant: a signal handler may interrupt the very thread that holds it.
        self._wake_lock = threading.RLock()
        self._interrupts = 0
        self._reason: Literal["", "timeout", "output-limit", "killed", "interrupted"] = ""
        self._kill_at: float | None = None
        self._deadline = None if spec.timeout_seconds is None else self._started + spec.timeout_seconds
        self._output_bytes = 0
        self._error: CellError | None = None
        self._inner_status: int | None = None
        self._failure: NbcontainerError | None = None
        self._token: Any = None
        self._ended = False

    # ---- from anywhere

    def interrupt(self) -> None:
        self._interrupts += 1
        self._wake()

    def kill(self) -> None:
        self._reason = self._reason or "killed"
        self._kill_at = 0.0
        self._wake()

    def pause(self) -> None:
        self._controls.pause()

    def resume(self) -> None:
        self._controls.resume()

    def update(self, **changes: Any) -> Limits:
        return self._controls.update(changes)

    def readings(self) -> Readings:
        return self._controls.readings("net" in self.spec.namespaces)

    def attend(self, callback: Callable[[], None], fd: int = -1) -> None:
        self._attendants.append((callback, fd))
        if fd >= 0 and self._poller is not None:
            self._poller.register(fd, select.POLLIN)

    def _say(self, event: Paused | Resumed | Changed) -> None:
        self._said.append(event)
        self._wake()

    def _wake(self) -> None:
        with self._wake_lock:
            if not self._ended:
                os.eventfd_write(self._wake_fd, 1)

    # ---- the loop

    def events(self) -> Generator[Event, None, None]:
        name = self.spec.name or self.container_id
        try:
            yield Started(self.container_id, name, self._box.process.pid, self._started)
            yield from self._new()
            yield from self._watch()
            status = self._exit_status()
            if self._box.cgroup.pids():
                self._box.cgroup.kill()
            yield from self._drain(final=True)
            finished = self._finish(status)
        finally:
            self._controls.close()
            try:
                if self._token is not None:
                    SAMPLER.remove(self._token)
            finally:
                with self._wake_lock:
                    self._ended = True
                    os.close(self._wake_fd)
                self._engine.ended(self._box)
        yield from self._new()
        if self._failure is not None:
            raise self._failure
        yield finished

    def _watch(self) -> Iterator[Event]:
        """Until the cell process has ended (its pidfd says so, not end of file: children may keep the pipes)."""
        poller = self._poller = select.poll()
        process = self._box.process
        for fd in (process.stdout_fd, process.stderr_fd, process.channel.fileno(), process.pidfd, self._wake_fd):
            poller.register(fd, select.POLLIN)
        for _, fd in self._attendants:
            if fd >= 0:
                poller.register(fd, select.POLLIN)
        interrupts_seen = 0
        while True:
            ready = dict(poller.poll(self._poll_milliseconds()))
            now = time.monotonic()
            if process.pidfd in ready:
                return
            for fd in (process.stdout_fd, process.stderr_fd):
                if fd in ready:
                    yield from self._read(self._pipes[fd])
                    if not self._pipes[fd].open:
                        poller.unregister(fd)
            if process.channel.fileno() in ready:
                yield from self._drain()
                if not self._channel_open:
                    poller.unregister(process.channel.fileno())
            if self._wake_fd in ready:
                os.eventfd_read(self._wake_fd)
            if self._interrupts > interrupts_seen:
                interrupts_seen = self._interrupts
                self._on_interrupt(now)
            self._enforce(now)
            if self._token is None and now - self._started >= SAMPLE_AFTER_SECONDS:
                self._begin_sampling()
            yield from self._new()
            self._call_attendants(ready, now)

    def _call_attendants(self, ready: dict[int, int], now: float) -> None:
        all_of_them = now >= self._attend_at
        if all_of_them:
            self._attend_at = now + TICK_SECONDS
        for callback, fd in self._attendants:
            if all_of_them or fd in ready:
                callback()

    def _poll_milliseconds(self) -> float:
        now = time.monotonic()
        if self._token is None:
            return max(1.0, (self._started + SAMPLE_AFTER_SECONDS - now) * 1000)
        waits = [TICK_SECONDS if self._attendants else IDLE_SECONDS] + [moment - now for moment in (self._deadline, self._kill_at) if moment is not None]
        return max(0.0, min(waits)) * 1000 + 0.5

    def _begin_sampling(self) -> None:
        """Only for cells that take longer than the blink of an eye: a thread and a file would slow the others down."""
        spec = self.spec
        self._token = SAMPLER.add(self._box.cgroup, None, spec.interval_seconds, self._take_sample)
        command = " ".join(spec.program) or "python"
        self._engine.state.add(
            ContainerRecord(
                os.getpid(),
                self.container_id,
                spec.name or self.container_id,
                self._box.process.pid,
                "running",
                time.time(),
                command,
                spec.limits.memory_bytes,
            )
        )

    def _take_sample(self, sample: Sample) -> None:
        self._samples.append(sample)
        self._controls.note_memory(sample)

    def _new(self) -> Iterator[Sample | Paused | Resumed | Changed]:
        while self._said:
            yield self._said.popleft()
        while self._samples:
            yield self._samples.popleft()

    def _on_interrupt(self, now: float) -> None:
        self._reason = self._reason or "interrupted"
        if self._kill_at is None:
            self._kill_at = now + GRACE_SECONDS
            self._box.cgroup.signal_all(signal.SIGINT)
            self._controls.release()
        else:
            self._kill_at = 0.0

    def _enforce(self, now: float) -> None:
        if self._deadline is not None and now >= self._deadline:
            self._reason = self._reason or "timeout"
            self._kill_at, self._deadline = 0.0, None
        if self._output_bytes > SPOOL_LIMIT_BYTES and self._reason != "output-limit":
            self._reason = "output-limit"
            self._kill_at = 0.0
        if self._kill_at is not None and now >= self._kill_at:
            self._box.cgroup.kill()
            self._kill_at = now + GRACE_SECONDS

    # ---- output

    def _read(self, pipe: _Pipe) -> Iterator[Output]:
        try:
            data = os.read(pipe.fd, PIECE_BYTES)
        except BlockingIOError:
            return
        self._output_bytes += len(data)
        pipe.open = bool(data)
        text = pipe.decoder.decode(data, final=not data)
        if text:
            yield Output(pipe.stream, text)

    def _drain(self, *, final: bool = False) -> Iterator[Event]:
        """Read the channel; text that was written before a frame is read before it, so that order is kept."""
        channel = self._box.process.channel
        while self._channel_open:
            try:
                data = channel.recv(PIECE_BYTES, socket.MSG_DONTWAIT)
            except (BlockingIOError, ConnectionResetError):
                break
            self._channel_open = bool(data)
            try:
                for message in self._reader.feed(data):
                    yield from self._drain_pipes()
                    yield from self._on_message(message)
                    if message["t"] in ("display", "error"):
                        self._acknowledge()
            except ProtocolError:
                # The cell wrote garbage to its own channel: its displays end here, its text goes on.
                self._channel_open = False
                channel.shutdown(socket.SHUT_RDWR)
            if not final:
                break
        if final:
            yield from self._drain_pipes(final=True)

    def _acknowledge(self) -> None:
        """Let the cell go on after a frame: what it prints from here on comes after it."""
        with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
            self._box.process.channel.send(b"a", socket.MSG_DONTWAIT)

    def _drain_pipes(self, *, final: bool = False) -> Iterator[Output]:
        for pipe in self._pipes.values():
            # What was written before a frame fits into the pipe; a writer that never stops must not keep us here.
            end = min(self._output_bytes + PIPE_BYTES, SPOOL_LIMIT_BYTES)
            while pipe.open and self._output_bytes < end:
                before = self._output_bytes
                yield from self._read(pipe)
                if self._output_bytes == before:
                    break
            if final:
                rest = pipe.decoder.decode(b"", final=True)
                if rest:
                    yield Output(pipe.stream, rest)

    def _on_message(self, message: dict[str, Any]) -> Iterator[Event]:
        kind = message["t"]
        if kind == "display":
            display = read_display(message)
            if display is not None:
                yield display
        elif kind == "error":
            self._error = read_error(message)
            yield self._error
        elif kind == "status" and self.spec.init and isinstance(message.get("status"), int):
            self._inner_status = message["status"]
        elif kind == "started":
            self._may_fail = False
        elif kind == "failed" and self._may_fail:
            self._failure = read_failure(message)

    # ---- the end

    def _exit_status(self) -> int:
        """The wait status from the zygote, which alone can know it."""
        try:
            data = self._box.process.control.recv(4096)
        except ConnectionResetError:
            data = b""
        if not data:
            raise InternalError("the zygote died, and with it the container's exit status; the next cell starts a new one")
        return int(json.loads(data)["status"])

    def _finish(self, status: int) -> Finished:
        last: Sample | None = None
        if self._token is not None:
            SAMPLER.remove(self._token)
            self._token = None
        else:
            last = self._box.cgroup.sample()
            self._samples.append(last)
        usage = _since(self._first, self._box.cgroup.usage(time.monotonic() - self._started, last))
        if self._inner_status is not None and 0 <= self._inner_status <= 0xFFFF:
            status = self._inner_status
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
        code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else None
        outcome: OutcomeName = "exited" if number is None else "signalled"
        note = ""
        if self._reason == "interrupted" and code != 0:
            outcome = "interrupted"
        elif self._reason in ("timeout", "output-limit", "killed") and number is not None:
            outcome = self._reason
        elif usage.oom_kills and (number == signal.SIGKILL or (number is None and _failed_for_a_child(code, self._error))):
            outcome = "oom"
        elif usage.oom_kills:
            children = "a child process was" if usage.oom_kills == 1 else f"{usage.oom_kills} child processes were"
            note = f"{children} killed for memory; the cell itself went on"
        killed = killed_processes(self.container_id, self._box.process.pid) if usage.oom_kills else ()
        by_kind = self._controls.memory_by_kind if usage.oom_kills else {}
        return Finished(outcome, code, number, self._error, usage, note, by_kind, killed)


def _failed_for_a_child(exit_code: int | None, error: CellError | None) -> bool:
    """A cell that went on after one of its processes was killed for memory, and failed: because of that, as far as it says so."""
    if error is None:
        return exit_code == 128 + signal.SIGKILL  # as shells end that pass on what killed their last command
    if error.ename == "CalledProcessError":
        return "SIGKILL" in error.evalue or "137" in error.evalue
    return error.ename in ("MemoryError", "BrokenProcessPool", "BrokenPipeError", "EOFError", "ConnectionResetError")


def _since(first: Sample, usage: Usage) -> Usage:
    """Without what making the container has used: the counters run since then."""
    return replace(
        usage,
        cpu_seconds=usage.cpu_seconds - first.cpu_seconds,
        user_seconds=max(0.0, usage.user_seconds - first.user_seconds),
        system_seconds=max(0.0, usage.system_seconds - first.system_seconds),
        throttled_seconds=usage.throttled_seconds - first.throttled_seconds,
        io_read_bytes=usage.io_read_bytes - first.io_read_bytes,
        io_write_bytes=usage.io_write_bytes - first.io_write_bytes,
    )
