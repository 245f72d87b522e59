"""Starting threads, of which there may be no more."""

from __future__ import annotations

import threading
from collections.abc import Callable

from nbcontainer.errors import HostError


def start_daemon(target: Callable[[], object], name: str) -> threading.Thread:
    """A daemon thread that runs ``target``. Raises HostError where Linux makes none (a limit on processes counts threads)."""
    thread = threading.Thread(target=target, name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        raise HostError(f"the kernel's own process: {error}", "end some processes, or raise the pids limit around the kernel") from None
    return thread
