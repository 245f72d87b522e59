"""Sessions, further processes and containers in the background, in the virtual machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import nbcontainer
from nbcontainer.containers import CONTAINERS, Container
from nbcontainer.engine.vm import engine as vm
from nbcontainer.errors import SpecError


@pytest.fixture
def lab() -> Iterator[Container]:
    with nbcontainer.start(engine="vm", mem="96M", name="lab", workspace="none") as container:
        yield container
    assert CONTAINERS.all() == []


def test_state_stays_and_failures_leave_it(lab: Container) -> None:
    assert lab.run("x = 41").ok
    result = lab.run("x += 1\nprint(x)\nx")
    assert (result.stdout, result.outputs, result.goes_on) == ("42\n", [{"text/plain": "42"}], True)
    failed = lab.run("1 / 0")
    assert failed.error is not None and failed.error.ename == "ZeroDivisionError"
    timed_out = lab.run("import time; time.sleep(600)", timeout=1)
    assert timed_out.outcome == "timeout" and timed_out.goes_on
    assert lab.run("print(x)").stdout == "42\n"


def test_further_processes_and_what_was_written(lab: Container) -> None:
    lab.run("open('/tmp/x', 'w').write('from the session')")
    assert lab.exec(["sh", "-c", "cat /tmp/x; echo >/etc/new; exit 3"]).stdout == "from the session"
    assert lab.exec(["sh", "-c", "exit 3"]).exit_code == 3
    with pytest.raises(SpecError, match="'nosuch' is not in the container"):
        lab.exec("nosuch")
    assert ("A", "/etc/new") in [(change.kind, change.path) for change in lab.diff()]
    assert lab.update(mem="80M").memory_bytes == 80 << 20
    assert lab.run("print(x)\ny = x + 1", input={"x": 7}, output=["y"]).values == {"y": 8}


def test_out_of_memory_ends_the_session(lab: Container) -> None:
    result = lab.run("x = bytearray(300_000_000)")
    assert result.outcome == "oom" and "its variables are gone" in result.note
    with pytest.raises(SpecError, match="has ended"):
        lab.run("1")


def test_a_program_in_the_background(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("from the host\n")
    with nbcontainer.start(engine="vm", program=["sh", "-c", "cat /data/f; sleep 600"], mem="64M", volumes=[f"{tmp_path}:/data"], workspace="none") as container:
        follow = container.follow()
        assert container.logs() == "from the host\n" or next(follow).text == "from the host\n"
        assert container.exec(["cat", "/data/f"]).stdout == "from the host\n"
        container.kill("TERM")  # pid 1 without a handler: ignored, as everywhere
        assert container.status == "running"
        container.stop(timeout=0.5)
        result = container.wait()
        assert result is not None and result.outcome == "killed"


def test_stop_ends_a_session(lab: Container) -> None:
    lab.stop()
    result = lab.wait()
    assert result is not None and result.exit_code == 143


def test_the_files_of_one_that_was_kept_can_be_compared_until_it_is_removed() -> None:
    with nbcontainer.start("echo >/etc/new", program=["sh"], engine="vm", mem="64M", workspace="none", keep=True) as container:
        assert container.wait() is not None
        assert ("A", "/etc/new") in [(change.kind, change.path) for change in container.diff()]
        assert container.diff() == container.diff()
        assert any(guest.busy for guest in vm.open_vm()._guests.values())
    assert not any(guest.busy for guest in vm.open_vm()._guests.values())
    with nbcontainer.start("echo >/etc/new", program=["sh"], engine="vm", mem="64M", workspace="none", keep=True) as container:
        container.wait()
        vm.shutdown()
        with pytest.raises(SpecError, match="virtual machine has ended"):
            container.diff()
