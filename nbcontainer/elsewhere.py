"""Containers of this user's other kernels: their verbs are answered there, over the socket of :mod:`nbcontainer.control`."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
from collections.abc import Callable, Generator, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from nbcontainer.conduct import OnStart, conduct
from nbcontainer.engine.vm import wire
from nbcontainer.errors import NbcontainerError, SpecError
from nbcontainer.events import Event, Finished
from nbcontainer.listener import address_in
from nbcontainer.logs import Record
from nbcontainer.result import OnEvent, Result
from nbcontainer.spec import ContainerSpec
from nbcontainer.state import control_directory, list_places
from nbcontainer.verbs.listing import Listed
from nbcontainer.verbs.shown import Document, Table

if TYPE_CHECKING:
    from nbcontainer.verbs import Answer

KNOWS_SECONDS = 2.0
ENDED = "its notebook's kernel has ended, and the container with it"


def place_of(text: str) -> str | None:
    """The kernel whose container has this name, this id, or an id that begins so; None where there is none, or it is this one."""
    places = [place for place in list_places() if place.kernel_pid != os.getpid()]
    found = [(place, record) for place in places for record in place.containers]
    exact = [place.name for place, record in found if text in (record.name, record.id)]
    begun = [place.name for place, record in found if text and record.id.startswith(text)]
    return next(iter(exact + begun), None) or next((place.name for place in places if _keeps(place.name, text)), None)


def _keeps(place: str, text: str) -> bool:
    """One that has ended is not listed, but may be kept."""
    return _ask(place, {"knows": text}) == {"knows": True}


def kept() -> list[Listed]:
    """The containers that have ended and that other kernels keep.

    A kernel that does not answer within two seconds, or not in this way, is left out.
    """
    places = [place.name for place in list_places() if place.kernel_pid != os.getpid()]
    answers = [_ask(place, {"kept": True}) or {} for place in places]
    found: list[Listed] = []
    for answer in answers:
        with contextlib.suppress(TypeError):  # another version's
            found += [Listed(**one) for one in answer.get("kept", [])]
    return found


def _ask(place: str, question: dict[str, Any]) -> dict[str, Any] | None:
    """The answer to what every kernel can say at once; None where there is none."""
    try:
        talk = _Talk(place, question)
    except SpecError:
        return None  # nothing has run there
    talk.socket.settimeout(KNOWS_SECONDS)  # a kernel may be stopped
    try:
        return talk.read()
    except (NbcontainerError, TimeoutError):
        return None
    finally:
        talk.close()


class _Talk:
    """One question and its answer. Raises SpecError where nobody is there."""

    def __init__(self, place: str, question: dict[str, Any]) -> None:
        self._rest = bytearray()
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            directory_fd = os.open(control_directory(place), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                self.socket.connect(address_in(directory_fd))
            finally:
                os.close(directory_fd)
            self.socket.sendall(json.dumps(question).encode() + b"\n")
        except OSError:
            self.socket.close()
            raise SpecError(ENDED) from None

    def read(self) -> dict[str, Any] | None:
        """The next message; None at the end. A KeyboardInterrupt loses nothing. Raises what was refused there."""
        while b"\n" not in self._rest:
            try:
                data = self.socket.recv(1 << 16)
            except ConnectionResetError:
                data = b""
            if not data:
                return None
            self._rest += data
        line, _, rest = self._rest.partition(b"\n")
        self._rest = rest
        message: dict[str, Any] = json.loads(line)
        if message.get("t") == "refused":
            raise wire.error_from_json(message)
        return message

    def close(self) -> None:
        self.socket.close()


def call(place: str, verb: str, given: argparse.Namespace) -> Answer:
    """A verb's answer. Raises SpecError, HostError, SetupError, InternalError."""
    talk = _Talk(place, {"verb": verb, "given": vars(given)})
    try:
        first = talk.read()
    except BaseException:
        talk.close()
        raise
    if first is not None and "records" in first:
        return _records(talk, partial(_interrupt, place, given) if verb == "attach" and given.sig_proxy == "true" else None)
    talk.close()
    match first:
        case {"text": str(text)}:
            return text
        case {"table": {"columns": columns, "rows": rows, "note": note}}:
            return Table(tuple(columns), tuple(tuple(row) for row in rows), note)
        case {"document": content}:
            return Document(content)
    raise SpecError(f"{verb}: {ENDED}")


def _records(talk: _Talk, interrupt: Callable[[], None] | None) -> Iterator[Record]:
    try:
        while True:
            try:
                message = talk.read()
                if message is None:
                    return
                yield Record(*message["record"])
            except KeyboardInterrupt:
                if interrupt is None:
                    return
                interrupt()
    finally:
        talk.close()


def _interrupt(place: str, given: argparse.Namespace) -> None:
    call(place, "kill", argparse.Namespace(names=[given.name], signal="INT"))


class _FarRun:
    """A program in another kernel's container, as far as :func:`~nbcontainer.conduct.conduct` needs a Run."""

    def __init__(self, talk: _Talk, spec: ContainerSpec) -> None:
        self._talk, self.spec = talk, spec

    def events(self) -> Generator[Event, None, None]:
        clock_seconds = 0.0  # one host, one clock
        try:
            while (message := self._talk.read()) is not None:
                event = wire.event_from_json(message, clock_seconds)
                yield event
                if isinstance(event, Finished):
                    return
            raise SpecError(f"exec: {ENDED}")
        finally:
            self._talk.close()

    def interrupt(self) -> None:
        try:
            self._talk.socket.send(b"I", socket.MSG_DONTWAIT)
        except OSError:
            return  # it has ended


def execute(
    place: str, name: str, program: tuple[str, ...], code: str, *, on_event: OnEvent | None = None, on_start: OnStart | None = None, **options: Any
) -> Result:
    """See :meth:`nbcontainer.running.RunningContainer.exec`."""
    question = {"name": name, "program": program, "code": code, "options": options, "detached": False}

    def begin() -> Any:
        talk = _Talk(place, {"exec": question})
        try:
            first = talk.read()
            if first is None:
                raise SpecError(f"exec: {ENDED}")
            return _FarRun(talk, wire.spec_from_json(first["spec"]))
        except BaseException:
            talk.close()
            raise

    return conduct(begin, on_event, on_start)


def execute_detached(place: str, name: str, program: tuple[str, ...], code: str, **options: Any) -> None:
    """What it writes is shown nowhere, as with ``docker exec -d``."""
    talk = _Talk(place, {"exec": {"name": name, "program": program, "code": code, "options": options, "detached": True}})
    try:
        talk.read()
    finally:
        talk.close()
