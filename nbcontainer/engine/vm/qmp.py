"""QEMU's control socket: one command at a time, answers with a time limit."""

from __future__ import annotations

import json
import socket
import time
from typing import Any

from nbcontainer.errors import InternalError

LINE_BYTES = 1 << 20


class QmpError(InternalError):
    """QEMU refused a command, or answered with something else."""


class Qmp:
    """The kernel's end; it owns the socket."""

    def __init__(self, control: socket.socket, timeout_seconds: float = 20.0) -> None:
        self._socket = control
        self._socket.settimeout(timeout_seconds)
        self._buffer = b""
        self._line()  # the greeting
        self.execute("qmp_capabilities")

    def execute(self, command: str, **arguments: Any) -> Any:
        """The command's ``return``; raises QmpError."""
        message = {"execute": command, **({"arguments": arguments} if arguments else {})}
        try:
            self._socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError as error:
            raise QmpError(f"QEMU is gone: {error.strerror}") from None
        while True:
            answer = self._line()
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise QmpError(f"QEMU refuses {command}: {answer['error'].get('desc', 'no reason given')}")

    def _line(self) -> dict[str, Any]:
        while b"\n" not in self._buffer:
            try:
                data = self._socket.recv(65536)
            except TimeoutError:
                raise QmpError("QEMU does not answer") from None
            except OSError as error:
                raise QmpError(f"QEMU is gone: {error.strerror}") from None
            if not data or len(self._buffer) > LINE_BYTES:
                raise QmpError("QEMU ended")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            answer = json.loads(line)
        except ValueError:
            raise QmpError("QEMU said something that is not JSON") from None
        if not isinstance(answer, dict):
            raise QmpError("QEMU said something unexpected")
        return answer

    def save(self, fd_name: str, descriptor: int, timeout_seconds: float) -> None:
        """Write the device state to ``descriptor``; the memory stays in its file."""
        self._ignore_shared()
        socket.send_fds(self._socket, [json.dumps({"execute": "getfd", "arguments": {"fdname": fd_name}}).encode() + b"\n"], [descriptor])
        while "return" not in (answer := self._line()):
            if "error" in answer:
                raise QmpError(f"QEMU refuses the descriptor: {answer['error'].get('desc')}")
        self.execute("migrate", uri=f"fd:{fd_name}")
        deadline = time.monotonic() + timeout_seconds
        while (status := self.execute("query-migrate").get("status")) != "completed":
            if status in ("failed", "cancelled") or time.monotonic() > deadline:
                raise QmpError(f"the snapshot could not be written ({status})")
            time.sleep(0.005)

    def load(self, descriptor: int) -> None:
        """Go on from a device state that :meth:`save` wrote; ``descriptor`` was inherited by QEMU."""
        self._ignore_shared()
        self.execute("migrate-incoming", uri=f"fd:{descriptor}")

    def _ignore_shared(self) -> None:
        self.execute("migrate-set-capabilities", capabilities=[{"capability": "x-ignore-shared", "state": True}])

    def close(self) -> None:
        self._socket.close()
