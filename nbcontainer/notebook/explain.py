"""``--explain`` as a view that opens and closes: each system call and cgroup write in order, and what it is for."""

from __future__ import annotations

import html
import re
from typing import Any

_LINE = re.compile(r"\[(\w+)\]\s+(.*?)(?:: (.*))?", re.DOTALL)
_WHERE = {"host": "outside, by the kernel's helper", "clone": "the new process begins", "inside": "inside, by the new process itself"}


def explanation(text: str, *, opened: bool) -> dict[str, Any]:
    """A MIME bundle of a plan's lines; in a terminal, its text."""
    rows, before, count = [], "", 0
    for line in text.splitlines():
        match = _LINE.fullmatch(line)
        where, call, why = match.groups() if match is not None else ("", line, "")
        count += 1
        if where != before:
            rows.append(f"<tr><th colspan='3' style='text-align:left'>{html.escape(_WHERE.get(where, where))}</th></tr>")
            before = where
        rows.append(
            f"<tr><td style='text-align:right'>{count}</td><td style='text-align:left'><code>{html.escape(call)}</code></td>"
            f"<td style='text-align:left'>{html.escape(why or '')}</td></tr>"
        )
    state = " open" if opened else ""
    head = f"<summary>What Linux is asked to do, in {count} steps</summary>"
    return {"text/plain": text, "text/html": f"<details{state}>{head}<table><tbody>{''.join(rows)}</tbody></table></details>"}


def show(shell: Any, text: str, *, opened: bool) -> None:
    """Text in a terminal, the view in a notebook."""
    from nbcontainer.notebook.live import is_kernel

    if not is_kernel(shell):
        print(text)
        return
    import IPython.display

    display: Any = IPython.display.display
    display(explanation(text, opened=opened), raw=True)
