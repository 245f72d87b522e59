"""``python -I -m nbcontainer.jupyter.join [--own-cgroup] [--cgroup DIR]... --user NAME -- PROGRAM [ARG...]``: enter cgroups,
become a user, and go on as PROGRAM. --own-cgroup, in a pod with writable cgroups: first give them to the user.

JupyterHub starts it as root. It has one thread and its own memory, which a hook between fork and exec in the hub has not.
-I, because the environment and the home directory are the user's, and this runs as root: no module of theirs may be
imported.
"""

from __future__ import annotations

import os
import pwd
import sys
from dataclasses import dataclass

from nbcontainer.cgroups.delegate import enter, give_own

EXIT_FAILED = 126


@dataclass(frozen=True, slots=True)
class Request:
    cgroups: tuple[str, ...]
    own_cgroup: bool
    user: str
    program: tuple[str, ...]


def read_words(words: list[str]) -> Request:
    """Raises ValueError, IndexError."""
    directories: list[str] = []
    user, own_cgroup = "", False
    waiting = list(words)
    while (word := waiting.pop(0)) != "--":
        if word == "--cgroup":
            directories.append(waiting.pop(0))
        elif word == "--own-cgroup":
            own_cgroup = True
        elif word == "--user":
            user = waiting.pop(0)
        else:
            raise ValueError(word)
    if not user or not waiting:
        raise ValueError("--user and a program are needed")
    return Request(tuple(directories), own_cgroup, user, tuple(waiting))


def _give_own(user: str) -> tuple[str, ...]:
    entry = pwd.getpwnam(user)
    return give_own(entry.pw_uid, entry.pw_gid)


def become(name: str) -> None:
    """The user ``name`` with all groups, in their home directory. Raises OSError, KeyError."""
    entry = pwd.getpwnam(name)
    if os.geteuid() == 0:
        os.setgroups(os.getgrouplist(name, entry.pw_gid))
        os.setresgid(entry.pw_gid, entry.pw_gid, entry.pw_gid)
        os.setresuid(entry.pw_uid, entry.pw_uid, entry.pw_uid)
    elif os.geteuid() != entry.pw_uid:
        raise PermissionError(1, "only root can become another user", name)
    try:
        os.chdir(entry.pw_dir)  # as the user: root may see what the user may not
    except OSError:
        os.chdir("/")


def main() -> int:
    try:
        request = read_words(sys.argv[1:])
    except (ValueError, IndexError):
        print(__doc__, file=sys.stderr)
        return 2
    try:
        enter((*request.cgroups, *(_give_own(request.user) if request.own_cgroup else ())))
        become(request.user)
        os.execvpe(request.program[0], request.program, os.environ)
    except (OSError, KeyError) as error:
        print(f"nbcontainer: {request.program[0]} was not started: {error}", file=sys.stderr)
        return EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main())
