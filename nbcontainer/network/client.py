"""The kernel's end of the router: starting it when a first container needs a network, and asking it."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from typing import IO, Any

from nbcontainer import errors
from nbcontainer.errors import HostError, InternalError, SetupError
from nbcontainer.linux.subordinate import SubordinateIds, write_identity_maps
from nbcontainer.runtime.client import HelperProcess
from nbcontainer.runtime.protocol import FrameReader, encode
from nbcontainer.runtime.steps import write_file

ANSWER_SECONDS = 60.0
READ_BYTES = 1 << 18
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

Starter = Callable[[str, bool, IO[bytes]], tuple[HelperProcess, socket.socket]]
"""Takes the name of this kernel's place, whether its user is an ordinary one, and the file for its last words; gives the router's process, and this end
of its socket."""


def start_program(name: str, rootless: bool, log: IO[bytes]) -> tuple[HelperProcess, socket.socket]:
    """A new Python."""
    ours, theirs = socket.socketpair()
    parent = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    code = f"import sys; sys.path.append({parent!r}); from nbcontainer.network.lean import import_router; import_router().main({name!r}, {rootless!r}, {os.getpid()})"
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", code],
            stdin=theirs.fileno(),
            stdout=subprocess.DEVNULL,
            stderr=log,
            env=_environment(),
            cwd="/",
            start_new_session=True,
        )
    return process, ours


class RouterClient:
    """One router. Methods may be called from any thread; requests are made one after the other."""

    def __init__(self, name: str, rootless: bool, ids: SubordinateIds | None = None, start: Starter | None = None) -> None:
        """``name``: of this kernel's place; ``ids``: that an ordinary user has besides; ``start``: :func:`start_program`. Raises HostError, SetupError, InternalError."""
        if importlib.util.find_spec("pyroute2") is None:
            raise HostError("--net: networks need the Python package pyroute2", f"{sys.executable} -m pip install pyroute2")
        self._lock = threading.Lock()
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (open as long as the router lives)
        self._reader = FrameReader()
        self._asked = 0
        self._process, self._socket = (start or start_program)(name, rootless, self._log)
        self._socket.settimeout(ANSWER_SECONDS)
        self.userns_fd = -1
        """Of an ordinary user's router: the user namespace that its containers have to be below."""
        try:
            if rootless:
                self._map_ids(ids)
            self.way_out = str(self._answer()["way_out"])
            """``host``, or "": one has to be found."""
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, kind: str, fds: Sequence[int] = (), **content: Any) -> dict[str, Any]:
        """Raises what the router raised, or InternalError where it died."""
        with self._lock:
            self._asked += 1
            data = encode({"t": kind, "ask": self._asked, **content})
            sent = False
            try:
                first = socket.send_fds(self._socket, [data], list(fds)) if fds else 0
                self._socket.sendall(data[first:])
                sent = True
            except OSError:
                raise self._death() from None
            finally:
                if not sent:
                    self._process.kill()  # half a question: what came next would be taken for its rest
            return self._answer()

    def _answer(self) -> dict[str, Any]:
        """Of the last question: nobody may have waited for the one before, because of an interrupt or because it took too long."""
        while True:
            try:
                data = self._socket.recv(READ_BYTES)
            except TimeoutError:
                raise InternalError(f"the router did not answer within {ANSWER_SECONDS:.0f} s") from None
            except OSError:
                data = b""
            if not data:
                raise self._death()
            for message in self._reader.feed(data):
                if message.pop("ask", 0) != self._asked:
                    continue
                if message["t"] == "failed":
                    raise getattr(errors, message["kind"])(*message["arguments"])
                return message

    def _death(self) -> InternalError:
        """With its last words."""
        self._log.seek(0)
        words = self._log.read()[-2000:].decode("utf-8", "replace").strip().splitlines()
        return InternalError("the router of this kernel's networks ended, and its networks with it" + (f": {words[-1]}" if words else ""))

    def _map_ids(self, ids: SubordinateIds | None) -> None:
        """All ids of the user are themselves in the router's user namespace, so that containers' can be made of them below it."""
        self._answer()
        pid = self._process.pid
        try:
            if ids is not None:
                write_identity_maps(ids, pid, (os.geteuid(), os.getegid()))
            else:
                write_file(f"/proc/{pid}/setgroups", b"deny")
                for kind, own in (("uid", os.geteuid()), ("gid", os.getegid())):
                    write_file(f"/proc/{pid}/{kind}_map", b"%d %d 1\n" % (own, own))
            self.userns_fd = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
            self._socket.sendall(b"m")
        except OSError as error:
            raise SetupError("router's ids", error.errno or 0, str(error.filename or "")) from None

    def leave_to_parent(self) -> None:
        """In a forked process: let go, without ending anything."""
        self._socket.close()
        self._log.close()
        self._close_userns()

    def _close_userns(self) -> None:
        if self.userns_fd >= 0:
            os.close(self.userns_fd)
            self.userns_fd = -1

    def close(self) -> None:
        """End it, and all networks; returns when it is gone."""
        self._socket.close()
        self._close_userns()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name in ("XDG_RUNTIME_DIR", "HOME", "NBCONTAINER_NETWORK_POOL")}
    return {"PATH": _PATH, "LANG": "C.UTF-8", "PYTHONUTF8": "1", "PYTHONDONTWRITEBYTECODE": "1", **kept}
