"""Options that IPython's configuration can set: ``c.ContainerMagics.mem = "512M"``, or ``%config ContainerMagics.mem = "512M"``."""

from __future__ import annotations

from typing import Any

import traitlets
from IPython.core.magic import Magics
from traitlets.config.loader import LazyConfigValue

from nbcontainer.options import NOTEBOOK_ONLY, OPTIONS, ParsedLine

_OF_ONE_CELL = frozenset("name detach keep exec input output result out err explain dry_run help".split())
CONFIGURABLE = tuple(option for option in OPTIONS if not option.later and option.key not in _OF_ONE_CELL)

_traits: dict[str, Any] = {
    option.key: traitlets.Any(None, allow_none=True, help=f"Default of {option.names[0]}: {option.help}.").tag(config=True) for option in CONFIGURABLE
}
ConfiguredMagics: Any = type("ConfiguredMagics", (Magics,), _traits)


def with_configuration(parsed: ParsedLine, magics: Any) -> ParsedLine:
    """The line with what is configured for options that it leaves out."""
    container, front = dict(parsed.container), dict(parsed.front)
    for option in CONFIGURABLE:
        value = getattr(magics, option.key)
        if isinstance(value, LazyConfigValue):
            value = value.get_value([])
        if value is None or value is False or option.key in container or option.key in front:
            continue
        if (option.key, "no_live" in front) == ("live", True) or (option.key, "live" in front) == ("no_live", True):
            continue
        (front if option.key in NOTEBOOK_ONLY else container)[option.key] = value
    return ParsedLine(container, front, parsed.program)
