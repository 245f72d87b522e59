"""The variables that came out of a container, read by the kernel. Whatever is in there may have been written by anyone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from nbcontainer.data.blob import DataError, read_blob
from nbcontainer.data.tree import Decoder


def read_values(memory: memoryview | None, names: Iterable[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """(values, missing): what is there of ``names``, and a line for each that is not. Nothing is executed."""
    wanted = tuple(names)
    if memory is None:
        return {}, {name: f"-o {name}: did not come back, because the cell's process ended before it had sent it." for name in wanted}
    values: dict[str, Any] = {}
    missing: dict[str, str] = {}
    try:
        head, parts = read_blob(memory)
        trees = head.get("values")
        if not isinstance(trees, dict):
            raise DataError("no variables are in there")
    except DataError as error:
        return {}, {name: f"-o {name}: did not come back: {error}." for name in wanted}
    decoder = Decoder(parts)
    for name in wanted:
        if name not in trees:
            missing[name] = f"-o {name}: did not come back."
            continue
        try:
            values[name] = decoder.decode(trees[name])
        except (DataError, MemoryError) as error:
            missing[name] = f"-o {name}: did not come back: {error or 'there is not enough memory'}."
    return values, missing


