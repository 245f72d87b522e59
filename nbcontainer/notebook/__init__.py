"""The notebook's side: the magics, completion, and what is shown. Imported by ``%load_ext nbcontainer``."""

from __future__ import annotations

from typing import Any


def load(ipython: Any) -> None:
    """Register the magics and the completer with an IPython shell."""
    from nbcontainer.notebook import completion
    from nbcontainer.notebook.magic import ContainerMagics

    ipython.register_magics(ContainerMagics)
    completion.register(ipython)


def unload(ipython: Any) -> None:
    """Take them away again, and end this kernel's containers."""
    from nbcontainer.notebook import completion

    for kind in ("line", "cell"):
        ipython.magics_manager.magics[kind].pop("container", None)
    completion.unregister(ipython)
    import sys

    local = sys.modules.get("nbcontainer.engine.local")
    if local is not None:
        local.shutdown()
