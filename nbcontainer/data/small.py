"""Small values of plain types as one text: what a cell's last expression was, beside how it is shown."""

from __future__ import annotations

import json
from typing import Any

from nbcontainer.data.blob import DataError
from nbcontainer.data.tree import CannotTravel, Decoder, Encoder

MOST_ROOM = 1 << 16
"""Characters and items, together."""
MOST_CHARACTERS = MOST_ROOM * 12
"""Of the text: each character may be written as an escaped pair, such as ``\\ud83d\\ude00``."""
_NUMBERS = (int, float, bool, complex, type(None))
_COLLECTIONS = (list, tuple, set, frozenset)


def encode(value: Any) -> str:
    """JSON as :mod:`nbcontainer.data.tree` has it; "" of whatever is not small, or not made of plain types alone."""
    if not _is_small(value):
        return ""
    try:
        return json.dumps(Encoder().encode(value))
    except (CannotTravel, ValueError, RecursionError):
        return ""


def decode(text: str) -> Any:
    """Safe for what a hostile cell has written. Raises DataError."""
    if len(text) > MOST_CHARACTERS:
        raise DataError("it is too long")
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError):
        raise DataError("it is not JSON") from None
    return Decoder(()).decode(tree)


def _is_small(value: Any) -> bool:
    """Asks nothing of a value whose type could answer by code of its own."""
    room, waiting = MOST_ROOM, [value]
    while waiting:
        item = waiting.pop()
        kind = type(item)
        if kind is str or kind in _COLLECTIONS or kind is dict:
            room -= len(item)
        elif kind is int:
            room -= item.bit_length() >> 3
        elif kind not in _NUMBERS:
            return False
        room -= 1
        if room < 0:
            return False
        if kind is dict:
            waiting += [*item, *item.values()]
        elif kind in _COLLECTIONS:
            waiting += item
    return True
