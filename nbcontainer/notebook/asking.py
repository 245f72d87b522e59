"""A question below the cell that does not stop what attends its run: the live view goes on, and clicks are heard, while nobody types.

A kernel's own ``raw_input`` waits for the line, and for nothing else. Here the same message is sent, and the answer is
looked for each time that the run's loop comes by. It takes names that ipykernel does not promise; where one is missing,
:class:`AskingUnavailable` says so, and the kernel's own way is left. Seen to work on ipykernel 6.31, 7.3 and 7.4.
"""

from __future__ import annotations

import sys
from collections import deque
from typing import TYPE_CHECKING, Any

import zmq

from nbcontainer.events import InputRequest
from nbcontainer.exchange import END_OF_INPUT

if TYPE_CHECKING:
    from nbcontainer.engine import Run

END_OF_TRANSMISSION = "\x04"
"""What a front end sends for the end of the input."""


class AskingUnavailable(Exception):
    """This kernel's stdin channel cannot be used in this way; the text says what is missing."""


class Asking:
    """Of one run, in the thread that runs cells: one question after the other."""

    def __init__(self, kernel: Any, run: Run) -> None:
        """Raises AskingUnavailable."""
        self._kernel, self._run = kernel, run
        try:
            self._socket, self._session = kernel.stdin_socket, kernel.session
            needed = (kernel._input_request, self._session.recv, self._socket.getsockopt)
            fd = int(self._socket.fd)
        except AttributeError as error:
            raise AskingUnavailable(f"this ipykernel has no {error}") from None
        if not all(map(callable, needed)):
            raise AskingUnavailable("this ipykernel asks in a way that is not known here")
        self._questions: deque[InputRequest] = deque()
        run.attend(self._look, fd)

    def ask(self, request: InputRequest) -> None:
        """The answer goes to the run by itself."""
        self._questions.append(request)
        if len(self._questions) == 1:
            self._send()

    def _send(self) -> None:
        request = self._questions[0]
        sys.stdout.flush()
        sys.stderr.flush()
        while self._next() is not None:
            pass  # answers to questions of earlier cells
        ident, parent = self._asker()
        self._session.send(self._socket, "input_request", {"prompt": request.prompt, "password": request.password}, parent, ident=ident)

    def _asker(self) -> tuple[Any, Any]:
        """Whom the kernel's own way would ask, and on behalf of which message: each version keeps that in another place."""
        seen: list[tuple[Any, Any]] = []
        self._kernel._input_request = lambda prompt, ident, parent, password=False: seen.append((ident, parent))
        try:
            self._kernel.raw_input("")
        finally:
            del self._kernel._input_request
        return seen[0]

    def _next(self) -> Any:
        """A message of the front end's; None where there is none yet."""
        while self._socket.getsockopt(zmq.EVENTS) & zmq.POLLIN:
            try:
                _, message = self._session.recv(self._socket)
            except (ValueError, KeyError, TypeError):
                continue  # nonsense, or not signed
            if message is not None:
                return message
        return None

    def _look(self) -> None:
        while self._questions and (message := self._next()) is not None:
            line = message["content"].get("value", "")
            if line == END_OF_TRANSMISSION:
                self._run.answer_input(None, END_OF_INPUT)
            else:
                self._run.answer_input(str(line))
            self._questions.popleft()
            if self._questions:
                self._send()
