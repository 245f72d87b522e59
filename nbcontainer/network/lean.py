"""Of pyroute2 and asyncio, what the router needs: a third of what they import, and in a virtual machine seconds less.

The package pyroute2 imports all of its parts when it is imported itself; its messages need few of them. asyncio imports OpenSSL,
and does without where there is none. For a process of our own only: others may want the rest.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from typing import Any

PACKAGE = "pyroute2"


def prepare() -> None:
    """From now on, ``import pyroute2.netlink`` does not import the package's own ``__init__``."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.submodule_search_locations is None:
        return
    package = types.ModuleType(PACKAGE)
    package.__spec__, package.__path__ = spec, list(spec.submodule_search_locations)
    sys.modules[PACKAGE] = package
    absent: Any = None  # what import takes for a module that is not there
    sys.modules.setdefault("ssl", absent)


def undo() -> None:
    """Where a version of pyroute2 has other ideas: its own way."""
    for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE or name.startswith("nbcontainer.network.")]:
        if name != __name__:
            del sys.modules[name]
    if sys.modules.get("ssl", sys) is None:
        del sys.modules["ssl"]


def import_router() -> Any:
    """The module :mod:`nbcontainer.network.router`."""
    prepare()
    try:
        return importlib.import_module("nbcontainer.network.router")
    except (ImportError, AttributeError):
        undo()
        return importlib.import_module("nbcontainer.network.router")
