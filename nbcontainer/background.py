"""A run that nobody waits for: a thread of its own iterates it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing

from nbcontainer.engine import Run
from nbcontainer.errors import HostError
from nbcontainer.events import Event, Output, Running
from nbcontainer.threads import start_daemon

READY_SECONDS = 10.0
INIT_READY_SECONDS = 0.3
"""With an init above it, nobody can tell when a program has begun: an error that comes later is in its log."""


class BackgroundRun:
    """``take`` gets each event, ``end`` what went wrong or None; both are called in the thread. Where ``take`` raises, the run ends."""

    def __init__(self, run: Run, name: str, take: Callable[[Event], None], end: Callable[[BaseException | None], None]) -> None:
        self._run, self._name = run, name
        self._take, self._end = take, end
        self._early: BaseException | None = None
        self._ready = threading.Event()

    def begin(self) -> None:
        """Returns when its code has begun. Raises what went wrong before that."""
        try:
            start_daemon(self._iterate, self._name)
        except HostError:
            self._run.kill()
            self._iterate()  # to its end, in this thread
            raise
        self._ready.wait(INIT_READY_SECONDS if self._run.spec.init else READY_SECONDS)
        if self._early is not None:
            raise self._early

    def _iterate(self) -> None:
        failure: BaseException | None = None
        try:
            with closing(self._run.events()) as events:
                for event in events:
                    if isinstance(event, Running | Output):  # whichever comes first: what takes it may wait for whoever began this
                        self._ready.set()
                    self._take(event)
        except BaseException as error:  # raised where somebody waits: also what take raised
            failure = error
            if not self._ready.is_set():
                self._early = error
        finally:
            try:
                self._end(failure)
            finally:
                self._ready.set()
