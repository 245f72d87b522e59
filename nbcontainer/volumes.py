"""Named volumes: directories of the user's that outlive containers, and that all kernels of the user see.

One in use is locked (shared) by each kernel for as long as one of its containers has it; whoever removes one needs the lock alone.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import subprocess
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from nbcontainer.errors import HostError, SetupError, SpecError
from nbcontainer.spelling import nearest

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_DATA, _LOCK = "data", "lock"


def directory() -> Path:
    """/var/lib/nbcontainer/volumes for root, else below XDG_DATA_HOME or ~/.local/share."""
    if os.geteuid() == 0:
        return Path("/var/lib/nbcontainer/volumes")
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "nbcontainer/volumes"


@dataclass(frozen=True, slots=True)
class Volume:
    name: str
    place: Path

    @property
    def path(self) -> Path:
        """What containers see."""
        return self.place / _DATA

    def created_unix_seconds(self) -> float:
        return (self.place / _LOCK).stat().st_mtime

    def size_bytes(self) -> int:
        """Of all files, each as long as it says it is."""
        # Not by Python's own walk, which recurses: a hostile cell can make directories a hundred thousand levels deep.
        command = ["find", str(self.path), "!", "-type", "d", "-printf", "%s\n"]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        return sum(map(int, done.stdout.split()))

    def in_use(self) -> bool:
        fd = os.open(self.place / _LOCK, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False


def check_name(name: str, option: str = "volume") -> str:
    if _NAME.fullmatch(name) is None:
        raise SpecError(f"{option}: {name!r} is not a name (letters, digits, _ . -, at most 63, a letter or digit first)")
    return name


def name_of(path: str) -> str | None:
    """The volume that containers see at this path of the host; None where it is another path."""
    place, _, name = path.rpartition("/")
    home = f"{directory()}/"
    return place.removeprefix(home) if name == _DATA and place.startswith(home) and "/" not in place.removeprefix(home) else None


def new_name() -> str:
    """As Docker's anonymous ones, and shorter."""
    return secrets.token_hex(8)


def create(name: str) -> Volume:
    """The volume of this name, made where there is none. Raises SpecError, HostError."""
    place = directory() / check_name(name)
    try:
        directory().mkdir(mode=0o700, parents=True, exist_ok=True)
        # What a cell writes here belongs to this user, set-uid programs too: other users of the host may not come near.
        directory().chmod(0o700)
        place.mkdir(mode=0o711, parents=True, exist_ok=True)
        # Containers' ids are mapped: what its root writes belongs, on the host, to whom the volume belongs.
        (place / _DATA).mkdir(mode=0o755, exist_ok=True)
        os.close(os.open(place / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise HostError(f"no place for the volume {name}: {error.filename}: {error.strerror}", f"mkdir -p {directory()} and make it yours") from None
    return Volume(name, place)


def find(name: str) -> Volume:
    """Raises SpecError with the nearest names."""
    known = [volume.name for volume in find_all()]
    if name not in known:
        near = nearest(name, known, 0.5)
        raise SpecError(f"volume: there is no volume {name}" + (f"; did you mean {near}?" if near else "; volume ls lists them"))
    return Volume(name, directory() / name)


def find_all() -> list[Volume]:
    try:
        entries = sorted(os.listdir(directory()))
    except OSError:
        return []
    return [Volume(name, directory() / name) for name in entries if _NAME.fullmatch(name) and (directory() / name / _LOCK).exists()]


def remove(name: str) -> None:
    """With all that is in it. Raises SpecError where there is none, or a container has it."""
    volume = find(name)
    fd = os.open(volume.place / _LOCK, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _remove_tree(volume.place)
    except BlockingIOError:
        raise SpecError(f"volume: {name} is in use by a container; end it first") from None
    except OSError as error:
        raise SetupError("remove the volume", error.errno or 0, str(error.filename or volume.place)) from None
    finally:
        os.close(fd)


def _remove_tree(path: Path) -> None:
    """However deep it is. Raises OSError."""
    done = subprocess.run(["rm", "-rf", "--", str(path)], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if os.path.lexists(path):
        words = done.stderr.strip().splitlines()
        raise OSError(errno.EBUSY, words[0] if words else "rm did not remove it", str(path))


class VolumesInUse:
    """Those of some mounts, locked until :meth:`close`. Raises SpecError where one was removed meanwhile."""

    def __init__(self, sources: Iterable[str]) -> None:
        self._fds: list[int] = []
        home = f"{directory()}/"
        try:
            for source in sources:
                if source.startswith(home):
                    self._fds.append(_lock(source.removeprefix(home).split("/")[0]))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        while self._fds:
            os.close(self._fds.pop())


_making = threading.Lock()


def _lock(name: str) -> int:
    with _making:
        path = create(name).place / _LOCK
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise SpecError(f"--volume: {name} is being removed") from None
        return fd
