"""The new process, from clone3 to the first line of user code: it walks the plan and gives up its privileges.

It is pid 1 of its pid namespace, as under ``docker run``; with ``--init`` a small reaping init stays pid 1 instead and
the cell is its child.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import pickle
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from nbcontainer.linux import capabilities, syscalls
from nbcontainer.runtime import forkhooks, stdio
from nbcontainer.runtime.inside import CHANNEL_FD, InsideStep
from nbcontainer.runtime.plan import Plan
from nbcontainer.runtime.protocol import (
    LENGTH,
    LINE,
    LINE_FD,
    LINE_SIGNAL,
    NEXT_CELL,
    NO,
    READY,
    STARTED,
    Go,
    encode,
    send_failure,
)
from nbcontainer.runtime.steps import SCRATCH, Context
from nbcontainer.runtime.users import find_user

EXIT_SETUP_FAILED = 125
EXIT_NO_PROGRAM = 127
MAX_NAMES = 2000
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143
RunPython = Callable[[Go, int], int]


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


class LaidOutPlan:
    """A plan with its inside steps as one program of system calls, ready for any number of containers."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        cut = plan.host_steps_after or 0
        self.first = InsideProgram(plan.inside[:cut])
        self.rest = InsideProgram(plan.inside[cut:])


class InsideProgram:
    """Some inside steps, one after the other."""

    def __init__(self, steps: tuple[InsideStep, ...]) -> None:
        self._steps = [step for step in steps for _ in step.calls()]
        self._program = syscalls.Program(call for step in steps for call in step.calls())

    def run(self, slots: dict[str, int]) -> None:
        """Raises StepFailed."""
        try:
            syscalls.make_calls(self._program, slots)
        except syscalls.CallFailed as failed:
            path = self._program.calls[failed.index].path
            raise StepFailed(self._steps[failed.index].name, OSError(failed.errno, failed.strerror, path)) from None


def become_container(
    laid_out: LaidOutPlan, context: Context, slots: dict[str, int], run_python: RunPython, warm: Callable[[], None]
) -> NoReturn:
    """Never returns. ``slots``: see :mod:`nbcontainer.runtime.inside`."""
    channel_fd = slots["channel"]
    status = EXIT_SETUP_FAILED
    try:
        if laid_out.plan.host_steps_after is not None:
            laid_out.first.run(slots)
            walk(laid_out.plan.host, context)
            if SCRATCH in context.fds:
                _hand_over(channel_fd, context.fds[SCRATCH])
            slots |= context.fds
        laid_out.rest.run(slots)
        channel_fd = CHANNEL_FD
        if laid_out.plan.python:
            forkhooks.renew()
            forkhooks.release()
            stdio.share_held()
            warm()
            _rehearse()
        os.write(channel_fd, READY)
        status = _run(run_python)
    except StepFailed as failure:
        _report(failure, channel_fd, CHANNEL_FD)
    except BrokenPipeError:
        pass  # the kernel is gone: so are we
    except KeyboardInterrupt:
        status = EXIT_INTERRUPTED  # before the cell's first line, or after its last
    except BaseException as error:
        # Nothing above us could show it: what is not expected must not look like a cell that just ended.
        why = f"{type(error).__name__}: {error}"
        _report(StepFailed("start the cell", OSError(errno.EIO, why)), CHANNEL_FD, why=why)
    finally:
        os._exit(status)


def _hand_over(channel_fd: int, scratch_fd: int) -> None:
    """To the kernel, which takes a descriptor from here as long as there is no user code."""
    channel = socket.socket(fileno=channel_fd)
    socket.send_fds(channel, [encode({"t": "scratch"})], [scratch_fd])
    channel.detach()


def _report(failure: StepFailed, *channel_fds: int, why: str = "") -> None:
    """On the first of ``channel_fds`` that is the channel: during the set-up it moves from the one to the other."""
    for fd in channel_fds:
        try:
            send_failure(fd, failure.step, failure.number, failure.path, why)
            return
        except OSError:
            continue


_REHEARSAL = pickle.dumps(tuple(Go("", (), {"PATH": "/"}, ("/",), "root", 0, False)))


def _rehearse() -> None:
    """Do what is harmless of what the message to go will have this process do, so that the cell need not wait for the memory
    pages that it writes to."""
    go = Go(*pickle.loads(_REHEARSAL))
    os.environ.update(go.environment)
    os.environ.clear()
    for directory in go.directories:
        os.chdir(directory)
    find_user(go.user)
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def receive_go(channel_fd: int) -> Go | None:
    """Block for message 6; None at end of file."""
    header = _read(channel_fd, LENGTH.size)
    body = _read(channel_fd, LENGTH.unpack(header)[0]) if header else b""
    return Go(*pickle.loads(body)) if body else None


def _read(fd: int, size: int) -> bytes:
    """Exactly ``size`` bytes, or b"" at end of file."""
    data = os.read(fd, size)
    while len(data) < size:
        piece = os.read(fd, size - len(data))
        if not piece:
            return b""
        data += piece
    return data


def _run(run_python: RunPython) -> int:
    go = receive_go(CHANNEL_FD)
    if go is None:
        return 0
    gc.enable()
    _start_as(go)
    if go.init:
        _stay_as_init()
    if go.program:
        return _execute(go.program, go.code)
    if go.session:
        return _serve(run_python)
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)  # which a process that has joined a container is not yet
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.write(CHANNEL_FD, STARTED)
    return run_python(go, CHANNEL_FD)


def _serve(run_python: RunPython) -> int:
    """A session: one cell after the other, until the kernel closes the channel."""
    signal.signal(signal.SIGINT, _between_cells)
    signal.signal(signal.SIGTERM, _stop)
    try:
        os.write(CHANNEL_FD, STARTED)
        while (go := _next_cell()) is not None:
            try:
                signal.signal(signal.SIGINT, signal.default_int_handler)
                code = run_python(go, CHANNEL_FD)
                signal.signal(signal.SIGINT, _between_cells)
            except KeyboardInterrupt:  # it came when the cell's code had just ended
                signal.signal(signal.SIGINT, _between_cells)
                code = EXIT_INTERRUPTED
            if _stopped:
                return EXIT_TERMINATED
            _write_all(encode({"t": "done", "code": code}))
    except SystemExit:
        return EXIT_TERMINATED
    except OSError as error:
        print(f"file descriptor {CHANNEL_FD}, by which the session gets its cells: {error.strerror}; it cannot go on", file=sys.stderr, flush=True)
        return EXIT_SETUP_FAILED
    return 0


_stopped: list[bool] = []


def _stop(number: int, frame: object) -> None:
    """As pid 1, it would ignore what it has no handler for."""
    _stopped.append(True)
    raise SystemExit(EXIT_TERMINATED)


def _between_cells(number: int, frame: object) -> None:
    """An interrupt that comes too late is nobody's; a handler, not SIG_IGN, which programs inherit."""


def _next_cell() -> Go | None:
    """Answers that nobody has waited for may come before it."""
    while (byte := os.read(CHANNEL_FD, 1)) and byte != NEXT_CELL:
        if byte in (LINE, NO):
            _read(CHANNEL_FD, LENGTH.unpack(_read(CHANNEL_FD, LENGTH.size))[0])
    return receive_go(CHANNEL_FD) if byte else None


def _write_all(message: bytes) -> None:
    data = memoryview(message)
    while data:
        data = data[os.write(CHANNEL_FD, data) :]


def _start_as(go: Go) -> None:
    """User, capabilities, directory and environment: the last things before the user's code."""
    os.environ.update(go.environment)  # it was empty: the zygote's is
    try:
        user = find_user(go.user)
    except KeyError:
        raise StepFailed("user", OSError(errno.ENOENT, "", go.user)) from None
    os.environ.setdefault("HOME", user.home)
    try:
        if user.uid:
            os.setgroups([user.gid, *user.groups])
            os.setresgid(user.gid, user.gid, user.gid)
            os.setresuid(user.uid, user.uid, user.uid)
            syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)
            syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        else:
            capabilities.limit_to(go.capability_mask)
    except OSError as error:
        raise StepFailed("privileges", error) from None
    for number, directory in enumerate(go.directories):
        try:
            os.chdir(directory)
            break
        except OSError as error:
            if number == len(go.directories) - 1:
                raise StepFailed("workdir", error) from None


def _stay_as_init() -> None:
    """Fork; the child goes on as the cell, this process reaps until the cell has ended and then ends with its status."""
    forwarded = signal.valid_signals() - _NOT_FORWARDED
    before = signal.pthread_sigmask(signal.SIG_BLOCK, forwarded | {signal.SIGINT})  # the cell may be asked for before this process is ready to pass it on
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.setsid()
        stdio.share_held()
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever interrupts sends it to the cell, too
    for number in forwarded:
        signal.signal(number, lambda number, _: _forward(child, number))
    signal.signal(LINE_SIGNAL, lambda number, _: _pass_on(child, number))
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
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


_NOT_FORWARDED = frozenset(getattr(signal, f"SIG{name}") for name in "KILL STOP INT CHLD TTIN TTOU PIPE FPE ILL SEGV BUS ABRT TRAP SYS".split())
"""Those of its own faults, and those that nobody can catch."""


def _forward(child: int, number: int) -> None:
    """As Docker's init does: what is sent to the container is for the cell."""
    with contextlib.suppress(OSError):  # it has just ended
        os.kill(child, number)


def _pass_on(child: int, number: int) -> None:
    """The kernel asks at which line the cell is: only a cell that expects it, as any other process would be killed by it, and
    one that has not put another file in the answer's place."""
    try:
        with open(f"/proc/{child}/status", "rb") as file:
            caught = next(int(line.split()[1], 16) for line in file if line.startswith(b"SigCgt:"))
        answers_to = os.readlink(f"/proc/{child}/fd/{LINE_FD}")
        if caught >> (number - 1) & 1 and answers_to == os.readlink(f"/proc/self/fd/{LINE_FD}"):
            os.kill(child, number)
    except (OSError, StopIteration):
        return  # it has ended, or there is no /proc in its root


def _execute(program: tuple[str, ...], body: str) -> NoReturn:
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
        found = _find_program(program[0]) if error.errno == errno.ENOENT else ""
        near = "" if found or error.errno != errno.ENOENT else "\n".join(_programs_like(program[0]))
        send_failure(CHANNEL_FD, "interpreter" if found else "exec", error.errno or errno.EIO, found or program[0], near=near)
        os._exit(EXIT_NO_PROGRAM)


def _programs_like(name: str) -> list[str]:
    """Programs that begin or end like it; the kernel finds the nearest ones."""
    directory, _, plain = name.rpartition("/")
    names: set[str] = set()
    for path in [directory] if directory else os.environ.get("PATH", "").split(":"):
        try:
            names.update(entry for entry in os.listdir(path) if entry[:1] == plain[:1] or entry[-2:] == plain[-2:])
        except OSError:
            continue
    return sorted(names)[:MAX_NAMES]


def _find_program(name: str) -> str:
    """Its path; "" where there is none. Linux says ENOENT also of a program that is there, when its loader is not."""
    directories = [""] if "/" in name else os.environ.get("PATH", "").split(":")
    paths = [os.path.join(directory, name) for directory in directories]
    return next((path for path in paths if os.access(path, os.F_OK)), "")
