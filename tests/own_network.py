"""Run a command as root of a host of its own: ``own_network.py COMMAND...``, in a new network namespace with a loopback, a link to
another machine (203.0.113.2, which tells who asks at port 9100) and a default route by it, and /dev/net/tun for everybody, as udev has
it. The machine ends with the command."""

from __future__ import annotations

import os
import select
import socket
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)]

import hostnet  # noqa: E402
from pyroute2 import IPRoute  # noqa: E402

from nbcontainer.linux import syscalls  # noqa: E402
from nbcontainer.network import tun  # noqa: E402

HOST, OUTSIDE, PORT = "203.0.113.1", "203.0.113.2", 9100


def main() -> None:
    hostnet.leave_real_host()
    if not tun.everybody_may_open_it():
        tun.give_to_everybody()
    ready, made, command = os.pipe(), os.pipe(), os.pidfd_open(os.getpid())
    outside = os.fork()
    if outside == 0:
        syscalls.unshare(syscalls.CLONE_NEWNET)
        hostnet.set_up("lo")
        os.write(ready[1], b"r")
        os.read(made[0], 1)
        with IPRoute() as route:
            _configure(route, "in0", OUTSIDE)
        server = socket.create_server((OUTSIDE, PORT))
        os.write(ready[1], b"s")
        while True:
            # Not by the parent-death signal: the command may be another user's, who may not end this.
            if command in select.select([server, command], [], [])[0]:
                os._exit(0)
            client, peer = server.accept()
            with client:
                client.sendall(peer[0].encode())
    os.read(ready[0], 1)
    with IPRoute() as route:
        route.link("add", ifname="out0", kind="veth", peer={"ifname": "in0", "net_ns_fd": f"/proc/{outside}/ns/net"})
        _configure(route, "out0", HOST)
        route.route("add", dst="default", gateway=OUTSIDE)
    os.write(made[1], b"m")
    os.read(ready[0], 1)
    os.execvp(sys.argv[1], sys.argv[1:])


def _configure(route: IPRoute, name: str, address: str) -> None:
    (index,) = route.link_lookup(ifname=name)
    route.addr("add", index=index, address=address, prefixlen=24)
    route.link("set", index=index, state="up")


if __name__ == "__main__":
    main()
