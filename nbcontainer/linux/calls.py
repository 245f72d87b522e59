"""System calls as data: a step of a plan says which it makes, and whoever executes it only has to make them.

What is laid out in advance costs the process that makes it almost no memory of its own: a forked Python process copies
each page that it writes to, and running Python code writes to many.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Slot:
    """A number that is only known when the calls are made: a descriptor, or the address of a text."""

    name: str


@dataclass(frozen=True)
class Pointing:
    """A structure whose last member points to ``target``; ``head`` is what comes before."""

    head: bytes
    target: bytes


@dataclass(frozen=True)
class Call:
    """One system call. Text and bytes are passed as pointers, ``None`` as a null pointer."""

    name: str
    arguments: tuple[int | str | bytes | Slot | Pointing | None, ...]
    gives: str = ""
    """The slot that keeps the result."""
    expects: int | None = None
    """The result that means success, where it is not just any that is not negative."""

    @property
    def path(self) -> str:
        """The path that this is about, for errors; "" where there is none."""
        paths = [text for text in self.arguments if isinstance(text, str) and text.startswith("/")]
        return paths[-1] if paths else ""

    def __str__(self) -> str:
        return f"{self.name}({', '.join(map(_show, self.arguments))})"


def _show(argument: Any) -> str:
    if isinstance(argument, Slot):
        return argument.name
    if isinstance(argument, bytes) and argument.isascii() and argument.decode().isprintable():
        return repr(argument.decode())
    return "NULL" if argument is None else "..." if isinstance(argument, bytes | Pointing) else repr(argument)


def write_file(path: str, data: bytes) -> tuple[Call, ...]:
    """open, write, close."""
    fd = Slot("file")
    opened = Call("openat", (-100, path, os.O_WRONLY | os.O_CLOEXEC, 0), "file")
    return (opened, Call("write", (fd, data, len(data)), expects=len(data)), close("file"))


def close(slot: str) -> Call:
    return Call("close", (Slot(slot),))
