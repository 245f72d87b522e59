"""Style sheets of pandas' Styler: of what a cell wrote, what can do nothing but colour and arrange its own table.

tinycss2 takes it apart; a rule stays whose selectors begin with an id of the Styler's (``#T_...``), with the declarations that are known and
whose values load nothing, and it is written anew. The ids get a prefix that is the output's own: no rule reaches what another output shows.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Any

MOST_CHARACTERS = 1 << 20
CLASSES = re.compile(r"(?:data|blank|dataframe|index_name|row_heading|col_heading|level\d+|row\d+|col\d+|row_trim|col_trim)", re.ASCII)
OWN_ID = re.compile(r"T_\w{1,100}", re.ASCII)
_STYLE = re.compile(r"<style\b([^>]*)>(.*?)</style\s*>", re.IGNORECASE | re.DOTALL)
_ID = r"#T_\w+"
_SIMPLE = rf"(?:{_ID}|\.[A-Za-z_][\w-]*|:hover|:first-child|:last-child|:nth-child\((?:odd|even|\d{{0,4}}n?(?:\+\d{{1,4}})?)\))"
_COMPOUND = rf"(?:(?:[A-Za-z][A-Za-z0-9]*|\*){_SIMPLE}*|{_SIMPLE}+)"
_SELECTOR = re.compile(rf"{_ID}{_SIMPLE}*(?:(?: *> *| +){_COMPOUND})*", re.ASCII)
_SIDES = ("", "-top", "-right", "-bottom", "-left")
_PROPERTIES = frozenset(
    """background background-color background-image background-position background-repeat background-size border-collapse border-radius
    border-spacing caption-side color empty-cells font-family font-size font-style font-variant font-weight height line-height max-height max-width
    min-height min-width opacity overflow-wrap text-align text-decoration text-overflow text-transform vertical-align white-space width word-break""".split()
) | {f"{name}{side}{part}" for side in _SIDES for name, parts in (("border", ("", "-color", "-style", "-width")), ("padding", ("",))) for part in parts}
_FUNCTIONS = frozenset("rgb rgba hsl hsla linear-gradient".split())
_VALUES = frozenset("whitespace ident number percentage dimension hash".split())


def prefix_of(html: str) -> str:
    """The same for the same output, so that a notebook that is run again does not change for it."""
    return f"nbc{hashlib.sha256(html.encode('utf-8', 'replace')).hexdigest()[:16]}-"


def take_out(html: str) -> tuple[str, list[str], bool]:
    """(``html`` without style sheets, these, whether there are any but those that pandas gives each table, ``<style scoped>``)."""
    found = [match for match in _STYLE.finditer(html) if "scoped" not in match[1].lower()]
    return _STYLE.sub("", html), [match[2] for match in found], bool(found)


def safe_rules(sheets: Iterable[str], prefix: str) -> tuple[str, bool]:
    """(the rules that may be shown, whether that is all of them)."""
    import tinycss2

    rules: list[str] = []
    whole = True
    for sheet in sheets:
        if len(sheet) > MOST_CHARACTERS:
            whole = False
            continue
        for rule in tinycss2.parse_stylesheet(sheet, skip_comments=True, skip_whitespace=True):
            try:
                written, all_of_it = _rule(rule, prefix) if rule.type == "qualified-rule" else ("", False)
            except RecursionError:  # parentheses in parentheses, thousands of them
                written, all_of_it = "", False
            rules += [written] if written else []
            whole = whole and all_of_it
    return "\n".join(rules), whole


def _rule(rule: Any, prefix: str) -> tuple[str, bool]:
    import tinycss2

    selectors = [" ".join(text.split()) for text in tinycss2.serialize(rule.prelude).split(",")]
    own = [selector.replace("#T_", f"#{prefix}T_") for selector in selectors if _SELECTOR.fullmatch(selector)]
    declarations = tinycss2.parse_declaration_list(rule.content, skip_comments=True, skip_whitespace=True)
    kept = [f"{one.lower_name}: {tinycss2.serialize(one.value).strip()}{' !important' if one.important else ''}" for one in declarations if _allowed(one)]
    written = f"{', '.join(own)} {{ {'; '.join(kept)} }}"
    if not own or not kept or "<" in written or "\\" in written:
        return "", not declarations
    return written, len(own) == len(selectors) and len(kept) == len(declarations)


def _allowed(declaration: Any) -> bool:
    return declaration.type == "declaration" and declaration.lower_name in _PROPERTIES and all(map(_loads_nothing, declaration.value))


def _loads_nothing(token: Any) -> bool:
    if token.type == "function":
        return token.lower_name in _FUNCTIONS and all(map(_loads_nothing, token.arguments))
    return token.type in _VALUES or (token.type == "literal" and token.value in (",", "/"))
