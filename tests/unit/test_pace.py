"""Output at a rate that Jupyter's server lets through."""

from __future__ import annotations

import pytest

from nbcontainer.notebook import screen


def test_a_burst_is_free_and_the_rest_is_paced(monkeypatch: pytest.MonkeyPatch) -> None:
    now, slept = [100.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(screen.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(screen.time, "sleep", sleep)
    pace = screen.Pace(1000, 500)
    for _ in range(5):
        pace.wait_for(100)
    assert slept == []
    for _ in range(20):
        pace.wait_for(100)
    assert sum(slept) == pytest.approx(2.0)
    now[0] += 10
    slept.clear()
    pace.wait_for(500)
    assert slept == []
