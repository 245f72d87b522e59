"""A cgroup that root gives to a user, on real control groups of either version."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from facilities import only_as_root

from nbcontainer.cgroups import Driver, delegate, open_driver
from nbcontainer.cgroups.files import read_text
from nbcontainer.errors import HostError
from nbcontainer.spec import Limits

USER_ID = 61236
LIMITS = Limits(memory_bytes=96 << 20, pids=32)
NAME = "student"


@pytest.fixture
def driver() -> Iterator[Driver]:
    only_as_root("giving a cgroup away is root's")
    driver = open_driver("nbcontainer-delegated", parent="/")
    yield driver
    for name in driver.names():
        delegate.remove(driver, name)
    delegate.remove_place(driver)
    assert not any(os.path.exists(directory) for directory in driver.directories)


def as_user(entrances: tuple[str, ...], work: Callable[[], Any]) -> Any:
    """What ``work`` returns in a process that is that user, in that cgroup."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            delegate.enter(entrances)
            os.setgroups([])
            os.setresgid(USER_ID, USER_ID, USER_ID)
            os.setresuid(USER_ID, USER_ID, USER_ID)
            os.write(write_end, json.dumps(work()).encode())
        except BaseException:
            os.write(write_end, json.dumps({"failed": traceback.format_exc()}).encode())
        finally:
            os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as file:
        answer = json.loads(file.read())
    os.waitpid(pid, 0)
    assert not (isinstance(answer, dict) and "failed" in answer), answer["failed"]
    return answer


def has_ended(pidfd: int) -> bool:
    """Its parent may not have read its status yet."""
    return bool(select.select([pidfd], [], [], 0)[0])


def limit_files(driver: Driver) -> list[str]:
    names = ("memory.max", "memory.limit_in_bytes", "pids.max")
    files = [f"{place}/{NAME}/{name}" for place in driver.directories for name in names]
    return [file for file in files if os.path.exists(file)]


@pytest.mark.essential
def test_the_user_makes_containers_below_and_keeps_the_limits(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NBCONTAINER_CGROUP_PARENT", raising=False)
    entrances = delegate.delegate(driver, NAME, LIMITS, USER_ID, USER_ID)
    files = limit_files(driver)

    def work() -> list[Any]:
        own = open_driver("nbc-ofuser")
        cgroup = own.create("box", Limits())
        cgroup.set_limits(Limits(memory_bytes=32 << 20, pids=8))
        peak = cgroup.sample().memory_bytes
        cgroup.remove()
        own.remove_place()
        refused = []
        for file in files:
            try:
                with open(file, "w") as limit:
                    limit.write("max")
            except PermissionError:
                with open(file) as limit:
                    refused.append(int(limit.read()))
        return [own.directories, peak, sorted(refused)]

    directories, peak, refused = as_user(entrances, work)
    assert all(f"/nbcontainer-delegated/{NAME}/" in directory for directory in directories)
    assert peak < 32 << 20
    assert refused == [32, 96 << 20]


def test_a_cell_that_meets_the_limit_around_its_kernel_says_so(driver: Driver) -> None:
    """And Linux takes the cell, not the kernel, which goes on."""
    entrances = delegate.delegate(driver, NAME, Limits(memory_bytes=192 << 20), 0, 0)
    code = """
import sys
import nbcontainer as nbc
from nbcontainer.cgroups import delegate
delegate.enter(tuple(sys.argv[1:]))
result = nbc.run("data = []\\nwhile True: data.append(bytearray(4 << 20))", mem="1G", workspace="none")
print(result.outcome, result.describe())
print(nbc.run("print('next')", mem="32M", workspace="none").stdout)"""
    environment = {name: value for name, value in os.environ.items() if name != "NBCONTAINER_CGROUP_PARENT"} | {"NBCONTAINER_ENGINE": "local"}
    done = subprocess.run([sys.executable, "-c", code, *entrances], env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    first, following = done.stdout.strip().splitlines()
    assert first.startswith("oom Out of memory: Linux killed the cell's own process")
    assert "not for --mem 1 GiB" in first
    assert "a limit around the notebook" in first
    assert following == "next"


@pytest.mark.essential
def test_what_is_in_it_ends_with_it(driver: Driver) -> None:
    entrances = delegate.delegate(driver, NAME, LIMITS, USER_ID, USER_ID)
    assert delegate.processes(driver, NAME) == []

    def work() -> int:
        os.mkdir(f"{entrances[0]}/below")
        return subprocess.Popen(["sleep", "1000"], start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL).pid

    sleeper = as_user(entrances, work)
    pidfd = os.pidfd_open(sleeper)
    try:
        assert delegate.processes(driver, NAME) == [sleeper]
        assert delegate.remove_empty(driver) == [], "somebody is in it"
        delegate.remove(driver, NAME)
        assert has_ended(pidfd)
    finally:
        os.close(pidfd)
    assert driver.names() == []
    delegate.remove(driver, NAME)  # there is none: nothing happens


def test_a_new_one_ends_what_an_earlier_one_left(driver: Driver) -> None:
    entrances = delegate.delegate(driver, NAME, LIMITS, USER_ID, USER_ID)
    sleeper = as_user(entrances, lambda: subprocess.Popen(["sleep", "1000"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL).pid)
    pidfd = os.pidfd_open(sleeper)
    delegate.delegate(driver, NAME, LIMITS, USER_ID, USER_ID)
    assert has_ended(pidfd)
    os.close(pidfd)
    assert delegate.remove_empty(driver) == [NAME]


def test_what_cannot_be_limited_is_not_given(driver: Driver) -> None:
    if driver.version == 2:
        pytest.skip("version 2 has this limit")
    with pytest.raises(HostError, match="--memory-high"):
        delegate.delegate(driver, NAME, Limits(memory_high_bytes=1 << 20), USER_ID, USER_ID)
    assert driver.names() == []


@pytest.mark.essential
def test_a_pod_s_own_cgroup(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """As nbcontainer.jupyter.join --own-cgroup gives it; here, some cgroup plays the part of the pod's."""
    monkeypatch.delenv("NBCONTAINER_CGROUP_PARENT", raising=False)
    if driver.version == 1:
        with pytest.raises(OSError, match="not cgroup v2"):
            delegate.give_own(USER_ID, USER_ID)
        return
    driver.create("pod", Limits()).set_limits(LIMITS)
    entrances = delegate.give_own(USER_ID, USER_ID, f"{driver.directories[0]}/pod")

    def work() -> int:
        own = open_driver("nbc-ofpod")
        cgroup = own.create("box", Limits())
        cgroup.set_limits(Limits(memory_bytes=32 << 20, pids=8))
        pids = int(read_text(f"{own.directories[0]}/box/pids.max"))
        cgroup.remove()
        own.remove_place()
        return pids

    assert as_user(entrances, work) == 8
