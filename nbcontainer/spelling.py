"""The nearest correct spelling of a word that is none of those that are known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Of ``known``, whatever the case; letters that only changed places count as near. None where none is near."""
    names = {name.casefold(): name for name in known}
    folded = word.casefold()
    if folded in names:
        return names[folded]
    swapped = next((name for fold, name in names.items() if sorted(fold) == sorted(folded)), None)
    close = difflib.get_close_matches(folded, names, 1, cutoff)
    return swapped or (names[close[0]] if close else None)


def hint(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """``"did you mean NAME?"``, or ``"there are NAME, NAME"``: the end of a message of one line."""
    names = list(known)
    near = nearest(word, names, cutoff)
    return f"did you mean {near}?" if near is not None else f"there are {', '.join(names)}" if names else "there are none"
