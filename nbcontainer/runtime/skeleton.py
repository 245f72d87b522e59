"""What is laid over a host directory to make it a root: device nodes, mount points, and whiteouts of what is hidden.

A skeleton is a directory on the zygote's stage, shared by all containers as their uppermost read-only layer. Because it
is a layer and not a mount, nothing inside can be unmounted to look below it.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from nbcontainer.runtime.search import Hidden

SHOWN = ("bin", "sbin", "lib", "lib32", "lib64", "libx32", "usr", "etc", "opt")
"""Top-level directories of the host that a ``system`` root shows; all others are empty, as they may be anyone's data."""

REVEALED = "-revealed"
"""Ending of the key of a second skeleton, above the one that hides."""

MOST_FILES = 400
"""A directory that has something mounted in it, such as an outer container's /etc, shows its files one by one."""
HIDDEN_PATTERNS = ("shadow", "shadow-", "gshadow", "gshadow-")
OWN_FILES = ("/etc/hostname", "/etc/hosts", "/etc/resolv.conf")
EMPTY_IN_ETC = ("ssl/private", "jupyter", "jupyterhub", "sudoers.d")
_DISK_FILE_SYSTEMS = frozenset(("ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "zfs"))
DEVICES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}
DEVICE_LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "ptmx": "pts/ptmx",
}
_NOT_OF_DISKS = ("proc", "sys", "dev", "run")
_MOUNT_POINTS = ("proc", "sys", "dev", "dev/pts", "dev/shm", "workspace")
DIRECTORIES_OF_A_DIR = ("proc", "sys", "dev", "workspace", "etc", "tmp")
"""Directories that a ``DIR`` root always has."""


def python_directories() -> tuple[str, ...]:
    """The directories that this Python runs from: prefix, base prefix and site directories, outermost only."""
    candidates = {sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix}
    candidates |= {sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib", "platstdlib")}
    site = sys.modules.get("site")
    if site is not None and getattr(site, "ENABLE_USER_SITE", False):
        candidates.add(site.getusersitepackages())
    shown = tuple(f"/{name}" for name in SHOWN)
    directories = sorted({os.path.realpath(path) for path in candidates if os.path.isdir(path)})
    outermost: list[str] = []
    for path in directories:
        if path != "/" and not any(_is_below(path, other) for other in (*shown, *outermost)):
            outermost.append(path)
    return tuple(outermost)


def python_links() -> tuple[tuple[str, str], ...]:
    """(link, real directory) of every link on the way to this Python's prefix: sys.path has names that lead over them."""
    links: list[tuple[str, str]] = []
    path, current = os.path.abspath(sys.prefix), ""
    while path != current and len(links) < 40:  # as many as Linux follows
        for part in path.strip("/").split("/"):
            current = f"{current}/{part}"
            if os.path.islink(current):
                links.append((current, os.path.realpath(current)))
                path, current = links[-1][1] + path[len(current) :], ""
                break
    return tuple((link, real) for link, real in links if not is_shown(link))


def _is_below(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory + "/")


@dataclass(frozen=True, slots=True)
class Branch:
    """A directory with an overlay and a skeleton of its own, because the one of the root cannot reach or show it."""

    path: str
    key: str
    """Its skeleton's name on the stage."""
    why: str
    in_system: bool
    """It is part of the ``system`` root too, not only of ``host``."""
    searched: bool = True
    """The zygote looks for what "other" may not read in it; where it is another machine's, that machine does."""


def find_branches() -> tuple[Branch, ...]:
    """What Python runs from, and the host's other disk file systems; an outer directory comes before an inner one."""
    python = [Branch(path, f"python-{index}", "what Python runs from", True) for index, path in enumerate(python_directories())]
    taken = {branch.path for branch in python}
    mounts = [
        Branch(path, f"mount-{index}", "a file system of the host's", is_shown(path))
        for index, path in enumerate(_disk_mounts())
        if path not in taken and _open_to_all(path)
    ]
    return tuple(sorted(python + mounts, key=lambda branch: branch.path))


def is_shown(path: str) -> bool:
    """A ``system`` root shows it."""
    return any(_is_below(path, f"/{name}") for name in SHOWN)


@dataclass(frozen=True, slots=True)
class TopLevel:
    """What a rootless root is put together from, as / itself cannot be a lower layer in a user namespace."""

    branches: tuple[Branch, ...]
    directories: tuple[tuple[str, int], ...]
    """(path, mode) of directories that are not branches: made anew."""
    links: tuple[tuple[str, str], ...]
    files: tuple[str, ...] = ()
    """Plain files of directories that are not branches."""


def find_top_level() -> TopLevel:
    """The host's tree as branches: each directory that has no file system mounted below it, so that it can be a layer."""
    branches = [branch for branch in find_branches() if branch.key.startswith("python")]
    directories: list[tuple[str, int]] = []
    links: list[tuple[str, str]] = []
    files: list[str] = []
    waiting = [f"/{name}" for name in sorted(os.listdir("/")) if name not in _NOT_OF_DISKS]
    mount_points = _mount_points()
    while waiting:
        path = waiting.pop(0)
        if path.removeprefix("/etc/") in EMPTY_IN_ETC:
            continue
        try:
            mode = os.lstat(path).st_mode
            if stat.S_ISLNK(mode):
                links.append((path, os.readlink(path)))
            elif not stat.S_ISDIR(mode):
                if path.count("/") > 1 and not _is_secret(path) and stat.S_ISREG(mode) and mode & 0o004:
                    files.append(path)
            elif not _open_to_all(path):
                continue
            elif any(point != path and _is_below(point, path) for point in mount_points):
                waiting = [f"{path}/{name}" for name in sorted(os.listdir(path))] + waiting
                directories.append((path, stat.S_IMODE(mode)))
            else:
                branches.append(Branch(path, f"top-{len(branches)}", "a directory of the host's", is_shown(path)))
        except FileNotFoundError:
            continue  # somebody removes it just now
    return TopLevel(tuple(sorted(branches, key=lambda branch: branch.path)), tuple(directories), tuple(links), tuple(files[:MOST_FILES]))


def _is_secret(path: str) -> bool:
    directory, _, name = path.rpartition("/")
    return (directory == "/etc" and name in HIDDEN_PATTERNS) or (directory == "/etc/ssh" and name.startswith("ssh_host_"))


def _mount_table() -> Iterator[tuple[str, str]]:
    """(mount point, type of file system) of everything that is mounted."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        for line in table:
            left, _, right = line.partition(" - ")
            # Blanks and backslashes in paths are written as octal escapes.
            yield re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), left.split(" ")[4]), right.split()[0]


def _mount_points() -> set[str]:
    return {point for point, _ in _mount_table() if point != "/"}


def _disk_mounts() -> list[str]:
    """Mount points of disk file systems below /: an overlay's lower directory does not include them."""
    return sorted(
        {point for point, kind in _mount_table() if point != "/" and kind in _DISK_FILE_SYSTEMS and os.path.isdir(point)}
    )


def _open_to_all(path: str) -> bool:
    """"other" may enter and read ``path`` and every directory above it."""
    parts = path.strip("/").split("/")
    levels = ["/" + "/".join(parts[:depth]) for depth in range(1, len(parts) + 1)]
    try:
        return all(os.stat(level).st_mode & 0o005 == 0o005 for level in levels)
    except OSError:
        return False


class SkeletonBuilder:
    """Builds one skeleton at ``base``; ``lower`` is the host directory that it will lie over, "" where it is not known."""

    def __init__(self, base: str, lower: str = "/", *, rootless: bool = False, exists: bool = False) -> None:
        self.base, self.lower, self.rootless = base, lower, rootless
        if exists:
            return
        os.mkdir(base, 0o755)
        if lower:
            self._adopt(base, lower)

    def _adopt(self, path: str, like: str) -> None:
        status = os.stat(like)
        if not self.rootless:
            os.chown(path, status.st_uid, status.st_gid)
        os.chmod(path, stat.S_IMODE(status.st_mode))

    def _parents(self, relative: str) -> str:
        """Make the directories above ``relative`` with the lower ones' owner and mode (upper attributes win)."""
        current, below = self.base, self.lower
        for part in relative.split("/")[:-1]:
            current, below = f"{current}/{part}", f"{below.rstrip('/')}/{part}"
            if not os.path.isdir(current):
                os.mkdir(current, 0o755)
                if self.lower and os.path.isdir(below) and not self._inside_opaque(current):
                    self._adopt(current, below)
        return f"{self.base}/{relative}"

    def _inside_opaque(self, path: str) -> bool:
        while len(path) > len(self.base):
            path = os.path.dirname(path)
            try:
                os.getxattr(path, "trusted.overlay.opaque")
                return True
            except OSError:
                continue
        return False

    def directory(self, relative: str, mode: int = 0o755, *, opaque: bool = False) -> None:
        """A directory; ``opaque``: nothing of the lower layer shows through."""
        path = self._parents(relative)
        if not os.path.isdir(path):
            os.mkdir(path)
            os.chmod(path, mode)
        if opaque:
            os.setxattr(path, "trusted.overlay.opaque", b"y")

    def link(self, relative: str, target: str) -> None:
        path = self._parents(relative)
        if not os.path.lexists(path):
            os.symlink(target, path)

    def whiteout(self, relative: str) -> None:
        """The lower file or directory at ``relative`` does not exist any more."""
        with contextlib.suppress(FileExistsError):  # a directory above does not exist any more either
            path = self._parents(relative)
            # Inside an opaque one nothing of it shows, and Linux, which merges nothing there, would list the whiteout itself.
            if not os.path.lexists(path) and not self._inside_opaque(path):
                os.mknod(path, stat.S_IFCHR, os.makedev(0, 0))

    def devices(self) -> None:
        self.directory("dev", opaque=not self.rootless)
        for name, (major, minor) in DEVICES.items():
            path = f"{self.base}/dev/{name}"
            kind = stat.S_IFREG if self.rootless else stat.S_IFCHR  # rootless: the host's own are mounted over them
            os.mknod(path, kind | 0o666, os.makedev(major, minor))
            os.chmod(path, 0o666)
        for name, target in DEVICE_LINKS.items():
            self.link(f"dev/{name}", target)

    def mount_points(self) -> None:
        for name in _MOUNT_POINTS:
            self.directory(name, opaque=not self.rootless and name in ("proc", "sys", "workspace"))

    def hide(self, hidden: Hidden) -> None:
        for path in self._within(hidden.directories):
            if self.rootless:
                self.whiteout(path)  # a mark of opacity needs rights on this file system, or Linux 6.6
            else:
                self.directory(path, opaque=True)
        for path in self._within(hidden.files):
            self.whiteout(path)

    def _within(self, paths: Iterable[str]) -> list[str]:
        """Those of ``paths`` that lie in the lower directory, relative to it."""
        top = self.lower.rstrip("/") + "/"
        return [path.removeprefix(top) for path in paths if path.startswith(top)]

    def reveal(self, paths: Iterable[str], *, only_hidden: bool = False) -> None:
        """Mount points for the directories that Python runs from, passable by everybody."""
        for path in self._within(paths):
            parts = path.split("/")
            if only_hidden and not self._inside_opaque(f"{self.base}/{path}"):
                continue
            for depth in range(1, len(parts) + 1):
                relative = "/".join(parts[:depth])
                self.directory(relative)
                made = f"{self.base}/{relative}"
                os.chmod(made, stat.S_IMODE(os.stat(made).st_mode) | 0o055)


def build_system(base: str, hidden: Hidden, python: Iterable[str]) -> None:
    """The ``system`` root: programs and configuration of the host, nobody's data."""
    builder = SkeletonBuilder(base)
    with os.scandir("/") as entries:
        for entry in entries:
            if entry.name in SHOWN or entry.is_symlink():
                continue
            if entry.is_dir():
                builder.directory(entry.name, opaque=True)
            else:
                builder.whiteout(entry.name)
    builder.devices()
    builder.mount_points()
    for name in ("home", "srv", "mnt", "media", "run", "var", "var/lib", "var/log", "var/cache", "var/spool"):
        builder.directory(name, opaque="/" not in name)
    builder.directory("root", 0o700, opaque=True)
    os.chmod(f"{base}/root", 0o700)
    for name in ("tmp", "var/tmp"):
        builder.directory(name, opaque=True)
        os.chmod(f"{base}/{name}", 0o1777)
    builder.link("var/run", "/run")
    hide_in_etc(builder, "etc/")
    builder.hide(hidden)
    builder.reveal(python)
    for link, real in python_links():
        builder.link(link.lstrip("/"), real)


def hide_in_etc(builder: SkeletonBuilder, prefix: str) -> None:
    """Keys, password hashes and configuration of servers, whoever may read them; ``prefix``: where /etc is in the skeleton."""
    for name in EMPTY_IN_ETC:
        if os.path.isdir(f"/etc/{name}"):
            if builder.rootless:
                builder.whiteout(prefix + name)
            else:
                builder.directory(prefix + name, opaque=True)
    for name in HIDDEN_PATTERNS:
        if os.path.isfile(f"/etc/{name}"):
            builder.whiteout(prefix + name)
    if os.path.isdir("/etc/ssh"):
        for name in os.listdir("/etc/ssh"):
            if name.startswith("ssh_host_"):
                builder.whiteout(f"{prefix}ssh/{name}")


def build_host(base: str, hidden: Hidden, python: Iterable[str]) -> None:
    """The ``host`` root: everything of the host that everybody may read."""
    builder = SkeletonBuilder(base)
    builder.devices()
    builder.mount_points()
    builder.directory("run", opaque=True)
    builder.hide(hidden)
    builder.reveal(python, only_hidden=True)


def build_directory(base: str, *, rootless: bool) -> None:
    """For a ``DIR`` root: what any Linux program expects, and nothing else."""
    builder = SkeletonBuilder(base, "", rootless=rootless)
    builder.devices()
    builder.mount_points()
    builder.directory("etc")
    builder.directory("tmp")
    os.chmod(f"{base}/tmp", 0o1777)


def build_branch(base: str, directory: str, hidden: Hidden, python: Iterable[str], *, rootless: bool) -> None:
    """For a directory that is mounted over a ``system`` or ``host`` root."""
    builder = SkeletonBuilder(base, directory, rootless=rootless)
    if directory == "/etc":
        hide_in_etc(builder, "")
    builder.hide(hidden)
    inner = [path for path in python if path != directory and _is_below(path, directory)]
    if not rootless:
        builder.reveal(inner, only_hidden=True)
    elif inner:
        # A layer of its own: over a whiteout in the layer below it, a directory shows nothing of what is hidden.
        SkeletonBuilder(f"{base}{REVEALED}", directory, rootless=True).reveal(inner)
