"""Capabilities: names, the default set of a container, and giving the rest up for good."""

from __future__ import annotations

from collections.abc import Iterable

from nbcontainer.linux import syscalls

CAPABILITIES = tuple(
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST "
    "NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE "
    "SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM "
    "BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE".split()
)
"""Without the CAP_ prefix, in the order of their numbers."""

DEFAULT_CAPABILITIES = tuple(
    "CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP NET_BIND_SERVICE SYS_CHROOT SETFCAP".split()
)
"""Podman's default set: Docker's without MKNOD, NET_RAW and AUDIT_WRITE."""


def choose(add: Iterable[str], drop: Iterable[str]) -> tuple[str, ...]:
    """The set that Docker's ``--cap-add`` and ``--cap-drop`` describe; ALL stands for every one."""
    add, drop = set(add), set(drop)
    chosen = set(CAPABILITIES) if "ALL" in add else set() if "ALL" in drop else set(DEFAULT_CAPABILITIES)
    chosen = (chosen | (add - {"ALL"})) - drop
    return tuple(name for name in CAPABILITIES if name in chosen)


def mask(names: Iterable[str]) -> int:
    return sum(1 << CAPABILITIES.index(name) for name in names)


def may_administer() -> bool:
    """This process has CAP_SYS_ADMIN, so that it can mount and make namespaces without one for users."""
    return has("SYS_ADMIN")


def has(name: str) -> bool:
    """This process has a capability, in its user namespace."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        effective = next(line for line in status if line.startswith("CapEff:"))
    return bool(int(effective.split()[1], 16) >> CAPABILITIES.index(name) & 1)


def last_capability() -> int:
    """The highest capability number of the running Linux."""
    with open("/proc/sys/kernel/cap_last_cap", encoding="ascii") as file:
        return int(file.read())


def limit_to(keep_mask: int) -> None:
    """Effective and permitted become ``keep_mask``; inheritable and ambient become empty, as in Docker since 2022."""
    syscalls.prctl(syscalls.PR_CAP_AMBIENT, syscalls.PR_CAP_AMBIENT_CLEAR_ALL)
    syscalls.capset(keep_mask, keep_mask, 0)
