"""The notebook's side: the magics, completion, and what is shown. Imported by ``%load_ext nbcontainer``."""

from __future__ import annotations

import sys
from typing import Any

FIGURE = "matplotlib.figure.Figure"


def allow_empty_body(lines: list[str]) -> list[str]:
    """Give an empty ``%%container`` cell a blank line: IPython refuses cell magics without a body, ``--help`` included."""
    if lines and lines[0].startswith("%%container") and not any(line.strip() for line in lines[1:]):
        return [lines[0].rstrip("\n") + "\n", "\n"]
    return lines


def figure_png(figure: Any) -> bytes:
    """A matplotlib Figure as what a notebook shows of it."""
    import io

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _show_figures(ipython: Any) -> None:
    """Have ``result.plot()`` shown: without pyplot, nobody tells IPython what a Figure looks like."""
    formatter = ipython.display_formatter.formatters["image/png"]
    if FIGURE not in formatter:
        formatter.for_type_by_name(*FIGURE.rsplit(".", 1), figure_png)


def load(ipython: Any) -> None:
    """Register the magics and the completer with an IPython shell."""
    from nbcontainer.notebook import completion
    from nbcontainer.notebook.magic import ContainerMagics
    from nbcontainer.notebook.wakeups import look_after_replies

    look_after_replies(getattr(ipython, "kernel", None))
    magics = ContainerMagics(shell=ipython, parent=ipython)
    ipython.register_magics(magics)
    ipython.configurables.append(magics)  # for %config
    if allow_empty_body not in ipython.input_transformers_cleanup:
        ipython.input_transformers_cleanup.append(allow_empty_body)
    completion.register(ipython)
    _show_figures(ipython)


def unload(ipython: Any) -> None:
    """Take them away again, and end this kernel's containers."""
    from nbcontainer.notebook import completion

    for kind in ("line", "cell"):
        ipython.magics_manager.magics[kind].pop("container", None)
    completion.unregister(ipython)
    ipython.configurables[:] = [one for one in ipython.configurables if type(one).__name__ != "ContainerMagics"]
    if allow_empty_body in ipython.input_transformers_cleanup:
        ipython.input_transformers_cleanup.remove(allow_empty_body)
    formatter = ipython.display_formatter.formatters["image/png"]
    if FIGURE in formatter and formatter.lookup_by_type(FIGURE) is figure_png:
        formatter.pop(FIGURE)

    engine = sys.modules.get("nbcontainer.engine")
    if engine is not None:
        engine.shutdown()
