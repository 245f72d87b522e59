"""The checks of exercises, on results as they come back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import nbcontainer as nbc
from nbcontainer import check
from nbcontainer.cgroups.sampler import SampleSeries
from nbcontainer.errors import SpecError
from nbcontainer.events import Usage
from nbcontainer.result import Result, Spool
from nbcontainer.validate import make_spec

MIB = 1 << 20


@pytest.fixture(autouse=True)
def english() -> Iterator[None]:
    yield
    check.language = "en"


def result(outcome: str = "exited", stdout: str = "", usage: Usage | None = None, **options: Any) -> Result:
    spool = Spool()
    spool.write(stdout)
    exit_code, signal = (None, 9) if outcome == "oom" else (0, None)
    return Result(outcome, exit_code, signal, None, [], usage or Usage(), SampleSeries(), make_spec(options), _stdout=spool)  # type: ignore[arg-type]


KILLED = result("oom", mem="64M", usage=Usage(memory_peak_bytes=64 * MIB, wall_seconds=1.0))
FINE = result("exited", "hello\n", mem="64M", cpus=0.5, pids=20, usage=Usage(memory_peak_bytes=8 * MIB, wall_seconds=0.25, throttled_seconds=0.5))

GOOD: list[tuple[Callable[..., None], tuple[Any, ...], dict[str, Any]]] = [
    (check.oom, (KILLED,), {}),
    (check.outcome, (KILLED, "oom"), {}),
    (check.succeeded, (FINE,), {}),
    (check.shows, (FINE, "hello"), {}),
    (check.isolated, (FINE,), {}),
    (check.isolated, (FINE, "pid", "net"), {}),
    (check.limited, (FINE,), {"mem": "64M", "cpus": 0.5, "pids": 20}),
    (check.limited, (FINE,), {"mem": "1G"}),
    (check.stopped, (FINE,), {"seconds": 0.5}),
    (check.faster_than, (FINE, KILLED), {"times": 3}),
    (check.equal, ([1, 2], [1, 2]), {}),
    (check.close, (9, 10), {"within": 0.2}),
]
BAD: list[tuple[Callable[..., None], tuple[Any, ...], dict[str, Any], str]] = [
    (check.oom, (FINE,), {}, "ended as exited, with a peak of 8 MiB; the limit is 64 MiB"),
    (check.outcome, (FINE, "timeout"), {}, "ended as exited, and should as timeout"),
    (check.succeeded, (KILLED,), {}, "Out of memory"),
    (check.shows, (FINE, "bye"), {}, "'bye' is not in what it printed"),
    (check.isolated, (result(share="net,ipc"),), {}, "it shared net, ipc"),
    (check.isolated, (FINE, "time"), {}, "it shared time"),
    (check.limited, (FINE,), {"mem": "32M"}, "--mem should be at most 32 MiB; it was 64 MiB"),
    (check.limited, (FINE,), {"pids": 10}, "--pids should be at most 10; it was 20"),
    (check.limited, (KILLED,), {"cpus": 1}, "--cpus should be at most 1; it was -"),
    (check.stopped, (FINE,), {"seconds": 0.6}, "throttled for 0.50 s"),
    (check.faster_than, (KILLED, FINE), {}, "0.2 times as fast"),
    (check.equal, (1, 2), {"hint": "Count again."}, "1 is not it. Count again."),
    (check.close, (None, 10), {}, "you said -; measured was 10"),
    (check.close, (16, 10), {}, "you said 16; measured was 10"),
    (check.oom, (None,), {}, "wants a result"),
    (check.faster_than, (FINE, "x"), {}, "wants a result"),
]


@pytest.mark.parametrize(("function", "values", "options"), GOOD)
def test_what_is_right_is_praised_in_one_line(
    function: Callable[..., None], values: tuple[Any, ...], options: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    function(*values, **options)
    english = capsys.readouterr().out
    function(*values, **options, lang="zh")
    chinese = capsys.readouterr().out
    assert english.startswith("✔ ") and english.count("\n") == chinese.count("\n") == 1
    assert english != chinese


@pytest.mark.parametrize(("function", "values", "options", "text"), BAD)
def test_what_is_wrong_says_what_was_found(function: Callable[..., None], values: tuple[Any, ...], options: dict[str, Any], text: str) -> None:
    with pytest.raises(AssertionError, match="Not yet") as failure:
        function(*values, **options)
    assert text in str(failure.value)
    check.language = "zh"
    with pytest.raises(check.CheckFailed, match="还不行"):
        function(*values, **options)


def test_ipython_shows_the_message_alone() -> None:
    with pytest.raises(check.CheckFailed) as failure:
        nbc.check.equal(1, 2)
    assert failure.value._render_traceback_() == ["✘ Not yet: 1 is not it."]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: check.limited(FINE),
        lambda: check.limited(FINE, mem="lots"),
        lambda: check.isolated(FINE, "disk"),
        lambda: check.equal(1, 1, lang="fr"),
    ],
)
def test_a_check_that_is_written_wrong_is_the_teachers_error(wrong: Callable[[], None]) -> None:
    with pytest.raises(SpecError):
        wrong()


def test_the_names_are_those_of_the_documentation() -> None:
    assert all(callable(getattr(check, name)) for name in check.__all__)
