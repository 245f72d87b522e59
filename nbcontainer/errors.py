"""Exceptions, named for whose fault it is. What a cell did is an outcome, never one of these."""

from __future__ import annotations

import errno as errno_module
import os


class NbcontainerError(Exception):
    """Base of everything that nbcontainer raises on purpose."""

    def _render_traceback_(self) -> list[str]:
        """IPython calls this instead of printing the extension's own frames."""
        return [f"{type(self).__name__}: {self}"]


class SpecError(NbcontainerError):
    """The user's request is wrong: an option, a value, a path. Nothing was started."""


class HostError(NbcontainerError):
    """This machine cannot do what was asked for; ``remedy`` says what to type."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message, remedy)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}. Remedy: {self.remedy}"


class SetupError(NbcontainerError):
    """Linux refused a named step. One of the set-up: the cell did not run. One of a change: the container is as it was.

    ``step`` is the step's name in ``--explain``, ``errno`` an errno number (0 where none applies), ``path`` the object
    it was about ("" where none applies), ``remedy`` what to try ("" where nothing is known).
    """

    def __init__(self, step: str, errno: int, path: str = "", remedy: str = "") -> None:
        super().__init__(step, errno, path, remedy)
        self.step = step
        self.errno = errno
        self.path = path
        self.remedy = remedy
        self.consequence = _CONSEQUENCES.get(step, "the cell did not run")

    def of_a_change(self) -> SetupError:
        """Itself, about a container that runs already."""
        self.consequence = "the container goes on as it was"
        return self

    def __str__(self) -> str:
        code = errno_module.errorcode.get(self.errno, str(self.errno))
        cause = f"{code} ({os.strerror(self.errno)})" if self.errno else "failed"
        where = f" at {self.path}" if self.path else ""
        remedy = f". Remedy: {self.remedy}" if self.remedy else ""
        consequence = f"; {self.consequence}" if self.consequence else ""
        return f"{'set-up ' if self.consequence == 'the cell did not run' else ''}step {self.step!r}{where}: {cause}{consequence}{remedy}"


_CONSEQUENCES = {
    "remove the cgroup": "",
    "signal the container": "",
    "freeze the container": "it is not paused",
    "thaw the container": "it is still paused",
    "make network": "nothing of it is there",
    "remove network": "it is as it was",
    "give the cgroup to its user": "",
    "make the server's directory in memory": "",
    "remove the server's directory in memory": "",
}
"""Of steps that are none of a container's making."""


class InternalError(NbcontainerError):
    """A fault of nbcontainer itself, such as a zygote that died. Please report it."""
