"""What containers must not see of the directories that every guest shares: files that "other" may not read.

QEMU reads with the rights of the kernel's user, which may be root. On the host itself the zygote looks for these files;
over 9p that would take minutes, so the kernel's side looks, while a guest starts.
"""

from __future__ import annotations

import contextlib
import os
import time

from nbcontainer.engine.vm.layout import base_directories
from nbcontainer.errors import HostError
from nbcontainer.runtime.search import Hidden, Search

FRESH_SECONDS = 60.0
PRIORITY = 10
"""QEMU first: the guest has something to do before it can wait for this."""
REMEDY = "sudo apt-get install findutils"


class HiddenFiles:
    """The last result; to be used by one thread at a time."""

    def __init__(self) -> None:
        self._search: Search | None = None
        self._found: Hidden | None = None
        self._began_seconds = 0.0

    def look(self) -> None:
        """Begin to look, unless that is going on, or a result is fresh. Raises HostError."""
        if self._search is not None or (self._found is not None and time.monotonic() - self._began_seconds < FRESH_SECONDS):
            return
        self._began_seconds = time.monotonic()
        try:
            self._search = Search(base_directories())
        except OSError as error:
            raise HostError(f"the program find cannot be run: {error.strerror}", REMEDY) from None
        for pid in self._search.pids:
            os.setpriority(os.PRIO_PROCESS, pid, PRIORITY)

    def result(self) -> Hidden:
        """Wait for it. Raises HostError."""
        self.look()
        if self._search is not None:
            search, self._search = self._search, None
            try:
                self._found = search.result()
            except OSError as error:
                raise HostError(f"files that nobody may read could not be listed: {error.strerror}", REMEDY) from None
        assert self._found is not None
        return self._found

    def close(self) -> None:
        """Nothing is left running: waits for a search that nobody has asked about."""
        if self._search is not None:
            with contextlib.suppress(HostError):
                self.result()
