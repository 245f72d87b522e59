"""Tab completion of option names and values on ``%%container`` lines."""

from __future__ import annotations

from typing import Any

from nbcontainer.options import OPTIONS

VERBS = ("run", "doctor", "ps", "stats", "prune")
MAGICS = ("%%container", "%container")


def complete(line: str) -> list[str]:
    """What can follow ``line`` (the text up to the cursor): whole words, or values of the option before."""
    words = line.split(" ")
    if words[0] not in MAGICS or len(words) < 2:
        return []
    last, before = words[-1], words[-2]
    if words[0] == "%container" and len(words) == 2:
        return [verb for verb in VERBS if verb.startswith(last)]
    by_name = {name: option for option in OPTIONS for name in option.names if not option.later}
    option = by_name.get(before)
    if option is not None and option.value:
        head, comma, tail = last.rpartition(",") if option.value == "LIST" else ("", "", last)
        return [f"{head}{comma}{choice}" for choice in option.choices if choice.startswith(tail)]
    if last.startswith("-"):
        return [option.names[0] for option in OPTIONS if option.names[0].startswith(last) and not option.later]
    return []


def _matcher(context: Any) -> Any:
    from IPython.core.completer import SimpleCompletion

    line = context.line_with_cursor if hasattr(context, "line_with_cursor") else context.full_text
    line = context.full_text.split("\n")[context.cursor_line][: context.cursor_position] or line
    found = complete(line)
    return {
        "completions": [SimpleCompletion(text=text, type="option") for text in found],
        "suppress": bool(found),
        "ordered": True,
        "matched_fragment": line.rpartition(" ")[2],
    }


_matcher.matcher_api_version = 2  # type: ignore[attr-defined]
_matcher.matcher_identifier = "nbcontainer"  # type: ignore[attr-defined]


def register(ipython: Any) -> None:
    unregister(ipython)
    ipython.Completer.custom_matchers.append(_matcher)


def unregister(ipython: Any) -> None:
    if _matcher in ipython.Completer.custom_matchers:
        ipython.Completer.custom_matchers.remove(_matcher)
