"""cgroup v2: one hierarchy, controllers enabled level by level, no processes beside children."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import signal
import time
from collections.abc import Callable
from dataclasses import fields

from nbcontainer.cgroups import base, files
from nbcontainer.cgroups.base import CgroupBase
from nbcontainer.cgroups.files import MAKE, CgroupWrite, field, number
from nbcontainer.cgroups.limits import NEW, PERIOD_MICROSECONDS, asked, put_limit
from nbcontainer.cgroups.own import OwnCgroups
from nbcontainer.errors import HostError, SetupError
from nbcontainer.events import Sample, Usage
from nbcontainer.spec import Limits
from nbcontainer.units import format_size

LEAF = "nbcontainer-leaf"
DELEGATE = (
    "start the notebook with: systemd-run --user --scope -p Delegate=yes jupyter lab (or put Delegate=yes into the "
    "[Service] section of its unit; in a container: docker run --privileged --cgroupns=private)"
)
_ENABLED = ("memory", "pids", "cpu", "io")
_ROUNDS = 50
_UNLIMITED = 1 << 62
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_MEMORY_FILES = ("memory.current", "memory.stat", "memory.peak", "memory.events")
_FILES = (*_MEMORY_FILES, "cpu.stat", "pids.current", "pids.peak", "io.stat")
_READ, _WRITTEN = re.compile(rb"rbytes=(\d+)"), re.compile(rb"wbytes=(\d+)")


class V2Driver:
    """Containers in ``<root>/<parent>/<place>/<name>``."""

    version = 2

    def __init__(self, root: str, place: str, parent: str | None, own: OwnCgroups, device: Callable[[], str]) -> None:
        self._root = root
        self._chosen = parent is not None
        self._own = own.path("", root) if parent is None else own.paths.get("", "/")
        # A kernel that starts where an earlier kernel moved everybody belongs one level higher.
        path = (os.path.dirname(self._own) if os.path.basename(self._own) == LEAF else self._own) if parent is None else parent
        self._parent = (root + path).rstrip("/")
        self._directory = f"{self._parent}/{place}"
        self.directories: tuple[str, ...] = (self._directory,)
        self.device = device
        self._prepared = False
        self._made: list[str] = []
        self.place = f"{self._directory} (cgroup v2)"
        self._check_access()
        self.controllers = self._available()

    def create(self, name: str, limits: Limits) -> V2Cgroup:
        self.check(limits)
        path = f"{self._directory}/{name}"
        for attempt in range(3):
            if limits.cpuset is not None or not (self._prepared and os.path.isdir(self._directory)):
                self._prepare(limits)
            try:
                files.carry_out(CgroupWrite(path, "", MAKE))
                break
            except OSError as error:
                # Another kernel that ends may have removed the parent that both shared.
                if error.errno != errno.ENOENT or attempt == 2:
                    raise SetupError(MAKE, error.errno or 0, path) from error
        return self.adopt(name)

    def adopt(self, name: str) -> V2Cgroup:
        return V2Cgroup(name, f"{self._directory}/{name}", self)

    def plan(self, name: str, limits: Limits) -> tuple[CgroupWrite, ...]:
        self.check(limits)
        path = f"{self._directory}/{name}"
        writes = [*self._place_writes(limits), CgroupWrite(path, "", MAKE)]
        return (*writes, *limit_writes(path, limits, None, self))

    def views(self, limits: Limits) -> tuple[str, ...]:
        return ("",)

    def names(self) -> list[str]:
        return base.children(self.directories)

    def remove_place(self) -> None:
        base.remove_place(self.directories, self._made)

    def check(self, limits: Limits) -> None:
        for controller, option in asked(limits):
            if controller not in self.controllers:
                raise HostError(
                    f"{option}: the {controller} controller of cgroup v2 is not delegated to {self._parent}",
                    "sudo mkdir -p /etc/systemd/system/user@.service.d && printf '[Service]\\nDelegate=cpu cpuset io memory pids\\n' "
                    "| sudo tee /etc/systemd/system/user@.service.d/delegate.conf && sudo systemctl daemon-reload; then log in anew",
                )
            if controller == "io":
                self.device()

    def _check_access(self) -> None:
        top = existing(self._parent)
        files = [top, f"{top}/cgroup.procs", f"{top}/cgroup.subtree_control"]
        if not self._chosen:
            files.append(f"{self._root}{self._own}/cgroup.procs")
        elif not may_enter(self._root, self._own, top):
            files.append(common_procs(self._root, self._own, top))
        for file in files:
            if not os.access(file, os.W_OK):
                raise HostError(f"no permission to make cgroups: {file} cannot be written", DELEGATE)

    def _chain(self) -> list[str]:
        """The directories whose children get controllers, top down."""
        if not self._chosen:
            return [self._parent, self._directory]
        path, chain = self._root, [self._root]
        for part in self._directory[len(self._root) :].strip("/").split("/"):
            path = f"{path}/{part}"
            chain.append(path)
        return chain

    def _available(self) -> frozenset[str]:
        top = self._chain()[0]
        available = _words(f"{top}/cgroup.controllers")
        for level in self._chain()[:-1]:
            if os.path.isdir(level) and level != self._parent and not os.access(f"{level}/cgroup.subtree_control", os.W_OK):
                available &= _words(f"{level}/cgroup.subtree_control")
        return available

    def _place_writes(self, limits: Limits) -> list[CgroupWrite]:
        """What is still to be done before containers can be made here; [] when all is done."""
        wanted = [name for name in (*_ENABLED, *(("cpuset",) if limits.cpuset else ())) if name in self.controllers]
        writes: list[CgroupWrite] = []
        for level in self._chain():
            if not os.path.isdir(level):
                writes.append(CgroupWrite(level, "", MAKE))
            enabled = _words(f"{level}/cgroup.subtree_control")
            missing = [name for name in wanted if name not in enabled]
            if missing and level == self._parent:
                writes += self._moves()
            if missing:
                value = " ".join(f"+{name}" for name in missing)
                writes.append(CgroupWrite(f"{level}/cgroup.subtree_control", value, "give the cgroups below these controllers"))
        return writes

    def _moves(self) -> list[CgroupWrite]:
        # Only the real root may have both processes and children with controllers; it is the one without a cgroup.type.
        if not os.path.exists(f"{self._parent}/cgroup.type"):
            return []
        pids = files.read_text(f"{self._parent}/cgroup.procs").split()
        leaf = f"{self._parent}/{LEAF}"
        why = "a cgroup with processes of its own cannot give controllers to its children"
        made = [CgroupWrite(leaf, "", MAKE)] if pids and not os.path.isdir(leaf) else []
        return made + [CgroupWrite(f"{leaf}/cgroup.procs", pid, why) for pid in pids if pid != "0"]

    def _prepare(self, limits: Limits) -> None:
        lock = os.open(existing(self._parent), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            failed: OSError | None = None
            for _ in range(_ROUNDS):
                writes = self._place_writes(limits)
                if not writes:
                    self._prepared = True
                    return
                failed = self._carry_out(writes) or failed
            raise SetupError("enable the controllers", (failed and failed.errno) or 0, self._directory) from failed
        finally:
            os.close(lock)

    def _carry_out(self, writes: list[CgroupWrite]) -> OSError | None:
        """Stops, to look again, where a process came or went or another kernel was faster. Raises SetupError."""
        for write in writes:
            try:
                files.carry_out(write)
            except OSError as error:
                if error.errno not in (errno.EBUSY, errno.ESRCH, errno.EEXIST, errno.ENOENT):
                    raise SetupError("enable the controllers", error.errno or 0, write.path, DELEGATE) from error
                return error
            if not write.value and os.path.basename(write.path) != LEAF:
                self._made.append(write.path)
        return None


class V2Cgroup(CgroupBase):
    """One directory; the child is born in it (CLONE_INTO_CGROUP)."""

    def __init__(self, name: str, path: str, driver: V2Driver) -> None:
        super().__init__(name, path, [path])
        self._driver = driver
        paths = [f"{path}/{file}" for file in _FILES]
        self._paths = [file if os.path.exists(file) else "" for file in paths]

    def set_limits(self, limits: Limits, previous: Limits | None = None) -> None:
        self._driver.check(limits)
        writes = limit_writes(self._main, limits, previous, self._driver)
        if previous is not None and limits.memory_bytes is not None:
            self._make_room(limits.memory_bytes, previous)
        try:
            self._put(writes)
        except SetupError:
            if previous is not None:
                self._put(limit_writes(self._main, previous, limits, self._driver))
            raise

    def _put(self, writes: list[CgroupWrite]) -> None:
        for write in writes:
            if write.path.endswith("memory.swap.max") and not os.path.exists(write.path):
                refuse_uncounted_swap()
                continue
            put_limit(write, in_force, lambda write, _: "")
            effective = f"{write.path}.effective"
            # v2 takes any list, and runs on the parent's CPUs when none of it can be had.
            chosen = parse_list(write.value) if write.path.endswith("cpuset.cpus") else None
            if chosen and chosen != parse_list(files.read_text(effective)):
                raise SetupError("limit cpuset", 0, effective, "these CPUs are not all in the cpuset above")

    def _make_room(self, memory_bytes: int, previous: Limits) -> None:
        # memory.max below what is in use kills at once. memory.high reclaims first and kills nobody.
        if number(self._files.read(self._paths[0])) <= memory_bytes:
            return
        high = f"{self._main}/memory.high"
        files.write_text(high, str(memory_bytes))
        used = number(self._files.read(self._paths[0]))
        files.write_text(high, _text(previous.memory_high_bytes))
        if used > memory_bytes:
            raise SetupError("limit memory", errno.EBUSY, f"{self._main}/memory.max", in_use(used, self.memory_by_kind()))

    def task_fds(self) -> list[int]:
        return []

    def clone_fd(self) -> int:
        return self._files.open(self._main, os.O_RDONLY | os.O_DIRECTORY)

    def views(self) -> tuple[tuple[str, str], ...]:
        return (("", self._main),)

    def sample(self) -> Sample:
        read = self._files.read
        current, stat, peak, events, cpu, pids, _, io = self._paths
        # cpu.stat and pids of a cgroup without memory controller still tell ENODEV when it is gone.
        memory, processor, processes = number(read(current)), read(cpu), number(read(pids))
        bytes_peak = self._memory_peak = max(self._memory_peak, number(read(peak)), memory)
        self._pids_peak = max(self._pids_peak, processes)
        traffic = read(io)
        return Sample(
            monotonic_seconds=time.monotonic(),
            memory_bytes=memory,
            working_set_bytes=max(0, memory - field(read(stat), b"inactive_file ")),
            memory_peak_bytes=bytes_peak,
            cpu_seconds=field(processor, b"usage_usec ") / 1e6,
            user_seconds=field(processor, b"user_usec ") / 1e6,
            system_seconds=field(processor, b"system_usec ") / 1e6,
            throttled_seconds=field(processor, b"throttled_usec ") / 1e6,
            pids=processes,
            oom_kills=field(read(events), b"oom_kill "),
            io_read_bytes=sum(map(int, _READ.findall(traffic))) if traffic else 0,
            io_write_bytes=sum(map(int, _WRITTEN.findall(traffic))) if traffic else 0,
        )

    def usage(self, wall_seconds: float, last: Sample | None = None) -> Usage:
        return usage_of(last or self.sample(), wall_seconds, max(self._pids_peak, number(self._files.read(self._paths[6]))))

    def oom_kills(self) -> int:
        return field(self._files.read(self._paths[3]), b"oom_kill ")

    def memory_by_kind(self) -> dict[str, int]:
        stat = self._files.read(self._paths[1])
        shmem = field(stat, b"shmem ")
        return {"anon": field(stat, b"anon "), "file": max(0, field(stat, b"file ") - shmem), "shmem": shmem}

    def kill(self) -> None:
        try:
            files.write_text(f"{self._main}/cgroup.kill", "1")
        except FileNotFoundError:
            # cgroup.kill came with Linux 5.14. Frozen tasks cannot fork; on v2 SIGKILL reaches them all the same.
            if os.path.isdir(self._main):
                self.freeze()
                self.signal_all(signal.SIGKILL)
                self.thaw()

    def freeze(self) -> None:
        files.write_text(f"{self._main}/cgroup.freeze", "1")
        self._wait_for(f"{self._main}/cgroup.events", "frozen 1", "freeze the container")

    def thaw(self) -> None:
        files.write_text(f"{self._main}/cgroup.freeze", "0")
        self._wait_for(f"{self._main}/cgroup.events", "frozen 0", "thaw the container")


def limit_writes(path: str, limits: Limits, previous: Limits | None, driver: V2Driver) -> list[CgroupWrite]:
    """The writes that lead from ``previous`` (None: a new cgroup) to ``limits``."""
    old, writes = previous or NEW, []

    def put(file: str, value: str, why: str) -> None:
        writes.append(CgroupWrite(f"{path}/{file}", value, why))

    if "memory" in driver.controllers:
        if previous is None:
            put("memory.oom.group", "0", "out of memory kills one process, so that the cell can say which")
        if limits.swap_bytes != old.swap_bytes:
            put("memory.swap.max", str(limits.swap_bytes), "swap would only slow down what the memory limit is to stop")
        if limits.memory_bytes != old.memory_bytes:
            put("memory.max", _text(limits.memory_bytes), "--mem: above it Linux kills")
        if limits.memory_high_bytes != old.memory_high_bytes:
            put("memory.high", _text(limits.memory_high_bytes), "--memory-high: above it Linux slows down and reclaims")
    if limits.cpus != old.cpus:
        quota = "max" if limits.cpus is None else str(round(limits.cpus * PERIOD_MICROSECONDS))
        put("cpu.max", f"{quota} {PERIOD_MICROSECONDS}", "--cpus: microseconds of CPU time in each period")
    if limits.cpu_weight != old.cpu_weight:
        put("cpu.weight", str(limits.cpu_weight or 100), "--cpu-weight: the share when CPUs are short")
    if limits.cpuset != old.cpuset:
        put("cpuset.cpus", limits.cpuset or "\n", "--cpuset: the CPUs it may run on")
    if limits.pids != old.pids:
        put("pids.max", _text(limits.pids), "--pids: processes and threads")
    rates = (limits.io_read_bytes_per_second, limits.io_write_bytes_per_second)
    if rates != (old.io_read_bytes_per_second, old.io_write_bytes_per_second):
        value = f"{driver.device()} rbps={_text(rates[0])} wbps={_text(rates[1])}"
        put("io.max", value, "--io-read, --io-write: bytes per second of this disk")
    return writes


def _text(value: int | None) -> str:
    return "max" if value is None else str(value)


def in_force(name: str, written: str, read: str) -> bool:
    """Whether the cgroup v2 file ``name`` that reads ``read`` says what ``written`` asked for."""
    if name.startswith("memory."):
        return _limit_bytes(written) == _limit_bytes(read)
    if name == "cpuset.cpus":
        return parse_list(written) == parse_list(read)
    if name == "io.max":
        device, *wanted = written.split()
        lines = [line.split() for line in read.splitlines() if line.split()[:1] == [device]]
        return set(wanted) <= set(lines[0]) if lines else all(item.endswith("=max") for item in wanted)
    return False


def in_use(used_bytes: int, by_kind: dict[str, int]) -> str:
    """The remedy for a memory limit below what is in use."""
    kinds = ", ".join(f"{kind} {format_size(size)}" for kind, size in by_kind.items() if size)
    return f"{format_size(used_bytes)} are in use ({kinds or 'all of it Linux memory'}); give more than that with --mem"


def usage_of(last: Sample, wall_seconds: float, pids_peak: int) -> Usage:
    """The account of a container whose last sample is ``last``."""
    shared = {each.name: getattr(last, each.name) for each in fields(Sample) if each.name in Usage.__slots__}
    return Usage(wall_seconds=wall_seconds, pids_peak=pids_peak, **shared)


def refuse_uncounted_swap() -> None:
    """Raises HostError on a host that swaps without counting it per cgroup: no limit on swap can hold there."""
    if os.path.exists("/proc/swaps") and len(files.lines("/proc/swaps")) > 1:
        raise HostError("--swap: this host has swap, but Linux does not count it per cgroup", "boot with swapaccount=1, or: sudo swapoff -a")


def _limit_bytes(text: str) -> int:
    """Linux counts memory limits in whole pages, rounded down."""
    value = _UNLIMITED if text in ("max", "-1") else min(int(text), _UNLIMITED)
    return value - value % _PAGE_BYTES


def parse_list(text: str) -> frozenset[int]:
    """``"0-1,3"`` → {0, 1, 3}."""
    ranges = [part.partition("-") for part in text.strip().split(",") if part]
    return frozenset(cpu for first, _, last in ranges for cpu in range(int(first), int(last or first) + 1))


def common_procs(root: str, own: str, target: str) -> str:
    """The cgroup.procs that has to be writable for a process of the cgroup ``own`` to enter ``target``."""
    return os.path.join(os.path.commonpath([root + own, target]), "cgroup.procs")


def may_enter(root: str, own: str, target: str) -> bool:
    """Linux lets a process enter a cgroup only if its owner may also write to the common ancestor's cgroup.procs."""
    return not os.geteuid() or os.access(common_procs(root, own, target), os.W_OK)


def existing(path: str) -> str:
    """``path`` or the nearest directory above it that exists."""
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path


def _words(path: str) -> frozenset[str]:
    return frozenset(files.text_or_nothing(path).split())
