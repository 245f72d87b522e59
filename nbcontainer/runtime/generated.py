"""The methods that :mod:`dataclasses` writes for each class: compiled on the host, for a guest where that takes a second.

To be imported before the first dataclass is made, which is why it lies beside what imports nothing.
"""

from __future__ import annotations

import builtins
import dataclasses
import marshal
from types import CodeType
from typing import Any

_known: dict[str, CodeType] = {}


def _execute(source: str, *namespaces: Any) -> None:
    """In place of ``exec`` in that module. What is not known is compiled."""
    code = _known.get(source)
    if code is None:
        code = _known[source] = compile(source, "<string>", "exec", dont_inherit=True)
    builtins.exec(code, *namespaces)


def install() -> None:
    """From now on, what dataclasses compile is remembered."""
    vars(dataclasses)["exec"] = _execute


def recorded() -> bytes:
    """All that was compiled so far, for the same Python in a guest."""
    return marshal.dumps(_known)


def use(path: str) -> None:
    """What :func:`recorded` gave, in a file of our own."""
    install()
    with open(path, "rb") as file:
        _known.update(marshal.load(file))


def remove() -> None:
    """Cells have Python's own way, and the memory."""
    vars(dataclasses).pop("exec", None)
    _known.clear()
