"""Ways out of a container, each as a function: what a hostile cell would try.

This file is sent whole as a cell, which is why it is one file and imports nothing of the tests. Each probe must be harmless where it
succeeds: it opens for writing and writes nothing, passes arguments that Linux refuses after it has checked the right, and sends no
packet. A probe that returns has succeeded; one that is refused raises OSError, or Refused where there is no errno.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import glob
import json
import mmap
import os
import platform
import resource
import signal
import socket
import stat
import struct
import sys
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

PROBE_SECONDS = 20
Host = dict[str, Any]
"""What a probe is told of the host: see ``host_facts`` in test_escape.py."""
X86 = platform.machine() == "x86_64"


class Probe(NamedTuple):
    """``refused``: the answers that are right, as names of errno, or of signals with ``SIG``, or Refused's words.

    ``doors``: (variant → why the probe is not refused there), variants as in test_escape.py; ``rootless`` behind it
    means that variant of an ordinary user only.
    """

    name: str
    why: str
    function: Callable[[Host], Any]
    refused: frozenset[str]
    doors: Mapping[str, str]
    all_capabilities: bool
    """It must be refused also to a cell that has all capabilities in its user namespace, and with them no filter."""


PROBES: dict[str, Probe] = {}
FILE = "EACCES EROFS EPERM ENOENT"
"""A file's mode, a read-only mount or a mask; or this Linux has no such file."""
SAME_USER = "in a shared pid namespace, processes of the same user can signal each other and change each other's limits"
OWN_ROOT_ONLY = "the host's tree as it is, not masked; nothing but a user namespace stands before it"


class Refused(Exception):
    """Refused without an errno; its word says how."""


def add(name: str, why: str, function: Callable[[Host], Any], refused: str, doors: Mapping[str, str], all_capabilities: bool) -> None:
    assert name not in PROBES
    PROBES[name] = Probe(name, why, function, frozenset(refused.split()), doors, all_capabilities)


def probe(
    name: str, why: str, refused: str = "EPERM", *, doors: Mapping[str, str] | None = None, all_capabilities: bool = False
) -> Callable[[Callable[[Host], Any]], None]:
    return lambda function: add(name, why, function, refused, doors or {}, all_capabilities)


# ---- raw system calls

# name: (x86_64, aarch64); -1: this machine type has no such call
NUMBERS = {
    "acct": (163, 89), "add_key": (248, 217), "bpf": (321, 280), "chroot": (161, 51), "clock_settime": (227, 112), "clone": (56, 220),
    "clone3": (435, 435), "delete_module": (176, 106), "fanotify_init": (300, 262), "finit_module": (313, 273), "fsconfig": (431, 431),
    "fsmount": (432, 432), "fsopen": (430, 430), "fspick": (433, 433), "get_mempolicy": (239, 236), "getpid": (39, 172), "init_module": (175, 105),
    "io_uring_enter": (426, 426), "io_uring_register": (427, 427), "io_uring_setup": (425, 425), "ioperm": (173, -1), "iopl": (172, -1),
    "kcmp": (312, 272), "kexec_file_load": (320, 294), "kexec_load": (246, 104), "keyctl": (250, 219), "listmount": (458, 458),
    "lookup_dcookie": (212, 18), "mbind": (237, 235), "migrate_pages": (256, 238), "mount": (165, 40), "mount_setattr": (442, 442),
    "move_mount": (429, 429), "move_pages": (279, 239), "open_by_handle_at": (304, 265), "open_tree": (428, 428),
    "perf_event_open": (298, 241), "personality": (135, 92), "pidfd_getfd": (438, 438), "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424), "pivot_root": (155, 41), "process_madvise": (440, 440), "process_vm_readv": (310, 270), "ptrace": (101, 117),
    "quotactl": (179, 60), "reboot": (169, 142), "request_key": (249, 218), "setdomainname": (171, 162), "set_mempolicy": (238, 237),
    "setns": (308, 268), "sethostname": (170, 161), "settimeofday": (164, 170), "statmount": (457, 457), "swapoff": (168, 225), "swapon": (167, 224),
    "syslog": (103, 116), "umount2": (166, 39), "unshare": (272, 97), "userfaultfd": (323, 282), "uselib": (134, -1), "vhangup": (153, 58),
}  # fmt: skip
BAD = 1
"""An address that no process has anything at."""
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.syscall.restype = ctypes.c_long


def call(name: str, *arguments: int | bytes | ctypes.Array[Any] | None) -> int:
    """The raw system call. Raises OSError."""
    number = NUMBERS[name][0 if X86 else 1]
    if number < 0:
        raise Refused("none-here")
    ctypes.set_errno(0)
    result = int(LIBC.syscall(ctypes.c_long(number), *(ctypes.c_long(value) if isinstance(value, int) else value for value in arguments)))
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), name)
    return result


def reach(name: str, *arguments: int | bytes | ctypes.Array[Any] | None) -> str:
    """Make a call that cannot do anything. Any answer but a refusal means that it got through to Linux's own code."""
    try:
        result = call(name, *arguments)
    except OSError as error:
        if error.errno in (errno.EPERM, errno.ENOSYS):
            raise
        return f"got through the filter: {errno.errorcode.get(error.errno or 0)}"
    return f"returned {result}"


def _add_calls() -> None:
    anonymous, detach = 0xFFFFFFFF, 2
    table: list[tuple[str, str, tuple[int | bytes | None, ...]]] = [
        ("keyctl", "keyrings are not namespaced: the kernel's keys would be within reach", (9999, 0, 0, 0, 0)),
        ("add_key", "keyrings are not namespaced", (BAD, BAD, 0, 0, 0)),
        ("request_key", "it may make Linux start a program on the host", (BAD, BAD, 0, 0)),
        ("bpf", "programs in Linux itself, and its verifier's faults", (9999, 0, 0)),
        ("perf_event_open", "it samples the whole machine, and has been a way to more rights", (BAD, 0, -1, -1, 0)),
        ("userfaultfd", "it stops Linux in the middle of a copy, as exploits need", (0x7FFFFFFF,)),
        ("io_uring_setup", "a second door to most system calls that no filter watches", (0, 0)),
        ("io_uring_enter", "a second door to most system calls that no filter watches", (-1, 0, 0, 0, 0, 0)),
        ("io_uring_register", "a second door to most system calls that no filter watches", (-1, 0, 0, 0)),
        ("open_by_handle_at", "opens files of a whole file system by number, past every root (shocker)", (-1, BAD, 0)),
        ("kexec_load", "starts another Linux", (0, 1000, BAD, 0xFF00)),
        ("kexec_file_load", "starts another Linux", (-1, -1, 0, BAD, 0xFFFF)),
        ("init_module", "code in Linux itself", (BAD, 0, BAD)),
        ("finit_module", "code in Linux itself", (-1, BAD, 0xFFFF)),
        ("delete_module", "takes code out of Linux", (BAD, 0)),
        ("mount", "covers or uncovers what protects the host", (BAD, BAD, BAD, 0, 0)),
        ("umount2", "uncovers what is masked", (BAD, detach)),
        ("open_tree", "the new mount API does what mount does", (-1, BAD, 0)),
        ("move_mount", "the new mount API does what mount does", (-1, BAD, -1, BAD, 0)),
        ("fsopen", "the new mount API does what mount does; file systems' parsers have been ways out", (BAD, 0)),
        ("fsconfig", "the new mount API does what mount does", (-1, 0, 0, 0, 0)),
        ("fsmount", "the new mount API does what mount does", (-1, 0, 0)),
        ("fspick", "the new mount API does what mount does", (-1, BAD, 0)),
        ("mount_setattr", "makes read-only mounts writable", (-1, BAD, 0, BAD, 0)),
        ("listmount", "shows mounts of other namespaces", (BAD, BAD, 0, 0)),
        ("statmount", "shows mounts of other namespaces", (BAD, BAD, 0, 0)),
        ("pivot_root", "another root", (BAD, BAD)),
        ("setns", "enters the namespaces of others", (-1, 0)),
        ("unshare", "new namespaces give every capability in them, and with these most of Linux's code", (0,)),
        ("swapon", "swap of the whole machine", (BAD, 0)),
        ("swapoff", "swap of the whole machine", (BAD,)),
        ("reboot", "the machine itself", (0, 0, 0, 0)),
        ("quotactl", "quotas of the host's disks", (anonymous, BAD, 0, BAD)),
        ("acct", "writes about every process into a file", (BAD,)),
        ("settimeofday", "time is not namespaced", (BAD, 0)),
        ("clock_settime", "time is not namespaced", (0, BAD)),
        ("iopl", "the machine's ports", (99,)),
        ("ioperm", "the machine's ports", (0xFFFFFFF, 1, 1)),
        ("lookup_dcookie", "paths of other containers", (0, BAD, 0)),
        ("personality", "READ_IMPLIES_EXEC and no randomisation of addresses make faults easier to use", (0x0440000,)),
        ("sethostname", "a shared name is the host's", (BAD, 1)),
        ("setdomainname", "a shared name is the host's", (BAD, 1)),
        ("syslog", "Linux's own messages, with addresses in them", (9, 0, 0)),
        ("vhangup", "the terminal of others", ()),
        ("pidfd_getfd", "takes open files out of other processes", (-1, 0, 0)),
        ("kcmp", "compares Linux's addresses of things of other processes", (0, 0, 99, 0, 0)),
        ("process_madvise", "memory of other processes", (-1, BAD, 0, 0, 0)),
        ("move_pages", "memory of other processes, and where it lies", (0, 1, BAD, BAD, BAD, 0xFF)),
        ("migrate_pages", "memory of other processes", (0, 0, BAD, BAD)),
        ("mbind", "memory policies have had faults; Docker wants a capability for them", (BAD, 0, 9999, 0, 0, 0xFF)),
        ("set_mempolicy", "memory policies have had faults; Docker wants a capability for them", (9999, BAD, 0)),
        ("fanotify_init", "watches a whole file system", (0x7FFFFFFF, 0)),
        ("uselib", "an old way to load libraries, with a history", (BAD,)),
    ]
    for name, why, arguments in table:
        # ENOSYS: this Linux, or the libseccomp that made the filter, does not know it.
        add(f"call {name}", why, lambda host, name=name, arguments=arguments: reach(name, *arguments), "EPERM ENOSYS none-here", {}, False)  # type: ignore[misc]


_add_calls()


@probe("call clone with a new user namespace", "in it a cell has every capability", "EPERM ENOSYS")
def _clone(host: Host) -> Any:
    pid = call("clone", 0x10000000 | signal.SIGCHLD, 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


@probe("call clone3 with a new user namespace", "its flags lie in memory, where no filter can look: it must not exist", "ENOSYS")
def _clone3(host: Host) -> Any:
    pid = call("clone3", struct.pack("=5Q24x", 0x10000000, 0, 0, 0, signal.SIGCHLD), 64)
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


@probe("call clone to be the child of one's parent", "a child of the zygote's: nobody would wait for it", "EPERM ENOSYS")
def _clone_parent(host: Host) -> Any:
    pid = call("clone", 0x8000 | signal.SIGCHLD, 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)


@probe("release_agent in a nested cgroup namespace", "with a user and cgroup namespace of one's own, a v1 hierarchy could be mounted (CVE-2022-0492)")
def _nested_release_agent(host: Host) -> Any:
    call("unshare", 0x10000000 | 0x02000000 | 0x00020000)


@probe("call through int 0x80", "a filter for one machine type must not be passed through the other's numbers", "SIGSYS SIGSEGV ENOSYS none-here")
def _int80(host: Host) -> Any:
    if not X86:
        raise Refused("none-here")
    code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(b"\x53\xb8\x14\x00\x00\x00\xcd\x80\x5b\xc3")  # push rbx; mov eax, 20 (getpid); int 0x80; pop rbx; ret
    result = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result


@probe("call through x32", "a filter for one machine type must not be passed through the other's numbers", "SIGSYS ENOSYS none-here")
def _x32(host: Host) -> Any:
    if not X86:
        raise Refused("none-here")
    if LIBC.syscall(ctypes.c_long(0x40000000 | NUMBERS["getpid"][0])) < 0:
        raise OSError(ctypes.get_errno(), "")


# ---- files of Linux's own


def _open_for_writing(path: str, host: Host) -> str:
    os.close(os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOCTTY))
    return f"{path} is open for writing"


def _read(path: str, host: Host) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    data = os.read(fd, 256)
    if not data:
        raise Refused("empty")
    return f"{path} begins with {data[:32]!r}"


def _add_files() -> None:
    written = [
        ("/proc/sysrq-trigger", "kills and reboots"),
        ("/proc/sys/kernel/core_pattern", "names a program that Linux starts on the host when one crashes"),
        ("/proc/sys/kernel/modprobe", "names a program that Linux starts on the host for a missing module"),
        ("/proc/sys/kernel/hotplug", "names a program that Linux starts on the host for a new device"),
        ("/sys/kernel/uevent_helper", "names a program that Linux starts on the host for a new device"),
        ("/proc/sys/fs/binfmt_misc/register", "names programs that Linux starts for files of others"),
        ("/proc/sys/vm/drop_caches", "belongs to the machine"),
        ("/proc/sys/vm/panic_on_oom", "a cell could then stop the machine by using memory"),
        ("/proc/sys/kernel/panic", "belongs to the machine"),
        ("/proc/sys/kernel/randomize_va_space", "makes the faults of others easier to use"),
        ("/proc/sys/kernel/yama/ptrace_scope", "belongs to the machine"),
        ("/proc/sys/kernel/kptr_restrict", "addresses of Linux"),
        ("/proc/sys/user/max_user_namespaces", "nested user namespaces are turned off here"),
        ("/proc/sys/kernel/ns_last_pid", "decides the pids of others"),
        ("/proc/sys/net/ipv4/ip_forward", "Docker makes all of /proc/sys read-only"),
        ("/proc/irq/default_smp_affinity", "interrupts of the machine"),
        ("/proc/bus/pci/devices", "devices of the machine"),
        ("/sys/kernel/profiling", "belongs to the machine"),
        ("/sys/kernel/mm/transparent_hugepage/enabled", "belongs to the machine"),
        ("/sys/power/state", "puts the machine to sleep"),
        ("/sys/block/vda/queue/scheduler", "disks of the machine"),
        ("/sys/bus/pci/rescan", "devices of the machine"),
        ("/sys/module/kernel/parameters/panic", "belongs to the machine"),
    ]
    for path, why in written:
        own_namespace_s = {"root none": "the file is that of the container's own pid namespace"} if path.endswith("ns_last_pid") else {}
        add(f"write {path}", why, partial(_open_for_writing, path), FILE, own_namespace_s, True)
    masked = [
        ("/proc/kcore", "all memory of the machine"),
        ("/proc/keys", "keys of others; keyrings are not namespaced"),
        ("/proc/timer_list", "addresses of Linux, processes of others"),
        ("/proc/sched_debug", "processes of others"),
        ("/proc/interrupts", "when keys are pressed, by timing"),
        ("/proc/latency_stats", "what others do"),
        ("/sys/firmware/acpi/tables/DSDT", "firmware tables, with licence keys of some machines"),
        ("/sys/devices/virtual/powercap/intel-rapl/intel-rapl:0/energy_uj", "keys of others, by the power that computing takes (PLATYPUS)"),
    ]
    for path, why in masked:
        add(f"read {path}", why, partial(_read, path), f"{FILE} empty", {"root none": OWN_ROOT_ONLY}, False)
    for path, why in [
        ("/proc/kmsg", "Linux's own messages"),
        ("/proc/kpageflags", "which memory belongs to whom"),
        ("/proc/slabinfo", "what Linux has allocated helps to use its faults"),
        ("/proc/vmallocinfo", "addresses of Linux"),
        ("/sys/kernel/debug/tracing/trace", "what others do"),
        ("/dev/mem", "all memory of the machine"),
        ("/dev/kmsg", "Linux's own messages"),
        ("/dev/port", "the machine's ports"),
        ("/dev/vda", "the host's disk, past its file system"),
        ("/dev/sda", "the host's disk, past its file system"),
        ("/dev/fuse", "a file system that answers as the cell likes"),
        ("/dev/kvm", "a large part of Linux"),
        ("/dev/net/tun", "a network of one's own"),
        ("/dev/loop-control", "mounts of one's own"),
        ("/etc/shadow", "hashes of the host's passwords"),
        ("/etc/gshadow", "hashes of the host's passwords"),
        ("/etc/ssh/ssh_host_ed25519_key", "the host's identity"),
    ]:
        everybody_s = {"root none": "a device that the host lets everybody open"} if path in ("/dev/fuse", "/dev/kvm", "/dev/net/tun") else {}
        real_root = {"share user": "real root with DAC_OVERRIDE: what its mode alone protects is open"} if path.startswith("/proc/") else {}
        add(f"read {path}", why, partial(_read, path), f"{FILE} ENXIO EBADFD", {**everybody_s, **real_root}, True)


_add_files()


@probe("read addresses in /proc/kallsyms", "where Linux lies in memory: zeros without CAP_SYSLOG on the host", f"{FILE} zeros", all_capabilities=True)
def _kallsyms(host: Host) -> Any:
    with open("/proc/kallsyms", encoding="ascii") as symbols:
        if all(int(next(symbols, "0 ").split()[0], 16) == 0 for _ in range(100)):
            raise Refused("zeros")


@probe("read physical addresses in /proc/self/pagemap", "what rowhammer needs: zeros without rights on the host", f"{FILE} zeros", all_capabilities=True)
def _pagemap(host: Host) -> Any:
    page = mmap.mmap(-1, mmap.PAGESIZE)
    page.write(b"x")
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    with open("/proc/self/pagemap", "rb") as pagemap:
        pagemap.seek(address // mmap.PAGESIZE * 8)
        entry = struct.unpack("=Q", pagemap.read(8))[0]
    if not entry & ((1 << 55) - 1):
        raise Refused("zeros")


@probe("read a mask from behind", "another path to a masked file must meet the same mask", f"{FILE} empty", doors={"root none": OWN_ROOT_ONLY})
def _behind(host: Host) -> Any:
    for path in ("/proc/self/root/proc/keys", "/proc/1/root/proc/keys", "/proc/self/cwd" + "/.." * 40 + "/proc/keys", "/proc/thread-self/../../../keys", "//proc//./keys"):
        try:
            return _read(path, host)
        except (OSError, Refused):
            continue
    raise Refused("empty")


@probe("write through a symbolic link to a mask", "a link leads to the mount, not below it", FILE, all_capabilities=True)
def _linked(host: Host) -> Any:
    link = f"/dev/shm/nbc-probe-{os.getpid()}"
    os.symlink("/proc/sys/kernel/core_pattern", link)
    try:
        return _open_for_writing(link, host)
    finally:
        os.unlink(link)


def _mknod(kind: int, major: int, minor: int) -> str:
    path = f"/dev/shm/nbc-probe-{os.getpid()}"
    os.mknod(path, kind | 0o600, os.makedev(major, minor))
    os.unlink(path)
    return "the node was made"


def _add_devices() -> None:
    for name, kind, major, minor, why in [
        ("a disk", stat.S_IFBLK, 8, 0, "the host's disk, past its file system"),
        ("a virtual disk", stat.S_IFBLK, 254, 0, "the host's disk, past its file system"),
        ("/dev/mem", stat.S_IFCHR, 1, 1, "all memory of the machine"),
        ("/dev/kmsg", stat.S_IFCHR, 1, 11, "Linux's own messages"),
        ("/dev/fuse", stat.S_IFCHR, 10, 229, "a file system that answers as the cell likes"),
    ]:
        function: Callable[[Host], Any] = lambda host, kind=kind, major=major, minor=minor: _mknod(kind, major, minor)  # type: ignore[misc] # noqa: E731
        add(f"mknod {name}", why, function, "EPERM EACCES", {}, True)


_add_devices()


# ---- cgroups


def _each(paths: list[str], action: Callable[[str], Any]) -> Any:
    """The first that succeeds; else the last refusal."""
    refusal: OSError = OSError(errno.ENOENT, "no such file here")
    for path in paths:
        try:
            return action(path)
        except OSError as error:
            refusal = error
    raise refusal


def _cgroup_files(*names: str) -> list[str]:
    return [path for name in names for pattern in ("/sys/fs/cgroup/", "/sys/fs/cgroup/*/") for path in glob.glob(pattern + name)]


def _writable(path: str) -> str:
    return _open_for_writing(path, {})


@probe("write its own limits", "a limit that the cell can raise is none", FILE)
def _own_limits(host: Host) -> Any:
    return _each(_cgroup_files("memory.max", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "pids.max", "cpu.max", "cpu.cfs_quota_us"), _writable)


@probe("move to another cgroup", "out of all limits", FILE, doors={"root none rootless": "the host's tree has the user's own cgroups in it"})
def _move(host: Host) -> Any:
    return _each(_cgroup_files("cgroup.procs", "tasks", "*/cgroup.procs", "*/tasks"), _writable)


@probe("write to a parent cgroup", "out of all limits; the namespace's root is the container's own", FILE)
def _parents(host: Host) -> Any:
    return _each(_cgroup_files("../cgroup.procs", "../../cgroup.procs", "../tasks", "../memory.max", "../memory.limit_in_bytes"), _writable)


@probe("write a release_agent", "names a program that Linux starts on the host when a cgroup empties", FILE)
def _release_agent(host: Host) -> Any:
    return _each(_cgroup_files("release_agent", "*/release_agent", "notify_on_release"), _writable)


@probe("make a child cgroup", "Linux's memory for cgroups is not the container's", "EACCES EROFS EPERM")
def _child_cgroup(host: Host) -> Any:
    def make(directory: str) -> str:
        path = f"{directory}/nbc-probe-{os.getpid()}"
        os.mkdir(path)
        os.rmdir(path)
        return f"{path} was made"

    return _each([path for path in ("/sys/fs/cgroup", *glob.glob("/sys/fs/cgroup/*")) if os.path.isdir(path)], make)


# ---- files: the root and what leads out of it


def _same(status: os.stat_result, other: os.stat_result) -> bool:
    return (status.st_dev, status.st_ino) == (other.st_dev, other.st_ino)


@probe("leave the root by ..", "above the root there is the root", "same-root")
def _dot_dot(host: Host) -> Any:
    top = os.stat("/")
    fd = os.open("/", os.O_PATH)
    for path in ("/..", "/../../../..", f"/proc/self/fd/{fd}/..", "/proc/self/cwd" + "/.." * 40, "/proc/self/root/..", "/proc/1/root/.."):
        try:
            if not _same(os.stat(path), top):
                return f"{path} is another root"
        except PermissionError:
            continue  # pid 1 of a shared pid namespace is the host's
    raise Refused("same-root")


@probe("leave the root by two chroots", "what chroot leaves open is closed by pivot_root: the old root is not there", "same-root EPERM")
def _double_chroot(host: Host) -> Any:
    top = os.stat("/")
    fd = os.open("/", os.O_PATH | os.O_DIRECTORY)
    os.chroot("/usr")
    os.fchdir(fd)
    for _ in range(40):
        os.chdir("..")
    os.chroot(".")
    if _same(os.stat("/"), top):
        raise Refused("same-root")
    return "another root"


@probe("find a directory among the descriptors", "one directory of the host's is the way out of any root (CVE-2024-21626)", "none-found", all_capabilities=True)
def _descriptors(host: Host) -> Any:
    top = os.stat("/")
    for path in glob.glob("/proc/[0-9]*/fd/*"):
        try:
            status = os.stat(path)
        except OSError:
            continue
        # The cell's own: pipes, the channel's socket, /dev/null.
        if stat.S_ISDIR(status.st_mode) and not _same(status, top):
            return f"{path} leads to {os.readlink(path)}"
    raise Refused("none-found")


@probe("find another working directory", "a process that started outside could still be there", "none-found", doors={"root none": "the host's tree"})
def _directories(host: Host) -> Any:
    for path in glob.glob("/proc/[0-9]*/cwd"):
        try:
            if not os.path.exists(os.readlink(path)):
                return f"{path} leads to {os.readlink(path)}, which is not in this root"
        except OSError:
            continue
    raise Refused("none-found")


@probe("write to /proc/self/exe", "the program that runs is the host's Python (CVE-2019-5736)", "EACCES EPERM EROFS ETXTBSY")
def _own_program(host: Host) -> Any:
    return _open_for_writing("/proc/self/exe", host)


@probe(
    "change the mode of /proc/self/exe", "a cell process is forked, not executed: the file could be the host's own", "EACCES EPERM EROFS a-copy",
    doors={"share user": "real root with FOWNER", "program": "an executed program is the container's own copy"},
)  # fmt: skip
def _mode_of_program(host: Host) -> Any:
    if os.readlink("/proc/self/exe").startswith("/memfd:"):
        raise Refused("a-copy")
    mode = stat.S_IMODE(os.stat("/proc/self/exe").st_mode)
    os.chmod("/proc/self/exe", mode)
    return f"its mode was set to what it is, {mode:o}"


@probe("open what Linux has mapped", "/proc/self/map_files leads to the host's libraries", f"{FILE} none-found", all_capabilities=True)
def _map_files(host: Host) -> Any:
    return _each(glob.glob("/proc/self/map_files/*"), _writable)


@probe("see the home directory", "keys, tokens and notebooks", f"{FILE} ENOTDIR", doors={
    "root host": "what was made unreadable is hidden within a minute, and this file is new",
    "root none rootless": "the same user's files: the host's tree as it is",
})  # fmt: skip
def _home(host: Host) -> Any:
    return _read(host["secret"], host)


@probe("rename a mount point", "what protects a path must stay there", "EBUSY EPERM EACCES EROFS EXDEV", doors={"root none": "the host's tree"})
def _rename(host: Host) -> Any:
    os.rename("/proc", "/proc-probe")


@probe("remount read-write", "read-only mounts protect /proc/sys and /sys")
def _remount(host: Host) -> Any:
    reach("mount", None, b"/proc/sys", None, 0x20 | 0x1000 | 0xC0000000, None)


@probe("unmount a mask", "below it lies what it hides")
def _unmask(host: Host) -> Any:
    reach("umount2", b"/proc/keys", 0x40000000)


@probe("mount a new proc", "without masks", "EPERM")
def _new_proc(host: Host) -> Any:
    reach("fsopen", b"proc", 0x40000000)


# ---- processes


@probe("signal the kernel", "pids of the host must not lead anywhere", "ESRCH EPERM", all_capabilities=True, doors={
    "share pid rootless": SAME_USER})  # fmt: skip
def _signal(host: Host) -> Any:
    os.kill(host["kernel"], 0)


@probe("see a process of the host", "names, arguments and times of others' work", "ENOENT ESRCH EPERM EACCES", all_capabilities=True, doors={
    "share pid": "the host's processes are in the same pid namespace"})  # fmt: skip
def _see(host: Host) -> Any:
    return _each([f"/proc/{host['kernel']}/status", f"/proc/{host['zygote']}/status"], lambda path: _read(path, host))


def _of_processes(host: Host, name: str) -> list[str]:
    return [f"/proc/{host[who]}/{name}" for who in ("zygote", "kernel")]


NOT_OURS = "ENOENT ESRCH EPERM EACCES"


@probe("read the environment of the kernel", "tokens of the hub are in it", NOT_OURS, all_capabilities=True)
def _environment(host: Host) -> Any:
    return _each(_of_processes(host, "environ"), lambda path: _read(path, host))


@probe("read memory of the kernel", "everything that the notebook holds", NOT_OURS, all_capabilities=True)
def _memory(host: Host) -> Any:
    return _each(_of_processes(host, "mem"), lambda path: os.close(os.open(path, os.O_RDONLY)))


@probe("enter the kernel's root", "the host's files", NOT_OURS, all_capabilities=True)
def _kernel_root(host: Host) -> Any:
    return _each([*_of_processes(host, "root/etc"), *_of_processes(host, "cwd/")], os.listdir)


@probe("list descriptors of the kernel", "the host's open files", NOT_OURS, all_capabilities=True, doors={
    "share pid rootless": "their numbers can be listed by the same user, and none can be opened; see the next probe"})  # fmt: skip
def _kernel_fds(host: Host) -> Any:
    return _each(_of_processes(host, "fd"), os.listdir)


@probe("open a descriptor of the kernel", "the host's open files", NOT_OURS, all_capabilities=True)
def _kernel_fd(host: Host) -> Any:
    return _each(_of_processes(host, "fd/0"), lambda path: os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)))


@probe("trace the zygote", "its code would be the cell's", "ESRCH EPERM", all_capabilities=True)
def _trace(host: Host) -> Any:
    seize, detach = 0x4206, 17
    call("ptrace", seize, host["zygote"], 0, 0)
    call("ptrace", detach, host["zygote"], 0, 0)


@probe("read memory of the zygote by process_vm_readv", "as tracing", "ESRCH EPERM", all_capabilities=True)
def _vm_read(host: Host) -> Any:
    buffer = ctypes.create_string_buffer(16)
    local = struct.pack("=QQ", ctypes.addressof(buffer), 16)
    try:
        call("process_vm_readv", host["zygote"], local, 1, struct.pack("=QQ", BAD, 1), 1, 0)
    except OSError as error:
        if error.errno == errno.EFAULT:
            return "allowed, and nothing lies at that address"
        raise


@probe("read limits of the kernel", "limits of others could be changed too", "ESRCH EPERM", all_capabilities=True, doors={"share pid rootless": SAME_USER})
def _limits(host: Host) -> Any:
    return resource.prlimit(host["kernel"], resource.RLIMIT_NOFILE)


@probe("signal the kernel by the channel's pidfd", "the channel's other end names who made it, whatever the pid namespace", "EINVAL EPERM ENOPROTOOPT ESRCH ENODATA ENOTSOCK EBADF none-here", doors={
    "share pid rootless": SAME_USER})  # fmt: skip
def _peer(host: Host) -> Any:
    so_peerpidfd = 77
    channel = socket.socket(fileno=os.dup(3))
    pidfd = struct.unpack("=i", channel.getsockopt(socket.SOL_SOCKET, so_peerpidfd, 4))[0]
    signal.pidfd_send_signal(pidfd, 0)


@probe("look at the kernel by the channel's pidfd", "namespaces and files of a process that a pidfd leads to", "EACCES EPERM EINVAL ENOTTY ENOPROTOOPT ESRCH ENODATA ENOTSOCK EBADF")
def _peer_namespaces(host: Host) -> Any:
    channel = socket.socket(fileno=os.dup(3))
    pidfd = struct.unpack("=i", channel.getsockopt(socket.SOL_SOCKET, 77, 4))[0]
    get_mount_namespace = 0xFF03
    return fcntl.ioctl(pidfd, get_mount_namespace, 0)


# ---- rights


@probe("become a user that is not mapped", "ids outside of the map are the host's", "EINVAL EPERM", all_capabilities=True, doors={
    "share user": "all ids are the host's"})  # fmt: skip
def _unmapped(host: Host) -> Any:
    os.setresuid(4_000_000_000, 4_000_000_000, 4_000_000_000)


@probe("write the id map once more", "root of the container would be root of the host", FILE, all_capabilities=True)
def _map(host: Host) -> Any:
    fd = os.open("/proc/self/uid_map", os.O_WRONLY)
    os.write(fd, b"0 0 1")


@probe("take a capability back", "what was given up must stay so")
def _capability(host: Host) -> Any:
    header, data = struct.pack("=Ii", 0x20080522, 0), struct.pack("=6I", 1 << 21, 1 << 21, 0, 0, 0, 0)
    LIBC.capset.restype = ctypes.c_int
    if LIBC.capset(header, data) < 0:
        raise OSError(ctypes.get_errno(), "capset")


def _prctl(*arguments: int) -> None:
    if LIBC.prctl(*(ctypes.c_ulong(value) for value in arguments)) < 0:
        raise OSError(ctypes.get_errno(), "prctl")


@probe("unset no_new_privs", "set-uid programs would give rights", "EINVAL", all_capabilities=True)
def _new_privileges(host: Host) -> Any:
    _prctl(38, 0, 0, 0, 0)


@probe("leave seccomp", "a filter stays", "EINVAL EACCES EPERM EFAULT", all_capabilities=True)
def _leave_seccomp(host: Host) -> Any:
    _prctl(22, 0, 0, 0, 0)


@probe("raise a hard limit", "limits only go down", "EPERM unlimited")
def _raise(host: Host) -> Any:
    for which in (resource.RLIMIT_NICE, resource.RLIMIT_RTPRIO, resource.RLIMIT_NOFILE):
        soft, hard = resource.getrlimit(which)
        if hard != resource.RLIM_INFINITY:
            try:
                return resource.setrlimit(which, (soft, hard + 1))
            except ValueError:  # Python's word for EPERM
                raise OSError(errno.EPERM, "") from None
    raise Refused("unlimited")


@probe("take precedence over the host", "a negative nice value", "EACCES EPERM")
def _nice(host: Host) -> Any:
    os.setpriority(os.PRIO_PROCESS, 0, -20)


@probe("take a real-time priority", "nothing else would run")
def _real_time(host: Host) -> Any:
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))


@probe("never be killed for memory", "the host's own processes would be", "EACCES EPERM", all_capabilities=True)
def _oom(host: Host) -> Any:
    fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
    os.write(fd, b"-1000")


# ---- terminals


def _push(fd: int) -> str:
    tiocsti = 0x5412
    fcntl.ioctl(fd, tiocsti, b"\0")
    return "a character was put into the input of a terminal"


@probe("type into the kernel's terminal", "what is typed there is executed on the host", "ENOTTY ENXIO EIO EPERM EBADF EACCES")
def _type(host: Host) -> Any:
    for fd in (0, 1, 2, 3):
        try:
            return _push(fd)
        except OSError as error:
            if error.errno not in (errno.ENOTTY, errno.EINVAL, errno.EBADF):
                raise
    raise OSError(errno.ENOTTY, "no terminal")


@probe("open the kernel's terminal", "a session of its own has no terminal", "ENXIO EACCES ENOENT")
def _terminal(host: Host) -> Any:
    return _push(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))


# ---- network

SHARED_NETWORK = {"share net": "the host's network"}


def _socket(family: int, kind: int, protocol: int, host: Host) -> str:
    socket.socket(family, kind, protocol).close()
    return "the socket was made"


def _add_sockets() -> None:
    no_family = "EAFNOSUPPORT EPERM EACCES"
    for name, family, kind, protocol, why in [
        ("AF_VSOCK", 40, socket.SOCK_STREAM, 0, "leads to the hypervisor, past every network namespace"),
        ("AF_ALG", 38, socket.SOCK_SEQPACKET, 0, "Linux's cryptography has had faults"),
        ("AF_PACKET", 17, socket.SOCK_RAW, 0, "sees and forges all traffic"),
        ("AF_XDP", 44, socket.SOCK_RAW, 0, "sees and forges all traffic"),
        ("AF_BLUETOOTH", 31, socket.SOCK_RAW, 1, "rarely used code, and devices of the machine"),
        ("AF_CAN", 29, socket.SOCK_RAW, 1, "rarely used code"),
        ("AF_TIPC", 30, socket.SOCK_STREAM, 0, "rarely used code, with faults that can be reached from afar"),
        ("AF_RDS", 21, socket.SOCK_SEQPACKET, 0, "rarely used code, with a history"),
        ("AF_KEY", 15, socket.SOCK_RAW, 2, "keys of the host's IPsec"),
        ("AF_QIPCRTR", 42, socket.SOCK_DGRAM, 0, "rarely used code"),
    ]:
        add(f"socket {name}", why, partial(_socket, family, kind, protocol), no_family, {}, False)
    add("socket raw", "forged packets", partial(_socket, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP), "EPERM EACCES", {}, False)


_add_sockets()


@probe("reach the cloud's metadata address", "credentials of the machine; connect of a datagram socket only looks for a route", "ENETUNREACH EHOSTUNREACH", doors=SHARED_NETWORK, all_capabilities=True)
def _metadata(host: Host) -> Any:
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.connect(("169.254.169.254", 80))
    return f"there is a route, from {udp.getsockname()}"


@probe("find an interface", "a default container has no network but a loopback", "none-found", doors=SHARED_NETWORK, all_capabilities=True)
def _interfaces(host: Host) -> Any:
    # sit0 and the like are made by Linux in every network namespace, and are down.
    others = [name for number, name in socket.if_nameindex() if name != "lo" and _is_up(name)]
    if not others:
        raise Refused("none-found")
    return others


def _is_up(name: str) -> bool:
    siocgifflags, up = 0x8913, 1
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as query:
        flags = struct.unpack("=16sH22x", fcntl.ioctl(query, siocgifflags, struct.pack("=16sH22x", name.encode(), 0)))[1]
    return bool(flags & up)


@probe("reach a port of the host's loopback", "Jupyter's own ports listen there", "ECONNREFUSED ENETUNREACH", doors=SHARED_NETWORK, all_capabilities=True)
def _port(host: Host) -> Any:
    socket.create_connection(("127.0.0.1", host["port"]), timeout=5)


@probe("reach an abstract socket of the host", "they belong to the network namespace, whatever the root (CVE-2020-15257)", "ECONNREFUSED", doors=SHARED_NETWORK, all_capabilities=True)
def _abstract(host: Host) -> Any:
    socket.socket(socket.AF_UNIX).connect("\0" + host["abstract"])


@probe(
    "reach a Unix socket of the host by its path",
    "Docker's and D-Bus's are such; those that the root shows have another inode there, to which nobody listens",
    "ECONNREFUSED ENOENT EACCES",
    doors={"root none": OWN_ROOT_ONLY},
    all_capabilities=True,
)
def _path_socket(host: Host) -> Any:
    refusals = []
    for path in host["sockets"]:
        try:
            socket.socket(socket.AF_UNIX).connect(path)
        except OSError as error:
            refusals.append(error)
        else:
            return path
    raise refusals[-1]


@probe("change the network", "without NET_ADMIN even one's own is as it is")
def _network(host: Host) -> Any:
    # RTM_SETLINK for an interface that no namespace has.
    netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
    netlink.send(struct.pack("=IHHIIBxHiII", 32, 19, 5, 1, 0, 0, 0, 0x7FFFFFFF, 0, 0))
    answer = struct.unpack_from("=i", netlink.recv(4096), 16)[0]
    if answer == -errno.EPERM:
        raise OSError(errno.EPERM, "")
    return f"answered {errno.errorcode.get(-answer, answer)}"


@probe("read the state of the host's audit", "who can, can turn it off", "EPROTONOSUPPORT ECONNREFUSED EPERM", all_capabilities=True)
def _audit(host: Host) -> Any:
    get, request_and_answer = 1000, 5
    netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 9)
    netlink.settimeout(5)
    netlink.sendto(struct.pack("=IHHII", 16, get, request_and_answer, 1, 0), (0, 0))
    answer = struct.unpack_from("=i", netlink.recv(4096), 16)[0]
    if answer < 0:
        raise OSError(-answer, "")


# ---- in the cell


def verdict(of: Probe, host: Host) -> str:
    """Try it in a child: what ends that must not end the others."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.alarm(PROBE_SECONDS)
        os.write(write_end, _try(of, host).encode())
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        text = pipe.read().decode()
    status = os.waitpid(pid, 0)[1]
    if os.WIFSIGNALED(status):
        return f"refused {signal.Signals(os.WTERMSIG(status)).name}"
    return text


def _try(of: Probe, host: Host) -> str:
    try:
        detail = of.function(host)
    except Refused as refusal:
        return f"refused {refusal}"
    except OSError as error:
        return f"refused {errno.errorcode.get(error.errno or 0, str(error))}"
    except BaseException:
        return f"broken {traceback.format_exc()}"
    return f"succeeded {detail or ''}".strip()


def main(host: Host, names: list[str]) -> None:
    for name in names:
        print(json.dumps([name, verdict(PROBES[name], host)]))
        sys.stdout.flush()
