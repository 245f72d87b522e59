"""Checks for exercises: did the experiment show what it should? Small, readable, and usable with nbgrader.

    result = nbc.run("bytearray(200_000_000)", mem="64M")
    nbc.check.oom(result)               # prints ✔ and why, or raises CheckFailed (an AssertionError) that says what to try
    nbc.check.language = "zh"           # from here on, messages are in Chinese; or oom(result, lang="zh")

A check looks only at what Linux counted and at what was asked for. A limit or a namespace that was asked for is in force, or
the cell does not run at all: so a result's ``spec`` is what held.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from nbcontainer.errors import SpecError
from nbcontainer.spec import ALL_NAMESPACES, NAMESPACES
from nbcontainer.units import format_size, parse_number, parse_size

if TYPE_CHECKING:
    from nbcontainer.result import Result

__all__ = ["CheckFailed", "close", "equal", "faster_than", "isolated", "limited", "oom", "outcome", "shows", "stopped", "succeeded"]

language = "en"
"""Of the messages: "en" or "zh"."""

Text = tuple[str, str]
"""The same sentence in English and in Chinese."""


class CheckFailed(AssertionError):
    """The exercise is not solved yet; the text says what was found and what to try."""

    def _render_traceback_(self) -> list[str]:
        """IPython prints these lines instead of a traceback: the student has made no error in the code of the check."""
        return [f"✘ {self}"]


def _say(text: Text, lang: str | None) -> str:
    chosen = language if lang is None else lang
    if chosen not in ("en", "zh"):
        raise SpecError(f"lang: {chosen!r} is not en or zh")
    return text[chosen == "zh"]


def _verdict(good: bool, yes: Text, no: Text, lang: str | None) -> None:
    if not good:
        raise CheckFailed(_say(no, lang))
    print("✔", _say(yes, lang))


def _result(value: object) -> Result:
    """Raises CheckFailed for what is no result, such as a variable that was never filled."""
    from nbcontainer.result import Result

    if not isinstance(value, Result):
        raise CheckFailed(
            _say(
                (
                    "Not yet: this check wants a result, from --result NAME or from nbc.run(...).",
                    "还不行：这里需要一个运行结果，用 --result 名字 或 nbc.run(...) 得到它。",
                ),
                None,
            )
        )
    return value


def outcome(result: Result, name: str, *, lang: str | None = None) -> None:
    """The run ended with this outcome, such as "timeout". Raises CheckFailed."""
    found = _result(result).outcome
    _verdict(
        found == name,
        (f"It ended as {found}.", f"结局是 {found}，正确。"),
        (f"Not yet: it ended as {found}, and should as {name}.", f"还不行：结局是 {found}，应该是 {name}。"),
        lang,
    )


def succeeded(result: Result, *, lang: str | None = None) -> None:
    """The run ended by itself with exit code 0. Raises CheckFailed."""
    verdict = _result(result).describe()
    _verdict(
        result.ok,
        ("It ran to its end without a failure.", "顺利运行到结束，没有出错。"),
        (f"Not yet: it should run to its end. {verdict}", f"还不行：它应当顺利运行到结束。实际情况：{verdict}"),
        lang,
    )


def oom(result: Result, *, lang: str | None = None) -> None:
    """The run was ended because its memory limit was reached. Raises CheckFailed."""
    found = _result(result)
    peak, limit = format_size(found.usage.memory_peak_bytes), format_size(found.limits.memory_bytes or 0)
    _verdict(
        found.outcome == "oom",
        (f"Out of memory at {peak}, with a limit of {limit}.", f"内存耗尽：峰值 {peak}，上限 {limit}。"),
        (
            f"Not yet: it ended as {found.outcome}, with a peak of {peak}; the limit is {limit}. Use more, or allow less.",
            f"还不行：结局是 {found.outcome}，内存峰值 {peak}，上限 {limit}。试着多用一些内存，或者把上限调低。",
        ),
        lang,
    )


def isolated(result: Result, *namespaces: str, lang: str | None = None) -> None:
    """The run had these namespaces of its own ("pid", "net", ...); without names, all but time. Raises CheckFailed."""
    wanted = namespaces or NAMESPACES
    unknown = [name for name in wanted if name not in ALL_NAMESPACES]
    if unknown:
        raise SpecError(f"isolated: {unknown[0]!r} is no namespace; there are {', '.join(ALL_NAMESPACES)}")
    shared = ", ".join(name for name in wanted if name not in _result(result).spec.namespaces)
    own = ", ".join(wanted)
    _verdict(
        not shared,
        (f"It had namespaces of its own: {own}.", f"它有自己的命名空间：{own}。"),
        (f"Not yet: it shared {shared} with the host.", f"还不行：它与宿主机共用了 {shared}。"),
        lang,
    )


def limited(
    result: Result,
    *,
    mem: str | int | None = None,
    cpus: float | None = None,
    pids: int | None = None,
    lang: str | None = None,
) -> None:
    """These limits were in force, or tighter ones, and what Linux counted lies within them. Raises CheckFailed."""
    limits, usage = _result(result).limits, result.usage
    tests: list[tuple[str, float | None, float, Callable[[float], str]]] = []
    if mem is not None:
        tests.append(("mem", limits.memory_bytes, parse_size(mem, "mem"), format_size))
    if cpus is not None:
        tests.append(("cpus", limits.cpus, parse_number(cpus, "cpus", minimum=0.01, maximum=100_000), lambda value: f"{value:g}"))
    if pids is not None:
        tests.append(("pids", limits.pids, parse_number(pids, "pids", minimum=1, maximum=1 << 22, whole=True), lambda value: f"{value:g}"))
    if not tests:
        raise SpecError("limited: say which limit, such as limited(result, mem='64M')")
    for name, found, most, show in tests:
        had = "-" if found is None else show(found)
        if found is None or found > most:
            raise CheckFailed(
                _say(
                    (
                        f"Not yet: --{name} should be at most {show(most)}; it was {had}.",
                        f"还不行：--{name} 最多应为 {show(most)}，而这次是 {had}。",
                    ),
                    lang,
                )
            )
    held = ", ".join(f"--{name} {show(found)}" for name, found, _, show in tests if found is not None)
    _verdict(
        limits.memory_bytes is None or mem is None or usage.memory_peak_bytes <= limits.memory_bytes,
        (f"It ran with {held}.", f"运行时的限制是 {held}。"),
        (f"The peak is above the limit of {held}: please report it.", f"峰值超过了 {held}：请报告这个问题。"),
        lang,
    )


def stopped(result: Result, *, seconds: float, lang: str | None = None) -> None:
    """The CPU quota kept it from running for at least so long. Raises CheckFailed."""
    waited = _result(result).usage.throttled_seconds
    _verdict(
        waited >= seconds,
        (f"Its quota kept it waiting for {waited:.2f} s.", f"配额让它等待了 {waited:.2f} 秒。"),
        (
            f"Not yet: it was throttled for {waited:.2f} s, and should for at least {seconds:g} s.",
            f"还不行：它被限流 {waited:.2f} 秒，至少应有 {seconds:g} 秒。",
        ),
        lang,
    )


def faster_than(fast: Result, slow: Result, *, times: float = 1.0, lang: str | None = None) -> None:
    """``fast`` took less time on the clock than ``slow``, by at least this factor. Raises CheckFailed."""
    first, second = _result(fast).usage.wall_seconds, _result(slow).usage.wall_seconds
    ratio = second / first if first else float("inf")
    _verdict(
        ratio > times,
        (f"{first:.2f} s against {second:.2f} s: {ratio:.1f} times as fast.", f"{first:.2f} 秒对 {second:.2f} 秒：快到 {ratio:.1f} 倍。"),
        (
            f"Not yet: {first:.2f} s against {second:.2f} s is {ratio:.1f} times as fast; more than {times:g} is wanted.",
            f"还不行：{first:.2f} 秒对 {second:.2f} 秒，只有 {ratio:.1f} 倍，要求超过 {times:g} 倍。",
        ),
        lang,
    )


def shows(result: Result, text: str, *, lang: str | None = None) -> None:
    """Standard output has this text in it. Raises CheckFailed."""
    _verdict(
        text in _result(result).stdout,
        (f"It printed {text!r}.", f"它输出了 {text!r}。"),
        (f"Not yet: {text!r} is not in what it printed.", f"还不行：输出里没有 {text!r}。"),
        lang,
    )


def equal(answer: object, expected: object, *, hint: str = "", lang: str | None = None) -> None:
    """The answer is the expected one, which is not given away. ``hint`` is added where it is not. Raises CheckFailed."""
    _verdict(
        answer == expected,
        (f"{answer!r} is right.", f"{answer!r}，答对了。"),
        (f"Not yet: {answer!r} is not it. {hint}".rstrip(), f"还不行：{answer!r} 不对。{hint}".rstrip()),
        lang,
    )


def close(answer: float | None, measured: float, *, within: float = 0.5, lang: str | None = None) -> None:
    """A prediction is right within this part of what was measured (0.5: from half to one and a half). Raises CheckFailed."""
    good = answer is not None and abs(answer - measured) <= within * abs(measured)
    said = "-" if answer is None else f"{answer:g}"
    _verdict(
        good,
        (f"You said {said}; measured was {measured:.3g}.", f"你的答案是 {said}，测得 {measured:.3g}，很接近。"),
        (f"Not yet: you said {said}; measured was {measured:.3g}.", f"还不行：你的答案是 {said}，测得的是 {measured:.3g}。"),
        lang,
    )
