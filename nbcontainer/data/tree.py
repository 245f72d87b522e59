"""Values as data that can be read back without running anything: JSON, with marks for what JSON has not, and parts of raw bytes.

A mark is an object with the one key NUL: ``{"\\0": [kind, ...]}``. It stands for a tuple, set, complex number or dict with other keys
than texts, or for parts of the blob: bytes, a long text, an array (npy), a table (Arrow).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from nbcontainer.data import arrays, tables
from nbcontainer.data.blob import DataError, Lazy

MARK = "\0"
MAX_VALUES = 2_000_000
"""Numbers, texts and collections of all variables; each takes some 60 bytes in Python."""
MAX_DEPTH = 100
LONG_TEXT = 1 << 16
"""Characters: a longer text is a part."""
MAX_EQUAL_HASHES = 1000
SUPPORTED = (
    "None, bool, int, float, complex, str, bytes, list, tuple, set and dict of such values, NumPy arrays and numbers (without objects in them), "
    "pandas DataFrames and Series, pyarrow Tables"
)


class CannotTravel(Exception):
    """``what`` has a type that is no data; ``hint``: what to do instead, or why."""

    def __init__(self, what: Any, hint: str = "") -> None:
        kind = type(what)
        name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
        super().__init__(name[:200], hint)
        self.type_name, self.hint = name[:200], hint


class Encoder:
    """Turns values into trees for the blob's head; what is large goes to ``parts``."""

    def __init__(self) -> None:
        self.parts: list[Any] = []
        self._count = 0

    def encode(self, value: Any) -> Any:
        """Raises CannotTravel; what it had put into ``parts`` is then taken out again."""
        length, count = len(self.parts), self._count
        try:
            return self._encode(value, 0)
        except CannotTravel:
            del self.parts[length:]
            self._count = count
            raise

    def _encode(self, value: Any, depth: int) -> Any:
        kind = type(value)
        self._count += 1
        if kind in (str, int, float, bool, type(None)):
            if kind is int and value.bit_length() > 10_000:
                raise CannotTravel(value, f"an integer of {value.bit_length()} bits is too long; send it as bytes")
            return value if kind is not str or len(value) <= LONG_TEXT else {MARK: ["str", self._add(_lazy_text(value))]}
        if depth > MAX_DEPTH:
            raise CannotTravel(value, f"it has more than {MAX_DEPTH} levels")
        if kind in _COUNTED and self._count + len(value) > MAX_VALUES:
            raise CannotTravel(value, f"more than {MAX_VALUES} values in all; use a NumPy array or a DataFrame")
        encode = _ENCODERS.get(kind)
        if encode is not None:
            return encode(self, value, depth + 1)
        for name, known in (("numpy", arrays), ("pandas", tables), ("pyarrow", tables)):
            if name in sys.modules:
                found = known.encode(value)
                if found is not None:
                    kind_name, parts, extra = found
                    return {MARK: [kind_name, self._add(*parts), *(self._encode(item, depth + 1) for item in extra)]}
        raise CannotTravel(value, _hint(value))

    def _add(self, *parts: Any) -> int:
        self.parts += parts
        return len(self.parts) - len(parts)

    def _list(self, value: Any, depth: int) -> Any:
        encode = self._encode
        return [encode(item, depth) for item in value]

    def _collection(self, value: Any, depth: int) -> Any:
        return {MARK: [type(value).__name__, self._list(value, depth)]}

    def _dict(self, value: dict[Any, Any], depth: int) -> Any:
        if all(type(key) is str for key in value) and MARK not in value:
            return {key: self._encode(item, depth) for key, item in value.items()}
        return {MARK: ["dict", [[self._encode(key, depth), self._encode(item, depth)] for key, item in value.items()]]}

    def _bytes(self, value: Any, depth: int) -> Any:
        return {MARK: [type(value).__name__, self._add(value)]}

    def _complex(self, value: complex, depth: int) -> Any:
        return {MARK: ["complex", value.real, value.imag]}


_ENCODERS: dict[type, Callable[[Encoder, Any, int], Any]] = {
    list: Encoder._list,
    tuple: Encoder._collection,
    set: Encoder._collection,
    frozenset: Encoder._collection,
    dict: Encoder._dict,
    bytes: Encoder._bytes,
    bytearray: Encoder._bytes,
    complex: Encoder._complex,
}
_COUNTED = (list, tuple, set, frozenset, dict)


def _lazy_text(text: str) -> Lazy:
    return Lazy(sum(map(len, _encoded(text))), partial(_encoded, text))


def _encoded(text: str) -> Iterator[bytes]:
    for begin in range(0, len(text), LONG_TEXT):
        yield text[begin : begin + LONG_TEXT].encode("utf-8", "surrogatepass")


def _hint(value: Any) -> str:
    """How to make data of it, where that is easy to say."""
    for kind in (dict, list, tuple, set, str, int, float):
        if isinstance(value, kind):
            return f"make it a plain {kind.__name__}: {kind.__name__}(...)"
    if isinstance(value, memoryview):
        return "make it plain bytes: bytes(...)"
    for name, hint in _BY_METHOD:
        if callable(getattr(value, name, None)):
            return hint
    if isinstance(value, (range, Iterator)) or type(value).__name__ in ("dict_keys", "dict_values", "dict_items", "deque"):
        return "make it a list: list(...)"
    if type(value).__module__.partition(".")[0] in ("decimal", "fractions", "pathlib", "uuid"):
        return "bring out its text: str(...)"
    if isinstance(value, type) or callable(value):
        return "code stays in the container; a session keeps it for its next cells"
    return ""


_BY_METHOD = (
    ("to_pandas", "make it a DataFrame: .to_pandas()"),
    ("isoformat", "bring out its text: .isoformat()"),
    ("total_seconds", "bring out a number: .total_seconds()"),
    ("numpy", "make it an array: .numpy()"),
    ("tolist", "make it a list: .tolist()"),
)
"""What types of others offer to become data."""


class Decoder:
    """Reads one variable's tree; ``parts`` are the blob's. Safe for what a hostile cell has written."""

    def __init__(self, parts: Sequence[memoryview]) -> None:
        self._parts = parts
        self._taken: set[int] = set()

    def decode(self, tree: Any) -> Any:
        """Raises DataError for whatever is not a value of the supported types."""
        try:
            return self._decode(tree)
        except (TypeError, ValueError, IndexError, KeyError, RecursionError, OverflowError) as error:
            raise DataError(f"it is not what it says it is ({type(error).__name__})") from None

    def _decode(self, tree: Any) -> Any:
        if isinstance(tree, list):
            return [self._decode(item) for item in tree]
        if not isinstance(tree, dict):
            return tree
        if MARK not in tree:
            return {key: self._decode(item) for key, item in tree.items()}
        kind, *rest = tree[MARK]
        if kind in ("tuple", "set", "frozenset"):
            (items,) = rest
            decoded = self._decode(items)
            return _COLLECTIONS[kind](decoded if kind == "tuple" else _hashed(decoded))
        if kind == "dict":
            (pairs,) = rest
            keys = _hashed([self._decode(key) for key, _ in pairs])
            return {key: self._decode(item) for key, (_, item) in zip(keys, pairs, strict=True)}
        if kind == "complex":
            real, imaginary = rest
            return complex(_float(real), _float(imaginary))
        index, *extra = rest
        if kind in ("bytes", "bytearray"):
            return _COLLECTIONS[kind](self._part(index))
        if kind == "str":
            return str(self._part(index), "utf-8", "surrogatepass")
        if kind in arrays.KINDS:
            return arrays.decode(kind, self._part(index), self._part(index + 1))
        if kind in tables.KINDS:
            return tables.decode(kind, self._part(index), [self._decode(item) for item in extra])
        raise DataError("it is of an unknown kind")

    def _part(self, index: Any) -> memoryview:
        """Each part once: else a few bytes could become any number of copies."""
        if type(index) is not int or index < 0 or index in self._taken:
            raise DataError("it names a part that is not there")
        self._taken.add(index)
        return self._parts[index]


def _hashed(items: list[Any]) -> list[Any]:
    """Those of a set or a dict. Raises DataError where many have one hash: each would be compared with all others, for hours."""
    if len(items) - len(set(map(hash, items))) > MAX_EQUAL_HASHES:
        raise DataError("a set or dict of values that are made to be slow")
    return items


def _float(value: Any) -> float:
    if type(value) not in (int, float):
        raise DataError("a number that is none")
    number = float(value)
    return number if math.isfinite(number) or type(value) is float else math.nan


_COLLECTIONS: dict[str, Any] = {"tuple": tuple, "set": set, "frozenset": frozenset, "bytes": bytes, "bytearray": bytearray}
