"""Variables as data: what comes back is what was sent, and what is hostile is one error."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import importlib
import io
import json
import mmap
import os
import pickle
import struct
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from nbcontainer.data import inward, tables
from nbcontainer.data.blob import MAGIC, PREFIX, Blob, DataError, read_blob
from nbcontainer.data.outward import read_values
from nbcontainer.data.tree import MARK, CannotTravel, Decoder, Encoder
from nbcontainer.engine import memory
from nbcontainer.engine.transfer import Transfer
from nbcontainer.engine.vm import wire
from nbcontainer.errors import SpecError
from nbcontainer.runtime import variables
from nbcontainer.runtime.protocol import Go, ProtocolError
from nbcontainer.spec import ContainerSpec


def written(blob: Blob) -> memoryview:
    fd = os.memfd_create("test")
    try:
        os.ftruncate(fd, blob.size_bytes)
        blob.write(fd)
        return memoryview(bytearray(os.pread(fd, blob.size_bytes, 0)))
    finally:
        os.close(fd)


def come_out(**values: Any) -> dict[str, Any]:
    blob, problems, _ = variables.gather(values, values)
    assert problems == []
    back, missing = read_values(written(blob), values)
    assert missing == {}
    return back


HASHABLE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(exclude_categories=())) | st.binary(max_size=8),
    lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3),
    max_leaves=4,
)
VALUES = st.recursive(
    HASHABLE | st.complex_numbers(allow_nan=False) | st.binary(max_size=8).map(bytearray),
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner) | st.dictionaries(HASHABLE, inner, max_size=4) | st.sets(HASHABLE, max_size=3),
    max_leaves=12,
)


MB = 1 << 20


def views() -> Iterator[Any]:
    """Of more than one piece each, none of them contiguous."""
    numbers = np.arange(3 * MB, dtype=np.int32)
    yield numbers[::-1]
    yield numbers[1::2]
    yield np.broadcast_to(np.int32(7), (3 * MB,))
    yield np.broadcast_to(numbers[:1000], (2000, 1000))
    yield np.broadcast_to(numbers[:2000, None], (2000, 1000))
    yield numbers.reshape(3, 1024, 1024)[:, ::-1, 1:]
    yield numbers.reshape(3, 1024, 1024).transpose(1, 0, 2)
    yield np.asfortranarray(numbers.reshape(3, 1024, 1024))[1:]
    yield numbers.view("M8[s]")[::-2]
    yield np.broadcast_to(np.array([(1, 2.5, "x")], dtype="i2,f8,U3"), (500_000,))
    yield np.broadcast_to(np.array("x" * 2 * MB), (2, 1))
    yield np.zeros((5, 0, 3))[::2]
    yield np.zeros((0, 4 * MB))[:, ::2]


@pytest.mark.parametrize("array", list(views()), ids=lambda array: f"{array.dtype.kind}{array.shape}")
def test_views_come_back_as_they_were_piece_by_piece(array: Any) -> None:
    back = come_out(array=array)["array"]
    assert (back.dtype, back.shape) == (array.dtype, array.shape) and np.array_equal(back, array)
    assert all(np.asarray(piece).nbytes <= 16 * MB for part in [variables.gather(["a"], {"a": array})[0]._parts[-1][1]] for piece in getattr(part, "pieces", list)())


def large_tables() -> Iterator[pa.Table]:
    """Of several batches each."""
    numbers = np.arange(2 * MB)
    texts = pa.array([f"text {number}" for number in range(400_000)])
    yield pa.table({"a": numbers, "b": numbers[::-1] % 2 == 0})
    yield pa.table({"a": pa.chunked_array([numbers, numbers[:5], numbers[:0]])})
    yield pa.table({"a": pa.array(numbers, mask=numbers % 3 == 0), "b": numbers}).slice(1000, MB)
    yield pa.table({"s": texts, "l": pa.array([["a", None], []] * 200_000), "d": pa.array([{"x": 1.5, "y": [1]}] * 400_000), "n": pa.nulls(400_000)}).slice(7)
    yield pa.table({"s": texts.cast(pa.large_string()), "c": pa.array(["a", "b"] * 200_000).dictionary_encode(), "n": numbers[:400_000], "m": numbers[:400_000] * 2, "o": numbers[:400_000]})
    yield pa.table({"w": pa.array(["x" * 3 * MB] * 5)})


@pytest.mark.parametrize("table", list(large_tables()), ids=lambda table: "+".join(table.column_names))
def test_large_tables_come_back_as_they_were_batch_by_batch(table: pa.Table) -> None:
    assert table.nbytes > tables.PIECE_BYTES
    back = come_out(table=table)["table"]
    assert back.schema == table.schema and back.equals(table)


def test_large_frames_come_back_as_they_were() -> None:
    frame = pd.DataFrame({"a": np.arange(float(MB)), "b": ["x", None] * (MB // 2), "c": pd.date_range("2020", periods=MB, freq="s")}, index=np.arange(MB)[::-1])
    back = come_out(frame=frame, series=frame["b"])
    pd.testing.assert_frame_equal(back["frame"], frame)
    pd.testing.assert_series_equal(back["series"], frame["b"])


@pytest.mark.parametrize("text", ["x" * (1 << 16), "x" * ((1 << 16) + 1), "äé" * 70_000, "\ud800\udc00😀" * 30_000, "a\0" * 40_000])
def test_long_texts_come_back_as_they_were(text: str) -> None:
    assert come_out(text=text, inside=[{"a": (text, 1)}]) == {"text": text, "inside": [{"a": (text, 1)}]}


@given(VALUES)
def test_plain_values_come_back_as_they_were(value: Any) -> None:
    back = come_out(value=value)["value"]
    assert back == value and repr(type(back)) == repr(type(value))
    assert json.dumps(repr(back)) == json.dumps(repr(value)) or isinstance(value, set | frozenset | dict | tuple | list)


DTYPES = npst.scalar_dtypes() | npst.array_dtypes(max_size=3) | npst.byte_string_dtypes() | npst.unicode_string_dtypes()


@given(DTYPES.flatmap(lambda dtype: npst.arrays(dtype, npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))), st.sampled_from("CFT"))
@settings(max_examples=200)
def test_arrays_come_back_as_they_were(array: Any, order: str) -> None:
    assume(str(array.dtype.descr).isascii())
    sent = array.T if order == "T" else np.array(array, order=order)
    back = come_out(x=sent)["x"]
    assert (back.dtype, back.shape) == (sent.dtype, sent.shape)
    assert back.tobytes() == sent.tobytes()
    assert back.flags.writeable


def test_numbers_of_numpy_and_slices() -> None:
    array = np.arange(24).reshape(2, 3, 4)
    back = come_out(n=np.float32(1.5), s=array[:, ::2, 1:3], moment=np.datetime64("2026-01-01"), flags=np.bool_(True), big=np.zeros(1 << 20))
    assert type(back["n"]) is np.float32 and back["n"] == 1.5
    assert (back["s"] == array[:, ::2, 1:3]).all()
    assert back["moment"] == np.datetime64("2026-01-01") and back["flags"].dtype == bool
    assert back["big"].sum() == 0


def test_tables_come_back_as_they_were() -> None:
    frame = pd.DataFrame(
        {
            "n": [1, 2, 3],
            "text": ["a", None, "c"],
            "kind": pd.Categorical(["x", "y", "x"]),
            "when": pd.date_range("2026-01-01", periods=3, tz="UTC"),
            "flag": [True, False, True],
        },
        index=pd.Index([5, 6, 7], name="i"),
    )
    series = pd.Series([1.5, 2.5], index=["a", "b"], name=("s", 1))
    table = pa.table({"a": [1, 2], "b": [[1], [2, 3]]})
    back = come_out(frame=frame, series=series, table=table, nested={"frames": [frame]})
    pd.testing.assert_frame_equal(back["frame"], frame)
    pd.testing.assert_frame_equal(back["nested"]["frames"][0], frame)
    pd.testing.assert_series_equal(back["series"], series)
    assert back["table"].equals(table)


class Own(dict):  # type: ignore[type-arg]
    pass


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (Own(), ["Own", "plain dict"]),
        (threading.Lock(), ["lock"]),
        ([1, {"a": object()}], ["object"]),
        (np.array([object()]), ["numpy.ndarray", "dtype object"]),
        (np.ma.masked_array([1]), ["MaskedArray", "numpy.asarray"]),
        (pd.DataFrame({"a": [object()]}), ["DataFrame"]),
        (pd.DataFrame({"a": pd.period_range("2026", periods=2)}), ["DataFrame", "'a'", "convert it"]),
        (pa.table({"a": pa.nulls(2)}).schema, ["Schema"]),
        pytest.param(10**5000, ["int", "too long"], id="long"),
    ],
    ids=lambda value: "",
)
def test_what_is_no_data_is_named_with_its_type(value: Any, words: list[str]) -> None:
    blob, problems, _ = variables.gather(["good", "bad"], {"good": 1, "bad": value})
    assert len(problems) == 1 and problems[0].startswith(("-o bad: a ", "-o bad: an "))
    assert all(word in problems[0] for word in [*words, "NumPy arrays", "DataFrames"])
    assert read_values(written(blob), ["good"])[0] == {"good": 1}


def test_what_is_too_deep_or_too_much_or_goes_in_circles() -> None:
    circle: list[Any] = []
    circle.append(circle)
    for value in (circle, list(range(3_000_000))):
        with pytest.raises(CannotTravel):
            Encoder().encode(value)


# ---- hostile


def hostile(trees: Any, *parts: Any, sizes: Any = None) -> memoryview:
    head = {"values": trees, **({} if sizes is None else {"sizes": sizes})}
    return written(Blob(head, parts))


def npy(header: str, version: bytes = b"\x01\x00") -> bytes:
    text = header.encode("latin1")
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '|O', 'fortran_order': False, 'shape': (1,)}",
        "{'descr': [('a', '|O')], 'fortran_order': False, 'shape': (1,)}",
        "{'descr': '<i8', 'fortran_order': False, 'shape': (1000000000000,)}",
        "{'descr': '<i8', 'fortran_order': False, 'shape': (-1,)}",
        "{'descr': '<i8', 'fortran_order': False, 'shape': (True,)}",
        "{'descr': '|V0', 'fortran_order': False, 'shape': (1000000000000000,)}",
        "{'descr': ('<i8', (2,)), 'fortran_order': False, 'shape': (1,)}",
        "{'descr': '<i8', 'fortran_order': False, 'shape': " + "(" * 3000 + ")" * 3000 + "}",
        "__import__('os').system('true')",
        "{" * 5000,
        "",
    ],
)
def test_hostile_arrays(header: str) -> None:
    values, missing = read_values(hostile({"x": {MARK: ["npy", 0]}}, npy(header), b"\0" * 8), ["x"])
    assert values == {} and missing["x"].startswith("-o x: did not come back: ")


def stream(table: Any, **options: Any) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table)
    return sink.getvalue()


class Evil(pa.ExtensionType):  # type: ignore[misc]
    """A type of the notebook's that, as some do, would unpickle what comes with a table."""

    def __init__(self) -> None:
        super().__init__(pa.int64(), "test.evil")

    def __arrow_ext_serialize__(self) -> bytes:
        return pickle.dumps(1)

    @classmethod
    def __arrow_ext_deserialize__(cls, storage: Any, data: bytes) -> Any:
        raise SystemExit("a type from the container was asked to rebuild itself")


@pytest.fixture
def evil() -> Iterator[bytes]:
    pa.register_extension_type(Evil())
    yield stream(pa.table({"a": pa.ExtensionArray.from_storage(Evil(), pa.array([1]))}))
    pa.unregister_extension_type("test.evil")


@pytest.mark.parametrize("kind", ["arrow-table", "pandas-frame", "pandas-series"])
def test_hostile_tables(kind: str, evil: bytes) -> None:
    bad = [
        evil,
        stream(pa.table({"a": list(range(10_000))}), compression="zstd"),
        stream(pa.table({"a": ["x" * 100] * 100}).combine_chunks(), compression="lz4"),
        b"",
        b"\xff" * 64,
        stream(pa.table({"a": [1]}))[:-20],
    ]
    for data in bad:
        values, missing = read_values(hostile({"t": {MARK: [kind, 0]}}, data), ["t"])
        assert values == {} and "did not come back" in missing["t"], data[:40]


def test_a_table_of_nothing_does_not_become_a_large_one() -> None:
    data = stream(pa.table({"a": pa.Array.from_buffers(pa.null(), (1 << 31) - 1, [None])}))
    values, missing = read_values(hostile({"t": {MARK: ["pandas-frame", 0]}}, data), ["t"])
    assert values == {} and "far larger" in missing["t"]


def test_strings_with_offsets_outside_of_their_data() -> None:
    table = pa.table({"a": ["abc", "def"]})
    data = bytearray(stream(table))
    place = bytes(data).index(struct.pack("<iii", 0, 3, 6))
    data[place : place + 12] = struct.pack("<iii", 0, 1 << 30, 6)
    values, _ = read_values(hostile({"t": {MARK: ["pandas-frame", 0]}}, bytes(data)), ["t"])
    assert values == {}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    | st.tuples(
        st.sampled_from("tuple set frozenset dict complex bytes bytearray npy npy-scalar arrow-table pandas-frame pandas-series other".split())
        | st.integers(),
        inner | st.integers(-2, 5),
    ).map(lambda pair: {MARK: list(pair)})
    | inner.map(lambda value: {MARK: value}),
    max_leaves=10,
)
PARTS = st.lists(
    st.binary(max_size=60)
    | st.sampled_from(
        [npy("{'descr': '<i2', 'fortran_order': False, 'shape': (2, 2)}"), npy("{'descr': '|O', 'fortran_order': False, 'shape': ()}"), stream(pa.table({"a": [1, 2]}))]
    ),
    max_size=4,
)


@given(JSON, PARTS)
@settings(max_examples=500)
def test_any_tree_is_a_value_or_one_error(tree: Any, parts: list[bytes]) -> None:
    try:
        Decoder([memoryview(part) for part in parts]).decode(json.loads(json.dumps(tree)))
    except DataError as error:
        assert len(str(error).splitlines()) == 1


@given(st.binary(max_size=200), JSON | st.just([8]), st.integers(0, 1 << 64), PARTS)
@settings(max_examples=300)
def test_any_memory_is_values_or_a_reason(tail: bytes, sizes: Any, length: int, parts: list[bytes]) -> None:
    body = json.dumps({"values": {"x": {MARK: ["bytes", 0]}}, "sizes": sizes}).encode()
    for raw in (tail, PREFIX.pack(MAGIC, min(length, (1 << 64) - 1)) + tail, PREFIX.pack(MAGIC, len(body)) + body + tail):
        values, missing = read_values(memoryview(raw), ["x", "y"])
        assert set(values) | set(missing) == {"x", "y"}


@given(st.binary(max_size=300), st.integers(0, 400))
@settings(max_examples=300)
def test_any_bytes_in_an_arrow_stream(noise: bytes, place: int) -> None:
    data = bytearray(stream(pa.table({"a": [1, 2, 3], "b": ["x", "y", None]})))
    data[place : place + len(noise[:4])] = noise[:4]
    for raw in (bytes(data), noise):
        try:
            tables.decode("pandas-frame", memoryview(raw), [])
        except DataError:
            continue


def test_one_part_cannot_become_many_values() -> None:
    tree = [{MARK: ["bytes", 0]}, {MARK: ["bytes", 0]}]
    values, missing = read_values(hostile({"x": tree}, b"abc"), ["x"])
    assert values == {} and "not there" in missing["x"]


# ---- inwards


def rebuilt(given: dict[str, Any], code: str = "", *, lenient: bool = False) -> tuple[dict[str, Any], list[str]]:
    fd = os.memfd_create("test")
    blob = inward.gather(given, lenient=lenient).blob
    os.ftruncate(fd, blob.size_bytes)
    blob.write(fd)
    return variables.take(fd, code, lenient=lenient)


def test_anything_that_pickle_carries_goes_in() -> None:
    factor = 3

    def triple(value: int) -> int:
        return factor * value

    frame = pd.DataFrame({"a": [1, 2], "b": ["x", None]})
    given = {"f": triple, "x": {"a": (1, {2})}, "raw": b"abc", "array": bytearray(b"def"), "frame": frame, "a": np.arange(6).reshape(2, 3).T, "m": os.path}
    values, lost = rebuilt(given)
    assert lost == []
    assert values["f"](2) == 6 and values["x"] == given["x"] and values["raw"] == b"abc" and values["array"] == b"def"
    pd.testing.assert_frame_equal(values["frame"], frame)
    assert (values["a"] == given["a"]).all() and values["a"].flags.writeable
    values["a"][0, 0] = 9
    assert given["a"][0, 0] == 0  # type: ignore[index]


def test_what_cannot_be_pickled_is_named() -> None:
    with pytest.raises(SpecError, match=r"-i lock: a _thread\.lock cannot be pickled"):
        inward.gather({"lock": threading.Lock()})
    ready = inward.gather({"lock": threading.Lock(), "x": 1}, lenient=True)
    assert ready.left_behind == ("lock (_thread.lock)",)


def test_everything_is_all_but_ipython_s_own_and_modules_that_are_not_spoken_of() -> None:
    namespace = {"x": 1, "y": 2, "_": 3, "In": [], "os": os, "json": json, "hidden": 4, "shown": 5}
    chosen, everything = inward.choose(["*"], namespace, {"hidden": namespace["hidden"], "shown": object()}, "print(os.getpid())")
    assert everything and chosen == {"x": 1, "y": 2, "os": os, "shown": 5}
    with pytest.raises(SpecError, match="no variable 'frme'; did you mean frame"):
        inward.choose(["frme"], {"frame": 1}, {}, "")


def test_everything_rebuilds_what_the_cell_speaks_of() -> None:
    given = {"x": 1, "y": 2}
    assert rebuilt(given, "print(x)", lenient=True)[0] == {"x": 1}
    assert rebuilt(given, "print(globals())", lenient=True)[0] == given


@pytest.mark.parametrize("names", ["x,,y", "1x", "x y", "", "a.b"])
def test_names_that_are_none(names: str) -> None:
    with pytest.raises(SpecError, match=r"-i: .* is not a name"):
        inward.split_names([names], "-i")


def test_a_program_gets_texts_and_numbers() -> None:
    assert inward.as_environment({"a": "x y", "n": 1.5}) == {"a": "x y", "n": "1.5"}
    with pytest.raises(SpecError, match=r"-i df: .*pandas.*DataFrame"):
        inward.as_environment({"df": pd.DataFrame()})


def test_a_blob_that_ends_too_early() -> None:
    memory = written(Blob({"values": {}}, [b"x" * 100]))
    for length in (0, 7, 20, memory.nbytes - 1):
        with pytest.raises(DataError):
            read_blob(memory[:length])


@pytest.mark.parametrize("kind", ["set", "dict"])
def test_values_that_all_have_one_hash_do_not_keep_the_kernel_busy(kind: str) -> None:
    same = [number * sys.hash_info.modulus for number in range(1, 100_000)]
    assert len(set(map(hash, same))) == 1
    tree = {MARK: ["set", same]} if kind == "set" else {MARK: ["dict", [[number, 0] for number in same]]}
    with pytest.raises(DataError, match="made to be slow"):
        Decoder([]).decode(tree)
    few = [number * sys.hash_info.modulus for number in range(1, 100)]
    assert Decoder([]).decode({MARK: ["set", few]}) == set(few)

# ---- shared memory

LARGE = 8 << 20


def test_what_nobody_else_has_is_mapped_and_what_somebody_has_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    copied: list[int] = []
    copy = memory.copy_out
    monkeypatch.setattr(memory, "copy_out", lambda fd, size: copied.append(size) or copy(fd, size))
    for keep in ("nothing", "a descriptor", "a mapping"):
        fd = memory.allocate(LARGE, reserve=True)
        lent = memory.lend(fd)
        os.pwrite(lent, b"written", 0)
        mapped = mmap.mmap(lent, LARGE) if keep == "a mapping" else None
        if keep != "a descriptor":
            os.close(lent)
        before = len(copied)
        view = memory.take_back(fd, LARGE)
        assert bytes(view[:7]) == b"written"
        assert (len(copied) > before) == (keep == "a mapping" or (keep == "a descriptor" and os.geteuid() == 0))
        if mapped is not None:
            mapped[:7] = b"changed"
        elif keep == "a descriptor":
            with contextlib.suppress(OSError):
                os.pwrite(lent, b"changed", 0)
            os.ftruncate(lent, 0) if copied[before:] else None
            os.close(lent)
        assert bytes(view[:7]) == b"written" and view.nbytes == LARGE
        assert bytes(view[-1:]) == b"\0"
        os.close(fd)
        del view


def test_a_file_that_was_cut_off_or_has_holes_is_safe_to_read() -> None:
    for spoil in (lambda fd: os.ftruncate(fd, 100), lambda fd: None):
        fd = memory.allocate(LARGE, reserve=True)
        lent = memory.lend(fd)
        with contextlib.suppress(OSError):
            spoil(lent)
        os.close(lent)
        view = memory.take_back(fd, LARGE)
        assert sum(view) == 0 and view.nbytes in (100, LARGE)
        os.close(fd)


def test_what_goes_in_cannot_be_written_to_any_more() -> None:
    for size in (100, LARGE):
        fd = memory.allocate(size, reserve=False)
        os.pwrite(fd, b"x", 0)
        given = memory.finish(fd)
        with pytest.raises(OSError):
            os.pwrite(given, b"y", 0)
        assert mmap.mmap(given, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)[:1] == b"x"
        os.close(given)


# ---- from a virtual machine


@given(st.lists(st.tuples(st.integers(-1, 300), st.integers(-1, 300), st.binary(max_size=100)), max_size=6))
def test_pieces_in_any_order_are_bounded(pieces: list[tuple[int, int, bytes]]) -> None:
    transfer = Transfer(("x",))
    transfer.limit_bytes = 200
    try:
        for size, offset, data in pieces:
            try:
                transfer.receive(*wire.piece_from_json({"size": size, "offset": offset, "data": base64.b64encode(data).decode()}))
            except ProtocolError:
                continue
        taken = transfer.take()
        assert taken is None or taken.nbytes <= 200
    finally:
        transfer.close()


def test_a_blob_in_pieces_comes_whole() -> None:
    blob, _, _ = variables.gather(["x"], {"x": os.urandom(3 << 20)})
    sent = written(blob)
    transfer = Transfer(("x",))
    for piece in wire.pieces_to_json("values", 1, sent.nbytes, lambda size, offset: sent[offset : offset + size]):
        transfer.receive(*wire.piece_from_json(piece))
    taken = transfer.take()
    assert taken is not None and bytes(taken) == bytes(sent)
    transfer.close()


@pytest.mark.parametrize("data", ["???", 3, None, "\ud800", "A"])
def test_a_piece_that_is_none(data: Any) -> None:
    with pytest.raises(ProtocolError):
        wire.piece_from_json({"size": 3, "offset": 0, "data": data})


def test_where_the_container_s_root_could_open_it_anew_it_can_be_sealed() -> None:
    for namespaces in (frozenset({"pid"}), frozenset({"pid", "user"})):
        transfer = Transfer(("x",))
        transfer.mentioned_in(Go("", (), {}, (), "root", 0, False), ContainerSpec(namespaces=namespaces))
        fd, why = transfer.allow(LARGE)
        assert not why
        if "user" not in namespaces:
            assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) == fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
        os.close(fd)
        transfer.close()


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        ("datetime.date(2026, 1, 1)", ".isoformat()"),
        ("datetime.timedelta(1)", ".total_seconds()"),
        ("decimal.Decimal('1.5')", "str(...)"),
        ("pathlib.Path('/x')", "str(...)"),
        ("uuid.UUID(int=1)", "str(...)"),
        ("range(3)", "list(...)"),
        ("{}.keys()", "list(...)"),
        ("(one for one in ())", "list(...)"),
        ("array.array('i')", ".tolist()"),
        ("pd.Index([1])", ".tolist()"),
        ("pd.Timestamp(0)", ".isoformat()"),
        ("memoryview(b'')", "bytes(...)"),
        ("collections.OrderedDict()", "dict(...)"),
        ("collections.deque()", "list(...)"),
        ("len", "a session keeps it"),
        ("int", "a session keeps it"),
        ("object()", ""),
    ],
)
def test_what_cannot_come_out_says_how_to_make_data_of_it(code: str, hint: str) -> None:
    modules = {name: importlib.import_module(name) for name in ("array", "collections", "datetime", "decimal", "pathlib", "uuid")}
    value = eval(code, {**modules, "pd": pd})
    with pytest.raises(CannotTravel) as caught:
        Encoder().encode(value)
    assert caught.value.hint.endswith(hint) or hint in caught.value.hint
    assert bool(caught.value.hint) == bool(hint)
