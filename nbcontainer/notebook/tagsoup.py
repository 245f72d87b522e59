"""What hostile HTML costs to take apart: in the HTML standard's algorithm, a few kilobytes can become gigabytes, and megabytes take hours.

*Formatting elements* (``<b>``, ``<i>``, ...) that a paragraph's end has closed are opened anew in each paragraph that follows: 2,000 of
them before 2,000 paragraphs are four million elements. Under names that mean nothing to a parser, they are elements like others.
(``<a>`` closes the one before it.)

*Depth*: for many tags a parser looks through all that are open. Up to :data:`MOST_TAGS` that takes no time at all; with more, each must be
closed in its order and none be deep, as tables are that programs write.
"""

from __future__ import annotations

import re

FORMATTING = frozenset("b big code em font i nobr s small strike strong tt u".split())
MOST_TAGS, MOST_DEPTH = 10_000, 200
_NAMES = "|".join(sorted(FORMATTING, key=len, reverse=True))
_FORMATTING = re.compile(rf"(</?)(?=(?:{_NAMES})[\s/>])", re.IGNORECASE)
_DISARMED = re.compile(rf"((?:<|&lt;)/?)nbc-(?=(?:{_NAMES})(?:[\s/>]|&gt;))", re.IGNORECASE)
_TAG = re.compile(r"<(/?)([a-zA-Z][^\s/<>]*)[^<>]*>")
_VOID = frozenset("area base br col embed hr img input link meta param source track wbr".split())


def disarm(html: str) -> str:
    """With ``nbc-`` before the names of formatting elements."""
    return _FORMATTING.sub(r"\1nbc-", html)


def disarmed(names: frozenset[str] | set[str]) -> set[str]:
    """What these elements are called by :func:`disarm`."""
    return {f"nbc-{name}" if name in FORMATTING else name for name in names}


def rearm(html: str) -> str:
    """The opposite of :func:`disarm`, of what a parser has written."""
    return _DISARMED.sub(r"\1", html)


def is_bearable(html: str) -> bool:
    """It can be taken apart in a time that grows as its length does."""
    count = html.count("<")
    if count <= MOST_TAGS:
        return True
    opened: list[str] = []
    for tag in _TAG.finditer(html):
        count -= 1
        name = tag[2].lower()
        if name in _VOID:
            continue
        if not tag[1]:
            opened.append(name)
            if len(opened) > MOST_DEPTH:
                return False
        elif not opened or opened.pop() != name:
            return False
    return not count and not opened
