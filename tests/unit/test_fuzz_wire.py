"""What a virtual machine sends: events, answers and errors of the shape that they must have, or a ProtocolError."""

from __future__ import annotations

import dataclasses
import json
import math
import struct
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nbcontainer import events
from nbcontainer.engine.vm import wire
from nbcontainer.errors import NbcontainerError
from nbcontainer.runtime.protocol import FrameReader, ProtocolError, encode
from nbcontainer.spec import Limits
from nbcontainer.validate import make_spec

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=10)
NUMBERS = st.integers() | st.floats() | st.sampled_from([10**400, -1, 1e308, True])
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | ANY_TEXT, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3), max_leaves=8
)
KINDS = [kind for kind in vars(events).values() if dataclasses.is_dataclass(kind)]
NAMES = sorted({field.name for kind in (*KINDS, Limits) for field in fields(kind)})
LIKELY = st.sampled_from(["stdout", "display", "exited", "oom", "clear"]) | st.integers(0, 9) | st.just([]) | st.just({}) | JSON_VALUES
FIELDS = st.dictionaries(st.sampled_from(NAMES) | ANY_TEXT, LIKELY, max_size=12)


def whole(kind: type[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """All fields of a kind, most of them of the right type, and perhaps one of another."""
    values = {"int": st.integers(), "float": NUMBERS, "str": ANY_TEXT}
    nested = {"usage": events.Usage, "limits": Limits, "error": events.CellError}
    strategies = {field.name: values.get(str(field.type), LIKELY) if field.name not in nested else st.none() | FIELDS for field in fields(kind)}
    return st.fixed_dictionaries(strategies)


MESSAGES = st.sampled_from(KINDS).flatmap(
    lambda kind: st.fixed_dictionaries({"t": st.just("event"), "kind": st.just(kind.__name__) | JSON_VALUES, "fields": whole(kind) | FIELDS | JSON_VALUES})
)


def numbers_in(value: Any) -> Iterator[float]:
    if isinstance(value, float):
        yield value
    elif dataclasses.is_dataclass(value):
        for field in fields(value):
            yield from numbers_in(getattr(value, field.name))


@given(MESSAGES, st.floats(-1e6, 1e6))
@example({"kind": "Sample", "fields": {name: 0 for name in NAMES} | {"cpu_seconds": math.inf}}, 0.0)
@example({"kind": "Sample", "fields": {name: 0 for name in NAMES} | {"monotonic_seconds": 10**400}}, 0.0)
@example({"kind": "Started", "fields": {"container_id": "x", "name": "\ud800", "pid": 1, "monotonic_seconds": 0}}, 0.0)
def test_any_event_is_one_or_a_protocol_error(message: dict[str, Any], offset: float) -> None:
    try:
        event = wire.event_from_json(message, offset)
    except ProtocolError:
        return
    assert type(event).__name__ == message["kind"]
    assert all(map(math.isfinite, numbers_in(event)))
    for field in fields(event):
        value = getattr(event, field.name)
        if isinstance(value, str | dict | tuple):
            json.dumps(value, allow_nan=False, ensure_ascii=False).encode()


@given(st.dictionaries(st.sampled_from(["kind", "arguments", "limits", "readings", "run", "ask", "t"]), LIKELY | FIELDS | st.lists(LIKELY, max_size=4), max_size=6))
def test_any_answer_is_one_or_a_protocol_error(message: dict[str, Any]) -> None:
    try:
        answer = wire.answer_from_json(message, 0.0)
    except ProtocolError:
        return
    if isinstance(answer, NbcontainerError):
        assert "Traceback" not in str(answer)
    elif answer is not None:
        assert isinstance(answer, Limits | events.Readings)
        assert all(map(math.isfinite, numbers_in(answer)))


@example("SetupError", ["", 1 << 31, "", ""])
@given(st.sampled_from(["SpecError", "HostError", "SetupError", "InternalError", "OSError", None]), st.lists(ANY_TEXT | st.integers(), max_size=5))
def test_any_error_is_one_of_ours_or_a_protocol_error(kind: Any, arguments: list[Any]) -> None:
    try:
        error = wire.error_from_json({"kind": kind, "arguments": arguments})
    except ProtocolError:
        return
    assert type(error).__name__ == kind
    str(error)


EVENTS = [
    events.Started("id", "name", 1, 5.0),
    events.Output("stderr", "text\n"),
    events.Paused(1.0),
    events.Resumed(2.0),
    events.Changed(3.0, Limits(memory_bytes=1 << 20)),
    events.InputRequest("prompt", True),
    events.CellError("E", "v", ("a", "b")),
    events.Display("display", {"text/plain": "x"}, {}, "id", 1),
    events.Finished("exited", 0, None, None, events.Usage(*([1] * len(fields(events.Usage))))),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_events_come_back_as_they_were(event: Any) -> None:
    (message,) = FrameReader().feed(encode(wire.event_to_json(7, event)))
    assert message["run"] == 7
    again = wire.event_from_json(message, 0.0)
    assert type(again) is type(event)
    assert again == event


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=4))
def test_any_bytes_of_a_guest(data: bytes, cuts: list[int]) -> None:
    reader = FrameReader()
    try:
        for begin, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(data)], strict=True):
            for message in reader.feed(data[begin:end]):
                wire.event_from_json(message, 0.0)
    except ProtocolError:
        return


def test_a_frame_of_many_small_values_is_refused_before_it_is_parsed() -> None:
    body = b'{"t": "event", "x": [' + b"[]," * 6_000_000 + b"0]}"
    with pytest.raises(ProtocolError, match="too many values"):
        list(FrameReader().feed(struct.pack("<II", len(body), 0) + body))


def test_a_spec_comes_back_as_it_was() -> None:
    spec = make_spec({"mem": "64M", "cpus": 0.5, "env": ["A=b"], "tmpfs": ["/x:size=1M"], "ulimit": ["nofile=64"], "timeout": 3})
    assert wire.spec_from_json(json.loads(json.dumps(wire.spec_to_json(spec)))) == spec
