"""The router: a helper process, one per kernel that has containers on a network. It holds the network namespace with the bridges.

One thread does everything, in the router's namespace; another, ``host``, stays in the host's and makes sockets there. The process
ends with its kernel, and everything goes with it.
"""

from __future__ import annotations

import asyncio
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from nbcontainer.errors import NbcontainerError
from nbcontainer.linux import syscalls
from nbcontainer.network.netlink import Netlink
from nbcontainer.network.networks import Router
from nbcontainer.runtime.protocol import FrameReader, encode

MAX_DESCRIPTORS = 8
READ_BYTES = 1 << 16


async def _serve(control: socket.socket, kernel_pidfd: int, router: Router) -> None:
    loop = asyncio.get_running_loop()
    over: asyncio.Future[None] = loop.create_future()
    pending: asyncio.Queue[tuple[dict[str, Any], list[int]]] = asyncio.Queue()
    reader, received = FrameReader(), []

    def end(*unused: object) -> None:
        if not over.done():
            over.set_result(None)

    def take() -> None:
        try:
            data, fds, _, _ = socket.recv_fds(control, READ_BYTES, MAX_DESCRIPTORS)
        except BlockingIOError:
            return
        except OSError:
            data, fds = b"", []
        if not data:
            end()
        received.extend(fds)
        for message in reader.feed(data):
            # Linux gives the descriptors of one message together with what was sent before it.
            count = 1 if message["t"] == "attach" else 0
            pending.put_nowait((message, received[:count]))
            del received[:count]

    control.setblocking(False)
    loop.add_reader(control, take)
    # Not only the end of file: whoever the kernel forked may hold the other end too.
    loop.add_reader(kernel_pidfd, end)
    work = loop.create_task(_work(control, router, pending))
    work.add_done_callback(end)
    await over
    router.close()


async def _work(control: socket.socket, router: Router, pending: asyncio.Queue[tuple[dict[str, Any], list[int]]]) -> None:
    loop = asyncio.get_running_loop()
    first: dict[str, Any] = {"t": "done"}
    try:
        await router.start()
        first["way_out"] = router.way_out
    except NbcontainerError as error:
        first = {"t": "failed", "kind": type(error).__name__, "arguments": list(error.args)}
    except OSError as error:
        first = {"t": "failed", "kind": "SetupError", "arguments": ["router", error.errno or 0, str(error.filename or error.strerror or ""), ""]}
    await loop.sock_sendall(control, encode(first))
    while True:
        message, fds = await pending.get()
        reply = {**await router.answer(message, fds), "ask": message["ask"]}
        for fd in fds:
            os.close(fd)
        await loop.sock_sendall(control, encode(reply))


def main(name: str, rootless: bool, kernel_pid: int) -> None:
    """Serve on descriptor 0, a socket from the kernel. ``name``: of the kernel's place, for what the host gets to see."""
    control = socket.socket(fileno=os.dup(0))
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    os.close(null)
    kernel_pidfd = os.pidfd_open(kernel_pid)
    if os.getppid() != kernel_pid:
        raise SystemExit("the kernel ended before its router began")
    if rootless:
        syscalls.unshare(syscalls.CLONE_NEWUSER)
        control.sendall(encode({"t": "unshared"}))
        if control.recv(1) != b"m":
            raise SystemExit("the kernel ended before its router began")
    host = Netlink()
    host_thread = ThreadPoolExecutor(1, "host")
    host_thread.submit(int).result()  # it has to be there before this thread leaves the host's namespace
    syscalls.unshare(syscalls.CLONE_NEWNET)
    asyncio.run(_serve(control, kernel_pidfd, Router(name, rootless, host, host_thread)))
    os._exit(0)
