"""Options that IPython's configuration can set: ``c.ContainerMagics.mem = "512M"``, or ``%config ContainerMagics.mem = "512M"``."""

from __future__ import annotations

from typing import Any

import traitlets
from IPython.core.magic import Magics

from nbcontainer.options import NOTEBOOK_ONLY, OPTIONS, ParsedLine

_OF_ONE_CELL = frozenset("name detach keep exec input output result out err explain dry_run help".split())
CONFIGURABLE = tuple(option for option in OPTIONS if not option.later and option.key not in _OF_ONE_CELL)

_traits: dict[str, Any] = {
    option.key: traitlets.Any(None, allow_none=True, help=f"Default of {option.names[0]}: {option.help}.").tag(config=True) for option in CONFIGURABLE
}


def _note(magics: Any, change: Any) -> None:
    """What is set is kept beside: reading fifty traits for every cell takes longer than parsing its line."""
    magics.__dict__.setdefault("configured", {})[change["name"]] = change["new"]


_traits["_note"] = traitlets.observe(*(option.key for option in CONFIGURABLE))(_note)
ConfiguredMagics: Any = type("ConfiguredMagics", (Magics,), _traits)


def with_configuration(parsed: ParsedLine, magics: Any) -> ParsedLine:
    """The line with what is configured for options that it leaves out."""
    configured: dict[str, Any] = magics.__dict__.get("configured", {})
    if not configured:
        return parsed
    container, front = dict(parsed.container), dict(parsed.front)
    for key, value in configured.items():
        if value is None or value is False or key in container or key in front:
            continue
        if (key, "no_live" in front) == ("live", True) or (key, "live" in front) == ("no_live", True):
            continue
        (front if key in NOTEBOOK_ONLY else container)[key] = value
    return ParsedLine(container, front, parsed.program)
