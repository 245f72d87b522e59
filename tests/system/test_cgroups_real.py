"""The cgroup driver on this host's own cgroups: limits hold, readings are right, nothing stays."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest
from facilities import only_as_root, require

from nbcontainer.cgroups import Cgroup, Driver, open_driver
from nbcontainer.cgroups.sampler import Sampler, SampleSeries
from nbcontainer.errors import HostError, SetupError
from nbcontainer.spec import Limits

pytestmark = pytest.mark.essential
MIB = 1 << 20
WAIT_SECONDS = 10.0
LIMITS = Limits(memory_bytes=64 * MIB, cpus=0.5, pids=20)


@pytest.fixture
def driver() -> Iterator[Driver]:
    try:
        driver = open_driver(f"nbc-test-{os.getpid()}")
    except HostError as error:
        require(False, str(error))
    yield driver
    assert driver.names() == []
    driver.remove_place()


@pytest.fixture
def cgroup(driver: Driver) -> Iterator[Cgroup]:
    cgroup = driver.create("c", LIMITS)
    cgroup.set_limits(LIMITS)
    yield cgroup
    cgroup.remove()


def start(cgroup: Cgroup, work: Callable[[], object]) -> tuple[int, int]:
    """(pid, pidfd) of a child that is in the cgroup and runs ``work``."""
    # On v2 containers are born in their cgroup by clone3; here "0" to cgroup.procs does, which is slower.
    fds = cgroup.task_fds() or [os.open(f"{cgroup.views()[0][1]}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)]
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            for fd in fds:
                os.write(fd, b"0")
            os.write(writer, b"in")
            work()
        finally:
            os._exit(0)
    os.close(writer)
    if not cgroup.task_fds():
        os.close(fds[0])
    assert os.read(reader, 2) == b"in"
    os.close(reader)
    return pid, os.pidfd_open(pid)


def end(pid: int, pidfd: int) -> int:
    os.close(pidfd)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.001)


def hold(size: int) -> None:
    kept = bytearray(size)
    signal.pause()
    del kept


def spin() -> None:
    while True:
        pass


def test_readings_of_a_process_that_holds_memory(cgroup: Cgroup) -> None:
    pid, pidfd = start(cgroup, lambda: hold(20 * MIB))
    # Not all that is charged: on v2, files that the child was the first to read are too, before it has its 20 MiB.
    wait_for(lambda: cgroup.sample().working_set_bytes > 20 * MIB, "20 MiB are charged")
    sample = cgroup.sample()
    assert sample.memory_peak_bytes >= sample.memory_bytes >= sample.working_set_bytes > 19 * MIB
    assert sample.pids == 1 and cgroup.pids() == [pid]
    wait_for(lambda: cgroup.memory_by_kind()["anon"] > 19 * MIB, "they are anonymous")
    cgroup.kill()
    assert end(pid, pidfd) == -signal.SIGKILL
    wait_for(lambda: cgroup.pids() == [], "a reaped process is in no list")
    usage = cgroup.usage(1.0)
    assert usage.memory_peak_bytes > 20 * MIB and usage.pids_peak == 1 and usage.oom_kills == 0


def test_memory_limit_kills_and_counts(cgroup: Cgroup) -> None:
    pid, pidfd = start(cgroup, lambda: hold(100 * MIB))
    assert end(pid, pidfd) == -signal.SIGKILL
    assert cgroup.oom_kills() == 1
    assert cgroup.usage(1.0).memory_peak_bytes <= 64 * MIB


def test_cpu_limit_throttles_and_the_parts_add_up(cgroup: Cgroup) -> None:
    pid, pidfd = start(cgroup, spin)
    wait_for(lambda: cgroup.sample().throttled_seconds > 0.05, "half a CPU is throttled")
    sample = cgroup.sample()
    assert sample.cpu_seconds > 0.02
    # On v2 Linux rounds each of the three by itself, to microseconds.
    assert sample.user_seconds + sample.system_seconds == pytest.approx(sample.cpu_seconds, abs=1e-5)
    cgroup.kill()
    end(pid, pidfd)


def test_pids_limit_refuses_the_next_fork(cgroup: Cgroup) -> None:
    cgroup.set_limits(Limits(memory_bytes=64 * MIB, cpus=0.5, pids=1), LIMITS)

    def fork_once() -> None:
        try:
            os.fork()
        except BlockingIOError:
            os._exit(7)

    assert end(*start(cgroup, fork_once)) == 7


def test_lowering_memory_below_what_is_in_use_is_refused_and_undone(cgroup: Cgroup) -> None:
    pid, pidfd = start(cgroup, lambda: hold(20 * MIB))
    wait_for(lambda: cgroup.sample().memory_bytes > 20 * MIB, "20 MiB are charged")
    with pytest.raises(SetupError, match="are in use") as refused:
        cgroup.set_limits(Limits(memory_bytes=8 * MIB, cpus=0.5, pids=20), LIMITS)
    assert (refused.value.step, refused.value.errno) == ("limit memory", errno.EBUSY)
    more = Limits(memory_bytes=256 * MIB, cpus=1, pids=30)
    cgroup.set_limits(more, LIMITS)
    cgroup.set_limits(Limits(memory_bytes=32 * MIB, pids=30), more)
    cgroup.kill()
    assert end(pid, pidfd) == -signal.SIGKILL


def test_a_frozen_container_can_be_killed_and_removed(driver: Driver) -> None:
    cgroup = driver.create("frozen", LIMITS)
    pid, pidfd = start(cgroup, spin)
    cgroup.freeze()
    before = cgroup.sample().cpu_seconds
    time.sleep(0.05)
    assert cgroup.sample().cpu_seconds == before
    cgroup.thaw()
    wait_for(lambda: cgroup.sample().cpu_seconds > before, "a thawed process runs on")
    cgroup.freeze()
    cgroup.kill()
    assert end(pid, pidfd) == -signal.SIGKILL
    cgroup.remove()


def test_v2_freeze_kill_and_remove_on_the_unified_hierarchy() -> None:
    root = next((path for path in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified") if os.path.exists(f"{path}/cgroup.controllers")), "")
    only_as_root("a cgroup of one's own in the unified hierarchy")
    require(root, "no cgroup v2 is mounted")
    driver = open_driver(f"nbc-test-{os.getpid()}", root=root, parent="/nbcontainer")
    limits = Limits(pids=None)
    cgroup = driver.create("c", limits)
    pid = os.fork()
    if pid == 0:
        signal.pause()
        os._exit(0)
    # Slow (an RCU grace period), and right here only: no child of a test is born by clone3.
    with open(f"{cgroup.views()[0][1]}/cgroup.procs", "w", encoding="ascii") as procs:
        procs.write(str(pid))
    assert cgroup.pids() == [pid] and cgroup.clone_fd() >= 0 and driver.version == 2
    cgroup.freeze()
    cgroup.thaw()
    cgroup.freeze()
    cgroup.kill()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    assert cgroup.usage(1.0).cpu_seconds < 1
    cgroup.remove()
    driver.remove_place()


def test_remove_ends_processes_that_fork_all_the_time(driver: Driver) -> None:
    def fork_for_ever() -> None:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        while True:
            try:
                os.fork()
            except BlockingIOError:
                time.sleep(0.0001)

    cgroup = driver.create("bomb", LIMITS)
    cgroup.set_limits(LIMITS)
    pid, pidfd = start(cgroup, fork_for_ever)
    wait_for(lambda: cgroup.sample().pids > 10, "the bomb goes off")
    began = time.monotonic()
    cgroup.kill()
    assert end(pid, pidfd) == -signal.SIGKILL
    cgroup.remove()
    assert time.monotonic() - began < 2
    assert not any(os.path.exists(path) for _, path in cgroup.views())


def test_nested_cgroups_are_removed_too(driver: Driver) -> None:
    cgroup = driver.create("nest", Limits())
    for directory in {path for _, path in cgroup.views()}:
        os.makedirs(f"{directory}/inner/innermost")
    adopted = driver.adopt("nest")
    adopted.remove()
    adopted.remove()
    cgroup.close()


def test_cpuset_and_io_limits(driver: Driver) -> None:
    limits = Limits(memory_bytes=32 * MIB, cpuset="0", io_read_bytes_per_second=MIB, io_write_bytes_per_second=2 * MIB)
    try:
        planned = driver.plan("set", limits)
    except HostError as error:
        require(False, str(error))
    cgroup = driver.create("set", limits)
    cgroup.set_limits(limits)
    for write in planned:
        assert os.path.exists(write.path)
    cgroup.set_limits(Limits(memory_bytes=32 * MIB), limits)
    cgroup.set_limits(limits, Limits(memory_bytes=32 * MIB))

    def where() -> None:
        os._exit(0 if os.sched_getaffinity(0) == {0} else 1)

    assert end(*start(cgroup, where)) == 0
    cgroup.remove()


def test_the_sampler_sees_growth_and_a_vanished_cgroup_ends_it(driver: Driver) -> None:
    cgroup = driver.create("watched", LIMITS)
    sampler, series = Sampler(), SampleSeries()
    token = sampler.add(cgroup, series)
    pid, pidfd = start(cgroup, lambda: hold(10 * MIB))
    wait_for(lambda: max(series.columns()["memory_bytes"], default=0) > 10 * MIB, "the sampler sees 10 MiB")
    cgroup.kill()
    end(pid, pidfd)
    wait_for(lambda: cgroup.pids() == [], "the process is gone")
    for directory in {path for _, path in cgroup.views()}:
        os.rmdir(directory)
    sampler.remove(token)
    cgroup.remove()


def test_no_fd_stays(driver: Driver) -> None:
    before = len(os.listdir("/proc/self/fd"))
    cgroup = driver.create("fds", LIMITS)
    cgroup.set_limits(LIMITS)
    cgroup.sample()
    cgroup.task_fds()
    cgroup.clone_fd()
    assert len(os.listdir("/proc/self/fd")) > before
    cgroup.remove()
    assert len(os.listdir("/proc/self/fd")) == before
