"""The out-of-memory card: limit, peak, who was killed, what the memory was made of, and what would have sufficed."""

from __future__ import annotations

import hashlib
import html
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nbcontainer.events import limited_from_outside
from nbcontainer.units import MIB, format_size

if TYPE_CHECKING:
    from nbcontainer.result import Result

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_ARROW = re.compile(r"^-+>\s*(\d+)\s(.*)$", re.MULTILINE)
_KINDS = {"anon": "variables and other anonymous memory", "file": "cached files", "shmem": "tmpfs (the writable layer too) and shared memory"}
_KEPT_PEAKS = 1000


class Peaks:
    """What cells needed when they ended well: after a kill, that says how much would have sufficed."""

    def __init__(self) -> None:
        self._bytes: dict[bytes, int] = {}

    def note(self, code: str, program: Sequence[str], result: Result) -> None:
        if result.ok and not result.usage.oom_kills:
            if len(self._bytes) >= _KEPT_PEAKS:
                self._bytes.pop(next(iter(self._bytes)))
            self._bytes[_key(code, program)] = result.usage.memory_peak_bytes

    def of(self, code: str, program: Sequence[str]) -> int | None:
        return self._bytes.get(_key(code, program))


def _key(code: str, program: Sequence[str]) -> bytes:
    return hashlib.sha256("\0".join((code, *program)).encode("utf-8", "replace")).digest()


PEAKS = Peaks()


def rows(result: Result, earlier_peak_bytes: int | None = None) -> list[tuple[str, str]]:
    """(what, value) lines; only what is known."""
    usage, limit = result.usage, result.limits.memory_bytes
    found = [
        ("limit", f"--mem {format_size(limit)}" if limit else "none of its own; a cgroup above has one"),
        ("peak", format_size(usage.memory_peak_bytes)),
        ("killed", _killed(result)),
        ("processes killed", str(usage.oom_kills)),
    ]
    if limited_from_outside(usage.memory_peak_bytes, limit):
        found.insert(1, ("reached", "a limit around the notebook, or the machine's memory"))
    what, line = _line(result)
    if line:
        found.append((what, line))
    kinds = [f"{format_size(size)} {_KINDS.get(kind, kind)}" for kind, size in result.memory_by_kind.items() if size]
    if kinds:
        found.append(("made of", ", ".join(kinds)))
    if earlier_peak_bytes:
        enough = -(-earlier_peak_bytes // (16 * MIB)) * 16
        found.append(("would suffice", f"--mem {enough}M: this cell ended well earlier, with a peak of {format_size(earlier_peak_bytes)}"))
    return found


def _killed(result: Result) -> str:
    own = "the cell's own process" if result.signal else "a process that the cell had started"
    if not result.killed:
        return own
    names = ", ".join(result.killed[:5]) + (" and others" if len(result.killed) > 5 else "")
    return f"{names}: {own}" if len(result.killed) == 1 else names


def _line(result: Result) -> tuple[str, str]:
    """Where the cell was when it was killed or last seen, as far as known; or where it failed, after a child was killed."""
    if result.error is None:
        return "line of the cell" if result.line_is_certain else "last seen at line", result.line
    match = _ARROW.search(_ANSI.sub("", "\n".join(result.error.traceback)))
    return "line of the cell", f"{match[1]}: {match[2].strip()}" if match else ""


def card(result: Result, earlier_peak_bytes: int | None = None) -> dict[str, str]:
    """A MIME bundle."""
    found = rows(result, earlier_peak_bytes)
    width = max(len(what) for what, _ in found)
    text = "Out of memory\n" + "\n".join(f"  {what:<{width}}  {value}" for what, value in found)
    cells = "".join(
        f'<tr><th style="text-align:left;padding:1px 16px 1px 0;font-weight:normal;opacity:.75">{html.escape(what)}</th>'
        f'<td style="text-align:left;padding:1px 0">{html.escape(value)}</td></tr>'
        for what, value in found
    )
    markup = (
        '<div role="note" style="border-left:4px solid #D55E00;padding:4px 12px;margin:4px 0"><b>Out of memory</b>'
        f'<table style="border:0;margin:2px 0">{cells}</table></div>'
    )
    return {"text/html": markup, "text/plain": text}
