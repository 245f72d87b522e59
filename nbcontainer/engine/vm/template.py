"""The cache: what a guest boots from, and a snapshot of one that is warm, from which all others are restored.

    CACHE/kernels/PACKAGE/          kernel packages that were downloaded
    CACHE/KEY/boot.json             kernel and initramfs are complete
    CACHE/KEY/snapshot.json         names the memory file and the device state beside it

KEY stands for everything that goes into a guest. Files are written under other names and renamed when they are whole,
and only then does the JSON name them: whoever is interrupted, nothing half is ever used. Restored guests map the memory
file copy-on-write, so any number of them share it, and nobody writes to it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import importlib.metadata
import json
import os
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from nbcontainer.cgroups.headroom import memory_left_bytes
from nbcontainer.engine.vm import qemu, ramdisk
from nbcontainer.engine.vm.guest import Guest
from nbcontainer.engine.vm.kernelimage import KernelImage
from nbcontainer.engine.vm.layout import SLOTS, Share, base_directories
from nbcontainer.engine.vm.qmp import Qmp
from nbcontainer.engine.vm.unpack import BzImage, stand_in_kernel
from nbcontainer.errors import HostError, InternalError
from nbcontainer.runtime.search import Hidden

CACHE_VARIABLE = "NBCONTAINER_VM_CACHE"
BOOT_SECONDS = 120.0
RESTORE_SECONDS = 20.0
UNUSED_SECONDS = 7 * 86400.0
FREE_BYTES = 64 << 20
"""What must be left on the disk beside the memory file, for everybody else."""
RESTORED_BYTES, BOOTED_BYTES = 192 << 20, 384 << 20
"""What a guest takes of the caller's memory before its first cell, from a snapshot and without one."""
Tell = Callable[[str], None]


def check_memory(needed_bytes: int) -> None:
    """Raises HostError where Linux would kill QEMU, or the notebook's kernel for its sake."""
    left = memory_left_bytes()
    if left is not None and left < needed_bytes:
        raise HostError(
            f"the virtual machine takes {needed_bytes >> 20} MiB of memory before its first cell, and this kernel's limit leaves {left >> 20} MiB",
            "give the kernel or its server more memory" + ("; with a snapshot, which nbcontainer vm setup makes where there is more, it takes less" if needed_bytes == BOOTED_BYTES else ""),
        )


def cache_directory() -> Path:
    """$NBCONTAINER_VM_CACHE, else below XDG_CACHE_HOME or ~/.cache; made when missing. Raises HostError."""
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen:
        path = Path(chosen)
    else:
        base = os.environ.get("XDG_CACHE_HOME")
        path = (Path(base) if base else Path.home() / ".cache") / "nbcontainer" / "vm"
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise HostError(f"no place for the virtual machine's files: {path}: {error.strerror}", f"export {CACHE_VARIABLE}=DIRECTORY") from None
    return path


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A warm guest on disk; times and sizes are those of the files when it was made."""

    memory: str
    device: str
    memory_bytes: int
    memory_modified_ns: int
    device_sha256: str


class Template:
    """One KEY of the cache."""

    def __init__(self, cache: Path, program: qemu.Qemu, kernel: KernelImage, memory_mib: int, cpus: int) -> None:
        self._kernel = kernel
        key = _key(program, kernel, memory_mib, cpus)
        self.directory = cache / key
        self._lock_path = cache / "lock"
        self.machine = qemu.Machine(program, self.directory / "linux", self.directory / "initramfs", memory_mib, cpus)

    # ---- the state of the cache

    @property
    def bootable(self) -> bool:
        return (self.directory / "boot.json").exists()

    def snapshot(self) -> Snapshot | None:
        """The snapshot, if it is there and its files are as they were written."""
        try:
            found = Snapshot(**json.loads((self.directory / "snapshot.json").read_bytes()))
            status = os.stat(self.directory / found.memory)
            device = (self.directory / found.device).read_bytes()
        except (OSError, ValueError, TypeError):
            return None
        whole = (status.st_size, status.st_mtime_ns) == (found.memory_bytes, found.memory_modified_ns)
        return found if whole and hashlib.sha256(device).hexdigest() == found.device_sha256 else None

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """One builder at a time; the others wait, and find it done."""
        try:
            fd = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            if error.errno == errno.EROFS and self.snapshot() is not None:
                # A whole kernel in a container, which has the host's cache as a read-only volume: nobody builds in here.
                yield
                return
            raise HostError(f"{self._lock_path} cannot be written: {error.strerror}", f"export {CACHE_VARIABLE}=DIRECTORY") from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    # ---- building

    def build_boot_files(self, tell: Tell, *, force: bool = False) -> None:
        """Kernel and initramfs. Raises HostError."""
        if self.bootable and not force:
            return
        work = self.directory.with_name(f"{self.directory.name}.tmp-{secrets.token_hex(4)}")
        stack = contextlib.ExitStack()
        try:
            work.mkdir(mode=0o700)
            (work / "empty").mkdir(mode=0o755)
            tracer = stack.enter_context(contextlib.closing(ramdisk.Trace()))
            tell(f"unpacking Linux {self._kernel.release}")
            image = BzImage.read(self._kernel.image)
            starts_elf = self.machine.qemu.starts_elf
            (work / "linux").write_bytes(image.vmlinux() if starts_elf else self._kernel.image.read_bytes())
            (work / "stand-in").write_bytes(stand_in_kernel() if starts_elf else image.head)
            (work / "no-initramfs").write_bytes(bytes(4))
            tell("packing the initramfs: this Python, and what a container needs of it")
            with open(work / "initramfs", "xb") as file:
                ramdisk.build(file, self._kernel, tracer=tracer)
            (work / "boot.json").write_text(json.dumps({"release": self._kernel.release, "origin": self._kernel.origin}))
            shutil.rmtree(self.directory, ignore_errors=True)
            os.rename(work, self.directory)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise HostError(f"the virtual machine's files cannot be written to {self.directory.parent}: {reason}", f"make room there, or: export {CACHE_VARIABLE}=DIRECTORY") from None
        finally:
            stack.close()
            shutil.rmtree(work, ignore_errors=True)

    def build_snapshot(self, tell: Tell) -> None:
        """Boot a guest, warm it up, and write it down. Raises InternalError, HostError."""
        name = secrets.token_hex(4)
        memory, device = self.directory / f"memory-{name}", self.directory / f"device-{name}"
        size = self.machine.memory_mib << 20
        try:
            free = shutil.disk_usage(self.directory).free
            if free < size + FREE_BYTES:
                raise HostError(f"{self.directory} has {free >> 20} MiB free, and a snapshot needs up to {(size + FREE_BYTES) >> 20}", "make room there")
            tell("starting the virtual machine for the first time")
            # Not in the file itself: to touch the pages of a file on a disk for the first time costs most of a second more.
            ram = os.memfd_create("guest")
            try:
                os.ftruncate(ram, size)
                guest = self._boot(f"memory-backend-file,id=ram,size={size},mem-path=/proc/self/fd/{ram},share=on", (), ram)
                try:
                    guest.settle(BOOT_SECONDS)
                    tell("writing the snapshot")
                    with open(device, "xb") as file:
                        qmp = Qmp(guest.process.control)
                        qmp.save("snapshot", file.fileno(), BOOT_SECONDS)
                finally:
                    guest.close()
                _copy_sparse(ram, memory)
            finally:
                os.close(ram)
            self._publish(memory, device)
        except OSError as error:
            raise InternalError(f"the snapshot could not be written: {error.strerror}") from None
        finally:
            self._remove_others(self.snapshot())

    def _publish(self, memory: Path, device: Path) -> None:
        for path in (memory, device):
            with open(path, "rb") as file:
                # A power failure must not leave a name for what never reached the disk.
                os.fsync(file.fileno())
        status = memory.stat()
        digest = hashlib.sha256(device.read_bytes()).hexdigest()
        found = Snapshot(memory.name, device.name, status.st_size, status.st_mtime_ns, digest)
        temporary = self.directory / f"snapshot.tmp-{memory.name}"
        temporary.write_text(json.dumps(asdict(found)))
        os.rename(temporary, self.directory / "snapshot.json")

    def _remove_others(self, current: Snapshot | None) -> None:
        keep = {current.memory, current.device} if current else set()
        for path in [*self.directory.glob("memory-*"), *self.directory.glob("device-*"), *self.directory.glob("snapshot.tmp-*")]:
            if path.name not in keep:
                path.unlink(missing_ok=True)

    def discard_snapshot(self) -> None:
        with contextlib.suppress(OSError):
            (self.directory / "snapshot.json").unlink()

    def remove_old(self) -> None:
        """What other versions have left and nobody has used for a week."""
        for path in self.directory.parent.iterdir():
            old = path.is_dir() and path.name != "kernels" and path != self.directory
            if old and time.time() - path.stat().st_mtime > UNUSED_SECONDS:
                shutil.rmtree(path, ignore_errors=True)

    # ---- starting guests

    def _boot(self, backend: str, shares: tuple[Share, ...], *inherited: int) -> Guest:
        check_memory(BOOTED_BYTES)
        guest = Guest(qemu.Process(self.machine, backend, self._share_arguments(shares), inherited=inherited))
        try:
            guest.await_hello(BOOT_SECONDS)
        except BaseException:
            guest.close()
            raise
        return guest

    def _share_arguments(self, shares: tuple[Share, ...]) -> list[str]:
        return qemu.share_arguments(shares, str(self.directory / "empty"))

    def boot(self, shares: tuple[Share, ...], hidden: Callable[[], Hidden]) -> Guest:
        """The slow way, in memory of its own. Raises InternalError, HostError."""
        guest = self._boot(f"memory-backend-ram,id=ram,size={self.machine.memory_mib}M", shares)
        return _resumed(guest, shares, hidden, BOOT_SECONDS)

    @contextlib.contextmanager
    def _memory(self, snapshot: Snapshot) -> Iterator[tuple[str, tuple[int, ...]]]:
        """(-object, descriptors that QEMU needs for it) of a guest's memory. Raises HostError, OSError."""
        path, size = self.directory / snapshot.memory, self.machine.memory_mib << 20
        backend = f"memory-backend-file,id=ram,size={size}"
        if os.access(path, os.W_OK):
            check_memory(RESTORED_BYTES)
            yield f"{backend},mem-path={qemu.quoted(str(path))},share=off", ()
            return
        # QEMU before 8.2 opens it for writing, though it never writes: what cannot be written to, such as on a read-only volume, is copied.
        check_memory(RESTORED_BYTES + path.stat().st_blocks * 512)
        ram = os.memfd_create("guest")
        try:
            with open(path, "rb") as file:
                _copy_sparse(file.fileno(), Path(f"/proc/self/fd/{ram}"))
            yield f"{backend},mem-path=/proc/self/fd/{ram},share=on", (ram,)
        finally:
            os.close(ram)

    def restore(self, snapshot: Snapshot, shares: tuple[Share, ...], hidden: Callable[[], Hidden]) -> Guest:
        """A new guest from the snapshot. Raises InternalError, HostError."""
        try:
            with open(self.directory / snapshot.device, "rb") as device, self._memory(snapshot) as (backend, inherited):
                machine = replace(self.machine, kernel=self.directory / "stand-in", initramfs=self.directory / "no-initramfs")
                process = qemu.Process(machine, backend, self._share_arguments(shares), incoming=device.fileno(), inherited=inherited)
                guest = Guest(process)
                try:
                    Qmp(process.control).load(device.fileno())
                except BaseException:
                    guest.close()
                    raise
            with contextlib.suppress(OSError):
                os.utime(self.directory)  # it is in use
        except OSError as error:
            raise InternalError(f"the snapshot cannot be read: {error.strerror}") from None
        return _resumed(guest, shares, hidden, RESTORE_SECONDS)


def _copy_sparse(source: int, target: Path) -> None:
    """What was never written to is a hole. Raises OSError, such as for a full disk."""
    size = os.fstat(source).st_size
    with open(target, "wb", buffering=0) as file:
        os.ftruncate(file.fileno(), size)
        position = 0
        while position < size:
            try:
                begin = os.lseek(source, position, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return  # nothing but a hole is left
                raise
            position = os.lseek(source, begin, os.SEEK_HOLE)
            file.seek(begin)
            while begin < position:
                begin += os.sendfile(file.fileno(), source, begin, position - begin)


def _resumed(guest: Guest, shares: tuple[Share, ...], hidden: Callable[[], Hidden], timeout_seconds: float) -> Guest:
    try:
        guest.resume(shares, hidden, timeout_seconds)
    except BaseException:
        guest.close()
        raise
    return guest


def _key(program: qemu.Qemu, kernel: KernelImage, memory_mib: int, cpus: int) -> str:
    parts = [program.version, str(program.starts_elf), qemu.command_line(cpus), qemu.CPU, str(SLOTS), str(memory_mib), str(cpus), sys.version, sys.executable]
    parts += [*kernel.identity(), *base_directories()]
    parts += [f"{name} {importlib.metadata.version(name)}" for name in ("ipython", "traitlets")]
    for path, relative in ramdisk.sources():
        status = path.stat()
        parts.append(f"{relative} {status.st_size} {status.st_mtime_ns}")
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
