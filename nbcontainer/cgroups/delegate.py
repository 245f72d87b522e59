"""Giving a cgroup to a user: made and limited by root, who keeps the limits; the user may make cgroups below it."""

from __future__ import annotations

import contextlib
import errno
import os

from nbcontainer.cgroups import Driver, files
from nbcontainer.cgroups.leftovers import Leftover
from nbcontainer.cgroups.v2 import LEAF
from nbcontainer.errors import HostError, SetupError
from nbcontainer.spec import Limits

_V1_FILES = ("tasks", "cgroup.procs")
_V2_FILES = ("cgroup.procs", "cgroup.threads", "cgroup.subtree_control")
"""What the owner of a subtree writes to; whoever may write the limits has none."""


def delegate(driver: Driver, name: str, limits: Limits, uid: int, gid: int) -> tuple[str, ...]:
    """Make the cgroup ``name`` of ``driver``, with ``limits`` in force, and give it to a user.

    Returns the directories that a process has to :func:`enter` to be in it. What is there of that name already is ended.
    Raises HostError and SetupError; nothing is left then.
    """
    remove(driver, name)
    cgroup = driver.create(name, limits)
    try:
        cgroup.set_limits(limits)
        directories = [directory for _, directory in cgroup.views()]
        entrances = [_give(directory, uid, gid) for directory in directories]
    except OSError as error:
        cgroup.remove()
        raise SetupError("give the cgroup to its user", error.errno or 0, str(error.filename or "")) from error
    except (HostError, SetupError):
        cgroup.remove()
        raise
    cgroup.close()
    return tuple(entrances)


def _give(directory: str, uid: int, gid: int) -> str:
    """Returns where processes go. cgroup v2 has them in leaves only, as soon as there are limits below."""
    if os.path.exists(f"{directory}/tasks"):
        files: tuple[str, ...] = _V1_FILES
        places = [directory]
    else:
        files = _V2_FILES
        places = [directory, f"{directory}/{LEAF}"]
        os.makedirs(places[1], exist_ok=True)
    for place in places:
        os.chown(place, uid, gid)
        for file in files:
            os.chown(f"{place}/{file}", uid, gid)
    return places[-1]


def entrances(driver: Driver, name: str) -> tuple[str, ...]:
    """Of a cgroup that was given to a user before; () where it is not."""
    return tuple(leaf if os.path.isdir(leaf := f"{directory}/{LEAF}") else directory for directory in _directories(driver, name))


def enter(directories: tuple[str, ...]) -> None:
    """Move this process, which has one thread. Raises OSError."""
    for directory in directories:
        tasks = f"{directory}/tasks"  # v1: without the milliseconds that cgroup.procs takes
        files.write_text(tasks if os.path.exists(tasks) else f"{directory}/cgroup.procs", "0")


def give_own(uid: int, gid: int, root: str = "/sys/fs/cgroup") -> tuple[str, ...]:
    """In a pod or another container whose cgroup is ``root`` and can be written: give it to a user.

    Returns the directories for :func:`enter`. Raises OSError.
    """
    if not os.path.exists(f"{root}/cgroup.controllers"):
        raise OSError(errno.ENOENT, "not cgroup v2", root)
    return (_give(root, uid, gid),)


def processes(driver: Driver, name: str) -> list[int]:
    """Host-side ids of everything in the cgroup and below it."""
    leftover = _find(driver, name)
    return [] if leftover is None else leftover.pids()


def owners(driver: Driver) -> set[int]:
    """Ids of the users who have a cgroup of ``driver``."""
    found = set()
    for directory in (directory for name in driver.names() for directory in _directories(driver, name)):
        with contextlib.suppress(FileNotFoundError):  # it has just gone
            found.add(os.stat(directory).st_uid)
    return found


def remove(driver: Driver, name: str) -> None:
    """End everything in it and below it, and remove it. Nothing happens where it is not. Raises SetupError."""
    leftover = _find(driver, name)
    if leftover is not None:
        leftover.remove()


def remove_empty(driver: Driver) -> list[str]:
    """Remove the cgroups that nobody is in any more; returns their names. Raises SetupError."""
    removed = []
    for name in driver.names():
        leftover = _find(driver, name)
        if leftover is not None and not leftover.pids():
            leftover.remove()
            removed.append(name)
    return removed


def remove_place(driver: Driver) -> None:
    """Remove what the cgroups lay in, unless there still are some, or new ones just now. Raises OSError."""
    for directory in driver.directories:
        try:
            os.rmdir(directory)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EBUSY):
                raise


def _directories(driver: Driver, name: str) -> list[str]:
    return [f"{place}/{name}" for place in driver.directories if os.path.isdir(f"{place}/{name}")]


def _find(driver: Driver, name: str) -> Leftover | None:
    directories = _directories(driver, name)
    return Leftover(name, directories) if directories else None
