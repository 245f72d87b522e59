"""Both cgroup drivers on a temporary directory that behaves as Linux's cgroup file systems do."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbcontainer.cgroups import Driver, devices, files, open_driver, v1, v1_limits, v2
from nbcontainer.cgroups.files import CgroupWrite
from nbcontainer.cgroups.limits import NEW
from nbcontainer.cgroups.own import PARENT_VARIABLE, OwnCgroups
from nbcontainer.errors import HostError, SetupError
from nbcontainer.spec import Limits

MIB = 1 << 20
UNLIMITED = str((1 << 63) - 4096)
V1_FILES = {
    "memory": {
        "memory.limit_in_bytes": UNLIMITED,
        "memory.memsw.limit_in_bytes": UNLIMITED,
        "memory.usage_in_bytes": "5000000",
        "memory.max_usage_in_bytes": "7000000",
        "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
        "memory.stat": "cache 1\ninactive_file 9\ntotal_cache 4000\ntotal_rss 3000\ntotal_shmem 1000\ntotal_inactive_file 1000\n",
    },
    "cpu": {
        "cpu.cfs_period_us": "100000",
        "cpu.cfs_quota_us": "-1",
        "cpu.shares": "1024",
        "cpu.stat": "nr_periods 3\nnr_throttled 2\nthrottled_time 1500000000\n",
    },
    "cpuacct": {"cpuacct.usage": "4000000000", "cpuacct.usage_user": "30", "cpuacct.usage_sys": "10"},
    "pids": {"pids.max": "max", "pids.current": "3", "pids.peak": "9"},
    "freezer": {"freezer.state": "THAWED"},
    "blkio": {
        "blkio.throttle.io_service_bytes_recursive": "8:0 Read 4096\n8:0 Write 100\n8:16 Read 4\n8:0 Total 4196\nTotal 4200\n",
        "blkio.throttle.read_bps_device": "",
        "blkio.throttle.write_bps_device": "",
    },
    "cpuset": {"cpuset.cpus": "", "cpuset.mems": ""},
}
V2_FILES = {
    "memory": {
        "memory.current": "5000000",
        "memory.peak": "7000000",
        "memory.max": "max",
        "memory.high": "max",
        "memory.swap.max": "max",
        "memory.oom.group": "0",
        "memory.events": "low 0\nhigh 0\nmax 4\noom 3\noom_kill 2\noom_group_kill 0\n",
        "memory.stat": "anon 3000\nfile 4000\nshmem 1000\ninactive_anon 5\ninactive_file 1000\n",
    },
    "cpu": {"cpu.max": "max 100000", "cpu.weight": "100"},
    "pids": {"pids.max": "max", "pids.current": "3", "pids.peak": "9"},
    "io": {"io.max": "", "io.stat": "8:0 rbytes=4096 wbytes=100 rios=1 wios=1 dbytes=7\n8:16 rbytes=4 wbytes=0\n"},
    "cpuset": {"cpuset.cpus": "", "cpuset.cpus.effective": "0-1,3"},
    "": {
        "cgroup.type": "domain",
        "cgroup.events": "populated 0\nfrozen 0\n",
        "cgroup.freeze": "0",
        "cgroup.kill": "",
        "cgroup.subtree_control": "",
        "cpu.stat": "usage_usec 4000000\nuser_usec 3000000\nsystem_usec 1000000\nthrottled_usec 1500000\n",
    },
}
ALL_V2 = "cpuset cpu io memory pids"


class FakeLinux:
    """Makes the files of a new cgroup, and does to them what Linux does on a write."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.order: list[tuple[str, str]] = []
        self._mkdir, self._rmdir, self._write = os.mkdir, os.rmdir, files.write_text
        monkeypatch.setattr(os, "mkdir", self.mkdir)
        monkeypatch.setattr(os, "rmdir", self.rmdir)
        monkeypatch.setattr(files, "write_text", self.write)

    def mkdir(self, path: str, mode: int = 0o777) -> None:
        self._mkdir(path, mode)
        if not str(path).startswith(str(self.root)):
            return
        parent = Path(path).parent
        Path(path, "cgroup.procs").write_text("")
        if (parent / "cgroup.subtree_control").exists():
            controllers = (parent / "cgroup.subtree_control").read_text().split()
            files = {name: text for name in ["", *controllers] for name, text in V2_FILES[name].items()}
            files["cgroup.controllers"] = " ".join(controllers)
        else:
            Path(path, "tasks").write_text("")
            hierarchy = Path(path).relative_to(self.root).parts[0]
            files = {name: text for part in hierarchy.split(",") for name, text in V1_FILES[part].items()}
        for name, text in files.items():
            Path(path, name).write_text(text)

    def rmdir(self, path: str, **options: int) -> None:
        if not str(path).startswith(str(self.root)):
            return self._rmdir(path, **options)
        if not os.path.isdir(path):
            raise FileNotFoundError(errno.ENOENT, "no such cgroup", path)
        if Path(path, "cgroup.procs").read_text() or any([entry.is_dir() for entry in os.scandir(path)]):
            raise OSError(errno.EBUSY, "busy", path)
        for entry in os.scandir(path):
            os.unlink(entry.path)
        self._rmdir(path)

    def write(self, path: str, value: str) -> None:
        file = Path(path)
        self.order.append((file.name, value))
        if file.name == "cgroup.subtree_control":
            if (file.parent / "cgroup.procs").read_text() and (file.parent / "cgroup.type").exists():
                raise OSError(errno.EBUSY, "processes in it", path)
            added = [word.removeprefix("+") for word in value.split()]
            assert set(added) <= set((file.parent / "cgroup.controllers").read_text().split())
            file.write_text(" ".join([*file.read_text().split(), *added]))
        elif file.name == "cgroup.procs":
            for procs in self.root.rglob("cgroup.procs"):
                procs.write_text("".join(f"{pid}\n" for pid in procs.read_text().split() if pid != value))
            file.write_text(file.read_text() + f"{value}\n")
        elif file.name == "cgroup.kill":
            (file.parent / "cgroup.procs").write_text("")
        elif file.name == "cgroup.freeze":
            self._write(path, value)
            (file.parent / "cgroup.events").write_text(f"populated 1\nfrozen {value}\n")
        else:
            self._write(path, value)


def make_v2_root(root: Path, controllers: str = ALL_V2, real_root: bool = True) -> None:
    root.mkdir()
    for name, text in (("cgroup.controllers", controllers), ("cgroup.subtree_control", ""), ("cgroup.procs", "")):
        (root / name).write_text(text)
    if not real_root:
        (root / "cgroup.type").write_text("domain")


def make_v1_root(root: Path, *hierarchies: str) -> None:
    root.mkdir()
    for hierarchy in hierarchies or V1_FILES:
        (root / hierarchy).mkdir()
        for controller in hierarchy.split(","):
            for name, text in V1_FILES[controller].items():
                (root / hierarchy / name).write_text(text)
            if "," in hierarchy:
                (root / controller).symlink_to(hierarchy)
        (root / hierarchy / "cgroup.procs").write_text("")
    if (root / "cpuset").exists():
        (root / "cpuset/cpuset.cpus").write_text("0-3")
        (root / "cpuset/cpuset.mems").write_text("0")


@pytest.fixture(autouse=True)
def no_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PARENT_VARIABLE, raising=False)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    file = tmp_path / "self_cgroup"
    file.write_text("".join(f"{i}:{name}:/\n" for i, name in enumerate(V1_FILES)) + "0::/\n")
    return file


def opened(root: Path, own: Path, **options: str) -> Driver:
    return open_driver("nbc-1", root=str(root), proc_self_cgroup=str(own), mountinfo="/dev/null", **options)


@pytest.fixture(params=["v1", "v2"])
def driver(request: pytest.FixtureRequest, tmp_path: Path, own: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Driver]:
    root = tmp_path / "cgroup"
    make_v1_root(root) if request.param == "v1" else make_v2_root(root)
    FakeLinux(root, monkeypatch)
    monkeypatch.setattr(devices, "block_device", lambda directory: "8:0")
    yield opened(root, own, parent="/nbcontainer")
    assert not list(root.rglob("nbc-1")), "a container's or the kernel's directory was left behind"
    assert not list(root.rglob("nbcontainer"))


LIMITS = Limits(memory_bytes=64 * MIB, cpus=0.5, cpu_weight=200, pids=20, io_read_bytes_per_second=MIB, cpuset="0-1,3")


def content(driver: Driver, name: str, file: str) -> str:
    (found,) = [path for _, directory in set(driver.adopt(name).views()) for path in Path(directory).glob(file)]
    return found.read_text().strip()


def test_the_plan_is_what_happens(driver: Driver) -> None:
    plan = driver.plan("c", LIMITS)
    assert not any(os.path.exists(write.path) for write in plan if not write.value), "a plan has no effect"
    cgroup = driver.create("c", LIMITS)
    cgroup.set_limits(LIMITS)
    last = {write.path: write.value for write in plan}
    for path, value in last.items():
        if "subtree_control" not in path:
            assert os.path.isdir(path) if not value else Path(path).read_text() == value
    assert all(write.why for write in plan)
    assert driver.names() == ["c"]
    again = driver.plan("d", LIMITS)
    assert len(again) < len(plan), "the place is made once"
    cgroup.remove()
    cgroup.remove()
    assert driver.names() == []
    driver.remove_place()
    driver.remove_place()


def test_readings(driver: Driver) -> None:
    cgroup = driver.create("c", LIMITS)
    sample = cgroup.sample()
    assert (sample.memory_bytes, sample.working_set_bytes, sample.memory_peak_bytes) == (5_000_000, 4_999_000, 7_000_000)
    assert (sample.cpu_seconds, sample.user_seconds, sample.system_seconds) == (4.0, 3.0, 1.0)
    assert (sample.throttled_seconds, sample.pids, sample.oom_kills) == (1.5, 3, 2)
    assert (sample.io_read_bytes, sample.io_write_bytes) == (4100, 100)
    assert cgroup.oom_kills() == 2
    assert cgroup.memory_by_kind() == {"anon": 3000, "file": 3000, "shmem": 1000}
    usage = cgroup.usage(1.25)
    assert (usage.wall_seconds, usage.pids_peak, usage.memory_peak_bytes, usage.cpu_seconds) == (1.25, 9, 7_000_000, 4.0)
    cgroup.remove()
    with pytest.raises(OSError) as gone:
        cgroup.sample()
    assert gone.value.errno == errno.ENODEV
    driver.remove_place()


def test_without_peak_files_the_samples_tell(driver: Driver) -> None:
    first = driver.create("c", LIMITS)
    for file in ("memory.peak", "memory.max_usage_in_bytes", "pids.peak"):
        for _, directory in first.views():
            Path(directory, file).unlink(missing_ok=True)
    if isinstance(driver, v1.V1Driver):
        driver._known_files.clear()  # it knows this Linux by the first cgroup that it made
    cgroup = driver.adopt("c")
    assert cgroup.sample().memory_peak_bytes == 5_000_000
    for _, directory in cgroup.views():
        for name, text in (("memory.current", "4"), ("memory.usage_in_bytes", "4"), ("pids.current", "1")):
            if Path(directory, name).exists():
                Path(directory, name).write_text(text)
    assert (cgroup.sample().memory_bytes, cgroup.sample().memory_peak_bytes) == (4, 5_000_000)
    assert cgroup.usage(1).pids_peak == 3
    cgroup.close()
    first.remove()
    driver.remove_place()


def test_whoever_reads_too_late_opens_nothing(driver: Driver) -> None:
    """The sampler, or a cell of a session that has just ended, beside the thread that removes the container."""
    cgroup = driver.create("c", LIMITS)
    cgroup.sample()
    cgroup.close()
    with pytest.raises(OSError) as raised:
        cgroup.sample()
    assert raised.value.errno == errno.ENODEV
    cgroup.remove()
    driver.remove_place()


def test_freeze_and_thaw(driver: Driver) -> None:
    cgroup = driver.create("c", LIMITS)
    cgroup.freeze()
    assert content(driver, "c", "freezer.state" if driver.version == 1 else "cgroup.freeze") in ("FROZEN", "1")
    cgroup.thaw()
    assert content(driver, "c", "freezer.state" if driver.version == 1 else "cgroup.freeze") in ("THAWED", "0")
    cgroup.remove()
    driver.remove_place()


def test_signal_all_reaches_the_listed_processes_only(driver: Driver) -> None:
    cgroup = driver.create("c", LIMITS)
    command = [sys.executable, "-I", "-S", "-c", "import time; time.sleep(60)"]
    with subprocess.Popen(command) as inside, subprocess.Popen(command) as outside:
        procs = [Path(directory, "cgroup.procs") for _, directory in cgroup.views()]
        for file in procs:
            file.write_text(f"{inside.pid}\n0\n")
        assert cgroup.pids() == [inside.pid], "0 would be this very process's group"
        cgroup.signal_all(signal.SIGTERM)
        assert inside.wait(10) == -signal.SIGTERM
        assert outside.poll() is None
        outside.kill()
        cgroup.signal_all(signal.SIGTERM)
        for file in procs:
            file.write_text("")
    cgroup.remove()
    driver.remove_place()


def test_two_containers_of_one_name_collide_and_the_first_stays(driver: Driver) -> None:
    cgroup = driver.create("c", LIMITS)
    with pytest.raises(SetupError) as refused:
        driver.create("c", LIMITS)
    assert (refused.value.step, refused.value.errno) == ("make the cgroup", errno.EEXIST)
    assert all(os.path.isdir(directory) for _, directory in cgroup.views())
    cgroup.remove()
    driver.remove_place()


def test_a_place_that_another_kernel_swept_is_made_anew(driver: Driver) -> None:
    driver.create("c", LIMITS).remove()
    driver.remove_place()
    cgroup = driver.create("c", LIMITS)
    cgroup.set_limits(LIMITS)
    cgroup.remove()
    driver.remove_place()


def test_an_occupied_place_is_not_removed(driver: Driver) -> None:
    cgroup = driver.create("c", LIMITS)
    with pytest.raises(SetupError):
        driver.remove_place()
    cgroup.remove()
    driver.remove_place()


def test_linux_that_says_otherwise_is_an_error(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    cgroup = driver.create("c", LIMITS)
    monkeypatch.setattr(os, "pread", lambda fd, size, offset: b"4096\n")
    with pytest.raises(SetupError, match=r"limit memory.*Linux says '4096'"):
        cgroup.set_limits(LIMITS)
    monkeypatch.undo()
    for _, directory in cgroup.views():
        shutil.rmtree(directory)
    for place in {str(Path(directory).parent.parent) for _, directory in cgroup.views()}:
        shutil.rmtree(place)
    cgroup.close()


def test_changing_limits_writes_only_what_changed(driver: Driver) -> None:
    cgroup = driver.create("c", LIMITS)
    cgroup.set_limits(LIMITS)
    for _, directory in cgroup.views():
        for file in ("pids.max", "cpu.max", "cpu.cfs_quota_us"):
            if Path(directory, file).exists():
                Path(directory, file).write_text("untouched")
    more = Limits(**{**{name: getattr(LIMITS, name) for name in LIMITS.__slots__}, "memory_bytes": 128 * MIB})
    cgroup.set_limits(more, LIMITS)
    assert content(driver, "c", "pids.max") == "untouched"
    assert content(driver, "c", "memory.max" if driver.version == 2 else "memory.limit_in_bytes") == str(128 * MIB)
    cgroup.remove()
    driver.remove_place()


# ---- v1


def test_v1_has_no_memory_high(tmp_path: Path, own: Path) -> None:
    make_v1_root(tmp_path / "cgroup")
    driver = opened(tmp_path / "cgroup", own)
    with pytest.raises(HostError, match="memory-high"):
        driver.create("c", Limits(memory_bytes=MIB, memory_high_bytes=MIB))
    assert driver.names() == [] and not list((tmp_path / "cgroup").rglob("nbc-1"))


def test_v1_co_mounted_controllers_share_a_directory(tmp_path: Path, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "cgroup"
    make_v1_root(root, "memory", "cpu,cpuacct", "pids")
    FakeLinux(root, monkeypatch)
    driver = opened(root, own)
    cgroup = driver.create("c", Limits(cpus=1, pids=5))
    cgroup.set_limits(Limits(cpus=1, pids=5))
    views = dict(cgroup.views())
    assert views["cpu"] == views["cpuacct"] == str(root / "cpu,cpuacct/nbc-1/c")
    fds = cgroup.task_fds()
    assert len(fds) == 3 and cgroup.task_fds() == fds and cgroup.clone_fd() == -1
    os.write(fds[0], b"0")
    assert Path(views["memory"], "tasks").read_text() == "0"
    with pytest.raises(HostError, match="freezer"):
        cgroup.freeze()
    cgroup.remove()
    driver.remove_place()


def test_v1_cpuset_is_filled_from_above(tmp_path: Path, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "cgroup"
    make_v1_root(root)
    FakeLinux(root, monkeypatch)
    driver = opened(root, own, parent="nbcontainer")
    plain = driver.create("plain", Limits())
    assert "cpuset" not in dict(plain.views())
    with pytest.raises(HostError, match="when it is started"):
        plain.set_limits(Limits(cpuset="0"), Limits())
    chosen = driver.create("chosen", Limits(cpuset="1"))
    chosen.set_limits(Limits(cpuset="1"))
    for level in ("nbcontainer", "nbcontainer/nbc-1"):
        assert (root / "cpuset" / level / "cpuset.cpus").read_text() == "0-3"
        assert (root / "cpuset" / level / "cpuset.mems").read_text() == "0"
    assert (root / "cpuset/nbcontainer/nbc-1/chosen/cpuset.mems").read_text() == "0"
    chosen.set_limits(Limits(), Limits(cpuset="1"))
    assert (root / "cpuset/nbcontainer/nbc-1/chosen/cpuset.cpus").read_text() == "0-3"
    plain.remove()
    chosen.remove()
    driver.remove_place()


def test_v1_below_use_says_what_is_in_use_and_keeps_the_old_limit(
    tmp_path: Path, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "cgroup"
    make_v1_root(root)
    FakeLinux(root, monkeypatch)
    driver = opened(root, own)
    cgroup = driver.create("c", Limits(memory_bytes=64 * MIB))
    cgroup.set_limits(Limits(memory_bytes=64 * MIB))
    limit = root / "memory/nbc-1/c/memory.limit_in_bytes"
    real_write = os.write

    def busy(fd: int, data: bytes) -> int:
        if os.readlink(f"/proc/self/fd/{fd}") == str(limit) and int(data) == MIB:
            raise OSError(errno.EBUSY, "in use")
        return real_write(fd, data)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", busy)
        with pytest.raises(SetupError) as refused:
            cgroup.set_limits(Limits(memory_bytes=MIB), Limits(memory_bytes=64 * MIB))
    assert refused.value.step == "limit memory" and refused.value.errno == errno.EBUSY
    assert "4.8 MiB are in use (anon 2.9 KiB" in refused.value.remedy and "--mem" in refused.value.remedy
    assert limit.read_text() == (root / "memory/nbc-1/c/memory.memsw.limit_in_bytes").read_text() == str(64 * MIB)
    cgroup.remove()
    driver.remove_place()


sizes = st.one_of(st.none(), st.integers(4096, 1 << 40))
limits_of_memory = st.builds(Limits, memory_bytes=sizes, swap_bytes=st.integers(0, 1 << 40))


@given(before=limits_of_memory, after=limits_of_memory)
def test_v1_memory_limit_is_never_above_memory_with_swap(before: Limits, after: Limits) -> None:
    state: dict[str, float] = {"limit_in_bytes": float("inf"), "memsw.limit_in_bytes": float("inf")}

    def apply(writes: list[CgroupWrite]) -> None:
        for write in writes:
            value = float("inf") if write.value == "-1" else int(write.value)
            state[write.path.removeprefix("/m/memory.")] = value
            assert state["limit_in_bytes"] <= state["memsw.limit_in_bytes"], "Linux answers EINVAL"

    apply(v1_limits._memory_writes("/m", before, NEW, True))
    apply(v1_limits._memory_writes("/m", after, before, True))
    memory = float("inf") if after.memory_bytes is None else after.memory_bytes
    assert state == {"limit_in_bytes": memory, "memsw.limit_in_bytes": memory + after.swap_bytes}


@given(st.lists(st.tuples(st.integers(0, 10**12), st.integers(0, 10**6), st.integers(0, 10**6)), max_size=20))
def test_v1_user_and_system_time_never_fall_and_add_up(steps: list[tuple[int, int, int]]) -> None:
    nothing = SimpleNamespace(has=lambda file, path: False)
    cgroup = v1.V1Cgroup("c", {}, nothing)  # type: ignore[arg-type]  # no file is touched here
    total = user = system = 0
    for step in steps:
        total, user, system = total + step[0], user + step[1], system + step[2]
        before = (cgroup._user, cgroup._system)
        assert cgroup._divide(total / 1e9, user, system) == total / 1e9
        assert cgroup._user >= before[0] and cgroup._system >= before[1]
        assert cgroup._user + cgroup._system == pytest.approx(total / 1e9)


def test_v1_without_cgroups_or_permission(tmp_path: Path, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(HostError, match="no cgroup file system"):
        opened(tmp_path / "empty", own)
    make_v1_root(tmp_path / "cgroup")
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: "memory" not in str(path) and real(path, mode))
    with pytest.raises(HostError) as refused:
        opened(tmp_path / "cgroup", own)
    assert refused.value.remedy.startswith("for c in memory; do sudo mkdir -p ")
    assert "chown" in refused.value.remedy and "export NBCONTAINER_CGROUP_PARENT=/nbcontainer" in refused.value.remedy


def test_v1_missing_controller_names_the_option(tmp_path: Path, own: Path) -> None:
    make_v1_root(tmp_path / "cgroup", "memory", "pids")
    driver = opened(tmp_path / "cgroup", own)
    assert driver.controllers == {"memory", "pids"}
    with pytest.raises(HostError, match=r"--cpus: no writable cgroup v1 hierarchy with cpu"):
        driver.plan("c", Limits(cpus=1))


# ---- v2


def test_v2_moves_everybody_to_the_leaf_and_climbs_from_it(tmp_path: Path, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "cgroup"
    make_v2_root(root, real_root=False)
    FakeLinux(root, monkeypatch)
    (root / "cgroup.procs").write_text("11\n12\n13\n")
    driver = opened(root, own)
    cgroup = driver.create("c", Limits(memory_bytes=MIB))
    assert (root / v2.LEAF / "cgroup.procs").read_text().split() == ["11", "12", "13"]
    assert (root / "cgroup.procs").read_text() == ""
    assert {"memory", "pids"} <= set((root / "nbc-1/cgroup.subtree_control").read_text().split())
    cgroup.remove()
    driver.remove_place()
    own.write_text(f"0::/{v2.LEAF}\n")
    second = opened(root, own)
    second.create("c", Limits(memory_bytes=MIB)).remove()
    assert os.path.isdir(root / "nbc-1") and not os.path.exists(root / v2.LEAF / "nbc-1")
    second.remove_place()


def test_v2_real_root_keeps_its_processes(tmp_path: Path, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "cgroup"
    make_v2_root(root)
    fake = FakeLinux(root, monkeypatch)
    (root / "cgroup.procs").write_text("11\n")
    driver = opened(root, own)
    cgroup = driver.create("c", Limits())
    assert not os.path.exists(root / v2.LEAF) and not any(name == "cgroup.procs" for name, _ in fake.order)
    assert cgroup.task_fds() == [] and os.path.samestat(os.fstat(cgroup.clone_fd()), os.stat(root / "nbc-1/c"))
    assert cgroup.views() == (("", str(root / "nbc-1/c")),)
    (root / "nbc-1/c/cgroup.procs").write_text("11\n")
    cgroup.remove()
    assert ("cgroup.kill", "1") in fake.order
    driver.remove_place()


def test_v2_without_delegation(tmp_path: Path, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "cgroup"
    make_v2_root(root, "memory pids")
    driver = opened(root, own)
    with pytest.raises(HostError, match="cpu controller") as missing:
        driver.plan("c", Limits(cpus=1))
    assert "Delegate=" in missing.value.remedy
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(HostError) as refused:
        opened(root, own)
    assert "systemd-run --user --scope -p Delegate=yes" in refused.value.remedy


def test_v2_lowering_below_use_kills_nobody(tmp_path: Path, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "cgroup"
    make_v2_root(root)
    FakeLinux(root, monkeypatch)
    driver = opened(root, own)
    cgroup = driver.create("c", Limits(memory_bytes=64 * MIB))
    cgroup.set_limits(Limits(memory_bytes=64 * MIB))
    with pytest.raises(SetupError) as refused:
        cgroup.set_limits(Limits(memory_bytes=MIB), Limits(memory_bytes=64 * MIB))
    assert refused.value.errno == errno.EBUSY and "are in use" in refused.value.remedy
    assert (root / "nbc-1/c/memory.max").read_text() == str(64 * MIB)
    assert (root / "nbc-1/c/memory.high").read_text() == "max"
    cgroup.remove()
    driver.remove_place()


def test_v2_cpus_that_cannot_be_had_are_an_error(tmp_path: Path, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "cgroup"
    make_v2_root(root)
    FakeLinux(root, monkeypatch)
    driver = opened(root, own)
    cgroup = driver.create("c", Limits(cpuset="2"))
    with pytest.raises(SetupError, match="limit cpuset"):
        cgroup.set_limits(Limits(cpuset="2"))
    cgroup.remove()
    driver.remove_place()


# ---- parsing


def test_own_cgroups_counts_from_what_is_mounted(tmp_path: Path) -> None:
    own, mounts = tmp_path / "cgroup", tmp_path / "mountinfo"
    own.write_text("4:memory:/docker/abc/job\n2:cpu,cpuacct:/a:b\n0::/../elsewhere\n")
    (tmp_path / "m/job").mkdir(parents=True)
    mounts.write_text(f"32 31 0:29 /docker/abc {tmp_path}/m rw,relatime shared:3 - cgroup cgroup rw,memory\n")
    read = OwnCgroups.read(str(own), str(mounts))
    assert read.paths == {"memory": "/docker/abc/job", "cpu": "/a:b", "cpuacct": "/a:b", "": "/../elsewhere"}
    assert read.path("memory", f"{tmp_path}/m") == "/job"
    with pytest.raises(HostError, match="cannot be seen"):
        read.path("", str(tmp_path))


def test_parent_must_stay_inside(tmp_path: Path, own: Path) -> None:
    with pytest.raises(HostError, match="leads out"):
        opened(tmp_path, own, parent="/a/../..")


def test_block_device_is_the_whole_disk(tmp_path: Path) -> None:
    device = os.stat(tmp_path).st_dev
    disk = tmp_path / "devices/sda"
    (disk / "sda1").mkdir(parents=True)
    (disk / "dev").write_text("8:0\n")
    (disk / "sda1/partition").write_text("1\n")
    links = tmp_path / "block"
    links.mkdir()
    (links / f"{os.major(device)}:{os.minor(device)}").symlink_to(disk / "sda1")
    assert devices.block_device(str(tmp_path), str(links)) == "8:0"
    with pytest.raises(HostError, match="not on a block device"):
        devices.block_device("/proc", str(links))


@pytest.mark.parametrize(
    ("module", "name", "written", "read", "holds"),
    [
        (v1, "memory.limit_in_bytes", "-1", UNLIMITED, True),
        (v1, "memory.limit_in_bytes", "5000", "4096", True),
        (v1, "memory.limit_in_bytes", "5000", "8192", False),
        (v1, "memory.oom_control", "0", "oom_kill_disable 0\nunder_oom 0", True),
        (v1, "memory.oom_control", "0", "oom_kill_disable 1\nunder_oom 0", False),
        (v1, "blkio.throttle.read_bps_device", "8:0 4096", "8:16 1\n8:0 4096", True),
        (v1, "blkio.throttle.read_bps_device", "8:0 4096", "8:0 40", False),
        (v1, "blkio.throttle.read_bps_device", "8:0 0", "", True),
        (v1, "cpu.shares", "1024", "1000", False),
        (v2, "memory.max", "5000", "4096", True),
        (v2, "memory.max", "max", "4096", False),
        (v2, "cpuset.cpus", "0,1,3", "0-1,3", True),
        (v2, "cpuset.cpus", "0,1,3", "0-1", False),
        (v2, "io.max", "8:0 rbps=5 wbps=max", "8:0 rbps=5 wbps=max riops=max wiops=max", True),
        (v2, "io.max", "8:0 rbps=5 wbps=max", "8:0 rbps=6 wbps=max riops=max wiops=max", False),
        (v2, "io.max", "8:0 rbps=max wbps=max", "", True),
        (v2, "io.max", "8:0 rbps=5 wbps=max", "", False),
    ],
)
def test_read_back(module: object, name: str, written: str, read: str, holds: bool) -> None:
    assert module.in_force(name, written, read) is holds  # type: ignore[attr-defined]


@given(st.dictionaries(st.from_regex(r"[a-z_]{1,12}", fullmatch=True), st.integers(0, 1 << 63)))
def test_field_finds_every_key_and_no_other(values: dict[str, int]) -> None:
    data = "".join(f"{key} {value}\n" for key, value in values.items()).encode()
    for key, value in values.items():
        assert files.field(data, f"{key} ".encode()) == value
    assert files.field(data, b"NOT THERE ") == 0


@given(st.sets(st.integers(0, 200)))
def test_lists_of_cpus(numbers: set[int]) -> None:
    assert v2.parse_list(",".join(map(str, sorted(numbers)))) == numbers
    assert v2.parse_list("0-3,8") == {0, 1, 2, 3, 8}
