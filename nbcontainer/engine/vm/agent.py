"""The agent: runs the local engine in the guest, behind one stream. Started by guest init, never pid 1.

It has threads (one for each run, and the stream's reader); the zygote, which is a process of its own, has none.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import queue
import random
import select
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from typing import Any

from nbcontainer.cgroups.sampler import SAMPLER
from nbcontainer.engine import Run, memory
from nbcontainer.engine.changes import Change
from nbcontainer.engine.transfer import Transfer
from nbcontainer.engine.vm import wire
from nbcontainer.engine.vm.guestengine import GuestEngine
from nbcontainer.engine.vm.guesthelpers import ForkedRouter, ForkedZygote
from nbcontainer.engine.vm.guestports import GuestPorts
from nbcontainer.engine.vm.layout import CONFIG_PATH, PORT_PATH, SHARES_DIRECTORY, Share
from nbcontainer.engine.watch import ProcessRun
from nbcontainer.errors import InternalError, NbcontainerError, SpecError
from nbcontainer.events import Display, Event, Finished, Readings
from nbcontainer.linux import syscalls
from nbcontainer.runtime import bundle
from nbcontainer.runtime.protocol import FrameReader, ProtocolError, encode
from nbcontainer.runtime.search import Hidden
from nbcontainer.spec import ContainerSpec, Limits

READ_BYTES = 1 << 18
RNDADDENTROPY = 0x40085203
RNDRESEEDCRNG = 0x5207
NO_HOST_SECONDS = 0.002
SAMPLE_AFTER_SECONDS = 0.15
EARLY_SAMPLES_SECONDS = 0.025
"""The whole of a short cell takes as long here as ten on a host; so that charts show as much of it, and not more."""


class Port:
    """The virtio-serial port: frames in, frames out."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = threading.Lock()
        self._reader = FrameReader()

    def send(self, message: dict[str, Any]) -> None:
        data = memoryview(encode(message))
        with self._lock:
            while data:
                try:
                    data = data[os.write(self._fd, data) :]
                except BlockingIOError:
                    select.select([], [self._fd], [])

    def receive(self) -> list[dict[str, Any]]:
        """The messages of one read; [] while there is nobody at the other end."""
        data = os.read(self._fd, READ_BYTES)
        if not data:
            time.sleep(NO_HOST_SECONDS)  # poll(2) says POLLHUP at once, for as long as the host's end is closed
        return list(self._reader.feed(data))


class Agent:
    """Serves one stream."""

    def __init__(self, port: Port, engine: GuestEngine) -> None:
        self._port, self._engine = port, engine
        self._runs: dict[int, Run] = {}
        self._kept: dict[int, Run] = {}
        """Those whose files stay (--keep), until they are forgotten."""
        self._early: dict[int, list[str]] = {}
        self._inputs: dict[int, tuple[int, int]] = {}
        self._stamp = ""
        self._mounted = False
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._idle = 0
        self._ports = GuestPorts(port.send)
        self._lock = threading.Lock()

    def serve(self) -> None:
        while True:
            for message in self._port.receive():
                self._take(message)

    def _take(self, message: dict[str, Any]) -> None:
        kind = message["t"]
        if kind == "start":
            self._refresh(message["stamp"])
            self._begin(message, wire.spec_from_json(message["spec"]))
        elif kind == "expect":
            with self._lock:
                self._early[message["run"]] = []
        elif kind == "input":
            self._take_input(message)
        elif kind in ("interrupt", "kill"):
            self._tell_run(message["run"], kind)
        elif kind == "forget":
            self._forget(message["run"])
        elif kind == "line":
            self._answer_input(message)
        elif kind == "control":
            self._do(partial(self._control, message))
        elif kind == "network":
            self._do(partial(self._network, message))
        elif kind == "ping":
            self._port.send({"t": "pong", "ask": message["ask"]})
        elif kind == "stream":
            self._ports.take(message)
        elif kind == "resume":
            self._resume(message)
        elif kind == "hide":
            self._hide(message)
        elif kind == "settle":
            self._engine.settle()
            self._port.send({"t": "settled"})

    def _resume(self, message: dict[str, Any]) -> None:
        """What a restored guest lacks: the time, randomness of its own, and the shares."""
        time.clock_settime(time.CLOCK_REALTIME, message["unix_seconds"])
        seed = base64.b64decode(message["seed"])
        fd = os.open("/dev/urandom", os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(fd, RNDADDENTROPY, struct.pack("ii", len(seed) * 8, len(seed)) + seed)
            fcntl.ioctl(fd, RNDRESEEDCRNG)
        finally:
            os.close(fd)
        random.seed()
        with self._saying_what_breaks():
            self._engine.wait()
            for plain in message["shares"]:
                _mount_share(Share(**plain))
            bundle.remove()  # not before: without the shares, most modules have no files here
            self._mounted = True

    def _hide(self, message: dict[str, Any]) -> None:
        """The last step before containers: without it, there are none."""
        if not self._mounted:
            return  # it was said why
        with self._saying_what_breaks():
            self._engine.hide(Hidden(tuple(message["files"]), tuple(message["directories"])))
            self._engine.resumed()
            self._port.send({"t": "hello", "monotonic_seconds": time.monotonic(), "release": os.uname().release})

    @contextlib.contextmanager
    def _saying_what_breaks(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._port.send({"t": "broken", "why": f"{error.filename}: {error.strerror}"})
        except NbcontainerError as error:
            self._port.send({"t": "broken", "why": str(error)})

    def _refresh(self, stamp: str) -> None:
        """The host changed its packages: forget what was cached of the shares."""
        if self._stamp and stamp != self._stamp:
            fd = os.open("/proc/sys/vm/drop_caches", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, b"3")
            finally:
                os.close(fd)
        self._stamp = stamp

    # ---- runs

    def _begin(self, message: dict[str, Any], spec: ContainerSpec) -> None:
        number = message["run"]
        with self._lock:
            self._early.setdefault(number, [])
        transfer = None
        variables = message.get("transfer")
        if variables is not None:
            transfer = Transfer(tuple(variables["outputs"]), lenient=variables["lenient"])
            transfer.input_fd, transfer.input_bytes = self._inputs.pop(number, (-1, 0))
        self._do(partial(self._run, number, spec, message["code"], message["within"], transfer, message["published"]))

    def _take_input(self, message: dict[str, Any]) -> None:
        size, offset, data = wire.piece_from_json(message)
        if message["run"] not in self._inputs:
            self._inputs[message["run"]] = memory.allocate(size, reserve=False), size
        fd, _ = self._inputs[message["run"]]
        view = memoryview(data)
        while view:
            written = os.pwrite(fd, view, offset)
            view, offset = view[written:], offset + written

    def _do(self, job: Callable[[], None]) -> None:
        """In a thread that waits already, where there is one: starting one takes milliseconds here."""
        with self._lock:
            if self._idle == 0:
                threading.Thread(target=self._work, daemon=True).start()
            else:
                self._idle -= 1
        self._jobs.put(job)

    def _work(self) -> None:
        while True:
            self._jobs.get()()
            with self._lock:
                self._idle += 1

    def _control(self, message: dict[str, Any]) -> None:
        number, what = message["run"], message["what"]
        run = self._runs.get(number) or (self._kept.get(number) if what == "diff" else None)
        answer: Limits | Readings | list[Change] | NbcontainerError | None = None
        try:
            if run is None:
                raise SpecError(f"{'stats' if what == 'readings' else what}: the container has ended")
            if what == "update":
                answer = run.update(**message["changes"])
            elif what == "readings":
                answer = run.readings()
            elif what == "diff":
                answer = run.changes()
            elif what == "signal":
                run.signal(message["changes"]["number"])
            else:
                (run.pause if what == "pause" else run.resume)()
        except NbcontainerError as error:
            answer = error
        except Exception as error:  # the kernel's side would wait for ever
            answer = InternalError(f"in the guest: {error!r}")
        self._port.send(wire.answer_to_json(number, message["ask"], answer))

    def _start(self, spec: ContainerSpec, code: str, within: int, transfer: Transfer | None) -> Run:
        if not within:
            return self._engine.start(spec, code, transfer)
        with self._lock:
            container = self._runs.get(within)
        if container is None:
            raise SpecError("exec: the container has ended")
        return container.within(spec, code, transfer)

    def _network(self, message: dict[str, Any]) -> None:
        networks = self._engine.networks
        verbs: dict[str, Callable[..., Any]] = {"create": networks.create, "list": networks.list, "inspect": networks.inspect, "remove": networks.remove}
        answer: dict[str, Any] = {"t": "networked", "ask": message["ask"]}
        try:
            result = verbs[message["what"]](**message["arguments"])
            answer["result"] = [asdict(item) for item in result] if isinstance(result, tuple) else asdict(result) if result is not None else None
        except NbcontainerError as error:
            answer |= wire.error_to_json(0, error) | {"t": "networked"}
        except Exception as error:  # the kernel's side would wait for ever
            answer |= wire.error_to_json(0, InternalError(f"in the guest: {error!r}")) | {"t": "networked"}
        self._port.send(answer)

    def _run(self, number: int, spec: ContainerSpec, code: str, within: int, transfer: Transfer | None, published: bool) -> None:
        try:
            run = self._start(spec, code, within, transfer)
            if published:
                self._ports.begin(number, run, self._engine.networks)
            with self._lock:
                self._runs[number] = run
                if spec.keep:
                    self._kept[number] = run
                early = self._early.pop(number, [])
            for what in early:
                _apply(run, what)
            with contextlib.closing(run.events()) as events:
                for event in events:
                    if isinstance(event, Finished) and transfer is not None:
                        self._send_values(number, transfer)
                    self._send_event(number, event)
        except NbcontainerError as error:
            self._port.send(wire.error_to_json(number, error))
        except Exception as error:  # the kernel's side would wait for ever
            self._port.send(wire.error_to_json(number, InternalError(f"in the guest: {error!r}")))
        finally:
            with self._lock:
                self._runs.pop(number, None)
                self._early.pop(number, None)
            if published:
                self._ports.end(number)
            if transfer is not None:
                transfer.close()

    def _send_values(self, number: int, transfer: Transfer) -> None:
        values = transfer.take()
        if values is not None:
            for piece in wire.pieces_to_json("values", number, values.nbytes, lambda size, offset: values[offset : offset + size]):
                self._port.send(piece)

    def _send_event(self, number: int, event: Event) -> None:
        try:
            self._port.send(wire.event_to_json(number, event))
        except ProtocolError as error:
            # What fits into a frame of the container's may be too large for one of ours.
            self._port.send(wire.event_to_json(number, Display("display", {"text/plain": f"[not shown: {error}]"})))

    def _answer_input(self, message: dict[str, Any]) -> None:
        with self._lock:
            run = self._runs.get(message["run"])
        if run is not None:
            run.answer_input(message["line"], message["why"])

    def _forget(self, number: int) -> None:
        with self._lock:
            run = self._kept.pop(number, None)
            self._early.pop(number, None)
        if number in self._inputs:  # they were broken off
            os.close(self._inputs.pop(number)[0])
        if run is not None:
            run.forget()

    def _tell_run(self, number: int, what: str) -> None:
        with self._lock:
            run = self._runs.get(number)
            if run is None:
                if number in self._early:
                    self._early[number].append(what)
                return
        _apply(run, what)


def _apply(run: Run, what: str) -> None:
    if what == "interrupt":
        run.interrupt()
    else:
        run.kill()


def _mount_share(share: Share) -> None:
    os.makedirs(share.target, exist_ok=True)
    flags = syscalls.MS_NOSUID | syscalls.MS_NODEV | (syscalls.MS_RDONLY if share.read_only else 0)
    cache = "loose" if share.cached else "mmap"
    syscalls.mount(share.tag, share.target, "9p", flags, f"trans=virtio,version=9p2000.L,msize=512000,cache={cache}")


def _open_port() -> int:
    deadline = time.monotonic() + 20
    while True:
        try:
            return os.open(PORT_PATH, os.O_RDWR | os.O_CLOEXEC | os.O_NOCTTY)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(NO_HOST_SECONDS)  # udev is not here to tell when the driver has found its device


def main(zygote: ForkedZygote, router: ForkedRouter) -> None:
    with open(CONFIG_PATH, encoding="utf-8") as file:
        config = json.load(file)
    os.makedirs(SHARES_DIRECTORY, exist_ok=True)
    for path in config["branches"]:
        os.makedirs(path, exist_ok=True)
    ProcessRun.sample_after_seconds = SAMPLE_AFTER_SECONDS
    SAMPLER.early_interval_seconds = EARLY_SAMPLES_SECONDS
    port = Port(_open_port())
    engine = GuestEngine(config["branches"], zygote, router)
    agent = Agent(port, engine)
    port.send({"t": "hello", "monotonic_seconds": time.monotonic(), "release": os.uname().release})
    agent.serve()
