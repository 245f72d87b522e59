"""What a cell's HTML says of its looks: of style sheets and style attributes, what can do nothing but colour and arrange its own output.

tinycss2 takes them apart; declarations stay that are known and whose values load nothing, and are written anew. Rules get a scope: they hold
inside of one element, which has an id that is the output's own, and ids and classes begin with that id, so that no rule reaches what another output
shows, and no rule of the page's reaches here. Nothing leaves its place (``position``, ``transform``), and that element shows nothing outside of itself.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Any

MOST_CHARACTERS = 1 << 18
"""Of the style sheets of one output, and as many of its style attributes that differ: a second's work."""
MOST_OF_SELECTOR = 1000
CLIPPED = "overflow: auto"
"""Of the element around: whatever sizes and margins are inside, it paints nothing over the rest of the page."""
NAME = re.compile(r"[A-Za-z_][\w-]{0,100}", re.ASCII)
"""Of an id, or of a class."""
_BEGIN, _END = re.compile(r"<style\b", re.IGNORECASE), re.compile(r"</style\s*>", re.IGNORECASE)
_PSEUDO = r"(?:first|last|only)-(?:child|of-type)|hover|nth-(?:last-)?(?:child|of-type)\((?:odd|even|\d{0,4}n?(?:\+\d{1,4})?)\)"
_SIMPLE = rf"(?:[#.][A-Za-z_][\w-]*|:(?:{_PSEUDO}))"
_COMPOUND = rf"(?:(?:(?!(?:html|body|head)\b)[A-Za-z][A-Za-z0-9]*|\*){_SIMPLE}*|{_SIMPLE}+)"
_SELECTOR = re.compile(rf"{_COMPOUND}(?: ?[>+~ ] ?{_COMPOUND})*", re.ASCII | re.IGNORECASE)
_OWN_NAME = re.compile(r"(?<=[#.])(?=[A-Za-z_])")
_SIDES = ("", "-top", "-right", "-bottom", "-left")
_FLAT = frozenset(
    """background background-color background-image background-position background-repeat background-size border-collapse
    border-radius border-top-left-radius border-top-right-radius border-bottom-left-radius border-bottom-right-radius border-spacing caption-side
    color empty-cells font-family font-size font-style font-variant font-weight list-style list-style-type opacity overflow-wrap table-layout text-align
    text-decoration text-overflow text-transform vertical-align visibility white-space word-break word-wrap""".split()
) | {f"border{side}{part}" for side in _SIDES for part in ("", "-color", "-style", "-width")}
"""What cannot make anything larger than the place that it has, or smaller than what is in it."""
_SIZES = frozenset(
    """align-content align-items align-self box-shadow clear column-gap display flex flex-basis flex-direction flex-grow flex-shrink flex-wrap float gap
    grid-template-columns grid-template-rows height justify-content justify-items letter-spacing line-height max-height max-width min-height min-width overflow
    overflow-x overflow-y row-gap text-indent width word-spacing""".split()
) | {f"{name}{side}" for side in _SIDES for name in ("margin", "padding")}
_UNSEEN = re.compile(
    r"--.*|-(?:moz|ms|webkit|o)-.*|animation.*|transition.*|box-sizing|color-scheme|cursor|font-smooth|isolation|outline.*|page-break-.*|break-.*|pointer-events"
    r"|print-color-adjust|resize|scroll.*|text-rendering|text-size-adjust|touch-action|user-select|will-change|z-index"
)
"""Properties without which it looks the same, or nearly so: nothing is said of them."""
_FUNCTIONS = frozenset("rgb rgba hsl hsla linear-gradient repeat minmax".split())
_VALUES = frozenset("whitespace ident number percentage dimension hash".split())


def scope_of(html: str) -> str:
    """The same for the same output, so that a notebook that is run again does not change for it."""
    return f"nbc{hashlib.sha256(html.encode('utf-8', 'replace')).hexdigest()[:16]}"


def take_out(html: str) -> tuple[str, list[str]]:
    """(``html`` without style sheets, these)."""
    rest: list[str] = []
    sheets: list[str] = []
    place = 0
    # Not one expression: it would go through the rest for each beginning that has no end.
    while (begin := _BEGIN.search(html, place)) is not None and (inner := html.find(">", begin.end())) >= 0:
        end = _END.search(html, inner)
        if end is None:
            break
        rest.append(html[place : begin.start()])
        sheets.append(html[inner + 1 : end.start()])
        place = end.end()
    return "".join([*rest, html[place:]]), [sheet for sheet in sheets if sheet.strip()]


def safe_declarations(text: str) -> tuple[str, bool, bool]:
    """Of a style attribute: (what may be shown, whether that can make it larger than its place, whether a reader sees all of it)."""
    import tinycss2

    try:
        declarations = tinycss2.parse_declaration_list(text, skip_comments=True, skip_whitespace=True)
        kept = _kept(declarations)
        written = "; ".join(map(_written, kept))
    except RecursionError:  # parentheses in parentheses, thousands of them
        return "", False, False
    if "<" in written or "\\" in written:
        return "", False, False
    return written, any(one.lower_name in _SIZES for one in kept), _is_whole(declarations, kept)


def safe_rules(sheets: Iterable[str], scope: str) -> tuple[str, bool]:
    """(the rules that may be shown, whether a reader sees all of them)."""
    import tinycss2

    rules: list[str] = []
    whole = True
    left = MOST_CHARACTERS
    for sheet in sheets:
        left -= len(sheet)
        if left < 0:
            return "\n".join(rules), False
        for rule in tinycss2.parse_stylesheet(sheet, skip_comments=True, skip_whitespace=True):
            try:
                written, all_of_it = _rule(rule, scope) if rule.type == "qualified-rule" else ("", False)
            except RecursionError:  # parentheses in parentheses, thousands of them
                written, all_of_it = "", False
            rules += [written] if written else []
            whole = whole and all_of_it
    return "\n".join(rules), whole


def _rule(rule: Any, scope: str) -> tuple[str, bool]:
    import tinycss2

    selectors = [" ".join(text.split()) for text in tinycss2.serialize(rule.prelude).split(",")]
    own = [f"#{scope} " + _OWN_NAME.sub(f"{scope}-", selector) for selector in selectors if len(selector) <= MOST_OF_SELECTOR and _SELECTOR.fullmatch(selector)]
    declarations = tinycss2.parse_declaration_list(rule.content, skip_comments=True, skip_whitespace=True)
    kept = _kept(declarations)
    written = f"{', '.join(own)} {{ {'; '.join(map(_written, kept))} }}"
    if not own or not kept or "<" in written or "\\" in written:
        return "", _is_whole(declarations, [])
    return written, len(own) == len(selectors) and _is_whole(declarations, kept)


def _kept(declarations: list[Any]) -> list[Any]:
    return [one for one in declarations if _is_known(one) and all(_loads_nothing(token, one.lower_name) for token in one.value)]


def _is_known(declaration: Any) -> bool:
    return declaration.type == "declaration" and (declaration.lower_name in _FLAT or declaration.lower_name in _SIZES)


def _is_whole(declarations: list[Any], kept: list[Any]) -> bool:
    names = set(map(id, kept))
    return all(id(one) in names or (one.type == "declaration" and _UNSEEN.fullmatch(one.lower_name) is not None) for one in declarations)


def _written(declaration: Any) -> str:
    import tinycss2

    return f"{declaration.lower_name}: {tinycss2.serialize(declaration.value).strip()}{' !important' if declaration.important else ''}"


def _loads_nothing(token: Any, name: str) -> bool:
    if token.type == "function":
        return token.lower_name in _FUNCTIONS and all(_loads_nothing(inner, name) for inner in token.arguments)
    return token.type in _VALUES or (token.type == "literal" and token.value in (",", "/")) or (token.type == "string" and name == "font-family")
