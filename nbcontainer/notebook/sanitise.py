"""What of a container's rich output may reach the browser: nothing that could run there with the notebook's rights."""

from __future__ import annotations

import base64
import html
import re
import secrets
from collections.abc import Mapping
from typing import Any

from nbcontainer.notebook import stylesheet, tagsoup

SAFE_AS_TEXT = ("text/plain", "text/latex")
SAFE_RASTER = ("image/png", "image/jpeg", "image/gif", "image/webp", "image/bmp")
MAX_DISPLAY_BYTES = 32 << 20
# Browsers drop control characters before a URL, and tabs and newlines anywhere in it: "da\nta:" is "data:" to them.
_TAGS = re.compile(r"<[^>]*>")
_VISIBLE = ("<img", "<table", "<progress", "<hr", "background", "border")
_MEDIA = ("audio", "video")
TOO_COMPLEX = "HTML of this size in which not every tag is closed in its order"
A_SCRIPT, A_STYLE, A_PART_OF_STYLE, A_PICTURE = "a script", "its style sheet", "a part of its style", "a picture from elsewhere"
_PARTS = (
    (("script",), A_SCRIPT), (_MEDIA, "a video or sound"), (("iframe", "frame"), "a page in a frame"), (("object", "embed"), "an embedded object"),
    (("svg", "canvas"), "a drawing"), (("form", "input", "button", "select", "textarea"), "its controls"), (("link",), A_STYLE),
)  # fmt: skip
"""Of HTML: tags that are taken out with what they are to a reader."""
_KINDS = (
    ("application/javascript", A_SCRIPT), ("text/javascript", A_SCRIPT), ("application/vnd.vegalite.", "a Vega-Lite chart"), ("application/vnd.vega.", "a Vega chart"),
    ("application/vnd.plotly.", "a Plotly figure"), ("application/vnd.bokeh", "a Bokeh plot"), ("application/vnd.holoviews", "a HoloViews plot"),
    ("application/pdf", "a PDF document"), ("application/geo+json", "a map"), ("video/", "a video"), ("audio/", "a sound"),
)  # fmt: skip
_HANDLER = re.compile(r"<[a-z][^<>]*[\s\"'/](?:on[a-z]+\s*=|(?:xlink:)?href\s*=[\s\"']*javascript:)", re.IGNORECASE)
_MOST_KIND = 80
WIDGET = "application/vnd.jupyter.widget-view+json"
NO_WIDGETS = (
    "[a widget talks to its kernel while it is shown, and no kernel stays in this container: only its text is shown. "
    "Bring the data out with -o and make the widget in a cell of the notebook]"
)
NOT_SHOWN = "[{what}: not shown, as that could run or load something in your browser; --trust-output shows it]"
_INVISIBLE = re.compile(r"[\x00-\x20]+")


def sanitise(data: Mapping[str, Any]) -> dict[str, Any]:
    """The bundle that may be shown: text, raster images, LaTeX and JSON as they are, HTML cleaned by nh3, SVG as an image.

    Everything else (JavaScript, widget views, charts that a script draws, unknown types) is left out; text/plain stays as the fallback.
    What is left out is named: in text/plain, and in the HTML where there is some.
    """
    safe: dict[str, Any] = {}
    missing: list[str] = []
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
        elif kind == "text/markdown" and isinstance(value, str):
            if "text/html" not in data:
                safe["text/plain"] = value  # its source: front ends would load images from elsewhere
        elif kind == "text/html" and isinstance(value, str):
            cleaned, lacks = shown_html(value)
            missing += lacks
            if cleaned:
                safe[kind] = cleaned
        elif kind == "image/svg+xml" and isinstance(value, str):
            if "text/html" not in data:
                safe["text/html"] = svg_as_image(value)
        elif kind != WIDGET:
            missing.append(_name_of(kind))
    _add_notes(safe, WIDGET in data, list(dict.fromkeys(missing)))
    return safe


def _add_notes(safe: dict[str, Any], widget: bool, missing: list[str]) -> None:
    named = [name for name in missing if name != A_SCRIPT] or missing  # that of a chart, which is named already
    notes = [NO_WIDGETS] if widget else [NOT_SHOWN.format(what=" and ".join(named))] if named else []
    if not notes:
        return
    if "text/html" in safe:
        safe["text/html"] += f"<div><small>{html.escape(notes[0])}</small></div>"
    else:
        safe["text/plain"] = "\n".join([*filter(None, [safe.get("text/plain", "")]), *notes])


def _name_of(kind: str) -> str:
    name = next((name for beginning, name in _KINDS if kind.startswith(beginning)), "")
    return name or (kind if len(kind) <= _MOST_KIND and kind.isprintable() else "something of an unknown type")


def shown_html(text: str) -> tuple[str, list[str]]:
    """(what may be shown of it, empty where a reader would see nothing; what is left out)."""
    rest, sheets = stylesheet.take_out(text)
    if not tagsoup.is_bearable(rest):
        return "", [TOO_COMPLEX]
    lower = rest.lower()
    missing = [name for tags, name in _PARTS if any(re.search(rf"<{tag}\b", lower) for tag in tags)]
    missing += [A_SCRIPT] if _HANDLER.search(rest) else []
    scope = stylesheet.scope_of(text) if sheets else ""
    rules, whole = stylesheet.safe_rules(sheets, scope)
    cleaner = _Cleaner(scope if rules else "")
    cleaned = cleaner.clean(rest)
    missing += [name for name in cleaner.missing if name not in missing]
    if not _shows(cleaned) or any(f"<{tag}" in lower for tag in _MEDIA):
        return "", missing or ([A_STYLE] if sheets else ["HTML"] if text.strip() else [])
    if not whole:
        missing.append("a part of its style sheet" if rules else A_STYLE)
    if rules:
        return f'<style>{rules}</style><div id="{scope}" style="{stylesheet.CLIPPED}">{cleaned}</div>', missing
    return (f'<div style="{stylesheet.CLIPPED}">{cleaned}</div>' if cleaner.sized else cleaned), missing


def _shows(text: str) -> bool:
    """A reader sees something of it."""
    return bool(_TAGS.sub("", text).replace("&nbsp;", "").strip()) or any(tag in text for tag in _VISIBLE)


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


def clean_html(text: str) -> str:
    """HTML without scripts, handlers, frames and forms, and of styles, what colours and arranges it."""
    return _Cleaner("").clean(text)


class _Cleaner:
    """Links by http and https, images only in the text itself: one from elsewhere would have the reader's browser tell that server
    what the cell, without a network, cannot.

    With ``scope``, there are rules for its ids and classes, which begin with it then: others could dress up as parts of the page.
    """

    def __init__(self, scope: str) -> None:
        self._scope = scope
        self.missing: list[str] = []
        """What a reader would miss."""
        self.sized = False
        """A style could make something larger than its place."""
        self._styles: dict[str, tuple[str, bool, bool]] = {}
        self._left = stylesheet.MOST_CHARACTERS

    def clean(self, text: str) -> str:
        import nh3

        attributes = {tag: set(names) for tag, names in nh3.ALLOWED_ATTRIBUTES.items()}
        for tag in ("table", "th", "td", "tr"):
            attributes.setdefault(tag, set()).update({"colspan", "rowspan", "align", "valign", "border"} if tag in ("th", "td") else {"border", "align", "valign"})
        attributes.setdefault("img", set()).update({"src", "alt", "width", "height"})
        attributes["progress"] = {"max", "value"}
        attributes["*"] = {"style", "id", "class"} if self._scope else {"style"}
        attributes["table"].add("class")
        whole = tagsoup.disarm(text).encode("utf-8", "replace").decode()  # without halves of a surrogate pair, which no encoder takes
        tags = tagsoup.disarmed({*nh3.ALLOWED_TAGS, "progress"})
        schemes = {"http", "https", "mailto", "data"}
        return tagsoup.rearm(nh3.clean(whole, tags=tags, attributes=attributes, url_schemes=schemes, attribute_filter=self._wanted))

    def _wanted(self, tag: str, name: str, value: str) -> str | None:
        if name == "style":
            return self._style(value)
        if name == "id":
            return f"{self._scope}-{value}" if stylesheet.NAME.fullmatch(value) else None
        if name == "class":
            return self._classes(tag, value)
        if tag == "img" and name in ("src", "srcset"):
            if name == "src" and value.startswith(tuple(f"data:{kind};base64," for kind in (*SAFE_RASTER, "image/svg+xml"))):
                return value
            self._lacks(A_PICTURE)
            return None
        return None if _INVISIBLE.sub("", value).lower().startswith("data:") else value

    def _style(self, value: str) -> str | None:
        if value not in self._styles:  # a table has the same thousands of times
            self._left -= len(value)
            self._styles[value] = stylesheet.safe_declarations(value) if self._left >= 0 else ("", False, False)
        written, sized, whole = self._styles[value]
        self.sized = self.sized or sized
        if not whole:
            self._lacks(A_PART_OF_STYLE)
        return written or None

    def _classes(self, tag: str, value: str) -> str | None:
        names = [name for name in value.split() if stylesheet.NAME.fullmatch(name)]
        own = [f"{self._scope}-{name}" for name in names] if self._scope else []
        return " ".join(own + (["dataframe"] if tag == "table" and "dataframe" in names else [])) or None

    def _lacks(self, name: str) -> None:
        if name not in self.missing:
            self.missing.append(name)


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
