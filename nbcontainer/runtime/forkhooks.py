"""Python's own fork hooks, held back while the zygote makes containers.

``threading``, ``logging``, ``random`` and IPython's history register functions that run in every forked process. In the
zygote, which has one thread and holds no lock, they do nothing that is needed but for new random numbers, and they
write to 130 memory pages, each of which a container would then have for itself. They are back before user code runs.

Imported first of all in the zygote: this module imports nothing that has such hooks.
"""

from __future__ import annotations

import _random
import os
from typing import Any

_register = os.register_at_fork
_held: list[dict[str, Any]] = []


def _hold(**hooks: Any) -> None:
    _held.append(hooks)


def hold() -> None:
    """From now on, hooks are remembered instead of registered."""
    os.register_at_fork = _hold


def release() -> None:
    """What was remembered is registered: the code that runs from here on may fork as it likes."""
    os.register_at_fork = _register
    for hooks in _held:
        _register(**hooks)
    _held.clear()


def renew() -> None:
    """What the hooks would have done that a new container needs: random numbers of its own, and its thread's id."""
    import random
    import threading

    # The C type's own seed: the one in Python only resets gauss_next besides, which nobody has used here.
    generator: Any = vars(random)["_inst"]
    _random.Random.seed(generator)
    thread: Any = threading.main_thread()
    thread._set_native_id()
