"""What of a container's rich output may reach the browser: nothing that could run there with the notebook's rights."""

from __future__ import annotations

import base64
import re
import secrets
from collections.abc import Mapping
from typing import Any

SAFE_AS_TEXT = ("text/plain", "text/latex")
SAFE_RASTER = ("image/png", "image/jpeg", "image/gif")
MAX_DISPLAY_BYTES = 32 << 20
# Browsers drop control characters before a URL, and tabs and newlines anywhere in it: "da\nta:" is "data:" to them.
_TAGS = re.compile(r"<[^>]*>")
_VISIBLE = ("<img", "<table", "<progress", "<hr")
_MEDIA = ("<audio", "<video")
WIDGET = "application/vnd.jupyter.widget-view+json"
NO_WIDGETS = (
    "[a widget talks to its kernel while it is shown, and no kernel stays in this container: only its text is shown. "
    "Bring the data out with -o and make the widget in a cell of the notebook{hint}]"
)
NOT_SHOWN = "[what could run or load something in your browser is not shown; --trust-output shows it]"
_INVISIBLE = re.compile(r"[\x00-\x20]+")


def sanitise(data: Mapping[str, Any]) -> dict[str, Any]:
    """The bundle that may be shown: text, raster images, LaTeX and JSON as they are, HTML cleaned by nh3, SVG as an image.

    Everything else (JavaScript, widget views, unknown types) is left out; text/plain stays as the fallback, and says why.
    """
    safe: dict[str, Any] = {}
    hidden = False
    for kind, value in data.items():
        if isinstance(value, str) and len(value) > MAX_DISPLAY_BYTES:
            safe["text/plain"] = f"[{kind} of {len(value)} characters is not shown: too large]"
        elif kind in SAFE_AS_TEXT and isinstance(value, str):
            if kind != "text/plain" or "text/markdown" not in data:
                safe.setdefault(kind, value)
        elif kind in SAFE_RASTER and isinstance(value, str):
            safe[kind] = _valid_base64(value)
        elif kind == "application/json":
            safe[kind] = value
        elif kind == "text/markdown" and isinstance(value, str) and "text/html" not in data:
            safe["text/plain"] = value  # its source: front ends would load images from elsewhere
        elif kind == "text/html" and isinstance(value, str):
            cleaned = clean_html(value)
            if _shows(cleaned) and not any(tag in value.lower() for tag in _MEDIA):
                safe[kind] = cleaned
            else:
                hidden = hidden or bool(value.strip())
        elif kind == "image/svg+xml" and isinstance(value, str) and "text/html" not in data:
            safe["text/html"] = svg_as_image(value)
        elif kind in ("application/javascript", "text/javascript"):
            hidden = True
    notes = [_widget_note(str(data.get("text/plain", "")))] if WIDGET in data else [NOT_SHOWN] if hidden else []
    if notes:
        safe["text/plain"] = "\n".join([*filter(None, [safe.get("text/plain", "")]), *notes])
    return safe


def _shows(html: str) -> bool:
    """A reader sees something of it."""
    return bool(_TAGS.sub("", html).replace("&nbsp;", "").strip()) or any(tag in html for tag in _VISIBLE)


def _widget_note(text: str) -> str:
    bar = "%|" in text
    return NO_WIDGETS.format(hint="; a bar that works here: from tqdm import tqdm" if bar else "")


def sanitise_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Of the metadata, the size of pictures."""
    safe: dict[str, Any] = {}
    for kind in SAFE_RASTER:
        given = metadata.get(kind)
        if isinstance(given, Mapping):
            sizes = {name: given[name] for name in ("width", "height") if type(given.get(name)) in (int, float)}
            safe.update({kind: sizes} if sizes else {})
    return safe


def _valid_base64(value: str) -> str:
    """The same bytes, encoded anew: nothing but base64 can be in it."""
    try:
        return base64.b64encode(base64.b64decode(value)).decode("ascii")
    except ValueError:
        return ""


def clean_html(html: str) -> str:
    """HTML without scripts, handlers, styles, frames and forms; links by http and https, images only in the text itself.

    An image from elsewhere would have the reader's browser tell that server what the cell, without a network, cannot.
    """
    import nh3

    attributes = {tag: set(names) for tag, names in nh3.ALLOWED_ATTRIBUTES.items()}
    for tag in ("table", "th", "td", "tr"):
        attributes.setdefault(tag, set()).update({"colspan", "rowspan", "align", "border"} if tag in ("th", "td") else {"border", "align"})
    attributes.setdefault("img", set()).update({"src", "alt", "width", "height"})
    attributes["progress"] = {"max", "value"}

    def only_images(tag: str, name: str, value: str) -> str | None:
        if not _INVISIBLE.sub("", value).lower().startswith("data:") and not (tag == "img" and name in ("src", "srcset")):
            return value
        is_image = tag == "img" and name == "src" and value.startswith(tuple(f"data:{kind};base64," for kind in SAFE_RASTER))
        return value if is_image else None

    whole = html.encode("utf-8", "replace").decode()  # without halves of a surrogate pair, which no encoder takes
    return nh3.clean(whole, tags={*nh3.ALLOWED_TAGS, "progress"}, attributes=attributes, url_schemes={"http", "https", "mailto", "data"}, attribute_filter=only_images)


def svg_as_image(svg: str) -> str:
    """An SVG as the source of an image: browsers run no script and load nothing from inside an image."""
    encoded = base64.b64encode(svg.encode("utf-8", "replace")).decode("ascii")
    return f'<img alt="SVG image" src="data:image/svg+xml;base64,{encoded}">'


class DisplayIds:
    """A container's display ids, made its own: it can update what it displayed, and nobody else's."""

    def __init__(self) -> None:
        self._own: dict[str, str] = {}

    def new(self, display_id: str) -> str:
        return self._own.setdefault(display_id, f"nbcontainer-{secrets.token_hex(8)}")

    def known(self, display_id: str) -> str | None:
        return self._own.get(display_id)
