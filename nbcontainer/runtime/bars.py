"""``tqdm.notebook`` in a container: its bars, as text that moves.

They are widgets, whose values a kernel would have to send for as long as they are shown; without one they stay at 0.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

NAME = "tqdm.notebook"


class _Bars:
    """Finds and loads the one module, and costs nothing before a cell imports it."""

    @classmethod
    def find_spec(cls, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        return ModuleSpec(name, cls()) if name == NAME else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> None:
        """An ordinary one."""

    def exec_module(self, module: ModuleType) -> None:
        import tqdm.std

        base: Any = tqdm.std.tqdm

        class tqdm_notebook(base):  # type: ignore[misc]
            """tqdm's text bar, with what its widget takes besides."""

            container = None

            def __init__(self, *arguments: Any, display: bool = True, ncols: Any = None, **options: Any) -> None:
                super().__init__(*arguments, ncols=ncols if isinstance(ncols, int) else None, **options)

        def trange(*arguments: Any, **options: Any) -> Any:
            return tqdm_notebook(range(*arguments), **options)

        tqdm_notebook.__module__ = NAME
        names = {"tqdm": tqdm_notebook, "tqdm_notebook": tqdm_notebook, "trange": trange, "tnrange": trange}
        vars(module).update(names, __all__=[*names])


def install() -> None:
    sys.meta_path.insert(0, _Bars)
