"""Published ports, inside the guest: the agent connects to the containers, for whoever connects on the host."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from nbcontainer.engine import Networks, Run
from nbcontainer.engine.vm.tunnel import Stream, Tunnel, connect


class GuestPorts(Tunnel):
    """The guest's end. It trusts the host's."""

    def __init__(self, send: Callable[[dict[str, Any]], None]) -> None:
        self._addresses: dict[int, str] = {}
        super().__init__(send, _give_up)

    def begin(self, number: int, run: Run, networks: Networks) -> None:
        """Connections to the container of ``run`` may come. To be said before the host hears that it runs. Raises what the networks raise."""
        first = next(network for network in networks.list() if network.name == run.spec.networks[0])
        self.do(partial(self._addresses.__setitem__, number, first.containers[run.container_id]))

    def end(self, run: int) -> None:
        """It has ended; what it has sent is still passed on."""
        self.do(partial(self._end, run))

    def take(self, message: Mapping[str, Any]) -> None:
        if message["what"] == "open":
            self.do(partial(self._open, message["stream"], message["run"], message["port"], message["protocol"] == "udp"))
        else:
            super().take(message)

    def _open(self, number: int, run: int, port: int, datagrams: bool) -> None:
        try:
            sock, connecting = connect((self._addresses[run], port), datagrams=datagrams)
        except (KeyError, OSError):  # it has ended
            self._send({"t": "stream", "stream": number, "what": "close"})
            return
        self._add(Stream(number, run, sock, datagrams, connecting=connecting))

    def _end(self, run: int) -> None:
        self._addresses.pop(run, None)
        for stream in self._of_run(run):
            stream.pending.clear()
            stream.draining = True
            self._read(stream)


def _give_up(why: str) -> None:
    os.write(2, why.encode() + b"\n")
    os._exit(1)
