"""What the kernel's side and the guest's agent say to each other, as frames of JSON on one stream.

K the kernel's side, A the agent; ``run`` is a number that K chose.

1. A → K  ``{"t": "hello", ...}``: the agent serves (after a cold boot), or has been resumed (after 2)
2. K → A  ``{"t": "resume", unix_seconds, seed, shares}``: the real time, fresh entropy, which shares to mount where;
   K → A  ``{"t": "hide", files, directories}``: what containers must not see of them; answered by 1, or by ``{"t": "broken", why}``
3. K → A  ``{"t": "start", run, spec, code, stamp, within, published, transfer}``; ``within``: the run of the container that this is to run in, or 0.
          Before it, for variables that go in, ``{"t": "expect", run}`` and ``{"t": "input", run, size, offset, data}`` (base64), which other
          messages may pass, and ``{"t": "forget", run}`` where they are broken off; and before ``Finished``, for those
          that come out, A → K ``{"t": "values", run, size, offset, data}``
4. A → K  ``{"t": "event", run, kind, fields}`` for each event, the last one ``Finished``; or
          ``{"t": "refused", run, kind, arguments}`` where the container could not be started or a run broke
5. K → A  ``{"t": "interrupt", run}``, ``{"t": "kill", run}``, and once a container that was to be kept is removed, ``{"t": "forget", run}``
   K → A  ``{"t": "control", run, ask, what, changes}``: pause, resume, update, readings, signal or diff; answered by
          ``{"t": "answer", run, ask, limits | readings | diff | kind, arguments}``
   K → A  ``{"t": "line", run, line, why}``: what the cell asked for by an InputRequest; without a line, why there is none
6. K → A  ``{"t": "ping", ask}``, answered by ``{"t": "pong", ask}``
7. K → A  ``{"t": "settle"}``: what every cell runs is run once, what was made in advance goes; answered by ``{"t": "settled"}`` (before a snapshot)
8. K → A  ``{"t": "network", ask, what, arguments}``: a verb about networks; answered by
          ``{"t": "networked", ask, result | kind, arguments}``
9. both   ``{"t": "stream", ...}``: what published ports carry, of a run whose start said that it has some: see :mod:`nbcontainer.engine.vm.tunnel`

K believes nothing of what comes from the guest but its shape: whatever is not one of these raises ProtocolError.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, fields
from typing import Any

from nbcontainer.engine.changes import Change
from nbcontainer.engine.messages import fit_to_be_sent, without_surrogates
from nbcontainer.errors import HostError, InternalError, NbcontainerError, SetupError, SpecError
from nbcontainer.events import (
    CellError,
    Changed,
    Display,
    Event,
    Finished,
    InputRequest,
    Output,
    Paused,
    Readings,
    Resumed,
    Running,
    Sample,
    Started,
    Usage,
)
from nbcontainer.mounts import Mount, Root
from nbcontainer.ports import Port
from nbcontainer.runtime.protocol import ProtocolError
from nbcontainer.spec import ContainerSpec, Limits, Ulimit

_ERRORS: dict[str, tuple[type[NbcontainerError], tuple[type, ...]]] = {
    "SpecError": (SpecError, (str,)),
    "HostError": (HostError, (str, str)),
    "SetupError": (SetupError, (str, int, str, str)),
    "InternalError": (InternalError, (str,)),
}
_OUTCOMES = ("exited", "oom", "timeout", "signalled", "interrupted", "output-limit", "killed")
_DISPLAYS = ("display", "update", "result", "clear")
_MOMENTS: dict[Any, type[Paused | Resumed | Running]] = {"Paused": Paused, "Resumed": Resumed, "Running": Running}
_NUMBERS: tuple[type, ...] = (int, float)


def spec_to_json(spec: ContainerSpec) -> dict[str, Any]:
    plain = asdict(spec)
    plain["namespaces"] = sorted(spec.namespaces)
    return plain


def spec_from_json(plain: dict[str, Any]) -> ContainerSpec:
    """The other end of :func:`spec_to_json`; only the agent calls it, which trusts the kernel's side."""
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in plain.items()}
    values["limits"] = Limits(**plain["limits"])
    values["namespaces"] = frozenset(plain["namespaces"])
    values["root"] = Root(**plain["root"])
    values["ports"] = tuple(Port(**port) for port in plain["ports"])
    values["mounts"] = tuple(Mount(**mount | {"owner": tuple(mount["owner"])}) for mount in plain["mounts"])
    values["ulimits"] = tuple(Ulimit(**limit) for limit in plain["ulimits"])
    values["environment"] = tuple((name, value) for name, value in plain["environment"])
    return ContainerSpec(**values)


def event_to_json(run: int, event: Event) -> dict[str, Any]:
    plain = {field.name: getattr(event, field.name) for field in fields(event)}
    if isinstance(event, Finished):
        plain["error"] = None if event.error is None else asdict(event.error)
        plain["usage"] = asdict(event.usage)
        plain["memory_by_kind"], plain["killed"] = dict(event.memory_by_kind), list(event.killed)
    elif isinstance(event, Changed):
        plain["limits"] = asdict(event.limits)
    elif isinstance(event, Display):
        plain["data"], plain["metadata"] = dict(event.data), dict(event.metadata)
    return {"t": "event", "run": run, "kind": type(event).__name__, "fields": plain}


PIECE_BYTES = 1 << 20
MOST_ERRNO = 4095


def pieces_to_json(kind: str, run: int, size_bytes: int, read: Callable[[int, int], bytes | memoryview]) -> Iterator[dict[str, Any]]:
    """Memory as messages; ``read(length, offset)`` gives a piece of it."""
    for offset in range(0, size_bytes, PIECE_BYTES):
        data = base64.b64encode(read(PIECE_BYTES, offset)).decode("ascii")
        yield {"t": kind, "run": run, "size": size_bytes, "offset": offset, "data": data}


def piece_from_json(message: Mapping[str, Any]) -> tuple[int, int, bytes]:
    """(size of all, offset, data). Raises ProtocolError for what is no piece."""
    read = _Reader(dict(message))
    size, offset = read.get("size", int), read.get("offset", int)
    try:
        data = base64.b64decode(read.get("data", str), validate=True)
    except ValueError:
        raise ProtocolError("a piece of variables that is not base64") from None
    if not 0 <= offset <= size - len(data):
        raise ProtocolError("a piece of variables that lies outside of them")
    return size, offset, data


def error_to_json(run: int, error: NbcontainerError) -> dict[str, Any]:
    kind = next(name for name in _ERRORS if isinstance(error, _ERRORS[name][0]))
    arguments = list(error.args) if kind in ("HostError", "SetupError") else [str(error)]
    return {"t": "refused", "run": run, "kind": kind, "arguments": arguments}


def error_from_json(message: Mapping[str, Any]) -> NbcontainerError:
    """Raises ProtocolError for what is no error of ours."""
    kind, arguments = message.get("kind"), message.get("arguments")
    if not isinstance(kind, str) or kind not in _ERRORS or not isinstance(arguments, list):
        raise ProtocolError("an unknown error")
    error, types = _ERRORS[kind]
    if len(arguments) != len(types) or any(not isinstance(value, wanted) for value, wanted in zip(arguments, types, strict=True)):
        raise ProtocolError(f"a {kind} that is none")
    if any(isinstance(value, int) and not 0 <= value <= MOST_ERRNO for value in arguments):
        raise ProtocolError(f"a {kind} with a number that is none of Linux's")
    return error(*arguments)


def _is_plain(number: Any) -> bool:
    """Finite, and no more than any counter of Linux holds."""
    return bool(-(1 << 64) < number < 1 << 64)


class _Reader:
    """Takes fields out of a message, each of the type that it must have."""

    def __init__(self, values: object) -> None:
        if not isinstance(values, dict):
            raise ProtocolError("fields that are none")
        self._values: dict[str, Any] = values

    def get(self, name: str, *types: type) -> Any:
        value = self._values.get(name)
        # A bool is an int to Python, but never to us.
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            raise ProtocolError(f"a field {name} of an unexpected type")
        if isinstance(value, int | float) and not _is_plain(value):
            raise ProtocolError(f"a field {name} with a number that none of ours can be")
        return without_surrogates(value) if isinstance(value, str) else value

    def choice(self, name: str, choices: tuple[str, ...]) -> Any:
        value = self.get(name, str)
        if value not in choices:
            raise ProtocolError(f"a field {name} that says {value[:40]!r}")
        return value

    def nested(self, name: str) -> _Reader:
        return _Reader(self._values.get(name))

    def strings(self, name: str) -> tuple[str, ...]:
        value = self.get(name, list)
        if not all(isinstance(line, str) for line in value):
            raise ProtocolError(f"a field {name} with more than strings")
        return tuple(map(without_surrogates, value))

    def table(self, name: str) -> dict[str, Any]:
        """A mapping from words to numbers."""
        value = self.get(name, dict)
        if not all(isinstance(number, _NUMBERS) and not isinstance(number, bool) and _is_plain(number) for number in value.values()):
            raise ProtocolError(f"a field {name} with more than numbers")
        return {without_surrogates(word): number for word, number in value.items()}

    def limits(self, name: str) -> Limits:
        read = self.nested(name)
        text = {"cpuset": read.get("cpuset", str, type(None)), "swap_bytes": read.get("swap_bytes", int)}
        others = {field.name: read.get(field.name, int, float, type(None)) for field in fields(Limits) if field.name not in text}
        return Limits(**others, **text)

    def numbers(self, kind: type[Any]) -> dict[str, Any]:
        """Every field of a dataclass of numbers."""
        return {field.name: self.get(field.name, *(_NUMBERS if field.type == "float" else (int,))) for field in fields(kind)}


def event_from_json(message: Mapping[str, Any], clock_offset_seconds: float) -> Event:
    """The event of a message 4; the guest's monotonic times become this host's. Raises ProtocolError."""
    read = _Reader(message.get("fields"))
    kind = message.get("kind")
    if kind == "Output":
        return Output(read.choice("stream", ("stdout", "stderr")), read.get("text", str))
    if kind == "Sample":
        numbers = read.numbers(Sample)
        numbers["monotonic_seconds"] += clock_offset_seconds
        return Sample(**numbers)
    if kind == "Display":
        identity = read.get("display_id", str, type(None))
        data = {without_surrogates(name): fit_to_be_sent(value) for name, value in read.get("data", dict).items()}
        size = sum(len(value if isinstance(value, str) else json.dumps(value)) for value in data.values())
        metadata = fit_to_be_sent(read.get("metadata", dict)) or {}
        return Display(read.choice("kind", _DISPLAYS), data, metadata, identity, size, read.get("value", str))
    if kind == "CellError":
        return _cell_error(read)
    if isinstance(kind, str) and kind in _MOMENTS:
        return _MOMENTS[kind](read.get("monotonic_seconds", *_NUMBERS) + clock_offset_seconds)
    if kind == "Changed":
        return Changed(read.get("monotonic_seconds", *_NUMBERS) + clock_offset_seconds, read.limits("limits"))
    if kind == "InputRequest":
        return InputRequest(read.get("prompt", str), read.get("password", bool))
    if kind == "Started":
        began = read.get("monotonic_seconds", *_NUMBERS) + clock_offset_seconds
        return Started(read.get("container_id", str), read.get("name", str), read.get("pid", int), began)
    if kind == "Finished":
        return _finished(read)
    raise ProtocolError("an unknown event")


def _cell_error(read: _Reader) -> CellError:
    return CellError(read.get("ename", str), read.get("evalue", str), read.strings("traceback"))


def _finished(read: _Reader) -> Finished:
    error = read.get("error", dict, type(None))
    return Finished(
        read.choice("outcome", _OUTCOMES),
        read.get("exit_code", int, type(None)),
        read.get("signal", int, type(None)),
        None if error is None else _cell_error(_Reader(error)),
        Usage(**read.nested("usage").numbers(Usage)),
        read.get("note", str),
        read.table("memory_by_kind"),
        read.strings("killed"),
        read.get("goes_on", bool),
        read.get("line", int, type(None)),
    )


def _change(entry: object) -> Change:
    if isinstance(entry, list) and len(entry) == 2 and isinstance(entry[1], str):
        kind, path = entry
        if kind in ("A", "C", "D"):
            return Change(kind, without_surrogates(path))
    raise ProtocolError("a change that is none")


def answer_to_json(run: int, ask: int, answer: Limits | Readings | list[Change] | NbcontainerError | None) -> dict[str, Any]:
    message: dict[str, Any] = {"t": "answer", "run": run, "ask": ask}
    if isinstance(answer, NbcontainerError):
        message |= {**error_to_json(run, answer), "t": "answer"}
    elif isinstance(answer, Limits):
        message["limits"] = asdict(answer)
    elif isinstance(answer, list):
        message["diff"] = [[change.kind, change.path] for change in answer]
    elif answer is not None:
        message["readings"] = asdict(answer)
    return message


def answer_from_json(message: Mapping[str, Any], clock_offset_seconds: float) -> Limits | Readings | list[Change] | NbcontainerError | None:
    """Raises ProtocolError."""
    if "kind" in message:
        return error_from_json(message)
    read = _Reader(dict(message))
    if "limits" in message:
        return read.limits("limits")
    if "diff" in message:
        return [_change(entry) for entry in read.get("diff", list)]
    if "readings" not in message:
        return None
    inner = read.nested("readings")
    moment = inner.get("monotonic_seconds", *_NUMBERS) + clock_offset_seconds
    received, sent = inner.get("net_rx_bytes", int), inner.get("net_tx_bytes", int)
    return Readings(moment, inner.table("pressure_seconds"), received, sent, inner.table("memory_by_kind"))
