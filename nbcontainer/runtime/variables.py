"""A cell's variables: those that the kernel sends in, and those that it wants back.

Inwards the kernel's memory is mapped privately: arrays lie in it, and a page is copied, and charged to the container, when the cell
first writes to it. Outwards this process says how much it has, gets memory of that size from the kernel, and fills it.
"""

from __future__ import annotations

import mmap
import os
import pickle
import re
from collections.abc import Iterable
from typing import Any

from nbcontainer.data.blob import Blob, read_blob, size_of
from nbcontainer.data.tree import SUPPORTED, CannotTravel, Encoder
from nbcontainer.units import format_size

_WORD = re.compile(r"[^\W\d]\w*")
_ASK_FOR_ALL = frozenset("globals locals vars dir eval exec who whos who_ls get_ipython __main__".split())


class VariableError(Exception):
    """A variable that cannot go in or come out; one line for the reader."""


def take(fd: int, code: str, *, lenient: bool) -> tuple[dict[str, Any], list[str]]:
    """(the variables that lie in ``fd``, which is closed; names that could not be rebuilt).

    With ``lenient`` (``-i '*'``), those that ``code`` does not speak of are left out, as each may import packages, and what
    cannot be rebuilt is named; else it raises VariableError.
    """
    try:
        size = os.fstat(fd).st_size
        memory = memoryview(mmap.mmap(fd, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE))
    finally:
        os.close(fd)
    head, parts = read_blob(memory)
    words = set(_WORD.findall(code))
    values: dict[str, Any] = {}
    lost: list[str] = []
    for name, (begin, count, raw) in head["values"].items():
        if lenient and name not in words and not words & _ASK_FOR_ALL:
            continue
        body, *buffers = parts[begin : begin + count]
        try:
            values[name] = {"bytes": bytes, "bytearray": bytearray}[raw](buffers[0]) if raw else pickle.loads(body, buffers=buffers)
        except Exception as error:  # rebuilding an object runs its own code
            why = f"{type(error).__name__}: {error}"
            if not lenient:
                raise VariableError(f"-i {name}: cannot be rebuilt in the container: {why}") from None
            lost.append(f"{name} ({why})")
    return values, lost


def gather(names: Iterable[str], namespace: dict[str, Any]) -> tuple[Blob, list[str], dict[str, int]]:
    """(what is there of ``names``, a line for each that cannot come, and how many bytes each takes)."""
    encoder = Encoder()
    values, problems, sizes = {}, [], {}
    for name in names:
        before = len(encoder.parts)
        try:
            if name not in namespace:
                raise VariableError(f"-o {name}: the cell has no variable of that name")
            values[name] = encoder.encode(namespace[name])
        except VariableError as error:
            problems.append(str(error))
        except CannotTravel as refused:
            why = f" ({refused.hint})" if refused.hint else ""
            a = "an" if refused.type_name[0] in "aeio" else "a"
            problems.append(f"-o {name}: {a} {refused.type_name} cannot come out of a container{why}. What can: {SUPPORTED}.")
        except MemoryError:
            problems.append(f"-o {name}: there is not enough memory in the container to send it")
        else:
            sizes[name] = sum(map(size_of, encoder.parts[before:]))
    return Blob({"values": values}, encoder.parts), problems, sizes


def too_large(sizes: dict[str, int], total_bytes: int, why: str) -> str:
    name = max(sizes, key=lambda key: sizes[key], default="")
    return f"-o {name}: {format_size(max(sizes.get(name, 0), 0) or total_bytes)}{'' if len(sizes) < 2 else f' of {format_size(total_bytes)}'} cannot come out: {why}"
