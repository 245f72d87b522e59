"""What whoever waits for a container wants to know while it lasts, and not only at its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_listener: ContextVar[Callable[[str], None] | None] = ContextVar("listener", default=None)


@contextmanager
def announced_to(say: Callable[[str], None]) -> Iterator[None]:
    """Whatever is announced in this thread until the end of the block goes to ``say``, a line at a time."""
    token = _listener.set(say)
    try:
        yield
    finally:
        _listener.reset(token)


def listening() -> bool:
    return _listener.get() is not None


def announce(line: str) -> None:
    """Nothing happens where nobody listens."""
    say = _listener.get()
    if say is not None:
        say(line)
