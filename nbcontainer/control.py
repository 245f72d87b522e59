"""What other processes of this user may ask of this kernel's containers: the answers to what comes through :mod:`nbcontainer.listener`.

Another notebook, or the ``nbcontainer`` command, connects to the socket beside the kernel's file, in a directory that nobody else can
enter, and sends one line of JSON: ``{"verb": "kill", "given": {...}}``, the arguments of a verb as its parser has them, or
``{"exec": {...}}``, ``{"knows": NAME}`` or ``{"kept": true}``, for which containers come as ``ps -a`` lists them. The answer is lines of JSON:

- ``{"text": ...}``, ``{"table": {...}}``, ``{"document": ...}``, or ``{"record": [seconds, stream, text]}`` again and again, until the end;
- for a program: ``{"spec": ...}``, and then its events, as :mod:`nbcontainer.engine.vm.wire` has them; meanwhile ``I`` interrupts it;
- ``{"t": "refused", ...}``: an error of ours.

Whoever hangs up ends the program.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from nbcontainer.errors import NbcontainerError, SpecError
from nbcontainer.state import answer_with

if TYPE_CHECKING:
    from nbcontainer.engine import Run
    from nbcontainer.events import Event

MOST_REQUEST_BYTES = 64 << 20
NOT_UNDERSTOOD = "that is not understood there{why}; another version of nbcontainer may be running: restart the notebook's kernel"
_CREDENTIALS = struct.Struct("3i")


def serve(connection: socket.socket) -> None:
    """Answer one request, of this user's; closes it."""
    with connection, contextlib.suppress(OSError):  # whoever asked has gone
        _, uid, _ = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        if uid != os.geteuid():
            return
        try:
            _answer_understood(connection)
        except NbcontainerError as error:
            from nbcontainer.engine.vm import wire

            _send(connection, wire.error_to_json(0, error))


def _answer_understood(connection: socket.socket) -> None:
    """Raises SpecError for a request that lacks something, or has something of another kind, than this version expects."""
    request = _request(connection)
    try:
        _answer(connection, request)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise SpecError(NOT_UNDERSTOOD.format(why=f" ({said})")) from error


def _request(connection: socket.socket) -> dict[str, Any]:
    with connection.makefile("rb") as file:
        line = file.readline(MOST_REQUEST_BYTES)
    try:
        request = json.loads(line)
    except ValueError:
        request = None
    if not isinstance(request, dict):
        raise SpecError(NOT_UNDERSTOOD.format(why=""))
    return request


def _send(connection: socket.socket, message: dict[str, Any]) -> None:
    connection.sendall(json.dumps(message).encode() + b"\n")


def _answer(connection: socket.socket, request: dict[str, Any]) -> None:
    if "exec" in request:
        _exec(connection, **request["exec"])
        return
    if "knows" in request:
        from nbcontainer.containers import CONTAINERS

        _send(connection, {"knows": CONTAINERS.knows(request["knows"])})
        return
    if "kept" in request:
        from nbcontainer.verbs import listing

        _send(connection, {"kept": [asdict(listed) for listed in listing.kept_here()]})
        return
    from nbcontainer import verbs
    from nbcontainer.verbs.shown import Document, Table

    answer = verbs.find(request["verb"]).act(argparse.Namespace(**request["given"]))
    match answer:
        case str():
            _send(connection, {"text": answer})
        case Table():
            _send(connection, {"table": {"columns": answer.columns, "rows": answer.rows, "note": answer.note}})
        case Document():
            _send(connection, {"document": answer.content})
        case Iterator():
            _send(connection, {"records": True})
            for record in answer:
                _send(connection, {"record": [record.unix_seconds, record.stream, record.text]})


def _exec(connection: socket.socket, name: str, program: list[str], code: str, options: dict[str, Any], detached: bool) -> None:
    from nbcontainer.containers import CONTAINERS
    from nbcontainer.engine.vm import wire

    container = CONTAINERS.find(name, "exec")
    if detached:
        container.exec_detached(program, code, **options)
        _send(connection, {"text": ""})
        return

    def on_start(run: Run) -> None:
        _send(connection, {"spec": wire.spec_to_json(run.spec)})
        run.attend(partial(_listen, connection, run), connection.fileno())

    def on_event(event: Event) -> None:
        _send(connection, wire.event_to_json(0, event))

    container.exec(program, code, on_start=on_start, on_event=on_event, **options)


def _listen(connection: socket.socket, run: Run) -> None:
    """To whoever waits for a program."""
    try:
        said = connection.recv(4096, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return
    except OSError:
        said = b""
    if said:
        run.interrupt()
    else:
        run.kill()


answer_with(serve)
