"""Process 1 of the guest: mounts what Linux needs, loads modules, makes a root that can be left, starts the agent.

It is started by Linux itself, as a script, with the kernel's own Python; nothing of the host is there yet but what was
packed into the initramfs.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
import sys
from types import TracebackType
from typing import NoReturn

from nbcontainer.engine.vm.layout import LATER_MODULES_DIRECTORY, MODULES_DIRECTORY, NETWORKS_PATH
from nbcontainer.linux import syscalls

SIOCSIFFLAGS, IFF_UP = 0x8914, 1
SIGNED = b"~Module signature appended~\n"
SIGNATURE_BYTES = 12
"""Before that, the signature's own size is the last word; see struct module_signature."""
UNSIGNED = (errno.EKEYREJECTED, errno.EPERM, errno.ENOKEY)
"""What Linux says where it takes none without (CONFIG_MODULE_SIG_FORCE)."""
LOWEST_PRIORITY = 19
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "PYTHONUTF8": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
}


def mount(source: str, target: str, fstype: str, options: str = "", flags: int = 0) -> None:
    os.makedirs(target, exist_ok=True)
    syscalls.mount(source, target, fstype, flags, options or None)


def mount_first() -> None:
    """What everything else needs."""
    mount("proc", "/proc", "proc")
    mount("sys", "/sys", "sysfs")
    mount("dev", "/dev", "devtmpfs")


def load_packed_modules(directory: str) -> None:
    """Those in the initramfs, in the order of their names."""
    for name in sorted(os.listdir(directory)):
        with open(f"{directory}/{name}", "rb") as file:
            _load(file.read(), name)


def _load(module: bytes, name: str) -> None:
    """Without its signature: to check it takes as long as all the rest, and it came in one archive with whatever could check it."""
    end = module.rfind(SIGNED)
    try:
        if end > 0 and end == len(module) - len(SIGNED):
            (size,) = struct.unpack_from(">I", module, end - 4)
            try:
                syscalls.init_module(module[: end - SIGNATURE_BYTES - size])
            except OSError as error:
                if error.errno not in UNSIGNED:
                    raise
                syscalls.init_module(module)
        else:
            syscalls.init_module(module)
    except FileExistsError:
        pass
    except OSError as error:
        raise OSError(error.errno, error.strerror, f"module {name}") from None


def enter(root: str) -> None:
    """Make ``root`` the root, with /proc, /sys and /dev."""
    for name in ("proc", "sys", "dev"):
        os.makedirs(f"{root}/{name}", exist_ok=True)
        syscalls.mount(f"/{name}", f"{root}/{name}", None, syscalls.MS_MOVE)
    os.chdir(root)
    syscalls.mount(".", "/", None, syscalls.MS_MOVE)
    os.chroot(".")
    os.chdir("/")


def make_root() -> None:
    """An overlay over the initramfs: pivot_root cannot leave the initramfs itself."""
    mount("root", "/overlay", "tmpfs")
    for name in ("upper", "work"):
        os.mkdir(f"/overlay/{name}")
    mount("root", "/newroot", "overlay", "lowerdir=/,upperdir=/overlay/upper,workdir=/overlay/work")
    enter("/newroot")


def mount_the_rest() -> None:
    # The overlay's upper layer is a tmpfs already; one over /tmp would hide a Python that is installed there.
    for path, mode in (("/run", 0o755), ("/tmp", 0o1777)):
        os.makedirs(path, exist_ok=True)
        os.chmod(path, mode)
    mount("shm", "/dev/shm", "tmpfs", "mode=1777")
    mount("pts", "/dev/pts", "devpts", "ptmxmode=0666,mode=620")
    mount("cgroup", "/sys/fs/cgroup", "cgroup2")
    # Shared, so that the zygote's private mount namespace sees shares that are mounted after a restore.
    syscalls.mount(None, "/", None, syscalls.MS_REC | 1 << 20)


def loopback_up() -> None:
    """The guest's own network, which --net host shows: 127.0.0.1 and nothing else."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        fcntl.ioctl(handle, SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", IFF_UP))


def boot() -> None:
    """Everything up to the agent, and then its end."""
    mount_first()
    load_packed_modules(MODULES_DIRECTORY)
    make_root()
    mount_the_rest()
    loopback_up()
    agent = os.fork()
    if agent == 0:
        become_agent()
    load_network_modules()
    while os.wait()[0] != agent:
        pass  # orphans of containers


def load_network_modules() -> None:
    """While whoever waits for a first cell has the CPU. There is no modprobe here that Linux could ask when they are needed."""
    os.setpriority(os.PRIO_PROCESS, 0, LOWEST_PRIORITY)
    load_packed_modules(LATER_MODULES_DIRECTORY)
    os.setpriority(os.PRIO_PROCESS, 0, 0)
    with open(NETWORKS_PATH, "xb"):
        pass


def become_agent() -> NoReturn:
    """Never process 1; forked, because another Python would take seconds to start."""
    os.environ.clear()
    os.environ.update(ENVIRONMENT)
    from nbcontainer.engine.vm.guesthelpers import ForkedRouter, ForkedZygote

    # Before there are threads; the zygote, which cells are forked from, before what only the agent and the router need.
    zygote = ForkedZygote()
    from nbcontainer.engine.vm import agent

    router = ForkedRouter(zygote)
    agent.main(zygote, router)
    os._exit(1)


def die(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """To the console, whose last lines the host shows; then the guest ends."""
    import traceback

    traceback.print_exception(kind, error, trace)
    sys.stderr.flush()
    syscalls.restart_machine()


def main() -> None:
    """Never returns: whatever happens, the guest ends."""
    sys.excepthook = die
    boot()
    syscalls.restart_machine()
