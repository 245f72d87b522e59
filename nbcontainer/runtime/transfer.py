"""A cell's variables through its channel: before its code the ones that go in, after it the ones that come out."""

from __future__ import annotations

import os
import sys
from typing import Any

from nbcontainer.runtime import variables
from nbcontainer.runtime.channel import CHANNEL, Refused
from nbcontainer.runtime.protocol import Go

EXIT_VARIABLES = 1


def _show(name: str, text: str) -> None:
    """As an error of the cell, without a traceback: there is no line of its code to blame."""
    line = f"\x1b[31m{name}\x1b[39m: {text}"
    try:
        CHANNEL.send({"t": "error"}, {"ename": name, "evalue": text, "traceback": line})
    except OSError:
        print(line, file=sys.stderr)


def take_in(shell: Any, go: Go) -> bool:
    """Receive the variables; False where one cannot be rebuilt, which has been shown."""
    _, fd = CHANNEL.receive()
    try:
        values, lost = variables.take(fd, go.code, lenient=go.lenient)
    except variables.VariableError as error:
        _show("VariableError", str(error))
        return False
    shell.user_ns.update(values)
    if lost:
        print(f"\x1b[2m-i '*': could not be rebuilt in the container: {', '.join(lost)}\x1b[0m", file=sys.stderr, flush=True)
    return True


def give_out(shell: Any, names: tuple[str, ...], code: int) -> int:
    """Send what is there of ``names``: the cell's exit code, or an error's where the cell did well and one of them is not there."""
    blob, problems, sizes = variables.gather(names, shell.user_ns)
    try:
        _, fd = CHANNEL.ask({"t": "values", "size": blob.size_bytes})
        try:
            blob.write(fd)
        finally:
            os.close(fd)
        CHANNEL.tell({"t": "filled"})
    except Refused as refused:
        problems.append(variables.too_large(sizes, blob.size_bytes, str(refused)))
    except OSError as error:
        problems.append(f"-o {','.join(names)}: {error}")
    # A cell that failed has said why; what it did not get to is missing because of that.
    if problems and code == 0:
        _show("VariableError", "\n".join(problems))
        return EXIT_VARIABLES
    return code
