"""The value of a contained cell's last expression, as a notebook has it: ``Out[5]``, and ``_``.

Numbers, texts and small collections of them are the values themselves. Of everything else the value stays in the container, and what can
be shown of it stands for it.
"""

from __future__ import annotations

from typing import Any

from nbcontainer.data import small
from nbcontainer.data.blob import DataError


class ContainerValue:
    """What can be shown of a value that stayed in its container. As the last expression of a cell, it is shown again."""

    def __init__(self, data: dict[str, Any], metadata: dict[str, Any]) -> None:
        self.data, self.metadata = data, metadata

    def __repr__(self) -> str:
        return str(self.data.get("text/plain", "<a value in a container>"))

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> tuple[dict[str, Any], dict[str, Any]]:
        return self.data, self.metadata

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise AttributeError(f"{name}: only what is shown of this value came out of its container; give it a name there, and bring that out with -o NAME")


def value_of(text: str, data: dict[str, Any], metadata: dict[str, Any]) -> Any:
    """``text``: the value itself, where the cell says that it is small."""
    try:
        return small.decode(text) if text else ContainerValue(data, metadata)
    except DataError:
        return ContainerValue(data, metadata)


def show(shell: Any, value: Any, data: dict[str, Any], metadata: dict[str, Any]) -> None:
    """What IPython does with the value of a cell's last expression, but for asking the value how it is to be shown."""
    hook = shell.displayhook
    hook.check_for_underscore()
    hook.start_displayhook()
    hook.write_output_prompt()
    hook.update_user_ns(value)
    hook.fill_exec_result(value)
    hook.write_format_data(data, metadata)
    hook.log_output(data)
    hook.finish_displayhook()
