"""Small values beside what is shown of them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbcontainer.data import small
from nbcontainer.data.blob import DataError

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.complex_numbers(allow_nan=False)
KEYS = st.integers() | st.text() | st.tuples(st.booleans(), st.text())
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(KEYS, inner) | st.sets(KEYS) | st.frozensets(KEYS), max_leaves=30
)


@given(VALUES)
def test_plain_values_are_the_same_at_the_other_end(value: Any) -> None:
    again = small.decode(small.encode(value))
    assert again == value and type(again) is type(value)


class Text(str):
    def __len__(self) -> int:
        raise AssertionError("asked")


ENDLESS: list[Any] = []
ENDLESS.append(ENDLESS)


@pytest.mark.parametrize(
    "value",
    [
        *("x" * (1 << 17), ["x" * (1 << 14)] * 5, [0] * (1 << 17), 1 << (1 << 20), [[0] * 100] * 1000, {"k" * (1 << 17): 1}, 10**5000, "\ud800\0"),
        *(b"x", np.float64(1), np.zeros(3), Text("x"), [Text("x")], {Text("x"): 1}, object(), ENDLESS),
    ],
    ids=lambda value: type(value).__name__,
)
def test_whatever_else_has_no_text_or_comes_back_the_same(value: Any) -> None:
    text = small.encode(value)
    assert text == "" or small.decode(text) == value
    assert len(text) <= small.MOST_CHARACTERS


@given(st.text() | VALUES.map(repr) | st.recursive(SCALARS.map(repr), lambda inner: st.dictionaries(st.just("\0"), st.lists(inner))).map(json.dumps))
def test_any_text_is_a_value_or_a_data_error(text: str) -> None:
    try:
        small.decode(text)
    except DataError:
        return


def test_longer_texts_are_not_read() -> None:
    with pytest.raises(DataError):
        small.decode("1" + " " * small.MOST_CHARACTERS)
