"""Each step of a container's making fails once, and so does what is around it: one typed error, nothing left, and the next
cell runs. What is left is what the fixtures look for after each test."""

from __future__ import annotations

import dataclasses
import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from facilities import only_as_root

import nbcontainer as nbc
from nbcontainer.cgroups import files
from nbcontainer.engine import local
from nbcontainer.engine.box import shape_of
from nbcontainer.linux import syscalls
from nbcontainer.runtime import inside, steps
from nbcontainer.runtime.plan import Plan
from nbcontainer.validate import make_spec

OPTIONS: dict[str, Any] = {"mem": "64M", "tmpfs": ["/scratch"], "ulimit": ["nofile=64"]}
HOST_FAULTS = {
    errno.ENOENT: steps.Tree("fault", "/nonexistent", "a fault"),
    errno.ENOTDIR: steps.Tree("fault", "/dev/null/x", "a fault"),
}
INSIDE_FAULTS = {
    errno.ENOENT: inside.Directories(("/nonexistent/x",)),
    errno.EINVAL: inside.FileSystem("fault", "tmpfs", (("no-such-option", "1"),), 0, "a fault"),
    errno.EPERM: inside.BoundCapabilities((), 0, 100),
    errno.ENODEV: inside.FileSystem("fault", "no-such-file-system", (), 0, "a fault"),
}


def _plan() -> tuple[Any, Plan]:
    """The engine, and the plan for OPTIONS as it made it."""
    engine = local.open_local()
    assert nbc.run("pass", **OPTIONS).ok
    return engine, engine._plans[shape_of(make_spec(OPTIONS))]


def _fails(engine: Any, plan: Plan, number: int) -> None:
    """A run by ``plan`` is a SetupError with this errno, and the next one, by the engine's own plan, works."""
    with engine._lock:
        engine.drop_spares()
        own, engine._plan = engine._plan, lambda shape, cgroup: plan
        try:
            with pytest.raises(nbc.SetupError) as failed:
                nbc.run("pass", **OPTIONS)
        finally:
            engine._plan = own
    assert failed.value.errno == number
    assert failed.value.step
    assert "the cell did not run" in str(failed.value)
    assert nbc.run("print('next')", **OPTIONS).stdout == "next\n"


@pytest.mark.parametrize("number", HOST_FAULTS)
def test_each_host_step_fails_once(number: int) -> None:
    engine, plan = _plan()
    assert len(plan.host) > 10
    for index in range(len(plan.host) + 1):
        broken = (*plan.host[:index], HOST_FAULTS[number], *plan.host[index:])
        _fails(engine, dataclasses.replace(plan, host=broken), number)


@pytest.mark.parametrize("number", INSIDE_FAULTS)
def test_each_inside_step_fails_once(number: int) -> None:
    engine, plan = _plan()
    assert len(plan.inside) > 20
    first = next(index for index, step in enumerate(plan.inside) if step.name == "private mounts") + 1
    for index in range(first if number != errno.ENOENT else 1, len(plan.inside) + 1):
        if number != errno.ENOENT and index > len(plan.inside) - 2:
            continue  # the filter answers first from here on
        broken = (*plan.inside[:index], INSIDE_FAULTS[number], *plan.inside[index:])
        after = plan.host_steps_after
        moved = after if after is None or index > after else after + 1
        expected = _errno_of(number, plan, index)
        _fails(engine, dataclasses.replace(plan, inside=broken, host_steps_after=moved), expected)


def _errno_of(number: int, plan: Plan, index: int) -> int:
    """A capability that is beyond all is EINVAL for who may drop capabilities."""
    return errno.EINVAL if number == errno.EPERM else number


def test_each_write_to_a_cgroup_fails_once(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, _ = _plan()
    real: Callable[[files.CgroupWrite], None] = files.carry_out
    for number in (errno.ENOSPC, errno.ENOMEM, errno.EPERM):
        for fail_at in range(20):
            writes = 0

            def carry_out(write: files.CgroupWrite, fail_at: int = fail_at, number: int = number) -> None:
                nonlocal writes
                writes += 1
                if writes == fail_at + 1:
                    raise OSError(number, os.strerror(number), write.path)
                real(write)

            with engine._lock:
                engine.drop_spares()
                monkeypatch.setattr(files, "carry_out", carry_out)
                try:
                    result = nbc.run("pass", **OPTIONS)
                    assert result.ok
                    assert fail_at >= 1
                    break
                except nbc.SetupError as error:
                    assert error.errno == number
                finally:
                    monkeypatch.undo()
        else:
            raise AssertionError("the writes never came to an end")
    assert nbc.run("print('next')", **OPTIONS).stdout == "next\n"


def test_a_cgroup_that_is_removed_while_its_box_waits() -> None:
    engine = local.open_local()
    assert nbc.run("pass", mem="64M").ok
    with engine._lock:
        engine.make_spares(shape_of(make_spec({"mem": "64M"})), 1)
        spare = engine._spares[0]
        engine._wait_ready(spare)
        spare.cgroup.kill()
        spare.cgroup.remove()
    assert nbc.run("print('next')", mem="64M").stdout == "next\n"


def _kernel(code: str, *wrapper: str) -> subprocess.CompletedProcess[str]:
    """A process of its own that runs cells, under conditions that must not be this process's."""
    return subprocess.run([*wrapper, sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)


TYPED = """
import resource, nbcontainer as nbc
def attempt(**options):
    try:
        return nbc.run("print('ran')", mem="64M", **options).stdout.strip()
    except nbc.NbcontainerError as error:
        assert "\\n" not in str(error)
        return type(error).__name__
"""


def test_no_more_descriptors() -> None:
    code = TYPED + (
        "print(attempt())\nresource.setrlimit(resource.RLIMIT_NOFILE, (24, 4096))\nprint(attempt(env=['X=1'], tmpfs=['/x']))\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))\nprint(attempt())"
    )
    done = _kernel(code)
    lines = done.stdout.split()
    assert len(lines) == 3, done.stderr
    assert (lines[0], lines[2]) == ("ran", "ran"), done.stderr
    assert lines[1].endswith("Error")


def test_a_full_tmp(tmp_path: Path) -> None:
    only_as_root("a file system of one's own")
    code = (
        "import os, tempfile\nplace = tempfile.gettempdir()\n"
        "try:\n    open(place + '/fill', 'wb').write(bytes(1 << 20))\nexcept OSError: pass\n"
        + TYPED
        + "print(place)\nprint(attempt())\n"
        "try: nbc.run(\"print('x' * 50_000_000)\", mem='512M', max_output='1M')\nexcept nbc.HostError as error: print(error)\n"
        "os.unlink(place + '/fill')\nprint(attempt())"
    )
    script = f'mount -t tmpfs -o size=64k tmpfs {tmp_path} && export TMPDIR={tmp_path} && exec "$@"'
    done = _kernel(code, "unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh")
    lines = done.stdout.splitlines()
    assert lines[:2] == [str(tmp_path), "ran"], done.stderr
    assert "No space left" in lines[2] and "TMPDIR" in lines[2]
    assert lines[3:] == ["ran"]


def test_seccomp_filters_that_linux_refuses() -> None:
    engine, plan = _plan()
    broken = tuple(inside.SeccompFilter(b"\xff" * 8) if isinstance(step, inside.SeccompFilter) else step for step in plan.inside)
    _fails(engine, dataclasses.replace(plan, inside=broken), errno.EINVAL)


def test_the_program_of_calls_says_which_failed() -> None:
    program = syscalls.Program([*inside.OomScore(500).calls(), *inside.Directories(("/nonexistent/x",)).calls()])
    with pytest.raises(syscalls.CallFailed) as failed:
        syscalls.make_calls(program, {})
    assert failed.value.errno == errno.ENOENT
    assert program.calls[failed.value.index].path == "/nonexistent/x"
