"""What a container displays cannot run in the browser."""

from __future__ import annotations

import base64

import pytest

from nbcontainer.notebook.sanitise import DisplayIds, clean_html, sanitise

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<a href='javascript:alert(1)'>x</a>",
    "<a href='data:text/html,<script>alert(1)</script>'>x</a>",
    "<iframe src='https://example.org'></iframe>",
    "<svg onload=alert(1)><script>alert(1)</script></svg>",
    "<form action='/api'><button>x</button></form>",
    "<style>body { display: none }</style>",
    "<img src='data:image/svg+xml;base64,PHN2Zz4='>",
    "<object data='x'></object><embed src='x'><link rel=stylesheet href=x><meta http-equiv=refresh content=0>",
    "<div style='position:fixed;top:0'>x</div>",
]


@pytest.mark.parametrize("html", HOSTILE)
def test_hostile_html_is_made_harmless(html: str) -> None:
    clean = clean_html(html).lower()
    for word in ("script", "onerror", "onload", "data:", "iframe", "<form", "style", "<object", "<embed", "<meta", "<svg", "<link"):
        assert word not in clean


@pytest.mark.parametrize("scheme", ["da\nta", "d\tata", "\x01data", " \r\ndata", "DA\nTA", "java\nscript", "\x01javascript"])
@pytest.mark.parametrize("tag", ["<a href='{}'>x</a>", "<img src='{}'>"])
def test_schemes_cannot_hide_behind_control_characters(tag: str, scheme: str) -> None:
    clean = clean_html(tag.format(f"{scheme}:text/html,x"))
    assert "href=" not in clean
    assert "src=" not in clean


def test_tables_and_pictures_stay() -> None:
    html = "<table border=\"1\"><tr><th colspan=\"2\">a</th></tr><tr><td><b>1</b></td></tr></table>"
    clean = clean_html(html)
    assert "<table" in clean
    assert 'colspan="2"' in clean
    assert "<b>1</b>" in clean
    picture = f'<img src="data:image/png;base64,{base64.b64encode(b"x").decode()}" alt="p">'
    assert "data:image/png" in clean_html(picture)


def test_unknown_and_active_types_are_left_out() -> None:
    bundle = {
        "text/plain": "text",
        "application/javascript": "alert(1)",
        "application/vnd.jupyter.widget-view+json": {"model_id": "x"},
        "application/x-anything": "x",
    }
    safe = sanitise(bundle)
    assert list(safe) == ["text/plain"] and safe["text/plain"].startswith("text\n[a widget talks to its kernel")


def test_svg_is_an_image() -> None:
    html = sanitise({"image/svg+xml": "<svg onload='alert(1)'/>"})["text/html"]
    assert html.startswith("<img ")
    assert "alert" not in html


def test_images_are_base64_and_nothing_else() -> None:
    assert sanitise({"image/png": base64.b64encode(b"png").decode()}) == {"image/png": base64.b64encode(b"png").decode()}
    assert '"' not in sanitise({"image/png": '"><script>'})["image/png"]


def test_display_ids_are_the_container_s_own() -> None:
    ids = DisplayIds()
    own = ids.new("foreign")
    assert own != "foreign"
    assert ids.new("foreign") == own == ids.known("foreign")
    assert ids.known("never shown") is None


def test_images_from_elsewhere_are_not_loaded() -> None:
    assert clean_html('<img src="http://example.org/?secret" alt="x"><img src="/api/x">') == '<img alt="x"><img>'


def test_markdown_is_shown_as_its_source() -> None:
    assert sanitise({"text/markdown": "**bold**", "text/plain": "<Markdown object>"}) == {"text/plain": "**bold**"}
