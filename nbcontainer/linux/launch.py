"""Becomes a program (QEMU), after it has asked Linux to end it with its parent: ``python -IS -c "...main()" PARENT PROGRAM ARG...``.

The request survives the exec. It is about the parent's *thread*, so the kernel's side starts this from a thread that
lives as long as its process.
"""

from __future__ import annotations

import os
import signal
import sys

from nbcontainer.linux import syscalls


def main() -> None:
    parent, program = int(sys.argv[1]), sys.argv[2]
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return  # it died before we asked
    os.execv(program, sys.argv[2:])
