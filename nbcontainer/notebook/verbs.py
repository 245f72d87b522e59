"""``%container VERB`` in a notebook or a terminal: what a verb answers is shown there."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from nbcontainer import verbs
from nbcontainer.errors import SpecError
from nbcontainer.logs import Record
from nbcontainer.notebook.failure import Interrupted
from nbcontainer.notebook.live import is_kernel
from nbcontainer.notebook.screen import pace_of


def act(shell: Any, name: str, words: list[str]) -> None:
    """Raises SpecError, HostError, SetupError, InternalError."""
    if name == "doctor":
        _doctor(words)
        return
    if name == "stats" and is_kernel(shell) and not any(word.startswith("-") for word in words):
        from nbcontainer.notebook.dashboard import dashboard

        _display(dashboard(*words))
        return
    try:
        show(shell, verbs.answer(name, words))
    except KeyboardInterrupt:
        raise Interrupted(f"%container {name} did not get to its end") from None


def show(shell: Any, answer: verbs.Answer) -> None:
    if isinstance(answer, str):
        if answer:
            print(answer)
    elif isinstance(answer, Iterator):
        stream(shell, answer)
    elif is_kernel(shell):
        _display(answer)
    else:
        print(answer)


def stream(shell: Any, records: Iterator[Record]) -> None:
    """Until it ends, or the stop button is pressed."""
    pace = pace_of(shell)
    try:
        for record in records:
            pace.wait_for(len(record.text))
            file = sys.stdout if record.stream == "stdout" else sys.stderr
            file.write(record.text)
            file.flush()
    except KeyboardInterrupt:
        return


def _doctor(words: list[str]) -> None:
    from nbcontainer.host import examine_host

    if words:
        raise SpecError("doctor: takes no arguments")
    _display(examine_host())


def _display(what: object) -> None:
    import IPython.display

    show_it: Any = IPython.display.display
    show_it(what)
