"""Each system call that makes a container fails once, as Linux may answer it: one typed error that names the step, nothing
left, and the next cell runs.

What the new process calls is failed by a seccomp filter, put in front of each step; what the zygote calls, by strace.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import re
import shutil
import struct
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from facilities import full_run, only_as_root, require, rootless

import nbcontainer as nbc
from nbcontainer.engine import local
from nbcontainer.engine.box import shape_of
from nbcontainer.linux.syscalls import _number
from nbcontainer.runtime import inside
from nbcontainer.runtime.plan import Plan
from nbcontainer.validate import make_spec

OPTIONS: dict[str, Any] = {"mem": "64M", "tmpfs": ["/scratch"], "ulimit": ["nofile=64"]}
ERRNOS = (errno.EPERM, errno.ENOSPC, errno.ENOMEM, errno.EINTR)
HOST_CALLS = "mount open_tree move_mount mount_setattr fsopen fsconfig fsmount openat chdir umount2".split()
"""Of host steps, which an ordinary user's new process makes itself."""
ZYGOTE_CALLS = (
    "clone3 mount umount2 open_tree move_mount mount_setattr fsopen fsconfig fsmount openat mkdir chown chmod lchown fchownat mknod mknodat "
    "chdir setns pipe2 recvmsg sendmsg sendto write close fcntl ioctl read poll wait4 pidfd_open"
).split()


def failing(call: str, number: int, size: int | None = None) -> inside.SeccompFilter:
    """From here on ``call`` answers errno ``number``; ``size``: only where that is its third argument."""
    load, equal, answer = 0x20, 0x15, 0x06
    program = [(load, 0, 0, 0), (equal, 0, 1 if size is None else 3, _number(call))]
    if size is not None:
        program += [(load, 0, 0, 32), (equal, 0, 1, size)]  # args[2], its lower half
    program += [(answer, 0, 0, 0x00050000 | number), (answer, 0, 0, 0x7FFF0000)]
    return inside.SeccompFilter(b"".join(struct.pack("=HBBI", *instruction) for instruction in program))


@pytest.fixture
def planned() -> tuple[Any, Plan]:
    """The engine, and its plan for OPTIONS."""
    engine = local.open_local()
    assert nbc.run("pass", **OPTIONS).ok
    return engine, engine._plans[shape_of(make_spec(OPTIONS))]


def run_by(engine: Any, plan: Plan) -> nbc.SetupError | None:
    """Run a cell by this plan, and then one by the engine's own, which works."""
    failure: nbc.SetupError | None = None
    with engine._lock:
        engine.drop_spares()
        own, engine._plan = engine._plan, lambda shape, cgroup: plan
        try:
            nbc.run("pass", **OPTIONS)
        except nbc.SetupError as error:
            failure = error
        finally:
            engine._plan = own
        engine.drop_spares()
    assert nbc.run("print('next')", **OPTIONS).stdout == "next\n"
    return failure


def with_step(plan: Plan, index: int, step: inside.InsideStep, *, before_host_steps: bool = False) -> Plan:
    after = plan.host_steps_after
    moved = after if after is None or index > after or (index == after and not before_host_steps) else after + 1
    return dataclasses.replace(plan, inside=(*plan.inside[:index], step, *plan.inside[index:]), host_steps_after=moved)


@pytest.mark.parametrize("number", ERRNOS, ids=errno.errorcode.get)
def test_each_call_of_the_new_process(number: int, planned: tuple[Any, Plan]) -> None:
    engine, plan = planned
    tried = turn = 0
    for index, step in enumerate(plan.inside):
        if plan.inside[index + 1 :] == ():
            break  # the container's own filter, which refuses to be told by another
        for name, call in {call.name: call for call in reversed(step.calls())}.items():
            turn += 1
            if not full_run() and turn % len(ERRNOS) != ERRNOS.index(number):
                continue  # in a short run each call fails with one of the answers
            # The failure itself is told by a write: only one like the step's own may fail.
            size = call.arguments[2] if name == "write" else None
            failure = run_by(engine, with_step(plan, index, failing(name, number, size if isinstance(size, int) else None)))
            assert failure is not None, f"{step.name}: {name} failed, and the cell ran"
            assert (failure.step, failure.errno) == (step.name, number), f"{step.name}: {name}: {failure}"
            assert "\n" not in str(failure)
            tried += 1
    assert tried > (30 if full_run() else 8)


@pytest.mark.parametrize("number", ERRNOS, ids=errno.errorcode.get)
def test_each_kind_of_call_of_an_ordinary_user_s_host_steps(number: int, planned: tuple[Any, Plan]) -> None:
    if not rootless():
        pytest.skip("only as an ordinary user: root's zygote makes them, see the next test")
    engine, plan = planned
    index = plan.host_steps_after
    assert index is not None
    steps = {step.name for step in (*plan.host, *plan.inside[index:])}
    for name in HOST_CALLS:
        if name == "openat" and number == errno.EINTR:
            continue  # Python itself repeats it, and here for ever
        failure = run_by(engine, with_step(plan, index, failing(name, number), before_host_steps=True))
        assert failure is not None, f"{name} failed, and the cell ran"
        assert failure.step in steps
        assert failure.errno == number


@contextlib.contextmanager
def traced(pid: int, log: Path, *expressions: str) -> Iterator[None]:
    """strace(1) follows a process, without its children, while this lasts."""
    options = [word for expression in expressions for word in ("-e", expression)]
    with subprocess.Popen(["strace", "-qq", "-o", str(log), *options, "-p", str(pid)], stderr=subprocess.PIPE, text=True) as strace:
        try:
            while f"TracerPid:\t{strace.pid}\n" not in _status(pid):
                assert strace.poll() is None, strace.stderr and strace.stderr.read()
                time.sleep(0.001)
            yield
        finally:
            strace.terminate()


def _status(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return ""


def test_each_call_of_the_zygote(tmp_path: Path) -> None:
    """An answer that is no harm is right, too; what it must not do is hang, leave something, or say nothing."""
    only_as_root("tracing the zygote; the steps of an ordinary user are made by the new process")
    require(shutil.which("strace"), "strace: apt-get install strace")
    engine = local.open_local()
    assert nbc.run("pass", **OPTIONS).ok
    log = tmp_path / "log"
    with engine._lock:
        engine.drop_spares()
        with traced(engine._client.pid, log, f"trace={','.join(ZYGOTE_CALLS)}"):
            engine.make_spares(shape_of(make_spec(OPTIONS)), 1)
            engine._wait_ready(engine._spares[0])
    made = Counter(re.findall(r"^(\w+)\(", log.read_text(), re.MULTILINE))
    assert made["clone3"] == 1
    assert made["open_tree"] > 3
    places = [(name, nth, number) for name, count in made.items() for nth in range(1, count + 1) for number in ERRNOS]
    refused = 0
    for name, nth, number in places if full_run() else places[::29]:
        with engine._lock:
            engine.drop_spares()
            if not engine._client.alive:
                engine._site.renew()
            with traced(engine._client.pid, log, f"trace={name}", f"inject={name}:error={errno.errorcode[number]}:when={nth}"):
                try:
                    nbc.run("pass", **OPTIONS)
                except nbc.NbcontainerError as error:
                    refused += 1
                    assert "\n" not in str(error), f"{name} {nth} {errno.errorcode[number]}"
            engine.drop_spares()
        assert nbc.run("print('next')", **OPTIONS).stdout == "next\n", f"after {name} {nth} {errno.errorcode[number]}"
    assert refused > 5
