"""What a container displays cannot run in the browser."""

from __future__ import annotations

import base64
import re

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbcontainer.notebook.sanitise import DisplayIds, clean_html, sanitise, sanitise_metadata
from nbcontainer.notebook.stylesheet import safe_rules

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


NOT_SHOWN = "not shown, as that could run or load something in your browser; --trust-output shows it]"


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("application/vnd.vegalite.v5+json", "a Vega-Lite chart"),
        ("application/vnd.vega.v5+json", "a Vega chart"),
        ("application/vnd.plotly.v1+json", "a Plotly figure"),
        ("application/pdf", "a PDF document"),
        ("application/javascript", "a script"),
        ("application/x-own", "application/x-own"),
        ("a\nb", "something of an unknown type"),
    ],
)
def test_what_is_left_out_is_named(kind: str, name: str) -> None:
    assert sanitise({kind: {"a": 1}, "text/plain": "Figure()"}) == {"text/plain": f"Figure()\n[{name}: {NOT_SHOWN}"}
    shown = sanitise({kind: "x", "text/html": "<b>said</b>"})
    assert shown == {"text/html": f"<b>said</b><div><small>[{name}: {NOT_SHOWN}</small></div>"}


def test_a_plotly_figure_is_named_once() -> None:
    bundle = {"application/vnd.plotly.v1+json": {}, "text/html": "<div> <div id='x'></div><script>draw()</script></div>"}
    assert sanitise(bundle) == {"text/plain": f"[a Plotly figure: {NOT_SHOWN}"}


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("<script>1</script>", "a script"),
        ("<iframe src='x'></iframe>", "a page in a frame"),
        ("<svg><path/></svg>", "a drawing"),
        ("<input type=checkbox>", "its controls"),
        ("<style>p { color: red }</style>", "its style sheet"),
    ],
)
def test_parts_of_html_that_are_left_out_are_named(part: str, name: str) -> None:
    assert sanitise({"text/html": f"<b>said</b>{part}"})["text/html"].endswith(f"<small>[{name}: {NOT_SHOWN}</small></div>")
    assert sanitise({"text/html": part})["text/plain"] == f"[{name}: {NOT_SHOWN}"


def test_nothing_is_said_of_the_style_sheet_that_pandas_gives_each_table() -> None:
    html = pd.DataFrame({"a": [1]})._repr_html_()
    assert "<style scoped>" in html and "small" not in sanitise({"text/html": html})["text/html"]


@pytest.mark.parametrize("kind", ["image/webp", "image/bmp"])
def test_other_raster_images_are_shown(kind: str) -> None:
    picture = base64.b64encode(b"picture").decode()
    assert sanitise({kind: picture, "text/plain": "x"}) == {kind: picture, "text/plain": "x"}
    assert sanitise_metadata({kind: {"width": 5, "onload": "x"}}) == {kind: {"width": 5}}
    assert f"data:{kind}" in clean_html(f'<img src="data:{kind};base64,{picture}">')


def styled() -> str:
    frame = pd.DataFrame({"a": [1, 2], "b": [3, 4]})
    hover = [{"selector": "tr:hover", "props": "background-color: yellow"}, {"selector": "th.col_heading", "props": "text-align: left"}]
    html: str = frame.style.highlight_max(color="red").bar(subset=["a"]).set_caption("cap").set_table_styles(hover).to_html()
    return html


def test_a_styler_keeps_its_colours() -> None:
    shown = sanitise({"text/html": styled(), "text/plain": "Styler"})
    html = shown["text/html"]
    (prefix,) = set(re.findall(r'<table id="(nbc[0-9a-f]{16}-)T_', html))
    for rule in ("background-color: red", "linear-gradient(90deg, #d65f5f 50.0%, transparent 50.0%)", "tr:hover { background-color: yellow }", "text-align: left"):
        assert rule in html
    ids = set(re.findall(r'id="([^"]*)"', html))
    assert set(re.findall(r"#([\w-]*T_\w+_row\d+_col\d+)", html)) <= ids and all(name.startswith(prefix) for name in ids)
    assert 'class="row_heading level0 row0"' in html and "small" not in html


HOSTILE_RULES = [
    "body { color: red }",
    "#T_a, body { color: red }",
    "body:has(#T_a) { color: red }",
    ":is(#T_a, body) { color: red }",
    "#T_a:has(~ x) { color: red }",
    "#T_a + div { color: red }",
    "#T_a ~ div { color: red }",
    "#T_a #main { color: red }",
    "#T_a td[value^=x] { color: red }",
    "#jp-main { color: red }",
    "@import url(//evil);",
    "@media all { #T_a { color: red } }",
    "@font-face { font-family: x; src: url(//evil) }",
    "#T_a { background: url(//evil) }",
    "#T_a { background: u\\72l(//evil) }",
    "#T_a { background: image-set('//evil' 1x) }",
    "#T_a { background-image: src('//evil') }",
    "#T_a { color: var(--secret) }",
    "#T_a { width: calc(1px * attr(x)) }",
    "#T_a { position: fixed }",
    "#T_a { content: 'x' }",
    "#T_a { margin: -500px }",
    "#T_a { transform: scale(50) }",
    "#T_a { behavior: url(x) }",
    "#T_a { font-family: '</style><script>alert(1)</script>' }",
    "#T_a { color: red</style><script>alert(1)</script> }",
    "#T_a { --x: red }",
    "#T_a { color: " + "rgb(" * 50_000 + ")" * 50_000 + "}",
    "#T_a" + ":not(" * 50_000 + "x" + ")" * 50_000 + "{ color: red }",
]


@pytest.mark.parametrize("rule", HOSTILE_RULES, ids=lambda rule: rule[:40])
def test_rules_that_reach_beyond_the_table_or_load_something_are_taken_out(rule: str) -> None:
    rules, whole = safe_rules([rule + " #T_b { color: red }"], "p-")
    assert not whole
    assert rules.replace("#p-T_a { color: red }", "").strip() in ("#p-T_b { color: red }", "")
    html = sanitise({"text/html": f"<style>{rule}</style><table id='T_a'><tr><td>x</td></tr></table>"})["text/html"]
    assert "not shown" in html and "<script" not in html and html.count("<style") == html.count("</style") <= 1
    for word in ("url", "evil", "body", "position", "margin", "main", "@", "var(", "content"):
        assert word not in html[: html.find("</style>") + 1]


def test_ids_and_classes_are_a_styler_s_own() -> None:
    table = "<style>#T_a { color: red }</style><table id='T_a' class='jp-Dialog data'><tr id='main' class='row0 jp-x'><td class='col1'>x</td></tr></table>"
    html = sanitise({"text/html": table})["text/html"]
    assert "jp-" not in html and "main" not in html and 'class="data"' in html and 'class="row0"' in html
    without = sanitise({"text/html": table.partition("</style>")[2]})["text/html"]
    assert "id=" not in without and "class=" not in without


@given(st.text(st.sampled_from("#T_a.b:>{};,()/*\\'\"<@! -1px%redurlwidth\n"), max_size=80))
def test_any_style_sheet_ends_where_it_should(text: str) -> None:
    rules, _ = safe_rules([text], "p-")
    assert "<" not in rules and "\\" not in rules and "url(" not in rules and "@" not in rules
    assert all(line.startswith("#p-T_") for line in rules.splitlines())
