"""Which disk I/O limits act on."""

from __future__ import annotations

import os

from nbcontainer.cgroups import files
from nbcontainer.errors import HostError


def block_device(directory: str, sys_dev_block: str = "/sys/dev/block", mountinfo: str = "/proc/self/mountinfo") -> str:
    """``"8:0"``, the whole disk that holds ``directory``: throttles act on disks, not on partitions. Raises HostError."""
    device = os.stat(directory).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    if not os.path.exists(f"{sys_dev_block}/{number}"):
        # btrfs has an anonymous device number; its mount names the real one.
        sources = [line.split(" - ")[1].split(" ")[1] for line in files.lines(mountinfo) if line.split(" ")[2] == number]
        for source in sources:
            if source.startswith("/dev/") and os.path.exists(source):
                device = os.stat(source).st_rdev
                number = f"{os.major(device)}:{os.minor(device)}"
    entry = os.path.realpath(f"{sys_dev_block}/{number}")
    if not os.path.isdir(entry):
        raise HostError(
            f"--io-read, --io-write: {directory} is not on a block device of its own (overlay, tmpfs or a network file system)",
            "leave the two options out, or run where the files are on a disk",
        )
    if os.path.exists(f"{entry}/partition"):
        entry = os.path.dirname(entry)
    return files.read_text(f"{entry}/dev").strip()
