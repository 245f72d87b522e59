"""What /proc says of a container's processes on this host. Ids are the host's."""

from __future__ import annotations

_EXITING = 0x4
"""PF_EXITING: as pid 1 of a container, it waits for all others to be gone."""


def session_of(pid: int) -> int:
    """Raises FileNotFoundError or ProcessLookupError where it is gone."""
    return int(_stat(pid)[3])


def is_exiting(pid: int) -> bool:
    """Ended, or about to."""
    try:
        return bool(int(_stat(pid)[6]) & _EXITING)
    except (FileNotFoundError, ProcessLookupError):
        return True


def _stat(pid: int) -> list[bytes]:
    """The fields behind the name, which may hold anything."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        return file.read().rpartition(b")")[2].split()
