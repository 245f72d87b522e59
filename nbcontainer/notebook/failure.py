"""How a cell's failure is raised in the notebook: one short rendered error, never the extension's own frames."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nbcontainer.result import Result


class ContainerFailed(Exception):
    """The cell did not end well. ``result`` says everything about it."""

    def __init__(self, result: Result) -> None:
        super().__init__(result.describe())
        self.result = result

    def _render_traceback_(self) -> list[str]:
        """The cell's own traceback for a Python exception, else the verdict; IPython prints these lines."""
        return render(self.result)


class Interrupted(KeyboardInterrupt):
    """The stop button, while a verb was waiting."""

    def _render_traceback_(self) -> list[str]:
        return [f"\x1b[31mInterrupted\x1b[0m: {self}"]


def render(result: Result) -> list[str]:
    """The lines that say how the cell failed."""
    error = result.error
    lines = [] if error is None else list(error.traceback) or [f"{error.ename}: {error.evalue}"]
    if error is not None and result.outcome == "exited":
        return [*lines, *([result.note] if result.note else [])]
    return [*lines, f"\x1b[31mContainer: {result.outcome}\x1b[0m", result.describe()]
