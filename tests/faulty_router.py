"""A router of which one request to Linux fails, once: a program for tests, see :func:`starter`."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from nbcontainer.network.lean import import_router

FAULTS: Any = None
"""The file that says which request fails, counted from 0 over all sockets, and how, and which fault of the test it is: ``3 12 1``. It is gone as soon as that has happened."""


def starter(faults: Path) -> Callable[[str, bool, IO[bytes]], tuple[subprocess.Popen[bytes], socket.socket]]:
    """What :data:`nbcontainer.network.client.Starter` wants."""

    def start(name: str, rootless: bool, log: IO[bytes]) -> tuple[subprocess.Popen[bytes], socket.socket]:
        ours, theirs = socket.socketpair()
        here = Path(__file__).resolve()
        paths = [str(here.parents[1]), str(here.parent)]
        code = f"import sys; sys.path[:0] = {paths!r}; import faulty_router; faulty_router.main({str(faults)!r}, {name!r}, {rootless!r}, {os.getpid()})"
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-P", "-c", code], stdin=theirs.fileno(), stdout=subprocess.DEVNULL, stderr=log, cwd="/", start_new_session=True
            )
        return process, ours

    return start


def main(faults: str, name: str, rootless: bool, kernel_pid: int) -> None:
    global FAULTS
    FAULTS = Path(faults)
    router = import_router()
    from nbcontainer.network.netlink import Netlink

    ask, transact, dump = Netlink.ask, Netlink.transact, Netlink.dump

    def failing_ask(self: Any, *requests: bytes) -> None:
        for index in range(len(requests)):
            number = _failure()
            if number:
                # As Linux does it: what comes before and after is done.
                with contextlib.suppress(OSError):
                    ask(self, *requests[:index], *requests[index + 1 :])
                raise _refusal(index, number)
        ask(self, *requests)

    def failing_transact(self: Any, *requests: bytes) -> None:
        number = _failure()
        if number:
            raise _refusal(0, number)
        transact(self, *requests)

    def failing_dump(self: Any, *arguments: Any, **fields: Any) -> Any:
        number = _failure()
        if number:
            raise _refusal(0, number)
        return dump(self, *arguments, **fields)

    Netlink.ask, Netlink.transact, Netlink.dump = failing_ask, failing_transact, failing_dump  # type: ignore[method-assign]
    router.main(name, rootless, kernel_pid)


_plan: tuple[str, int] = "", 0
"""What the file said, and how many requests there have been since."""


def _refusal(index: int, number: int) -> OSError:
    from nbcontainer.network.netlink import NetlinkError

    return NetlinkError(index, number, "")


def _failure() -> int:
    """The errno of the request that comes now; 0: it does not fail."""
    global _plan
    try:
        text = FAULTS.read_text()
    except FileNotFoundError:
        return 0
    count = _plan[1] if _plan[0] == text else 0
    _plan = text, count + 1
    wanted, number, _ = map(int, text.split())
    if count < wanted:
        return 0
    FAULTS.unlink()
    return int(number)
