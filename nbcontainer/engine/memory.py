"""Memory that the kernel shares with a container for variables, and copying out of it.

Small: a sealed memfd. Large, as root: an unnamed file on a detached tmpfs with huge pages. That is five to six times as fast to fill
(8, 64 and 256 MiB, 40 interleaved pairs of each: median ratios 5.3 to 6.2) and 1.2 to 1.3 times as fast to map and read; beside programs that
keep all memory busy, the gain was gone at times. A memfd has huge pages only where the whole machine is set up for it: shmem_enabled is
``never`` by default, whatever madvise says; MFD_HUGETLB takes pages that were reserved, of which there are none; MADV_COLLAPSE answers
EINVAL, tried on 6.18. Such a file cannot be sealed. So what a container has written to is mapped only where it is certain that nobody else has it any more: Linux grants a lease for writing, which it does only where no other
open file leads there, be it mapped, passed on or under way (the container gets an open file of its own for that reason); or, of a
memfd, the seal against writing. Else it is read with preadv, which a container that cuts the file off can only make shorter. A lease does not see who has the file by
O_PATH, and could open it anew: that takes the file's owner, who is nobody in a user namespace. Where a container has none of its own, a
memfd it is.

The kernel fills or reserves every page itself, so that they are charged to the kernel and not to the container's limit.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import threading

from nbcontainer.linux import syscalls

HUGE_FROM_BYTES = 4 << 20
READ_BYTES = 16 << 20


def allocate(size_bytes: int, *, reserve: bool, sealable: bool = False) -> int:
    """A file of this size for one container; ``reserve``: its pages are there already. Raises OSError where there is no room.

    ``sealable``: the container's root is this process's user.
    """
    fd = _on_huge_pages(size_bytes) if size_bytes >= HUGE_FROM_BYTES and not sealable else -1
    if fd < 0:
        fd = os.memfd_create("variables", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size_bytes)
        if reserve and size_bytes:
            os.posix_fallocate(fd, 0, size_bytes)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _on_huge_pages(size_bytes: int) -> int:
    """-1 where this process may not mount."""
    try:
        mount_fd = syscalls.new_filesystem("tmpfs", (("huge", "within_size"), ("size", str(size_bytes + (4 << 20))), ("mode", "700")))
    except OSError:
        return -1
    try:
        return os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=mount_fd)
    except OSError:
        return -1
    finally:
        os.close(mount_fd)


def finish(fd: int) -> int:
    """What was written is final: the descriptor that a container may have (``fd`` itself, sealed, or one that cannot write)."""
    if _seal(fd, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL):
        return fd
    try:
        return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(fd)


def lend(fd: int) -> int:
    """An open file of the container's own, to write to; where it can be sealed, it can neither shrink nor grow."""
    _seal(fd, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    return os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_CLOEXEC)


def _seal(fd: int, seals: int) -> bool:
    try:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    except OSError:
        return False
    return True


def take_back(fd: int, size_bytes: int) -> memoryview:
    """What a container has written, as private memory: mapped where nobody else has it any more, else copied."""
    if size_bytes >= HUGE_FROM_BYTES and _is_ours_alone(fd, size_bytes):
        return memoryview(mmap.mmap(fd, size_bytes, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE))
    return copy_out(fd, size_bytes)


def _is_ours_alone(fd: int, size_bytes: int) -> bool:
    """And no page of it is missing: a file that is mapped must not end, or run out of room, under whoever reads it."""
    if _seal(fd, fcntl.F_SEAL_WRITE):
        return os.fstat(fd).st_size == size_bytes
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        if os.fstat(fd).st_size != size_bytes:
            return False
        os.posix_fallocate(fd, 0, size_bytes)
    except OSError:
        return False
    return True


def copy_out(fd: int, size_bytes: int) -> memoryview:
    """A private copy of what a container has written; shorter where it has cut it off. Two threads: it is memory that is slow."""
    if not size_bytes:
        return memoryview(b"")
    memory = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if size_bytes >= HUGE_FROM_BYTES:
        with contextlib.suppress(OSError):
            memory.madvise(mmap.MADV_HUGEPAGE)  # Linux may have been built without
    view = memoryview(memory)
    if size_bytes < HUGE_FROM_BYTES:
        return view[: _read(fd, view, 0)]
    half = size_bytes // 2
    read = [0, 0]

    def read_second() -> None:
        read[1] = _read(fd, view[half:], half)

    thread = threading.Thread(target=read_second)
    thread.start()
    read[0] = _read(fd, view[:half], 0)
    thread.join()
    return view[: half + read[1] if read[0] == half else read[0]]


def _read(fd: int, view: memoryview, offset: int) -> int:
    done = 0
    while done < view.nbytes:
        count = os.preadv(fd, [view[done : done + READ_BYTES]], offset + done)
        if count == 0:
            break
        done += count
    return done
