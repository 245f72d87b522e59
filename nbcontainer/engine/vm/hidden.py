"""What containers must not see of the directories that every guest shares: files that "other" may not read.

QEMU reads with the rights of the kernel's user, which may be root. On the host itself the zygote looks for these files;
over 9p that would take minutes, so the kernel's side looks, while a guest starts.
"""

from __future__ import annotations

import contextlib
import time

from nbcontainer.engine.vm.layout import base_directories
from nbcontainer.errors import HostError
from nbcontainer.runtime.skeleton import Hidden, Search

FRESH_SECONDS = 60.0


class HiddenFiles:
    """The last result; to be used by one thread at a time."""

    def __init__(self) -> None:
        self._searches: list[Search] = []
        """One for each directory, beside each other."""
        self._found: Hidden | None = None
        self._began_seconds = 0.0

    def look(self) -> None:
        """Begin to look, unless that is going on, or a result is fresh. Raises HostError."""
        if self._searches or (self._found is not None and time.monotonic() - self._began_seconds < FRESH_SECONDS):
            return
        self._began_seconds = time.monotonic()
        searches: list[Search] = []
        try:
            for directory in base_directories():
                searches.append(Search([directory]))
        except OSError as error:
            _all(searches)
            raise HostError(f"the program find cannot be run: {error.strerror}", "sudo apt-get install findutils") from None
        self._searches = searches

    def result(self) -> Hidden:
        """Wait for it. Raises HostError."""
        self.look()
        if self._searches:
            searches, self._searches = self._searches, []
            found, failures = _all(searches)
            if failures:
                raise HostError(f"files that nobody may read could not be listed: {failures[0].strerror}", "sudo apt-get install findutils")
            self._found = found
        assert self._found is not None
        return self._found

    def close(self) -> None:
        """Nothing is left running: waits for a search that nobody has asked about."""
        if self._searches:
            with contextlib.suppress(HostError):
                self.result()


def _all(searches: list[Search]) -> tuple[Hidden, list[OSError]]:
    """Wait for all of them, also where one has failed."""
    files: list[str] = []
    directories: list[str] = []
    failures: list[OSError] = []
    for search in searches:
        try:
            found = search.result()
        except OSError as error:
            failures.append(error)
        else:
            files += found.files
            directories += found.directories
    return Hidden(tuple(files), tuple(directories)), failures
