"""``sudo python -I -m nbcontainer.jupyter.steward --group GROUP --place PLACE VERB USER SERVER [ARG...]``: what a hub that is not
root asks of root.

GROUP and PLACE are in the administrator's line of sudoers, where the hub cannot change them: it can start programs as
members of GROUP, who are not root, and change cgroups below PLACE, and nothing else.

    limit USER SERVER MEMORY CPUS PIDS       makes the server's cgroup (0: without that limit), and the user's directory in memory; prints
                                             the way into the cgroup
    run USER SERVER PROGRAM [ARG...]         in there, as the user; the environment is a JSON object on standard input
    alive USER SERVER                        whether anything runs in it (exit code 0), or nothing (3)
    end USER SERVER                          SIGTERM to everything in it
    remove USER SERVER                       what is left is killed, and the cgroup goes, with the user's last one the directory
"""

from __future__ import annotations

import contextlib
import grp
import json
import os
import pwd
import signal
import sys
import urllib.parse
from dataclasses import dataclass
from functools import partial

from nbcontainer.cgroups import Driver, delegate, open_driver
from nbcontainer.errors import HostError, NbcontainerError, SetupError
from nbcontainer.jupyter import rundir
from nbcontainer.jupyter.join import EXIT_FAILED, become
from nbcontainer.spec import Limits

LARGEST_ENVIRONMENT = 1 << 20
EXIT_NOTHING = 3
LONGEST_NAME = 255
"""Bytes of a directory's name."""


def server_cgroup(user: str, server: str) -> str:
    """The name of a server's cgroup; the default server has the name ""."""
    names = [user, *([server] if server else [])]
    return ":".join(urllib.parse.quote(name, safe="@") for name in names)  # quote leaves no : and no /


@dataclass(frozen=True, slots=True)
class Request:
    group: str
    place: str
    verb: str
    user: str
    server: str
    words: tuple[str, ...]


_WORDS = {"limit": (3, 3), "run": (1, 10_000), "alive": (0, 0), "end": (0, 0), "remove": (0, 0)}
"""Least and most words after the server, by verb."""


def read_words(words: list[str]) -> Request:
    """By position alone: what is first is the administrator's. Raises ValueError."""
    if len(words) < 7 or words[0] != "--group" or words[2] != "--place" or words[4] not in _WORDS:
        raise ValueError("see the first lines of this module")
    least, most = _WORDS[words[4]]
    if not least <= len(words) - 7 <= most:
        raise ValueError(f"{words[4]}: {least} to {most} words")
    return Request(words[1], words[3], words[4], words[5], words[6], tuple(words[7:]))


def check_user(user: str, group: str) -> pwd.struct_passwd:
    """A member of the group who is not root. Raises HostError."""
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        raise HostError(f"there is no user {user!r} on this machine", f"sudo useradd -m -G {group} {user}") from None
    try:
        members = grp.getgrnam(group)
    except KeyError:
        raise HostError(f"there is no group {group!r} on this machine", f"sudo groupadd {group}") from None
    if entry.pw_uid == 0 or members.gr_gid not in os.getgrouplist(user, entry.pw_gid):
        raise HostError(f"user {user!r} is not in the group {group!r} of those who may have servers", f"sudo usermod -aG {group} {user}")
    return entry


def _limits(words: tuple[str, ...]) -> Limits:
    memory, cpus, pids = int(words[0]), float(words[1]), int(words[2])
    return Limits(memory_bytes=memory or None, cpus=cpus or None, pids=pids or None)


def _read_environment() -> dict[str, str]:
    data = sys.stdin.buffer.read(LARGEST_ENVIRONMENT + 1)
    environment = json.loads(data) if len(data) <= LARGEST_ENVIRONMENT else None
    if not isinstance(environment, dict) or not all(isinstance(value, str) for value in environment.values()):
        raise ValueError("the environment is not a JSON object of strings")
    return environment


def _run(request: Request, driver: Driver, name: str, runtime_directory: str) -> None:
    """Does not return."""
    environment = rundir.environment(runtime_directory) | _read_environment()
    entrances = delegate.entrances(driver, name)
    if not entrances:
        raise HostError(f"{request.user}'s cgroup is not there", "start the server anew")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    delegate.enter(entrances)
    become(request.user)
    # Nothing of the environment was in force before: from here on everything is the user's.
    os.execvpe(request.words[0], list(request.words), environment)


def serve(request: Request) -> int:
    """Exit code. Raises NbcontainerError, OSError and ValueError."""
    entry = check_user(request.user, request.group)
    parent, _, place = request.place.strip("/").rpartition("/")
    driver, directories = open_driver(place, parent=f"/{parent}"), rundir.RuntimeDirectories(request.place)
    name = server_cgroup(request.user, request.server)
    if len(name) > LONGEST_NAME or name.startswith("."):
        raise ValueError("a server's name is too long, or begins with a dot")
    match request.verb:
        case "limit":
            way_in = delegate.delegate(driver, name, _limits(request.words), entry.pw_uid, entry.pw_gid)
            try:
                directories.make(entry.pw_uid, entry.pw_gid)
            except SetupError:
                delegate.remove(driver, name)
                raise
            print(*way_in, sep="\n")
        case "run":
            _run(request, driver, name, directories.of(entry.pw_uid))
        case "alive":
            return 0 if delegate.processes(driver, name) else EXIT_NOTHING
        case "end":
            for pid in delegate.processes(driver, name):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
        case "remove":
            delegate.remove(driver, name)
            directories.keep_only(partial(delegate.owners, driver))
            delegate.remove_place(driver)
    return 0


def main() -> int:
    try:
        return serve(read_words(sys.argv[1:]))
    except NbcontainerError as error:
        print(error, file=sys.stderr)
    except (OSError, ValueError) as error:
        print(f"nbcontainer.jupyter.steward: {error}", file=sys.stderr)
    return EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main())
