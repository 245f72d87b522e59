"""Run code in real Linux containers from Python and notebooks: process + namespaces + cgroup + a root of its own.

In a notebook: ``%load_ext nbcontainer``, then ``%%container --mem 128M``. In Python: ``nbcontainer.run("print(1)", mem="128M")``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nbcontainer.errors import HostError, InternalError, NbcontainerError, SetupError, SpecError

if TYPE_CHECKING:
    from nbcontainer import check as check
    from nbcontainer import networks as networks
    from nbcontainer.container import explain as explain
    from nbcontainer.container import run as run
    from nbcontainer.container import start as start
    from nbcontainer.containers import Container as Container
    from nbcontainer.experiment import compare as compare
    from nbcontainer.experiment import sweep as sweep
    from nbcontainer.host import examine_host as doctor
    from nbcontainer.isolation import compare_isolation as compare_isolation
    from nbcontainer.notebook.dashboard import dashboard as dashboard
    from nbcontainer.result import Result as Result

__version__ = "0.1.0"
__all__ = [
    "Container",
    "HostError",
    "InternalError",
    "NbcontainerError",
    "Result",
    "SetupError",
    "SpecError",
    "check",
    "compare",
    "compare_isolation",
    "dashboard",
    "doctor",
    "explain",
    "load_ipython_extension",
    "networks",
    "run",
    "start",
    "sweep",
    "unload_ipython_extension",
]

_LAZY = {
    "check": ("nbcontainer.check", ""),
    "networks": ("nbcontainer.networks", ""),
    "compare": ("nbcontainer.experiment", "compare"),
    "compare_isolation": ("nbcontainer.isolation", "compare_isolation"),
    "run": ("nbcontainer.container", "run"),
    "start": ("nbcontainer.container", "start"),
    "Container": ("nbcontainer.containers", "Container"),
    "explain": ("nbcontainer.container", "explain"),
    "Result": ("nbcontainer.result", "Result"),
    "sweep": ("nbcontainer.experiment", "sweep"),
    "dashboard": ("nbcontainer.notebook.dashboard", "dashboard"),
    "doctor": ("nbcontainer.host", "examine_host"),
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    module, attribute = _LAZY[name]
    imported = importlib.import_module(module)
    return getattr(imported, attribute) if attribute else imported


def __dir__() -> list[str]:
    return sorted(__all__)


def load_ipython_extension(ipython: Any) -> None:
    """``%load_ext nbcontainer``: the magics ``%%container`` and ``%container``."""
    from nbcontainer.notebook import load

    load(ipython)


def unload_ipython_extension(ipython: Any) -> None:
    from nbcontainer.notebook import unload

    unload(ipython)
