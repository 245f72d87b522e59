"""The kernel's side of the virtual machine: guests, and which container runs in which one.

Guests are restored from one snapshot; which directories of the host a guest sees is fixed then, so that another set of
them is another guest.
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from dataclasses import replace
from typing import TYPE_CHECKING

from nbcontainer.engine import Networks, owners
from nbcontainer.engine.announce import announce
from nbcontainer.engine.single import Single
from nbcontainer.engine.transfer import Transfer
from nbcontainer.engine.vm import layout, qemu
from nbcontainer.engine.vm.guest import Guest
from nbcontainer.engine.vm.guestnetworks import GuestNetworks
from nbcontainer.engine.vm.hidden import HiddenFiles
from nbcontainer.engine.vm.kernelimage import find as find_kernel
from nbcontainer.engine.vm.publish import Publisher
from nbcontainer.engine.vm.run import VmRun
from nbcontainer.engine.vm.template import (
    BOOTED_BYTES,
    RESTORED_BYTES,
    Snapshot,
    Template,
    cache_directory,
    check_memory,
)
from nbcontainer.errors import HostError, InternalError, SpecError
from nbcontainer.ports import chosen
from nbcontainer.spec import ContainerSpec
from nbcontainer.state import ContainerRecord, KernelState
from nbcontainer.units import MIB, format_size, parse_number, parse_size
from nbcontainer.validate import make_spec

if TYPE_CHECKING:
    from nbcontainer.engine.vm.hostports import Listener

MEMORY_VARIABLE = "NBCONTAINER_VM_MEMORY"
CPUS_VARIABLE = "NBCONTAINER_VM_CPUS"
DEFAULT_MEMORY_MIB = 512
RESERVED_MIB = 128
"""What the guest's own Linux, its zygote and its file cache need."""
FIRST_TIME = "The virtual machine is started for the first time, which takes some seconds; later ones go on from what is written down then."
GUESTS = 3
"""Guests that are kept, each with its own set of directories; the one unused for longest goes first."""


def guest_memory_mib() -> int:
    """NBCONTAINER_VM_MEMORY, 512M where it is not set. Raises SpecError."""
    size = parse_size(os.environ.get(MEMORY_VARIABLE) or f"{DEFAULT_MEMORY_MIB}M", MEMORY_VARIABLE)
    if size < 256 * MIB:
        raise SpecError(f"{MEMORY_VARIABLE}: {format_size(size)} is too small; give at least 256M")
    return size // MIB


def guest_cpus() -> int:
    """NBCONTAINER_VM_CPUS, 1 where it is not set: emulated CPUs wait for each other so much that two make a cell slower.

    Raises SpecError.
    """
    return int(parse_number(os.environ.get(CPUS_VARIABLE) or 1, CPUS_VARIABLE, minimum=1, maximum=os.cpu_count() or 1, whole=True))


def make_template(kernel: str | None = None) -> Template:
    """The template for this Python on this machine, built or not. Raises HostError that says what is missing."""
    program = qemu.find()
    cache = cache_directory()
    return Template(cache, program, find_kernel(kernel, cache), guest_memory_mib(), guest_cpus())


class VmEngine:
    """One per kernel process."""

    name = "vm"

    def __init__(self) -> None:
        self._owner_pid = os.getpid()
        self.template = make_template()
        self._lock = threading.RLock()
        self._guests: OrderedDict[frozenset[tuple[str, bool]], Guest] = OrderedDict()
        self._hidden = HiddenFiles()
        self.state = KernelState()

    # ---- guests

    def _guest_for(self, spec: ContainerSpec) -> tuple[Guest, tuple[layout.Share, ...]]:
        sources = layout.wanted_sources(spec)
        shares = layout.shares_for(sources)
        with self._lock:
            self._drop_dead()
            for key, guest in list(self._guests.items()):
                if sources <= key and guest.responds():
                    self._guests.move_to_end(key)
                    return guest, layout.shares_for(key)
            self._drop_dead()  # those that did not respond
            while len(self._guests) >= GUESTS:
                idle = next((key for key, guest in self._guests.items() if not guest.busy), None)
                if idle is None:
                    break
                self._guests.pop(idle).close()
            guest = self._new_guest(shares)
            self._guests[sources] = guest
            return guest, shares

    def look_ahead(self) -> None:
        """Begin what the first guest would wait for, beside whatever the caller does meanwhile. Raises HostError."""
        with self._lock:
            self._hidden.look()

    def _drop_dead(self) -> None:
        for key in [key for key, guest in self._guests.items() if not guest.alive]:
            self._guests.pop(key).close()

    def _new_guest(self, shares: tuple[layout.Share, ...]) -> Guest:
        """From the snapshot; where that fails, from a new one; where that fails too, booted."""
        for share in shares:
            if not os.path.isdir(share.source):
                raise SpecError(f"--volume: {share.source} does not exist on this host any more")
        self._check_memory()  # before files are built, which may take some too
        self._hidden.look()
        for _ in range(2):
            snapshot = self.template.snapshot() or self._new_snapshot()
            if snapshot is None:
                break
            try:
                return self.template.restore(snapshot, shares, self._hidden.result)
            except InternalError:
                self.template.discard_snapshot()
        if not self.template.bootable:
            with self.template.locked():
                self.template.build_boot_files(_silent)
        return self.template.boot(shares, self._hidden.result)

    def _check_memory(self) -> None:
        """For another guest. Raises HostError."""
        check_memory(BOOTED_BYTES if self.template.snapshot() is None else RESTORED_BYTES)

    def _new_snapshot(self) -> Snapshot | None:
        """None where none can be written: guests boot then, which is slower and otherwise the same."""
        try:
            with self.template.locked():
                found = self.template.snapshot()
                if found is None:
                    announce(FIRST_TIME)
                    self.template.build_boot_files(_silent)
                    self.template.build_snapshot(_silent)
                    found = self.template.snapshot()
                return found
        except (HostError, InternalError):
            return None

    # ---- the Engine protocol

    @property
    def networks(self) -> Networks:
        return GuestNetworks(lambda: self._guest_for(self.fit(make_spec()))[0], list(self._guests.values()))

    def start(self, spec: ContainerSpec, code: str, transfer: Transfer | None = None) -> VmRun:
        spec = self.fit(spec)
        if transfer is not None:
            self._fit_variables(transfer)
        if not spec.ports:
            return self._start(spec, (), code, transfer)
        from nbcontainer.engine.vm import hostports

        listeners = hostports.bind(spec.ports)
        try:
            published = tuple(listener.port for listener in listeners)
            return self._start(spec.replace(ports=published, notes=(*spec.notes, *chosen(spec.ports, published))), listeners, code, transfer)
        except BaseException:
            for listener in listeners:
                listener.sock.close()
            raise

    def _start(self, spec: ContainerSpec, listeners: tuple[Listener, ...], code: str, transfer: Transfer | None) -> VmRun:
        guest, shares = self._guest_for(spec)
        run = guest.start(spec, layout.translate(spec, shares), code, self._ended, 0, transfer)
        if listeners:
            guest.publish(run, listeners)
        record = ContainerRecord(
            os.getpid(), run.container_id, spec.name or run.container_id, guest.process.pid, "running", time.time(),
            " ".join(spec.program) or "python", spec.limits.memory_bytes, cpus=spec.limits.cpus, ports=", ".join(map(str, spec.ports)),
            networks=spec.network_names, mounts=spec.mount_sources,
        )  # fmt: skip
        run.publisher = Publisher(self.state, record)
        return run

    def _fit_variables(self, transfer: Transfer) -> None:
        """They take the guest's memory besides the container's. Raises HostError."""
        room = (self.template.machine.memory_mib - RESERVED_MIB) * MIB // 2
        if transfer.input_bytes > room:
            wanted = 2 * -(-transfer.input_bytes // MIB) + RESERVED_MIB
            raise HostError(
                f"-i: {format_size(transfer.input_bytes)} of variables are more than the {format_size(room)} that the virtual machine can take",
                f"export {MEMORY_VARIABLE}={wanted}M before the notebook starts, or a file and -v",
            )

    def _ended(self, run: VmRun) -> None:
        if run.publisher is not None:
            run.publisher.close()

    def fit(self, spec: ContainerSpec) -> ContainerSpec:
        """Limits that the guest can hold. Raises HostError for a limit that it could not keep, or has no device for, and for owners of files."""
        limits = spec.limits
        if os.geteuid() == 0:  # another user's QEMU writes all files as that user
            owners.refuse_own_volumes(spec, "the virtual machine cannot map owners", "use --engine local, or ")
        room = (self.template.machine.memory_mib - RESERVED_MIB) * MIB
        if limits.io_read_bytes_per_second or limits.io_write_bytes_per_second:
            raise HostError(
                "--io-read, --io-write: the virtual machine has no disk; files are this host's, or in memory", "use --engine local, or leave the two options out"
            )
        cpus = self.template.machine.cpus
        if limits.cpuset is not None and (last := max(int(number) for number in limits.cpuset.replace("-", ",").split(","))) >= cpus:
            raise HostError(f"--cpuset: the virtual machine has no CPU {last}; it has 0-{cpus - 1}", f"export {CPUS_VARIABLE}={last + 1} before the notebook starts")
        if limits.memory_bytes is not None and limits.memory_bytes > room:
            if not spec.memory_by_default:
                wanted = -(-limits.memory_bytes // MIB) + RESERVED_MIB
                raise HostError(
                    f"--mem: {format_size(limits.memory_bytes)} is more than the {format_size(room)} that the virtual machine can give",
                    f"export {MEMORY_VARIABLE}={wanted}M before the notebook starts, or a smaller --mem",
                )
            spec = spec.replace(limits=replace(limits, memory_bytes=room), disk_bytes=min(spec.disk_bytes, room // 2))
        return spec

    def explain(self, spec: ContainerSpec) -> list[str]:
        spec = self.fit(spec)
        if not self._guests:
            self._check_memory()
        shares = layout.shares_for(layout.wanted_sources(spec))
        machine = self.template.machine
        lines = [f"[host]   {machine.qemu.program}: a guest of {machine.memory_mib} MiB and {machine.cpus} CPUs, by software emulation, restored from a snapshot"]
        lines += [f"[host]   9p {share.source}{' (read-only)' if share.read_only else ''}: in the guest at {share.target}" for share in shares]
        return [*lines, "[guest]  from here on as --engine local does it, with control groups version 2"]

    def memory_bytes(self) -> int:
        """Resident memory of the guest that was used last, as this host sees its QEMU; 0 where there is none."""
        import psutil

        with self._lock:
            guest = next(reversed(self._guests.values()), None)
        return int(psutil.Process(guest.process.pid).memory_info().rss) if guest is not None and guest.alive else 0

    def close(self) -> None:
        """End all guests, and with them all containers."""
        if os.getpid() != self._owner_pid:
            return
        with self._lock:
            while self._guests:
                self._guests.popitem()[1].close()
            self._hidden.close()
        self.state.close()


def _silent(text: str) -> None:
    """Building says what it does only where somebody watches."""


ENGINE = Single(VmEngine)
open_vm, shutdown = ENGINE.open, ENGINE.shutdown
