"""What verbs answer with: tables and documents, as text for a terminal and as HTML for a notebook."""

from __future__ import annotations

import html
import json
from dataclasses import dataclass
from typing import Any

_CELL = 'style="text-align:left;white-space:pre;padding:2px 12px 2px 0;font-family:var(--jp-code-font-family,monospace)"'
_OPEN_LEVELS = 2


@dataclass(frozen=True)
class Table:
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    """A line below it."""

    def as_text(self) -> str:
        everything = [self.columns, *(tuple(map(in_one_line, row)) for row in self.rows)]
        widths = [max(len(row[column]) for row in everything) for column in range(len(self.columns))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in everything]
        return "\n".join([*lines, *([self.note] if self.note else [])])

    def __repr__(self) -> str:
        return self.as_text()

    def _repr_html_(self) -> str:
        head = "".join(f"<th {_CELL}>{html.escape(column)}</th>" for column in self.columns)
        body = "".join(
            "<tr>" + "".join(f"<td {_CELL}>{html.escape(in_one_line(cell))}</td>" for cell in row) + "</tr>" for row in self.rows
        )
        note = f"<div>{html.escape(self.note)}</div>" if self.note else ""
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{note}"


def in_one_line(cell: str) -> str:
    """Names of files and processes are a container's to choose: with control characters they could fool a terminal."""
    return cell if cell.isprintable() else "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in cell)


@dataclass(frozen=True)
class Document:
    """JSON, in the notebook to be folded and opened."""

    content: Any
    lines: bool = False
    """As text, one line for each of a list, as Docker's lists write JSON."""

    def as_text(self) -> str:
        if self.lines:
            return "\n".join(json.dumps(one) for one in self.content)
        return json.dumps(self.content, indent=4)

    def __repr__(self) -> str:
        return self.as_text()

    def _repr_html_(self) -> str:
        return f'<div style="font-family:var(--jp-code-font-family,monospace)">{_fold(self.content, 0)}</div>'


def _fold(value: Any, level: int, name: str = "") -> str:
    label = f"<b>{html.escape(name)}</b>: " if name else ""
    if isinstance(value, dict | list) and value:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        inner = "".join(f"<div>{_fold(item, level + 1, str(key))}</div>" for key, item in items)
        size = f"{{{len(value)}}}" if isinstance(value, dict) else f"[{len(value)}]"
        state = " open" if level < _OPEN_LEVELS else ""
        return f'<details{state}><summary>{label}{size}</summary><div style="margin-left:1.5em">{inner}</div></details>'
    return f"{label}{html.escape(json.dumps(value))}"
