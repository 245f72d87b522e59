"""The new process, from clone3 to the first line of user code: it walks the plan and gives up its privileges.

It is pid 1 of its pid namespace, as under ``docker run``; with ``--init`` a small reaping init stays pid 1 instead and
the cell is its child.
"""

from __future__ import annotations

import errno
import os
import pwd
import signal
import socket
from collections.abc import Callable
from typing import Any, NoReturn

from nbcontainer.linux import capabilities, syscalls
from nbcontainer.runtime import forkhooks
from nbcontainer.runtime.plan import Plan
from nbcontainer.runtime.protocol import encode, receive_message, send_failure
from nbcontainer.runtime.steps import Context

CHANNEL_FD = 3
EXIT_SETUP_FAILED = 125
EXIT_NO_PROGRAM = 127
RunPython = Callable[[str, int], int]


class StepFailed(Exception):
    """A step that Linux refused: (step, errno, path)."""

    def __init__(self, step: str, error: OSError) -> None:
        super().__init__(step, error.errno, error.filename)
        self.step = step
        self.number = error.errno or errno.EIO
        self.path = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""


def walk(steps: tuple[Any, ...], context: Context, between: Callable[[], None] | None = None) -> None:
    """Execute steps in order; the first failure ends it, by name. ``between`` is called after each."""
    for step in steps:
        try:
            step.execute(context)
        except OSError as error:
            raise StepFailed(step.name, error) from None
        if between is not None:
            between()


def become_container(
    plan: Plan,
    context: Context,
    descriptors: tuple[int, int, int, int],
    release_fd: int,
    run_python: RunPython,
    warm: Callable[[], None],
) -> NoReturn:
    """Never returns. ``descriptors``: null, stdout, stderr, channel; ``release_fd`` gives a byte when the ids are mapped."""
    channel_fd = descriptors[3]
    status = EXIT_SETUP_FAILED
    try:
        _take_identity(plan, release_fd)
        walk(plan.inside, context)
        _arrange(descriptors)
        channel_fd = CHANNEL_FD
        if plan.python:
            forkhooks.renew()
            warm()
        os.write(channel_fd, encode({"t": "ready"}))
        status = _run(run_python)
    except StepFailed as failure:
        send_failure(channel_fd, failure.step, failure.number, failure.path)
    except BrokenPipeError:
        pass  # the kernel is gone: so are we
    finally:
        os._exit(status)


def _take_identity(plan: Plan, release_fd: int) -> None:
    try:
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        os.setsid()
        if os.read(release_fd, 1) != b"m":
            os._exit(EXIT_SETUP_FAILED)  # the zygote died before it mapped our ids
        if plan.id_map is not None:
            os.setgroups([])
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
            # Changing ids clears both: /proc/self would belong to the host's root, and nobody would end us.
            syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)
            syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    except OSError as error:
        raise StepFailed("identity", error) from None


def _arrange(descriptors: tuple[int, int, int, int]) -> None:
    """0, 1, 2 and the channel; nothing else of the zygote stays open."""
    high = [os.dup(fd) for fd in descriptors]
    while min(high) <= CHANNEL_FD:
        high = [os.dup(fd) for fd in high]
    for number, fd in enumerate(high):
        os.dup2(fd, number, inheritable=number != CHANNEL_FD)
    os.closerange(CHANNEL_FD + 1, 1 << 30)
    os.umask(0o022)


def _run(run_python: RunPython) -> int:
    with socket.socket(fileno=os.dup(CHANNEL_FD)) as channel:
        go = receive_message(channel)
    if go is None:
        return 0
    forkhooks.release()
    _start_as(go)
    if go["init"]:
        _stay_as_init()
    if go["program"]:
        return _execute(go["program"], go["code"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return run_python(go["code"], CHANNEL_FD)


def _start_as(go: dict[str, Any]) -> None:
    """User, capabilities, directory and environment: the last things before the user's code."""
    os.environ.update(go["environment"])  # it was empty: the zygote's is
    try:
        user, group, home = _find_user(go["user"])
    except (KeyError, ValueError):
        raise StepFailed("user", OSError(errno.ENOENT, "", go["user"])) from None
    os.environ.setdefault("HOME", home)
    try:
        if user:
            os.setgroups([group])
            os.setresgid(group, group, group)
            os.setresuid(user, user, user)
            syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)
            syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        else:
            capabilities.limit_to(go["capability_mask"])
        syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    except OSError as error:
        raise StepFailed("privileges", error) from None
    for number, directory in enumerate(go["directories"]):
        try:
            os.chdir(directory)
            break
        except OSError as error:
            if number == len(go["directories"]) - 1:
                raise StepFailed("workdir", error) from None


def _find_user(text: str) -> tuple[int, int, str]:
    """``NAME``, ``UID`` or ``UID:GID`` by the container's own /etc/passwd: (uid, gid, home)."""
    name, _, group = text.partition(":")
    if name in ("root", "0", ""):
        return 0, 0, "/root"
    if name.isdigit():
        return int(name), int(group or name), "/"
    entry = pwd.getpwnam(name)
    return entry.pw_uid, int(group) if group else entry.pw_gid, entry.pw_dir


def _stay_as_init() -> None:
    """Fork; the child goes on as the cell, this process reaps until the cell has ended and then ends with its status."""
    child = os.fork()
    if child == 0:
        os.setsid()
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for fd in (0, 1, 2):
        os.close(fd)
    while True:
        try:
            pid, status = os.wait()
        except InterruptedError:
            continue
        if pid == child:
            # pid 1 cannot end by a signal of its own: the status goes as a message.
            os.write(CHANNEL_FD, encode({"t": "status", "status": status}))
            os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def _execute(program: list[str], body: str) -> NoReturn:
    fd = os.memfd_create("cell")
    data = memoryview(body.encode("utf-8", "surrogateescape"))
    while data:
        data = data[os.write(fd, data) :]
    os.lseek(fd, 0, os.SEEK_SET)
    os.dup2(fd, 0)
    os.close(fd)
    # Python ignores SIGPIPE and SIGXFSZ, and programs inherit that.
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvpe(program[0], program, os.environ)
    except OSError as error:
        send_failure(CHANNEL_FD, "exec", error.errno or errno.EIO, program[0])
        os._exit(EXIT_NO_PROGRAM)
