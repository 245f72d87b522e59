"""Variables and output: a large array against copying it in memory, and printed lines against ``%%script``."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from IPython.utils.capture import capture_output
from measures import _notebook

import nbcontainer as nbc

PRINT = "for number in range({count}): print('line', number)"


@dataclass(frozen=True)
class Transfers:
    """Medians in seconds; ``base``: a cell that imports NumPy, as those with arrays do."""

    copy: float
    base: float
    inwards: float
    outwards: float

    def bound(self) -> float:
        """What each way may take."""
        return 2 * self.copy + 0.05


def _median(action: Callable[[], object], count: int) -> float:
    walls = []
    for _ in range(count + 1):
        begin = time.perf_counter()
        kept = action()
        walls.append(time.perf_counter() - begin)
        del kept
    return statistics.median(walls[1:])  # the first has the machine find memory


def transfers(size_bytes: int, count: int) -> Transfers:
    array = np.ones(size_bytes // 8)
    mem = f"{2 * size_bytes + (256 << 20)}"

    def inwards() -> None:
        assert nbc.run("import numpy; assert a[-1] == 1", mem=mem, input={"a": array}).ok

    def without() -> None:
        assert nbc.run(f"import numpy; a = numpy.ones({array.size})", mem=mem).ok

    def outwards() -> np.ndarray:  # type: ignore[type-arg]
        result = nbc.run(f"import numpy; a = numpy.ones({array.size})", mem=mem, output=["a"])
        assert result.ok, result.describe()
        assert result.values["a"][-1] == 1
        return result.values["a"]

    def base() -> None:
        assert nbc.run("import numpy", mem=mem).ok

    made = _median(without, count)
    imported = _median(base, count)
    copy = _median(array.copy, count)
    return Transfers(copy, imported, _median(inwards, count) - imported, _median(outwards, count) - made)


def printing(lines: int, count: int) -> tuple[float, float]:
    """Seconds for so many lines: in a container, and by ``%%script``; in turns."""
    shell = _notebook()
    body = PRINT.format(count=lines)
    ours, script = [], []
    for _ in range(count):
        for walls, magic, line in ((ours, "container", "--quiet"), (script, "script", f"{sys.executable} -")):
            begin = time.perf_counter()
            with capture_output() as captured:
                shell.run_cell_magic(magic, line, body)
            walls.append(time.perf_counter() - begin)
            assert captured.stdout.count("\n") == lines
    return statistics.median(ours), statistics.median(script)
