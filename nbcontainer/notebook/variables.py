"""``-i`` and ``-o`` of the magic: variables of the notebook, and lines that a cell asks its reader for."""

from __future__ import annotations

import getpass
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from nbcontainer.events import InputRequest

if TYPE_CHECKING:
    from nbcontainer.data.inward import Inward
    from nbcontainer.engine import Run
    from nbcontainer.notebook.asking import Asking

LOOK_SECONDS = 0.1
NO_INPUT = "nobody can type here: this front end allows no input (nbconvert, papermill and jupyter execute never do)"


def bring_in(names: list[str], shell: Any, code: str, *, program: bool) -> Mapping[str, Any] | Inward | None:
    """What ``-i`` asks for, ready to go. Raises SpecError. What ``*`` cannot take is said once, in a line."""
    from nbcontainer.data import inward

    if not names:
        return None
    wanted = inward.split_names(names, "-i", star=True)
    chosen, everything = inward.choose(wanted, shell.user_ns, shell.user_ns_hidden, code)
    if program:
        return {name: value for name, value in chosen.items() if not everything or type(value) in (str, int, float, bool)}
    ready = inward.gather(chosen, lenient=everything)
    if ready.left_behind:
        print(f"\x1b[2m-i '*': these stay here, as they cannot be copied: {', '.join(ready.left_behind)}\x1b[0m", file=sys.stderr, flush=True)
    return ready


class Reader:
    """Answers a cell's questions with what is typed below it."""

    def __init__(self, shell: Any) -> None:
        self._kernel = getattr(shell, "kernel", None)
        self._run: Run | None = None
        self._asking: Asking | None = None
        self._waiting = False

    def on_start(self, run: Run) -> None:
        self._run = run

    def __call__(self, request: InputRequest) -> str | None:
        """The line; None where it comes later by itself, or not at all because the cell is ending.

        Raises EOFError, NotImplementedError (with the reason).
        """
        if self._kernel is not None and not getattr(self._kernel, "_allow_stdin", True):
            raise NotImplementedError(NO_INPUT)
        if threading.current_thread() is not threading.main_thread():
            return self._read(request)
        if self._asks_beside(request):
            return None
        # Meanwhile the stop button must end the waiting, and so must the end of the cell.
        done = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(done, threading.get_ident()), daemon=True)
        previous = signal.signal(signal.SIGINT, self._on_signal)
        self._waiting = True
        watcher.start()
        try:
            return self._read(request)
        except KeyboardInterrupt:
            if self._run is not None and not self._run.is_over():
                self._run.interrupt()
            return None
        finally:
            self._waiting = False
            done.set()
            watcher.join()
            signal.signal(signal.SIGINT, previous)

    def _asks_beside(self, request: InputRequest) -> bool:
        """Whether the question was asked in a way that nothing has to wait for."""
        if self._kernel is None or self._run is None:
            return False
        from nbcontainer.notebook.asking import Asking, AskingUnavailable

        try:
            self._asking = self._asking or Asking(self._kernel, self._run)
        except AskingUnavailable:
            return False
        self._asking.ask(request)
        return True

    def _on_signal(self, number: int, frame: object) -> None:
        if self._waiting:
            self._waiting = False
            raise KeyboardInterrupt
        if self._run is not None and not self._run.is_over():
            self._run.interrupt()

    def _watch(self, done: threading.Event, thread: int) -> None:
        while not done.wait(LOOK_SECONDS):
            if self._run is not None and self._run.is_over():
                signal.pthread_kill(thread, signal.SIGINT)
                return

    def _read(self, request: InputRequest) -> str:
        source: Any = self._kernel
        read: Callable[[str], str]
        if source is None:
            read = getpass.getpass if request.password else input
        else:
            read = source.getpass if request.password else source.raw_input
        try:
            return read(request.prompt)
        except NotImplementedError:
            raise NotImplementedError(NO_INPUT) from None
