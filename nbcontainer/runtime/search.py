"""Looking for what containers must not see: files that "other" may not read."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

MOST_PROCESSES = 4
LEVELS = 2
"""So deep are directories divided among processes: most of /usr is in /usr/lib and /usr/share."""
_OPEN = stat.S_IROTH | stat.S_IXOTH
_TESTS = r"( -type d ( ! -perm -o+r -o ! -perm -o+x ) -prune -printf d%p\0 ) -o ( ! -type d ! -type l ! -perm -o+r -printf f%p\0 )".split()


@dataclass(frozen=True, slots=True)
class Hidden:
    """Absolute paths below one mount that "other" may not read."""

    files: tuple[str, ...]
    directories: tuple[str, ...]


class Search:
    """find(1), running beside the caller: every file below some directories that "other" may not read, none below another.

    ``processes``: so many at most; the default is what somebody who waits is to have. Raises OSError where find cannot be run.
    """

    def __init__(self, directories: Iterable[str], processes: int = MOST_PROCESSES) -> None:
        existing = [path for path in dict.fromkeys(directories) if os.path.isdir(path) and not os.path.islink(path)]
        self._finds: list[_Find] = []
        processes = min(processes, len(os.sched_getaffinity(0)))
        shallow, deep = _divided(existing) if processes > 1 else ([], existing)
        try:
            for number in range(min(processes, len(deep))):
                self._finds.append(_Find(deep[number::processes]))
            if shallow:
                self._finds.append(_Find(shallow, "-maxdepth", "1"))
        except BaseException:
            for find in self._finds:
                find.end()
            raise

    @property
    def pids(self) -> set[int]:
        return {find.pid for find in self._finds}

    @property
    def done(self) -> bool:
        return all(find.done for find in self._finds)

    def result(self) -> Hidden:
        """Wait for the end. Raises OSError where find could not look at everything."""
        entries: dict[str, None] = {}
        failure: OSError | None = None
        for find in self._finds:
            try:
                entries.update(dict.fromkeys(find.result()))
            except OSError as error:
                failure = error
        if failure is not None:
            raise failure
        return Hidden(tuple(entry[1:] for entry in entries if entry[0] == "f"), tuple(entry[1:] for entry in entries if entry[0] == "d"))


class _Find:
    """One process."""

    def __init__(self, directories: Sequence[str], *options: str) -> None:
        self._output = os.memfd_create("hidden")
        try:
            self._process = subprocess.Popen(["find", *directories, "-xdev", *options, *_TESTS], stdout=self._output, stderr=subprocess.DEVNULL)
        except BaseException:
            os.close(self._output)
            raise
        self.pid = self._process.pid

    @property
    def done(self) -> bool:
        return self._process.poll() is not None

    def result(self) -> list[str]:
        self._process.wait()
        with os.fdopen(self._output, "rb") as file:
            file.seek(0)
            output = file.read()
        # Files that vanish while find walks end with status 1; a killed or missing find must not pass as "nothing".
        if self._process.returncode not in (0, 1):
            raise OSError(5, "find ended abnormally", "find")
        return [os.fsdecode(entry) for entry in output.split(b"\0") if entry]

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._output)


def _divided(directories: Sequence[str]) -> tuple[list[str], list[str]]:
    """(those whose own entries are to be looked at, those to be looked at with everything below)."""
    shallow, level = [], list(directories)
    for _ in range(LEVELS):
        shallow += level
        level = [child for path in level for child in _open_directories(path)]
    return shallow, level


def _open_directories(path: str) -> list[str]:
    """Directories in ``path``, of the same file system, that "other" may read and enter; find tells of the rest, or cannot go there either."""
    try:
        device = os.stat(path).st_dev
        with os.scandir(path) as entries:
            found = [(entry.path, entry.stat(follow_symlinks=False)) for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []
    return sorted(child for child, status in found if status.st_dev == device and status.st_mode & _OPEN == _OPEN)
