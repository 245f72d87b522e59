"""The comparison of process, container and virtual machine: its table and chart."""

from __future__ import annotations

import pytest

import nbcontainer as nbc
from nbcontainer.isolation import Comparison, Row

ROWS = (
    Row("process", 0.02, 0.02, 9 << 20, 4711, 120, "6.18"),
    Row("container", 0.3, 0.005, 3 << 20, 1, 1, "6.18"),
    Row("virtual machine", why_not="no <QEMU>"),
)


def test_table_and_chart() -> None:
    comparison = Comparison(ROWS)
    text = comparison.as_text()
    assert "20 ms" in text and "3 MiB" in text and "not here: no <QEMU>" in text
    assert "no &lt;QEMU&gt;" in comparison._repr_html_()
    assert [axes.get_title() for axes in comparison.plot().axes] == ["time of one run", "memory"]


@pytest.mark.parametrize("repeat", [0, -1, "5", True, 2.5, 1001])
def test_repeat_is_checked(repeat: object) -> None:
    with pytest.raises(nbc.SpecError, match="repeat"):
        nbc.compare_isolation(repeat)  # type: ignore[arg-type]
