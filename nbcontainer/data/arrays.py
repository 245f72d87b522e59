"""NumPy arrays and numbers: an npy header and the raw bytes behind it; without Python objects in them.

NumPy itself is imported only where an array comes, or where it is loaded anyway.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import partial
from typing import Any

from nbcontainer.data.blob import DataError, Lazy

KINDS = ("npy", "npy-scalar")
MAX_HEADER_BYTES = 10_000
"""What NumPy itself takes as the largest safe one: it is read by ast.literal_eval."""
PIECE_BYTES = 4 << 20
COPY_BELOW_BYTES = 1 << 20
"""Smaller arrays are copied, so that they do not keep all the memory that came with them."""


def encode(value: Any) -> tuple[str, tuple[Any, ...], tuple[Any, ...]] | None:
    """(kind, parts, extra) of an array or number; None where it is none. Raises CannotTravel for what has objects in it."""
    import numpy

    if isinstance(value, numpy.generic):
        kind, array = "npy-scalar", numpy.asarray(value)
    elif type(value) is numpy.ndarray:
        kind, array = "npy", value
    elif isinstance(value, numpy.ndarray):
        raise _refusal(value, "make it a plain array: numpy.asarray(...)")
    else:
        return None
    if array.dtype.hasobject:
        raise _refusal(value, f"its dtype {array.dtype} holds Python objects; convert it: .astype(float) or .astype(str), or use .tolist()")
    header = io.BytesIO()
    described = numpy.lib.format.header_data_from_array_1_0(array)
    try:
        numpy.lib.format.write_array_header_2_0(header, described)
    except UnicodeEncodeError:
        raise _refusal(value, "the names of its fields have letters that npy has not; rename them") from None
    if not array.nbytes:
        return kind, (header.getvalue(), b""), ()
    raw = array.T if described["fortran_order"] else array
    # A view may show few bytes many times (broadcast_to), and be far larger than what this process could copy.
    return kind, (header.getvalue(), _as_bytes(raw) if raw.flags.c_contiguous else Lazy(array.nbytes, partial(_pieces, raw))), ()


def _as_bytes(array: Any) -> Any:
    """A view of a contiguous array: not every dtype (dates, void) has a buffer of its own."""
    import numpy

    return array.reshape(-1).view(numpy.uint8)


def _pieces(array: Any) -> Iterator[Any]:
    """The bytes of an array, in C order."""
    import numpy

    if array.nbytes <= PIECE_BYTES or array.flags.c_contiguous:
        yield _as_bytes(numpy.ascontiguousarray(array))
        return
    at_once = PIECE_BYTES // (array.nbytes // len(array))
    for begin in range(0, len(array), max(1, at_once)):
        yield from _pieces(array[begin : begin + at_once] if at_once else array[begin])


def _refusal(value: Any, hint: str) -> Exception:
    from nbcontainer.data.tree import CannotTravel

    return CannotTravel(value, hint)


def decode(kind: str, header: memoryview, raw: memoryview) -> Any:
    """The array lies where ``raw`` lies when that is large. Raises DataError or ValueError for what is none."""
    import numpy

    npy = numpy.lib.format
    if header.nbytes > MAX_HEADER_BYTES:
        raise DataError("the header of an array is too long")
    try:
        stream = io.BytesIO(header)
        read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[npy.read_magic(stream)]
        shape, fortran_order, dtype = read(stream, max_header_size=MAX_HEADER_BYTES)
    except Exception as error:  # NumPy evaluates a literal: whatever that raises
        raise DataError(f"the header of an array is none ({type(error).__name__})") from None
    if dtype.hasobject:
        raise DataError("an array of Python objects would have to be unpickled")
    count = 1
    for length in shape:
        if type(length) is not int or length < 0:
            raise DataError("the shape of an array is none")
        count *= length
    if len(shape) > 32 or dtype.subdtype is not None or count * dtype.itemsize != raw.nbytes or (dtype.itemsize == 0 and count > raw.nbytes):
        raise DataError("an array is not as long as its shape says")
    array = numpy.ndarray(shape, dtype, raw if raw.nbytes else None, order="F" if fortran_order else "C")
    if kind == "npy-scalar":
        return array[()] if array.ndim == 0 else array.copy()
    return array if raw.nbytes > COPY_BELOW_BYTES else array.copy(order="K")
