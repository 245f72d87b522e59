"""How far an experiment is: tqdm's bar, as a widget in a notebook, as text in a terminal."""

from __future__ import annotations

import secrets
import sys
from typing import Any

from nbcontainer.notebook.live import WIDGET_VIEW, is_kernel, show


class Progress:
    """Says nothing. :meth:`step` when one more is done, :meth:`refresh` for the clock."""

    def step(self, text: str) -> None: ...

    def refresh(self) -> None: ...

    def close(self) -> None: ...


class _Text(Progress):
    """Where somebody can see it: tqdm says nothing where standard error is not a terminal."""

    def __init__(self, total: int) -> None:
        from tqdm.std import tqdm

        self._bar: Any = tqdm(total=total, unit="run", disable=None, leave=False, mininterval=0)

    def step(self, text: str) -> None:
        self._bar.set_postfix_str(text, refresh=False)
        self._bar.update()

    def refresh(self) -> None:
        self._bar.refresh()

    def close(self) -> None:
        self._bar.close()


class _Widget(_Text):
    """In a display of its own: at the end a line of text takes its place, as a saved notebook has no widgets."""

    def __init__(self, total: int) -> None:
        from tqdm.notebook import tqdm_notebook

        self._bar = tqdm_notebook(total=total, unit="run", display=False, mininterval=0)
        self._display_id = f"nbcontainer-{secrets.token_hex(8)}"
        container = self._bar.container
        view = {"version_major": 2, "version_minor": 0, "model_id": container.model_id}
        show({WIDGET_VIEW: view, "text/plain": f"{total} runs"}, display_id=self._display_id)

    def close(self) -> None:
        how_far = self._bar.format_dict
        text = f"{how_far['n']} of {how_far['total']} runs in {self._bar.format_interval(how_far['elapsed'])}"
        show({"text/plain": text}, display_id=self._display_id, update=True)
        self._bar.close()
        self._bar.container.close()


def open_progress(total: int, wanted: bool) -> Progress:
    if not wanted:
        return Progress()
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return _Widget(total) if is_kernel(shell) else _Text(total)
