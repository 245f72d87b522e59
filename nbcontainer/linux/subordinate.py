"""Subordinate ids: the ranges of /etc/subuid and /etc/subgid that an ordinary user may give to containers.

newuidmap and newgidmap (package uidmap) write them into a user namespace's maps, with rights that the user has not.
"""

from __future__ import annotations

import os
import pwd
import shutil
from dataclasses import dataclass

from nbcontainer.errors import HostError

IDS_OF_A_CONTAINER = 65535
"""Besides root, who is the user: 1 to 65535, with nobody (65534)."""
DISTINCT_FROM = 64
"""Ranges for so many containers, and each gets one of its own; with fewer, all share the first."""
_PATH = "/usr/bin:/bin:/usr/local/bin:/usr/sbin:/sbin"


@dataclass(frozen=True, slots=True)
class SubordinateIds:
    """``count`` ids from ``first_uid`` and ``first_gid`` on, and the two programs that write them into maps."""

    first_uid: int
    first_gid: int
    count: int
    newuidmap: str
    newgidmap: str

    @property
    def ranges(self) -> int:
        """How many containers can have ids of their own; 1: all share the same."""
        found = self.count // IDS_OF_A_CONTAINER
        return found if found >= DISTINCT_FROM else 1

    def range(self, number: int) -> tuple[int, int, int]:
        """(first uid, first gid, count) of a container."""
        first = number * IDS_OF_A_CONTAINER
        return self.first_uid + first, self.first_gid + first, min(self.count, IDS_OF_A_CONTAINER)


def find(subuid: str = "/etc/subuid", subgid: str = "/etc/subgid", status: str = "/proc/self/status") -> SubordinateIds:
    """The user's. Raises HostError where there are none, or none can be used from here."""
    uid = os.geteuid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        raise HostError(f"user id {uid} is in no /etc/passwd, and newuidmap wants that", "ask the administrator for an account") from None
    ranges = [_largest_range(path, name, uid) for path in (subuid, subgid)]
    if None in ranges:
        give = f"sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {name}"
        raise HostError(f"/etc/subuid and /etc/subgid give user {name} no ids", give)
    programs = [shutil.which(program, path=_PATH) for program in ("newuidmap", "newgidmap")]
    if None in programs:
        raise HostError("newuidmap and newgidmap are not installed", "sudo apt-get install uidmap (Fedora: shadow-utils-subid)")
    if _no_new_privileges(status):
        raise HostError(
            "this process has no_new_privs, under which newuidmap has no rights",
            "start Jupyter without it (systemd: NoNewPrivileges=no; Kubernetes: allowPrivilegeEscalation: true)",
        )
    (first_uid, uids), (first_gid, gids) = (found or (0, 0) for found in ranges)
    return SubordinateIds(first_uid, first_gid, min(uids, gids), *(str(program) for program in programs))


def _largest_range(path: str, name: str, uid: int) -> tuple[int, int] | None:
    """(first, count) of the lines ``NAME-OR-UID:FIRST:COUNT`` that are this user's."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            lines = [line.strip().split(":") for line in file]
    except OSError:
        return None
    found = [
        (int(fields[1]), int(fields[2]))
        for fields in lines
        if len(fields) == 3 and fields[0] in (name, str(uid)) and fields[1].isdecimal() and fields[2].isdecimal()
    ]
    return max((range_ for range_ in found if range_[1]), key=lambda range_: range_[1], default=None)


def _no_new_privileges(status: str) -> bool:
    with open(status, encoding="ascii", errors="replace") as file:
        return any(line.split() == ["NoNewPrivs:", "1"] for line in file)


def write_maps(programs: tuple[str, str], pid: int, own: tuple[int, int], subordinate: tuple[int, int, int]) -> None:
    """Map root of ``pid``'s user namespace to the user and group ``own``, and 1 and up to ``subordinate``.

    Raises OSError where newuidmap or newgidmap refuses; why is on this process's standard error.
    """
    first_uid, first_gid, count = subordinate
    further = [["1", str(first), str(count)] for first in (first_uid, first_gid)]
    _run(programs, pid, [["0", str(own_id), "1", *rest] for own_id, rest in zip(own, further, strict=True)])


def write_identity_maps(ids: SubordinateIds, pid: int, own: tuple[int, int]) -> None:
    """All ids that the user has are themselves in ``pid``'s user namespace. Raises OSError as :func:`write_maps`."""
    firsts, count = (ids.first_uid, ids.first_gid), str(ids.count)
    maps = [[str(own_id), str(own_id), "1", str(first), str(first), count] for own_id, first in zip(own, firsts, strict=True)]
    _run((ids.newuidmap, ids.newgidmap), pid, maps)


def _run(programs: tuple[str, str], pid: int, maps: list[list[str]]) -> None:
    children: list[int] = []
    statuses: list[int] = []
    try:
        # Both at once: most of their time is Linux's loader's.
        for program, words in zip(programs, maps, strict=True):
            children.append(os.posix_spawn(program, [program, str(pid), *words], {}))
    finally:
        statuses += [os.waitpid(child, 0)[1] for child in children]
    refused = [program for program, status in zip(programs, statuses, strict=True) if status]
    if refused:
        raise PermissionError(1, os.strerror(1), refused[0])
