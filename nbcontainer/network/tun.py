"""The device that pasta makes its link with, for users who may not open the host's: in a mount namespace of the caller's own."""

from __future__ import annotations

import os
import signal
import stat
import sys
from pathlib import Path

from nbcontainer.linux import syscalls

DEVICE = Path("/dev/net/tun")
_NUMBER = os.makedev(10, 200)


def everybody_may_open_it() -> bool:
    try:
        status = DEVICE.stat()
    except OSError:
        return False
    return stat.S_ISCHR(status.st_mode) and status.st_mode & 0o006 == 0o006


def why_not() -> str:
    """What keeps the calling user from opening the device, and what to type; "" where nothing does."""
    if not DEVICE.exists():
        return f"there is no {DEVICE}; type: sudo modprobe tun"
    return "" if os.access(DEVICE, os.R_OK | os.W_OK) else f"only root may open {DEVICE}; type: sudo chmod 666 {DEVICE}"


def give_to_everybody() -> None:
    """The calling process leaves its mount namespace; in the new one everybody may open the device, as udev has it. Raises OSError."""
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    syscalls.mount("tmpfs", str(DEVICE.parent), "tmpfs", syscalls.MS_NOSUID, "mode=755,size=4k")
    umask = os.umask(0)
    os.mknod(DEVICE, stat.S_IFCHR | 0o666, _NUMBER)
    os.umask(umask)


def main() -> None:
    """Runs the program that the arguments name, with the device."""
    give_to_everybody()
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and pasta does not start where it is ignored
    os.execv(sys.argv[1], sys.argv[1:])
