"""Values as users write them: sizes, numbers, words; and the one-line refusals of what is none.

Sizes are bytes, rates bytes per second, times seconds, CPU shares cores.
"""

from __future__ import annotations

import math
import numbers
import os
import re
import time
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from nbcontainer.errors import SpecError

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
SIZE_HELP = "a size such as 64K, 128M, 1.5G, 64KiB or a number of bytes (powers of 1024)"
_SIZE = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*([kmgt]?)(i?b)?", re.IGNORECASE | re.ASCII)
_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?\s*", re.IGNORECASE | re.ASCII)
_FACTOR = {"": 1, "k": KIB, "m": MIB, "g": GIB, "t": 1 << 40}
_AGO_PART = re.compile(r"(\d+(?:\.\d*)?)(ms|us|ns|h|m|s)", re.ASCII)
_AGO = re.compile(f"(?:{_AGO_PART.pattern})+", re.ASCII)
_AGO_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_CPU_LIST = re.compile(r"\d{1,6}(-\d{1,6})?(,\d{1,6}(-\d{1,6})?)*", re.ASCII)


def shown(value: object) -> str:
    """``value`` as messages show it: on one line, and not longer than one."""
    text = " ".join(repr(value).split()) if not isinstance(value, str) else repr(value)
    return text if len(text) <= 200 else f"{text[:100]}...{text[-20:]}"


def finite_number(value: object) -> float | None:
    """A number that is finite, or one spelled in ASCII; None for anything else, True and False included."""
    if isinstance(value, str):
        if _NUMBER.fullmatch(value) is None:
            return None
    elif isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def parse_size(value: str | int | float, option: str = "size", *, minimum: int = 1) -> int:
    """``"1.5G"`` → 1610612736. Integers are bytes. Raises SpecError that names ``option``."""
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    # Docker reads a bare "b" as bytes; "ib" alone is not a unit.
    if match is not None and not ((match[3] or "").lower() == "ib" and not match[2]):
        size = float(match[1]) * _FACTOR[match[2].lower()]
    else:
        number = None if isinstance(value, str) else finite_number(value)
        if number is None:
            raise SpecError(f"{option}: {shown(value)} is not {SIZE_HELP}")
        size = number
    if size < minimum:
        raise SpecError(f"{option}: {shown(value)} is too small; give {SIZE_HELP}, at least {minimum}")
    if size > 1 << 62:
        raise SpecError(f"{option}: {shown(value)} is more than Linux can count")
    return int(size)


def format_size(size_bytes: float) -> str:
    """134217728 → ``"128 MiB"``; at most one decimal."""
    for unit, factor in (("TiB", 1 << 40), ("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.1f}".removesuffix(".0") + f" {unit}"
    return f"{size_bytes:.0f} B"


def parse_number(value: str | int | float, option: str, *, minimum: float, maximum: float, whole: bool = False) -> float:
    """A number within bounds (``minimum`` included). Raises SpecError that names ``option`` and the bounds."""
    kind = "a whole number" if whole else "a number"
    number = finite_number(value)
    if number is None or not minimum <= number <= maximum or (whole and number != int(number)):
        raise SpecError(f"{option}: {shown(value)} is not {kind} from {minimum:g} to {maximum:g}")
    return number


def parse_seconds(value: str | int | float, option: str, *, maximum: float) -> float:
    """``"50ms"``, ``"0.05s"`` or a number of seconds. Raises SpecError that names ``option``."""
    text = value.strip().lower() if isinstance(value, str) else value
    factor = 1.0
    if isinstance(text, str):
        for unit, seconds in (("us", 1e-6), ("ms", 1e-3), ("s", 1.0)):
            if text.endswith(unit):
                text, factor = text[: -len(unit)], seconds
                break
    number = finite_number(text)
    if number is None or not 1e-5 <= number * factor <= maximum:
        raise SpecError(f"{option}: {shown(value)} is not a time such as 50ms, from 10us to {maximum:g}s")
    return number * factor


def parse_moment(value: str, option: str) -> float:
    """Unix seconds of a time as ``docker logs --since`` has them: RFC 3339 (local without a zone), Unix seconds, or how long ago (``1h30m``)."""
    text = value.strip()
    number = finite_number(text)
    if number is not None and number >= 0:
        return number
    if _AGO.fullmatch(text):
        return time.time() - sum(float(count) * _AGO_SECONDS[unit] for count, unit in _AGO_PART.findall(text))
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        raise SpecError(f"{option}: {shown(value)} is not a time such as 2026-11-28T10:00:00, 10m (ago) or Unix seconds") from None


def check_text(text: str, option: str) -> str:
    """Refuse lone surrogates: no file, program or terminal can take them."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise SpecError(f"{option}: {shown(text)} is not valid text (character {error.start} is half of one)") from None
    return text


def clean(text: str, option: str) -> str:
    """Refuse control characters: they would end up in files, terminals and kernel interfaces."""
    if any(ord(character) < 32 or ord(character) == 127 for character in text):
        raise SpecError(f"{option}: {shown(text)} has control characters in it")
    return check_text(text, option)


def word(value: object, option: str) -> str:
    """One value as text: a string, a path or a number."""
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, bool) or not isinstance(value, str | numbers.Real):
        raise SpecError(f"{option}: {shown(value)} is not text")
    return str(value)


def words(value: object, option: str) -> tuple[str, ...]:
    """One value, or several."""
    if isinstance(value, str | os.PathLike):
        return (word(value, option),)
    if isinstance(value, bytes | Mapping) or not isinstance(value, Iterable):
        raise SpecError(f"{option}: {shown(value)} is not text or a list of texts")
    return tuple(word(item, option) for item in value)


def flag(given: Mapping[str, Any], key: str) -> bool:
    value = given.get(key, False)
    if not isinstance(value, bool):
        raise SpecError(f"--{key.replace('_', '-')}: {shown(value)} is not True or False")
    return value


def parse_cpu_list(value: str, option: str = "--cpuset") -> str:
    """``"0-1,3"``: Linux's list format. Raises SpecError for anything else."""
    text = value.strip()
    if _CPU_LIST.fullmatch(text) is None:
        raise SpecError(f"{option}: {shown(value)} is not a list of CPUs such as 0-1,3")
    for part in text.split(","):
        first, _, last = part.partition("-")
        if last and int(last) < int(first):
            raise SpecError(f"{option}: {shown(value)} has a range that goes down ({part}); write {last}-{first}")
    return text


def current_directory() -> str:
    try:
        return os.getcwd()
    except OSError:
        raise SpecError("the current directory does not exist any more; change to one that does, such as: cd ~") from None
