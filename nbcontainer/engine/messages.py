"""What a cell says on its channel, as events: checked, bounded, and fit to be sent on. A cell can forge all of it."""

from __future__ import annotations

import difflib
import errno
import json
import math
import os
from typing import Any

from nbcontainer.data.small import MOST_CHARACTERS
from nbcontainer.errors import InternalError, NbcontainerError, SpecError
from nbcontainer.events import CellError, Display, InputRequest
from nbcontainer.runtime.client import setup_error
from nbcontainer.runtime.protocol import MAX_MESSAGE_CHARACTERS, MAX_TRACEBACK_CHARACTERS, cut, is_json

MAX_JSON_VALUES = 500_000
"""Lists and objects of a display; each takes some 60 bytes in Python, and 2 in a frame."""
MAX_JSON_LEVELS = 200
"""Of lists and objects in each other; who sends them on needs some stack for each, and may be deep in calls already."""
MAX_METADATA_CHARACTERS = 1 << 16
_DATA = "data "


def read_display(message: dict[str, Any]) -> Display | None:
    """None where it is none."""
    kind, display_id, parts = message.get("kind"), message.get("id"), message.get("parts", {})
    if kind not in ("display", "update", "result", "clear"):
        return None
    data: dict[str, Any] = {}
    for name, text in parts.items():
        if name.startswith(_DATA) and name.isascii():
            mime_type = name.removeprefix(_DATA)
            data.update(_read_json(mime_type, text) if is_json(mime_type) else {mime_type: text})
    metadata = parts.get("metadata", "{}")
    known = _parse(metadata) if len(metadata) <= MAX_METADATA_CHARACTERS else None
    size = sum(len(text) for text in parts.values())
    identity = display_id if isinstance(display_id, str) else None
    value = parts.get("value", "") if kind == "result" else ""
    return Display(kind, data, known if isinstance(known, dict) else {}, identity, size, value if len(value) <= MOST_CHARACTERS else "")


def _read_json(mime_type: str, text: str) -> dict[str, Any]:
    if sum(map(text.count, "[{,")) > MAX_JSON_VALUES:
        return {"text/plain": f"[{mime_type} of {len(text)} characters is not shown: too many values]"}
    value = _parse(text)
    return {} if value is None else {mime_type: value}


def _parse(text: str) -> Any:
    """JSON as it may be sent on; None for what is none: no NaN and no infinity, no lone surrogates, and not nested too deep."""
    try:
        value = json.loads(text, parse_constant=lambda name: None, parse_float=_finite)
        if text.count("[") + text.count("{") > MAX_JSON_LEVELS and _is_deep(value):
            return None
        return json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_JSON_LEVELS):
        inner = [part.values() if isinstance(part, dict) else part for part in level if isinstance(part, dict | list)]
        level = [part for parts in inner for part in parts]
        if not level:
            return False
    return True


def fit_to_be_sent(value: Any) -> Any:
    """What was read from JSON, as it may be sent on."""
    if isinstance(value, str):
        return without_surrogates(value)
    return None if _is_deep(value) else _parse(json.dumps(value))


def without_surrogates(text: str) -> str:
    """Halves of surrogate pairs, which JSON can carry and UTF-8 cannot, become question marks."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def _finite(text: str) -> float | None:
    """1e999 is a number of JSON, and infinite in Python."""
    number = float(text)
    return number if math.isfinite(number) else None


def read_error(message: dict[str, Any]) -> CellError:
    """Cut to a length that can be shown."""
    parts = message.get("parts", {})
    traceback = cut(parts.get("traceback", ""), MAX_TRACEBACK_CHARACTERS)
    name, text = (cut(parts.get(key, ""), MAX_MESSAGE_CHARACTERS) for key in ("ename", "evalue"))
    return CellError(name, text, tuple(traceback.split("\n")) if traceback else ())


def read_question(message: dict[str, Any]) -> InputRequest:
    """Cut to a length that can be shown."""
    prompt = cut(message.get("parts", {}).get("prompt", ""), MAX_MESSAGE_CHARACTERS)
    return InputRequest(prompt, message.get("password") is True)


def _nearest(path: str, message: dict[str, Any]) -> str:
    """What the user may have meant, of the programs that are there."""
    directory, slash, name = path.rpartition("/")
    close = difflib.get_close_matches(name, message.get("parts", {}).get("near", "").split("\n"), 3, 0.6)
    if not close:
        return " (PATH is searched unless it has a /)"
    return f"; did you mean {' or '.join(directory + slash + other for other in close)}?"


def read_failure(message: dict[str, Any]) -> NbcontainerError:
    """A step that failed after the code was handed over: mostly the user's line."""
    step, number, path = message.get("step"), message.get("errno"), message.get("path")
    if message.get("why"):
        return InternalError(f"the cell could not be started: {message['why']}")
    if step == "exec":
        if number == errno.ENOENT:
            return SpecError(f"PROGRAM: {path!r} is not in the container{_nearest(str(path), message)}")
        reason = os.strerror(number) if isinstance(number, int) else "failed"
        return SpecError(f"PROGRAM: {path!r} cannot be executed: {reason}")
    if step == "interpreter":
        what = "the loader (of a dynamic program) or interpreter (its #! line) that it needs is not"
        return SpecError(f"PROGRAM: {path!r} is in the container, but {what}; try a static program such as busybox")
    if step == "user":
        return SpecError(f"--user: {path!r} is not a user of the container; give a name from its /etc/passwd, or UID:GID")
    if step == "workdir":
        return SpecError(f"--workdir: {path!r} is not a directory in the container")
    return setup_error(message)
