"""The notebook's variables, pickled for a container: what pickle carries, and with cloudpickle functions and classes of the notebook.

Large buffers (arrays, columns of tables) are not copied into the pickle; they follow it as parts of their own.
"""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from nbcontainer.data.blob import Blob
from nbcontainer.errors import SpecError
from nbcontainer.spelling import nearest
from nbcontainer.units import format_size

EVERYTHING = "*"
_WORD = re.compile(r"[^\W\d]\w*")
_OF_IPYTHON = ("In", "Out", "exit", "quit", "open", "get_ipython")
_PLAIN = (type(None), bool, int, float, complex, str)
MAX_ENVIRONMENT_BYTES = 100_000
"""Linux takes 128 KiB for one variable of the environment."""


@dataclass(frozen=True)
class Inward:
    """What is ready to be written, and what stays behind."""

    blob: Blob
    left_behind: tuple[str, ...] = ()
    """``name (type)`` of the variables that cannot travel; only with ``*``, else they are errors."""
    lenient: bool = False
    """See :attr:`nbcontainer.engine.transfer.Transfer.lenient`."""


class _NotPlain(Exception):
    """Something that only cloudpickle may pickle: by its name alone, the container could not find it."""


class _Plain(pickle.Pickler):
    """pickle at full speed, for what cannot lead to anything that is defined in the notebook."""

    def reducer_override(self, obj: Any) -> Any:
        # Called for everything that is not built in. Arrays of numbers are what they are everywhere.
        kind = type(obj)
        if (kind.__module__ == "numpy" and kind.__name__ in ("ndarray", "dtype")) or kind.__module__.startswith("numpy.dtypes"):
            return NotImplemented
        if isinstance(obj, type | ModuleType) or callable(obj):
            module = getattr(obj, "__module__", "") or ""
            if module.partition(".")[0] == "numpy":
                return NotImplemented
        raise _NotPlain


def _pickled(value: Any) -> list[Any]:
    """The pickle, and the buffers that belong to it. Raises whatever an object's own pickling raises."""
    if type(value) in (bytes, bytearray):
        return [pickle.dumps(None), value]
    buffers: list[pickle.PickleBuffer] = []
    stream = io.BytesIO()
    try:
        if type(value) in _PLAIN:
            return [pickle.dumps(value, 5)]
        _Plain(stream, 5, buffer_callback=buffers.append).dump(value)
        return [stream.getbuffer(), *(buffer.raw() for buffer in buffers)]
    except (_NotPlain, pickle.PicklingError):
        import cloudpickle

        buffers.clear()
        body = cloudpickle.dumps(value, 5, buffer_callback=buffers.append)
        return [body, *(buffer.raw() for buffer in buffers)]


def type_name(value: object) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}.{kind.__qualname__}"


def gather(variables: Mapping[str, Any], *, lenient: bool = False) -> Inward:
    """Pickle ``variables``; with ``lenient``, those that cannot travel stay behind, else they are a SpecError."""
    index: dict[str, Any] = {}
    parts: list[Any] = []
    left_behind = []
    for name, value in variables.items():
        try:
            pieces = _pickled(value)
        except Exception as error:  # a class's own __reduce__ may raise anything
            if not lenient:
                why = " ".join(str(error).split())[:300]
                raise SpecError(f"-i {name}: a {type_name(value)} cannot be pickled: {why or type(error).__name__}") from None
            left_behind.append(f"{name} ({type_name(value)})")
            continue
        raw = type(value).__name__ if type(value) in (bytes, bytearray) else ""
        index[name] = [len(parts), len(pieces), raw]
        parts += pieces
    blob = Blob({"values": index}, parts)
    check_room(blob.size_bytes, "-i " + ",".join(list(variables)[:3]))
    return Inward(blob, tuple(left_behind), lenient)


def check_room(size_bytes: int, what: str) -> None:
    """Raises SpecError where this host's memory does not hold so much more."""
    from nbcontainer.linux.meminfo import host_memory_bytes

    available = host_memory_bytes()[1]
    if size_bytes > available:
        raise SpecError(f"{what}: {format_size(size_bytes)} are more than the {format_size(available)} of memory that this host has left")


def choose(names: Iterable[str], namespace: Mapping[str, Any], hidden: Mapping[str, Any], code: str) -> tuple[dict[str, Any], bool]:
    """(the variables that ``names`` mean, whether ``*`` was among them). Raises SpecError for one that is not there."""
    chosen: dict[str, Any] = {}
    everything = False
    for name in names:
        if name == EVERYTHING:
            everything = True
            mentioned = set(_WORD.findall(code))
            for key, value in namespace.items():
                own = hidden.get(key, chosen) is value or key in _OF_IPYTHON
                # Importing a module takes its time: only those that the cell speaks of.
                if not key.startswith("_") and not own and (key in mentioned or not isinstance(value, ModuleType)):
                    chosen[key] = value
        elif name in namespace:
            chosen[name] = namespace[name]
        else:
            known = [key for key in namespace if not key.startswith("_") and key not in hidden and key not in _OF_IPYTHON]
            near = nearest(name, known)
            raise SpecError(f"-i: there is no variable {name!r}" + (f"; did you mean {near}?" if near else " in this notebook"))
    return chosen, everything


def split_names(values: Iterable[str], option: str, *, star: bool = False) -> tuple[str, ...]:
    """``["x,df", "y"]`` → ``("x", "df", "y")``, each once. Raises SpecError for what is no name."""
    names: dict[str, None] = {}
    for value in values:
        for name in value.split(","):
            name = name.strip()
            if not (name.isidentifier() or (star and name == EVERYTHING)):
                also = " (or '*')" if star else ""
                raise SpecError(f"{option}: {name!r} is not a name of a variable{also}; write names with commas and no spaces: {option} x,df")
            names[name] = None
    return tuple(names)


def as_environment(variables: Mapping[str, Any]) -> dict[str, str]:
    """Texts and numbers, for a program's environment. Raises SpecError for anything else."""
    environment = {}
    for name, value in variables.items():
        if type(value) not in (str, int, float, bool):
            raise SpecError(
                f"-i {name}: a program gets variables as its environment, so texts and numbers only, and this is a {type_name(value)}; "
                "write it to a file and bring that in with -v"
            )
        text = str(value)
        if len(text.encode("utf-8", "replace")) > MAX_ENVIRONMENT_BYTES:
            raise SpecError(f"-i {name}: {len(text)} characters are too long for an environment; write them to a file and bring that in with -v")
        environment[name] = text
    return environment
