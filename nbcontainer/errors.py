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
    """Linux refused a named set-up step; the cell did not run.

    ``step`` is the step's name in ``--explain``, ``errno`` an errno number (0 where none applies), ``path`` the object
    it was about ("" where none applies), ``remedy`` what to try ("" where nothing is known).
    """

    def __init__(self, step: str, errno: int, path: str = "", remedy: str = "") -> None:
        super().__init__(step, errno, path, remedy)
        self.step = step
        self.errno = errno
        self.path = path
        self.remedy = remedy

    def __str__(self) -> str:
        code = errno_module.errorcode.get(self.errno, str(self.errno))
        cause = f"{code} ({os.strerror(self.errno)})" if self.errno else "failed"
        where = f" at {self.path}" if self.path else ""
        remedy = f". Remedy: {self.remedy}" if self.remedy else ""
        return f"set-up step {self.step!r}{where}: {cause}; the cell did not run{remedy}"


class InternalError(NbcontainerError):
    """A fault of nbcontainer itself, such as a zygote that died. Please report it."""
