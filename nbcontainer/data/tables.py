"""Tables: pandas DataFrames and Series, and pyarrow's, as one Arrow stream each. No extension types: some of them unpickle.

An Arrow stream from a hostile cell could name types that run code, or sizes that it does not have. Those are looked for before
pyarrow reads it as data: extension types by the name of the field that marks them, compression by the flatbuffer that says so.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from nbcontainer.data.blob import DataError, Lazy

KINDS = ("arrow-table", "pandas-frame", "pandas-series")
EXTENSION_KEY = b"ARROW:extension"
MAX_SCHEMA_BYTES = 8 << 20
PIECE_BYTES = 8 << 20
"""A larger table is sent in batches of about this size, each of which is copied once."""
END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"
BYTES_PER_VALUE = 64
"""What a value can take in pandas, at most: a Python object."""
_DICTIONARY_BATCH, _RECORD_BATCH = 2, 3


def encode(value: Any) -> tuple[str, tuple[Any, ...], tuple[Any, ...]] | None:
    """(kind, parts, extra) of a table; None where it is none. Raises CannotTravel, also where pyarrow is not installed."""
    pandas, pyarrow = sys.modules.get("pandas"), sys.modules.get("pyarrow")
    if pandas is not None and isinstance(value, pandas.DataFrame | pandas.Series):
        return _encode_pandas(value, pandas)
    if pyarrow is not None and hasattr(pyarrow, "Table") and isinstance(value, pyarrow.Table | pyarrow.RecordBatch):
        table = value if isinstance(value, pyarrow.Table) else pyarrow.Table.from_batches([value])
        return "arrow-table", (_stream(table, value),), ()
    return None


def _encode_pandas(value: Any, pandas: Any) -> tuple[str, tuple[Any, ...], tuple[Any, ...]]:
    if type(value) not in (pandas.DataFrame, pandas.Series):
        raise _refusal(value, "make it a plain one: pandas.DataFrame(...)")
    try:
        import pyarrow
    except ImportError:
        raise _refusal(value, "tables travel as Arrow, which needs pyarrow: pip install pyarrow") from None
    series = isinstance(value, pandas.Series)
    frame = value.to_frame("value") if series else value
    try:
        table = pyarrow.Table.from_pandas(frame)
    except (pyarrow.ArrowException, ValueError, TypeError) as error:
        raise _refusal(value, " ".join(str(error).split())[:300]) from None
    if series:
        return "pandas-series", (_stream(table, value),), (value.name,)
    return "pandas-frame", (_stream(table, value),), ()


def _stream(table: Any, value: Any) -> Any:
    import pyarrow

    for field in table.schema:
        if _has_extension(field.type):
            raise _refusal(value, f"its column {field.name!r} has the type {field.type}, which is not plain data; convert it, to text for example")
    if table.nbytes > PIECE_BYTES and not any(_contains(field.type, pyarrow.types.is_dictionary) for field in table.schema):
        rows = max(1, PIECE_BYTES * table.num_rows // table.nbytes)
        messages = partial(_messages, table, rows)
        return Lazy(sum(_sizes(table, rows)), messages)
    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _messages(table: Any, rows: int) -> Iterator[Any]:
    """What a stream consists of: schema, batches of so many rows, the mark of its end. Dictionaries would be messages of their own."""
    yield table.schema.serialize()
    for batch in table.to_batches(max_chunksize=rows):
        yield batch.serialize()
    yield END_OF_STREAM


def _sizes(table: Any, rows: int) -> Iterator[int]:
    """Of the same, without a copy of them."""
    import pyarrow

    yield table.schema.serialize().size
    yield from map(pyarrow.ipc.get_record_batch_size, table.to_batches(max_chunksize=rows))
    yield len(END_OF_STREAM)


def _has_extension(kind: Any) -> bool:
    import pyarrow

    return _contains(kind, lambda one: isinstance(one, pyarrow.BaseExtensionType))


def _contains(kind: Any, wanted: Callable[[Any], bool]) -> bool:
    """A type, or one in it."""
    import pyarrow

    if wanted(kind):
        return True
    if pyarrow.types.is_dictionary(kind):
        return _contains(kind.value_type, wanted)
    return any(_contains(kind.field(index).type, wanted) for index in range(kind.num_fields))


def _refusal(value: Any, hint: str) -> Exception:
    from nbcontainer.data.tree import CannotTravel

    return CannotTravel(value, hint)


def decode(kind: str, raw: memoryview, extra: list[Any]) -> Any:
    """Raises DataError for what is no table of plain columns."""
    try:
        import pyarrow
    except ImportError:
        raise DataError("a table needs pyarrow here: pip install pyarrow") from None
    try:
        check_stream(raw)
        table = pyarrow.ipc.open_stream(pyarrow.py_buffer(raw)).read_all()
        table.validate(full=True)
        if kind == "arrow-table":
            return table
        _check_cost(table, raw.nbytes)
        frame = table.to_pandas()
    except (pyarrow.ArrowException, OSError, struct.error, MemoryError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"a table that is none ({type(error).__name__})") from None
    if kind == "pandas-frame":
        return frame
    series = frame.iloc[:, 0]
    series.name = extra[0] if extra and isinstance(extra[0], str | int | float | bool | tuple | None) else None
    return series


def check_stream(raw: memoryview) -> None:
    """Walk over the messages of an Arrow stream; raises DataError or struct.error for what pyarrow must not see."""
    offset, first = 0, True
    while offset + 8 <= raw.nbytes:
        marker, length = struct.unpack_from("<Ii", raw, offset)
        if marker != 0xFFFFFFFF or length < 0 or length > min(MAX_SCHEMA_BYTES, raw.nbytes - offset - 8):
            raise DataError("an Arrow message that is none")
        if length == 0:
            return  # the end of the stream
        message = raw[offset + 8 : offset + 8 + length]
        kind, body_bytes, compressed = _message(message)
        if first and EXTENSION_KEY in bytes(message):
            raise DataError("a table with extension types, which could run code")
        if compressed:
            raise DataError("a compressed table, which could be of any size")
        if not 0 <= body_bytes <= raw.nbytes - offset - 8 - length:
            raise DataError("an Arrow message that is longer than the memory")
        if not first and kind not in (_RECORD_BATCH, _DICTIONARY_BATCH):
            raise DataError("an Arrow message of an unexpected kind")
        offset, first = offset + 8 + length + body_bytes, False


def _message(data: memoryview) -> tuple[int, int, bool]:
    """(kind, bytes of its body, whether that is compressed) of an Arrow message, from its flatbuffer."""
    table = struct.unpack_from("<I", data)[0]
    where = _field(data, table, 1)
    kind = data[where] if where else 0
    where = _field(data, table, 3)
    body_bytes = struct.unpack_from("<q", data, where)[0] if where else 0
    header = _follow(data, _field(data, table, 2))
    if kind == _DICTIONARY_BATCH:
        header = _follow(data, _field(data, header, 1))
    compressed = kind in (_DICTIONARY_BATCH, _RECORD_BATCH) and _field(data, header, 3) != 0
    return kind, body_bytes, compressed


def _field(data: memoryview, table: int, number: int) -> int:
    """Where a field of a flatbuffer's table lies; 0 where it has its default."""
    vtable = table - struct.unpack_from("<i", data, table)[0]
    entry = 4 + 2 * number
    if vtable < 0 or entry + 2 > struct.unpack_from("<H", data, vtable)[0]:
        return 0
    offset = struct.unpack_from("<H", data, vtable + entry)[0]
    return table + offset if offset else 0


def _follow(data: memoryview, where: int) -> int:
    if not where:
        raise DataError("an Arrow message without a header")
    return int(where + struct.unpack_from("<I", data, where)[0])


def _check_cost(table: Any, size_bytes: int) -> None:
    """pandas makes objects of what takes a bit, or nothing, in Arrow: a table must not become a thousand times as large."""
    values = table.num_rows * (table.num_columns + 1) + sum(_leaves(chunk) for column in table.columns for chunk in column.chunks)
    if values > 64 * size_bytes + 1_000_000 or values * BYTES_PER_VALUE > _available_bytes():
        raise DataError("a table that would become far larger than it is")


def _leaves(array: Any) -> int:
    """How many values lie in the lists and structures of an array."""
    import pyarrow

    kind = array.type
    if pyarrow.types.is_struct(kind):
        return sum(len(array) + _leaves(array.field(index)) for index in range(kind.num_fields))
    if kind.num_fields and hasattr(array, "values"):
        return len(array.values) + _leaves(array.values)
    return 0 if kind.num_fields == 0 else len(array) * 1000


def _available_bytes() -> int:
    from nbcontainer.linux.meminfo import host_memory_bytes

    return host_memory_bytes()[1]
