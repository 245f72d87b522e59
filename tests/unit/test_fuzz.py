"""Whatever comes in, from a line or from a hostile cell: a value, or the one error that is meant for it."""

from __future__ import annotations

import itertools
import json
import struct
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nbcontainer.engine.messages import read_display, read_error
from nbcontainer.errors import SpecError
from nbcontainer.notebook.sanitise import SAFE_AS_TEXT, SAFE_RASTER, sanitise
from nbcontainer.options import OPTIONS, parse_options
from nbcontainer.runtime.protocol import (
    FRAME,
    MAX_FRAME_BYTES,
    MAX_MESSAGE_CHARACTERS,
    MAX_TRACEBACK_CHARACTERS,
    FrameReader,
    ProtocolError,
    encode,
)
from nbcontainer.spec import ContainerSpec, Ulimit
from nbcontainer.units import parse_cpu_list, parse_number, parse_size
from nbcontainer.validate import make_spec

# Also halves of surrogate pairs, which JSON can carry and UTF-8 cannot.
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=20)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ANY_TEXT, inner, max_size=4),
    max_leaves=12,
)

# ---- lines

LIKELY_VALUES = (
    "0 1 -1 1.5 64M 1e9 nan inf 0x10 1_000 ٣ all none host system . .. ~ / // ~nobody /proc /dev/null ./x:/y:ro .:/data a=b =b a= "
    "pid,net user, ALL NET_RAW nofile=1:2 nofile=-1 0-1,3 9-1 root 0:0 1000:1000 bash /data:size=1M /tmp:rw"
).split()
VALUES = st.sampled_from(["", " ", "\0", "a\nb", "\ud800", "9" * 400, *LIKELY_VALUES]) | ANY_TEXT
NAMES = st.sampled_from([name for option in OPTIONS for name in option.names])
WORDS = st.lists(NAMES | VALUES | st.builds(lambda name, value: f"{name}={value}", NAMES, VALUES), max_size=8)


def assert_one_line(error: SpecError) -> None:
    assert len(str(error).splitlines()) == 1
    str(error).encode()


@given(WORDS | st.lists(ANY_TEXT.map(lambda text: f"-{text}"), max_size=2))
def test_any_line_is_a_spec_or_a_spec_error(words: list[str]) -> None:
    try:
        parsed = parse_options(words)
        assert isinstance(make_spec(parsed.container, program=parsed.program), ContainerSpec)
    except SpecError as error:
        assert_one_line(error)


@given(st.dictionaries(st.sampled_from([option.key for option in OPTIONS]), JSON_VALUES | st.binary(max_size=4), max_size=4))
def test_any_keywords_are_a_spec_or_a_spec_error(keywords: dict[str, Any]) -> None:
    try:
        assert isinstance(make_spec(keywords), ContainerSpec)
    except SpecError as error:
        assert_one_line(error)


@given(VALUES | st.integers() | st.floats() | st.booleans(), st.integers(0, 4096))
def test_any_size_is_within_bounds_or_a_spec_error(value: Any, minimum: int) -> None:
    try:
        assert minimum <= parse_size(value, "--mem", minimum=minimum) <= 1 << 62
    except SpecError as error:
        assert str(error).startswith("--mem: ")


@given(VALUES | st.integers() | st.floats(), st.booleans())
def test_any_number_is_within_bounds_or_a_spec_error(value: Any, whole: bool) -> None:
    try:
        assert 0.5 <= parse_number(value, "--cpus", minimum=0.5, maximum=1000, whole=whole) <= 1000
    except SpecError as error:
        assert str(error).startswith("--cpus: ")


@given(VALUES)
def test_any_list_of_cpus_and_any_ulimit(text: str) -> None:
    for parse in (parse_cpu_list, Ulimit.parse):
        try:
            parse(text)
        except SpecError:
            continue


# ---- frames


def feed(data: bytes, cuts: list[int], reader: FrameReader) -> list[dict[str, Any]]:
    """Feed ``data`` cut at these places; what came before an error is lost with it."""
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    messages: list[dict[str, Any]] = []
    for begin, end in itertools.pairwise(places):
        messages += reader.feed(data[begin:end])
        assert len(reader._buffer) <= FRAME.size + MAX_FRAME_BYTES + end - begin
    return messages


CUTS = st.lists(st.integers(0, 1 << 16), max_size=6)
MESSAGES = st.dictionaries(ANY_TEXT, JSON_VALUES, max_size=3).map(lambda rest: {**rest, "t": "display"})


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    """What looks like frames: true ones, wrong lengths, wrong JSON, wrong parts."""
    body = draw(st.binary(max_size=40) | JSON_VALUES.map(lambda value: json.dumps(value).encode()) | MESSAGES.map(lambda value: json.dumps(value).encode()))
    tail = draw(st.binary(max_size=20))
    if draw(st.booleans()):
        body = json.dumps({"t": "display", "parts": draw(JSON_VALUES | st.lists(st.tuples(ANY_TEXT, st.integers(-2, 30))))}).encode()
    lengths = draw(st.tuples(st.integers(0, 0xFFFFFFFF), st.integers(0, 0xFFFFFFFF)) | st.just((len(body), len(tail))))
    return FRAME.pack(*lengths) + body + tail


@given(st.binary(max_size=200) | st.lists(frames(), max_size=4).map(b"".join), CUTS, st.sampled_from([MAX_FRAME_BYTES, 1 << 16, 8]))
def test_any_bytes_are_messages_or_a_protocol_error(data: bytes, cuts: list[int], max_json_bytes: int) -> None:
    try:
        messages = feed(data, cuts, FrameReader(max_json_bytes))
    except ProtocolError:
        return
    for message in messages:
        assert isinstance(message["t"], str)
        parts = message.get("parts", {})
        assert all(isinstance(name, str) and isinstance(text, str) for name, text in parts.items())


@given(st.lists(st.tuples(MESSAGES, st.dictionaries(st.text(max_size=5), st.text(max_size=50), min_size=1, max_size=3)), max_size=4), CUTS)
def test_frames_come_whole_wherever_they_are_cut(sent: list[tuple[dict[str, Any], dict[str, str]]], cuts: list[int]) -> None:
    data = b"".join(encode(message, parts) for message, parts in sent)
    assert [message["parts"] for message in feed(data, cuts, FrameReader())] == [parts for _, parts in sent]


@pytest.mark.parametrize("lengths", [(0xFFFFFFFF, 0), (0, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (MAX_FRAME_BYTES, 1), (1 << 16, 0)])
def test_a_frame_that_is_too_long_is_refused_by_its_head(lengths: tuple[int, int]) -> None:
    with pytest.raises(ProtocolError, match="over the limit"):
        list(FrameReader(1 << 15).feed(struct.pack("<II", *lengths)))


# ---- what frames say

JSON_TEXTS = JSON_VALUES.map(json.dumps) | ANY_TEXT | st.sampled_from(["NaN", "[1e999, -1e999]", "[" * 5000, "[" * 600_000, "9" * 5000, '"\\ud800"'])
MIME_TYPES = st.sampled_from(
    [
        "text/plain", "text/html", "text/markdown", "text/latex", "image/png", "image/jpeg", "image/gif", "image/svg+xml", "image/webp",
        "application/json", "application/javascript", "application/vnd.jupyter.widget-view+json", "application/pdf", "TEXT/HTML", "text/html;x",
    ]
)  # fmt: skip
PARTS = st.dictionaries(
    st.sampled_from(["data application/json", "metadata", "ename", "evalue", "traceback"])
    | (MIME_TYPES | ANY_TEXT).map(lambda name: f"data {name}")
    | ANY_TEXT,
    JSON_TEXTS.map(lambda text: text.encode("utf-8", "replace").decode()),
    max_size=4,
)


@given(JSON_VALUES | st.sampled_from(["display", "update", "result", "clear"]), JSON_VALUES, PARTS)
@example("display", None, {"data application/json": "[1e999, -1e999, NaN]", "metadata": '{"a": 1e999}'})
@example("display", "\ud800", {"data \ud800": "a type that UTF-8 cannot carry"})
def test_any_display_is_fit_to_be_sent_on(kind: Any, display_id: Any, parts: dict[str, str]) -> None:
    display = read_display({"t": "display", "kind": kind, "id": display_id, "parts": parts})
    if display is None:
        return
    json.dumps([display.data, display.metadata], allow_nan=False, ensure_ascii=False).encode()
    assert display.kind in ("display", "update", "result", "clear")
    assert display.display_id is None or isinstance(display.display_id, str)
    assert display.size_bytes == sum(map(len, parts.values()))


@given(PARTS | st.fixed_dictionaries({"evalue": st.just("x" * 100_000), "traceback": st.just("\n" * 1_000_000)}))
def test_any_error_can_be_shown(parts: dict[str, str]) -> None:
    error = read_error({"t": "error", "parts": parts})
    assert max(len(error.ename), len(error.evalue)) < MAX_MESSAGE_CHARACTERS + 100
    assert sum(map(len, error.traceback)) < MAX_TRACEBACK_CHARACTERS + 100


# ---- what the browser gets

FRAGMENTS = [
    "<script>", "</script>", "alert(1)", "<img ", "<a ", "<svg ", "<math>", "<style>", "<iframe ", "<table ", "<td ", "<noscript>", "<template>",
    "<p title='", "</p>", "src=", "srcset=", "href=", "xlink:href=", "background=", "style=", "onerror=", "onload=", "formaction=", "ping=",
    "'javascript:alert(1)'", "'java\nscript:x'", "'https://example.org/x.png'", "'//example.org/x'", "'data:text/html,x'", "'data:image/png;base64,AA=='",
    "'data:image/svg+xml,x'", "'DATA:image/png;base64,A'", "'vbscript:x'", "&#x6A;avascript:", "<!--", "-->", "<![CDATA[", "]]>", '"', "'", ">", "/>", "`", "\0", "=",
    "<mglyph>", "<form>", "<base href=", "<meta http-equiv=refresh content=", "<link rel=stylesheet href=", "<object data=", "<video poster=", "<audio src=", "<input src=",
]  # fmt: skip
HTML = st.lists(st.sampled_from(FRAGMENTS) | ANY_TEXT, max_size=12).map("".join)
BUNDLES = st.dictionaries(MIME_TYPES | ANY_TEXT, HTML | JSON_VALUES | st.just("<svg onload='alert(1)'><script>alert(1)</script></svg>"), max_size=5)
PICTURES = tuple(f"data:{kind};base64," for kind in (*SAFE_RASTER, "image/svg+xml"))


class Watcher(HTMLParser):
    """Reads HTML as a browser does, and fails where something in it could run, load or send."""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in (
            "script style iframe frame object embed applet form input button svg math link meta base video audio source template noscript".split()
        )
        for name, value in attrs:
            assert not name.startswith("on")
            assert name not in ("style", "srcset", "background", "formaction", "ping", "poster", "xlink:href", "srcdoc", "data")
            if name == "src":
                assert tag == "img"
                assert (value or "").startswith(PICTURES)
            if name in ("href", "cite"):
                scheme = "".join(character for character in (value or "") if character > " ").lower().partition(":")
                assert not scheme[1] or scheme[0] in ("http", "https", "mailto") or not scheme[0].isalpha()


@given(BUNDLES)
def test_nothing_that_a_browser_is_given_can_run_or_load(data: dict[str, Any]) -> None:
    safe = sanitise(data)
    assert set(safe) <= {*SAFE_AS_TEXT, *SAFE_RASTER, "application/json", "text/html"}
    for kind in SAFE_RASTER:
        assert all(character.isalnum() or character in "+/=" for character in safe.get(kind, ""))
    if "text/html" in safe:
        watcher = Watcher(convert_charrefs=True)
        watcher.feed(safe["text/html"])
        watcher.close()
