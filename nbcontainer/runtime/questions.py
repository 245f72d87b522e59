"""``input()`` and ``getpass()`` in a cell: the question goes to whoever looks at the notebook, and a line comes back."""

from __future__ import annotations

import builtins
import getpass
from typing import Any

from IPython.core.error import StdinNotImplementedError

from nbcontainer.runtime.channel import CHANNEL, Refused
from nbcontainer.runtime.protocol import MAX_MESSAGE_CHARACTERS, cut

END_OF_FILE = "EOF"
"""The reason of a refusal where somebody has ended the input (Ctrl-D)."""


def install() -> None:
    """For all cells: they are forked from where this is called."""
    untyped: Any = builtins
    untyped.input = ask
    untyped = getpass
    untyped.getpass = ask_password


def ask(prompt: object = "", /) -> str:
    """Read a line from whoever looks at the notebook. Raises EOFError where they end the input."""
    return _ask(str(prompt), "input", password=False)


def ask_password(prompt: str = "Password: ", stream: object = None) -> str:
    """The same, without showing what is typed."""
    return _ask(str(prompt), "getpass", password=True)


def _ask(prompt: str, name: str, *, password: bool) -> str:
    try:
        line, _ = CHANNEL.ask({"t": "input", "password": password}, {"prompt": cut(prompt, MAX_MESSAGE_CHARACTERS)})
    except Refused as refused:
        if str(refused) == END_OF_FILE:
            raise EOFError from None
        raise StdinNotImplementedError(f"{name}() was called, but {refused}") from None
    except OSError:
        raise EOFError("nobody can be asked any more") from None
    return line
