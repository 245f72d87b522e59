"""The zygote's own mount namespace, and in it the directory where containers' roots are put together (see runtime.steps)."""

from __future__ import annotations

import os
import shutil

from nbcontainer.linux import syscalls


def prepare_stage(stage: str, rootless: bool) -> tuple[int, int]:
    """A private mount namespace with a tmpfs at ``stage``; returns descriptors of (own, kernel's) mount namespace.

    Rootless, there is only one, and the stage is a plain directory.
    """
    kernel_mounts = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    if not rootless:
        syscalls.unshare(syscalls.CLONE_NEWNS)
        # Slave: file systems that the host mounts later are seen, and nothing of ours goes back.
        syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_SLAVE)
        syscalls.mount("nbcontainer", stage, "tmpfs", syscalls.MS_NOSUID, "mode=755")
    for name in ("base", "scratch", "root", "ipython"):
        shutil.rmtree(f"{stage}/{name}", ignore_errors=True)  # of this kernel's last zygote
        os.mkdir(f"{stage}/{name}")
    return os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC), kernel_mounts
