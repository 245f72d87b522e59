"""One container that runs one kernel, and the thread that watches it."""

from __future__ import annotations

import atexit
import logging
import os
import signal
import sys
import threading
import time
from contextlib import closing
from typing import IO

import zmq

from nbcontainer.engine.local import LocalEngine
from nbcontainer.errors import NbcontainerError
from nbcontainer.events import Finished, Output, Started, limited_from_outside
from nbcontainer.jupyter.lastwords import Iopub, Listener, say
from nbcontainer.runtime.title import TITLE
from nbcontainer.spec import ContainerSpec
from nbcontainer.units import format_size

EXEC_SECONDS = 2.0
END_SECONDS = 5.0
_ZYGOTE_MARKS = (TITLE, b"forkhooks")
"""One of these stands in the command line of the zygote, and of its children until they execute a program."""
_CONTROL = {number: None for number in range(32) if chr(number) not in "\t\n\r"} | {127: None}


class KernelContainer:
    """Started by the constructor; raises SpecError, HostError, SetupError or InternalError where it cannot be."""

    def __init__(self, engine: LocalEngine, spec: ContainerSpec, iopub: Iopub, install: str, log: logging.Logger) -> None:
        """``install``: the words that a larger kernel would be installed with; they go into what the user is told."""
        self.spec, self._iopub, self._install, self._log = spec, iopub, install, log
        self._run = engine.start(spec, "")
        self._ready = threading.Event()
        self._failure: NbcontainerError | None = None
        self._finished: Finished | None = None
        self._stopping = False
        self.pid = 0
        """Process id of the kernel as this host sees it."""
        self.exit_code: int | None = None
        """None while it lives; the negative of a signal, as subprocess has it."""
        if not _living:
            atexit.register(_end_all)  # after the engine's own, and so called before it
        _living.add(self)
        threading.Thread(target=self._watch, name="nbcontainer-kernel", daemon=True).start()
        self._wait_for_program()
        if self._failure is not None:
            raise self._failure

    def _wait_for_program(self) -> None:
        """A program that cannot be executed is an error of the start, not a kernel that died."""
        self._ready.wait()
        deadline = time.monotonic() + EXEC_SECONDS
        while self.exit_code is None and not self.spec.init and time.monotonic() < deadline:
            try:
                with open(f"/proc/{self.pid}/cmdline", "rb") as file:
                    command = file.read()
                if command and not any(mark in command for mark in _ZYGOTE_MARKS):  # that of a dead process is empty
                    return
            except OSError:
                pass  # it has just ended; the watching thread knows how
            time.sleep(0.002)

    # ---- from any thread

    def signal(self, number: int) -> None:
        """To the kernel's process group, as Jupyter does; SIGKILL ends the container. Nothing after the end."""
        if number == signal.SIGKILL:
            self.kill()
        elif number:
            self._run.signal_group(number)

    def kill(self) -> None:
        self._stopping = True
        self._run.kill()

    def expect_end(self) -> None:
        """Somebody wants it to end: how it does is no news."""
        self._stopping = True

    # ---- the watching thread

    def _watch(self) -> None:
        listener = Listener(self._iopub)
        try:
            with closing(self._run.events()) as events:
                for event in events:
                    match event:
                        case Started(pid=pid):
                            self.pid = pid
                            self._run.attend(listener.drain, listener.fd)
                            self._ready.set()
                        case Output():
                            _pass_on(event)
                        case Finished():
                            self._finished = event
            listener.drain()
        except NbcontainerError as error:
            self._failure = error
        finally:
            cells = list(listener.cells.values())
            listener.close()
            try:
                if not self._stopping:
                    self._say_why(cells)
            finally:
                self.exit_code = self._status()
                self._ready.set()
                _living.discard(self)

    def _status(self) -> int:
        end = self._finished
        if end is None:
            return 1
        return -end.signal if end.signal else end.exit_code or 0

    def _say_why(self, cells: list[dict[str, object]]) -> None:
        name, text = self._verdict()
        if not name:
            return
        self._log.error("%s: %s", self.spec.name, text)
        if cells:
            try:
                say(self._iopub, cells, name, text)
            except (zmq.ZMQError, OSError) as error:
                self._log.error("The notebook could not be told: %s", error)

    def _verdict(self) -> tuple[str, str]:
        """(name, sentence) of what the user should know; ("", "") where there is nothing to say."""
        end = self._finished
        if end is None:
            return (type(self._failure).__name__, str(self._failure)) if self._failure is not None else ("", "")
        if end.outcome == "oom":
            return "OutOfMemory", self._out_of_memory(end)
        if end.outcome == "timeout":
            return "Timeout", f"The kernel was killed after {end.usage.wall_seconds:.0f} s (--timeout {self.spec.timeout_seconds:g})."
        if end.outcome == "output-limit":
            return "OutputLimit", "The kernel was killed because it wrote more than 1 GiB to its standard output."
        if end.signal:
            return "KernelKilled", f"The kernel ended by signal {end.signal} ({_signal_name(end.signal)})."
        if end.exit_code:
            return "KernelEnded", f"The kernel ended with exit code {end.exit_code}."
        return "", ""

    def _out_of_memory(self, end: Finished) -> str:
        limit = self.spec.limits.memory_bytes
        larger = format_size(2 * limit).replace(" ", "").removesuffix("iB") if limit else "SIZE"
        killed = f"; killed: {', '.join(end.killed)}" if end.killed else ""
        if limited_from_outside(end.usage.memory_peak_bytes, limit):
            return (
                f"Linux killed this kernel after {end.usage.wall_seconds:.0f} s, not for its --mem {format_size(limit or 0)} (peak {format_size(end.usage.memory_peak_bytes)}{killed}): "
                "a limit around it, such as the server's, or the machine's memory was reached.\n"
                "Its variables are gone. Work on smaller pieces, or shut other kernels down."
            )
        return (
            f"Linux killed this kernel when its container reached {f'--mem {format_size(limit)}' if limit else 'its limit'} after "
            f"{end.usage.wall_seconds:.0f} s (peak {format_size(end.usage.memory_peak_bytes)}{killed}).\n"
            f"Its variables are gone. Work on smaller pieces, or take a larger kernel:\n    nbcontainer kernel install {self._install} --mem {larger}"
        )


_living: set[KernelContainer] = set()


def _end_all() -> None:
    """When this process ends without having shut its kernels down."""
    living = list(_living)
    for container in living:
        container.kill()
    deadline = time.monotonic() + END_SECONDS
    while any(container.exit_code is None for container in living) and time.monotonic() < deadline:
        time.sleep(0.01)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"


def _pass_on(event: Output) -> None:
    """To where a kernel without a container would write; without control characters, which could fool a terminal."""
    stream: IO[str] | None = sys.stdout if event.stream == "stdout" else sys.stderr
    try:
        os.write(stream.fileno() if stream is not None else 2, event.text.translate(_CONTROL).encode("utf-8", "replace"))
    except (OSError, ValueError):
        pass  # nobody reads it


