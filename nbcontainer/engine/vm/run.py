"""One container in a guest, as its cell's thread sees it."""

from __future__ import annotations

import itertools
import queue
import signal
import time
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from nbcontainer.engine.attendants import TICK_SECONDS
from nbcontainer.engine.changes import Change
from nbcontainer.engine.inbox import Inbox
from nbcontainer.engine.vm import wire
from nbcontainer.errors import HostError, InternalError, NbcontainerError, SetupError, SpecError
from nbcontainer.events import Event, Finished, Readings, Started
from nbcontainer.spec import ContainerSpec, Limits

if TYPE_CHECKING:
    from nbcontainer.engine import Run
    from nbcontainer.engine.transfer import Transfer
    from nbcontainer.engine.vm.guest import Guest
    from nbcontainer.engine.vm.publish import Publisher

GRACE_SECONDS = 15.0
"""From an end that was asked for (kill, second interrupt, timeout) to giving the guest up."""
ANSWER_SECONDS = 30.0
Said = Event | NbcontainerError
Answer = Limits | Readings | list[Change] | NbcontainerError | None


class VmRun:
    """See :class:`nbcontainer.engine.Run`."""

    def __init__(
        self, guest: Guest, number: int, spec: ContainerSpec, inside: ContainerSpec, ended: Callable[[VmRun], None], *, a_cell: bool = False
    ) -> None:
        self.number = number
        self._inside = inside
        self._may_go_on = a_cell
        """A session's cell may go on after a first interrupt."""
        self.container_id = ""
        self.spec = spec
        self.started: Started | None = None
        self.publisher: Publisher | None = None
        self.transfer: Transfer | None = None
        self._guest, self._on_end = guest, ended
        self._inbox: Inbox[Said] = Inbox()
        self._asked = itertools.count(1)
        self._answers: dict[int, queue.SimpleQueue[Answer]] = {}
        self._give_up_at: float | None = None
        self._ended = False

    # ---- from the thread that receives

    def put(self, said: Said) -> None:
        """Waits where the reader of events is slow, so that memory stays bounded."""
        if self.publisher is not None:
            self.publisher.take(said)
        self._inbox.put(said)

    def take_values(self, message: dict[str, Any]) -> None:
        """A piece of the variables that come out. Raises ProtocolError."""
        piece = wire.piece_from_json(message)
        if self.transfer is not None and not self._ended:
            self.transfer.receive(*piece)

    def answer(self, ask: object, answer: Answer) -> None:
        waiting = self._answers.get(ask) if isinstance(ask, int) else None
        if waiting is not None:
            waiting.put(answer)

    # ---- from the thread that iterates

    def _next(self) -> Said:
        """What was said next. Whoever attends is called meanwhile."""
        while (said := self._inbox.next(TICK_SECONDS)) is None:
            if self._give_up_at is not None and time.monotonic() > self._give_up_at:
                self._give_up_at = None
                self._guest.fail("the virtual machine did not end a container that it was told to end")
            self._guest.check_silence()
        return said

    def attend(self, callback: Callable[[], None], fd: int = -1) -> None:
        self._inbox.attendants.add(callback, fd)

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
                self._inbox.attendants.call()
        finally:
            if not finished:
                self._wait_for_end()
            self.close()
            self._on_end(self)
        yield said

    def _wait_for_end(self) -> None:
        """The reader has gone away: until nothing of the container is left."""
        self._inbox.attendants.clear()
        self.kill()
        while not isinstance(self._next(), Finished | NbcontainerError):
            pass

    def close(self) -> None:
        """Nothing is read any more. What was to be kept stays in the guest, and can be asked about."""
        if self.spec.keep and self.started is not None:
            self._guest.keep(self)
        else:
            self._guest.forget(self)
        self._ended = True
        self._inbox.close()
        for waiting in list(self._answers.values()):
            waiting.put(SpecError("the container has ended"))

    # ---- from anywhere

    @property
    def pid(self) -> int:
        return self._guest.process.pid

    def answer_input(self, line: str | None, why: str = "") -> None:
        self._guest.send({"t": "line", "run": self.number, "line": line, "why": why})

    def is_over(self) -> bool:
        return self._ended or self._give_up_at is not None or self._inbox.holds(Finished | NbcontainerError)

    def interrupt(self) -> None:
        if self._may_go_on:
            self._may_go_on = False
            self._guest.send({"t": "interrupt", "run": self.number})
        else:
            self._ask_for_end("interrupt")

    def kill(self) -> None:
        self._ask_for_end("kill")

    def _ask_for_end(self, what: str) -> None:
        if self._ended:
            return
        soon = time.monotonic() + GRACE_SECONDS
        self._give_up_at = soon if self._give_up_at is None else min(soon, self._give_up_at)
        self._guest.send({"t": what, "run": self.number})

    def signal(self, number: int) -> None:
        if number == signal.SIGKILL:
            self.kill()
        else:
            self._control("signal", {"number": number})

    def within(self, spec: ContainerSpec, code: str, transfer: Transfer | None = None) -> Run:
        there = self._inside
        inside = spec.replace(workspace=there.workspace, root=there.root, mounts=there.mounts, limits=there.limits)
        return self._guest.start(spec, inside, code, lambda run: None, self.number, transfer)

    def processes(self) -> list[int]:
        raise HostError("the processes of a container in the virtual machine are the guest's own", "use %container exec NAME ps aux")

    def changes(self) -> list[Change]:
        if self._ended:
            if not self._is_kept:
                raise SpecError("diff: the container has ended, and its files with it")
            if not self._guest.alive:
                raise SpecError("diff: the container's virtual machine has ended, and its files with it")
        changes = self._control("diff")
        if not isinstance(changes, list):
            raise InternalError("the virtual machine did not say what was changed")
        return changes

    @property
    def _is_kept(self) -> bool:
        return self._ended and self._guest.keeps(self)

    def forget(self) -> None:
        """Its files, where they were kept."""
        if self._is_kept:
            self._guest.forget(self)
            self._guest.send({"t": "forget", "run": self.number})

    def lose(self) -> None:
        """The guest has ended; whoever waits for an answer need not."""
        for waiting in list(self._answers.values()):
            waiting.put(InternalError(self._guest.failure))

    def pause(self) -> None:
        self._control("pause")

    def resume(self) -> None:
        self._control("resume")

    def update(self, **changes: Any) -> Limits:
        limits = self._control("update", changes)
        if not isinstance(limits, Limits):
            raise InternalError("the virtual machine did not say which limits hold")
        return limits

    def readings(self) -> Readings:
        readings = self._control("readings")
        if not isinstance(readings, Readings):
            raise InternalError("the virtual machine did not say its readings")
        return readings

    def _control(self, what: str, changes: dict[str, Any] | None = None) -> Limits | Readings | list[Change] | None:
        if self._ended and what != "diff":
            raise SpecError(f"{'stats' if what == 'readings' else what}: the container has ended")
        ask = next(self._asked)
        waiting = self._answers[ask] = queue.SimpleQueue()
        try:
            self._guest.send({"t": "control", "run": self.number, "ask": ask, "what": what, "changes": changes or {}})
            answer = waiting.get(timeout=ANSWER_SECONDS)
        except queue.Empty:
            raise InternalError(f"the virtual machine did not answer within {ANSWER_SECONDS:.0f} s") from None
        finally:
            del self._answers[ask]
        if isinstance(answer, NbcontainerError):
            raise answer.of_a_change() if isinstance(answer, SetupError) else answer
        return answer
