"""cgroup v1, plain and hybrid: one directory per hierarchy, entered by the child itself through ``tasks``."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable

from nbcontainer.cgroups import base, files, v2
from nbcontainer.cgroups.base import CgroupBase
from nbcontainer.cgroups.files import MAKE, CgroupWrite, field, number
from nbcontainer.cgroups.limits import asked, put_limit, step_of
from nbcontainer.cgroups.own import PARENT_VARIABLE, OwnCgroups
from nbcontainer.cgroups.v1_limits import in_force, limit_writes
from nbcontainer.errors import HostError, SetupError
from nbcontainer.events import Sample, Usage
from nbcontainer.spec import Limits

CONTROLLERS = ("memory", "cpu", "cpuacct", "pids", "freezer", "blkio", "cpuset")
UNIFIED = "unified"
_MEMSW = "memory.memsw.limit_in_bytes"
_IO, _IO_NESTED = "blkio.throttle.io_service_bytes", "blkio.throttle.io_service_bytes_recursive"
_SAMPLED = (
    *("memory.usage_in_bytes", "memory.max_usage_in_bytes", "pids.current"),
    *("cpuacct.usage", "cpuacct.usage_user", "cpuacct.usage_sys"),
    *("memory.stat", "memory.oom_control", "cpu.stat", _IO),
)


class V1Driver:
    """Containers in ``<hierarchy>/<parent>/<place>/<name>`` of every hierarchy that is mounted and writable."""

    version = 1

    def __init__(self, root: str, place: str, parent: str | None, own: OwnCgroups, device: Callable[[], str]) -> None:
        self.device = device
        self._root = root
        self._parents: dict[str, str] = {}
        self._made: list[str] = []
        self._known_files: dict[str, bool] = {}
        refused: list[str] = []
        for controller in (*CONTROLLERS, UNIFIED):
            hierarchy = os.path.realpath(f"{root}/{controller}")
            if not os.path.exists(f"{hierarchy}/cgroup.procs"):
                continue
            path = own.path("" if controller == UNIFIED else controller, hierarchy) if parent is None else parent
            directory = (hierarchy + path).rstrip("/")
            if controller == UNIFIED and not v2.may_enter(hierarchy, own.paths.get("", "/"), v2.existing(directory)):
                continue  # it limits nothing, and all that it offers here can be had otherwise
            if os.access(v2.existing(directory), os.W_OK):
                self._parents[controller] = directory
            else:
                refused.append(controller)
        self._refuse(refused, not self._parents.keys() & {"memory", "pids"})
        self._hierarchies = {name: os.path.realpath(f"{root}/{name}") for name in self._parents}
        self._places = {controller: f"{directory}/{place}" for controller, directory in self._parents.items()}
        self.directories = tuple(sorted(set(self._places.values())))
        self.controllers = frozenset(self._parents)
        below = parent if parent is not None else "this process's own cgroups"
        self.place = f"{place} below {below} in {', '.join(self._parents)} (cgroup v1)"

    def _refuse(self, refused: list[str], unusable: bool) -> None:
        if unusable and not refused:
            raise HostError(
                f"no cgroup file system with memory and pids at {self._root}",
                "mount one (systemd does at boot; in a container: docker run --privileged --cgroupns=private)",
            )
        if unusable or {"memory", "pids"} & set(refused):
            raise HostError(f"no permission to make cgroups in {', '.join(refused)}", self._mend(refused))

    def _mend(self, controllers: list[str]) -> str:
        names = " ".join(controllers)
        target = f"{self._root}/$c/nbcontainer"
        return (
            f'for c in {names}; do sudo mkdir -p {target} && sudo chown -R "$(id -un)" {target}; done; '
            f"export {PARENT_VARIABLE}=/nbcontainer"
        )

    def create(self, name: str, limits: Limits) -> V1Cgroup:
        self.check(limits)
        directories = self._directories(name, limits)
        for attempt in range(3):
            places = [os.path.dirname(directory) for directory in directories.values()]
            if limits.cpuset is not None or not all(map(os.path.isdir, places)):
                self._carry_out(self._place_writes(limits), self._made)
            made: list[str] = []
            try:
                self._carry_out(self._container_writes(name, limits), made)
                break
            except SetupError as error:
                for directory in reversed(made):
                    os.rmdir(directory)
                # Another kernel that ends may have removed the parent that both shared.
                if error.errno != errno.ENOENT or attempt == 2:
                    raise
        return V1Cgroup(name, directories, self)

    def _carry_out(self, writes: list[CgroupWrite], made: list[str]) -> None:
        """Raises SetupError; the directories that were made before it are in ``made``."""
        for write in writes:
            try:
                files.carry_out(write)
            except OSError as error:
                # Another kernel may make a shared parent at the same moment; a container's directory is one's own.
                if error.errno == errno.EEXIST and made is self._made:
                    continue
                step = step_of(write.path) if write.value else MAKE
                raise SetupError(step, error.errno or 0, write.path) from error
            if not write.value:
                made.append(write.path)

    def adopt(self, name: str) -> V1Cgroup:
        paths = {controller: f"{place}/{name}" for controller, place in self._places.items()}
        directories = {controller: path for controller, path in paths.items() if os.path.isdir(path)}
        return V1Cgroup(name, directories, self)

    def plan(self, name: str, limits: Limits) -> tuple[CgroupWrite, ...]:
        self.check(limits)
        before = [*self._place_writes(limits), *self._container_writes(name, limits)]
        directories = self._directories(name, limits)
        return (*before, *limit_writes(directories, limits, None, self))

    def views(self, limits: Limits) -> tuple[str, ...]:
        return tuple(self._used(limits))

    def names(self) -> list[str]:
        return base.children(self.directories)

    def remove_place(self) -> None:
        base.remove_place(self.directories, self._made)

    def check(self, limits: Limits) -> None:
        if limits.memory_high_bytes is not None:
            raise HostError("--memory-high: cgroup v1 has no such limit", "boot with systemd.unified_cgroup_hierarchy=1")
        for controller, option in asked(limits):
            name = "blkio" if controller == "io" else controller
            if name not in self.controllers:
                raise HostError(f"{option}: no writable cgroup v1 hierarchy with {name} at {self._root}", self._mend([name]))
            if controller == "io":
                self.device()
        if limits.memory_bytes is not None and not self.counts_swap():
            v2.refuse_uncounted_swap()

    def has(self, file: str, path: str) -> bool:
        """Which files there are is a matter of Linux, not of the cgroup: the first one tells for all."""
        if path == f"/{file}":
            return False  # in no hierarchy
        if file not in self._known_files:
            self._known_files[file] = os.path.exists(path)
        return self._known_files[file]

    def counts_swap(self) -> bool:
        return os.path.exists(f"{self._hierarchies.get('memory', '')}/{_MEMSW}")

    def _levels(self, controller: str) -> list[str]:
        """The directories from below the hierarchy's root down to the place."""
        hierarchy, place = self._hierarchies[controller], self._places[controller]
        path, levels = hierarchy, []
        for part in place[len(hierarchy) :].strip("/").split("/"):
            path = f"{path}/{part}"
            levels.append(path)
        return levels

    def _used(self, limits: Limits) -> list[str]:
        return [name for name in self._places if name != "cpuset" or limits.cpuset is not None]

    def _directories(self, name: str, limits: Limits) -> dict[str, str]:
        return {controller: f"{self._places[controller]}/{name}" for controller in self._used(limits)}

    def _place_writes(self, limits: Limits) -> list[CgroupWrite]:
        """What is still to be done before containers can be made here; [] when all is done."""
        writes: dict[str, CgroupWrite] = {}
        for controller in self._used(limits):
            for level in self._levels(controller):
                if not os.path.isdir(level):
                    writes[level] = CgroupWrite(level, "", MAKE)
                if controller == "cpuset":
                    writes.update({write.path: write for write in self._fill(level, ("cpus", "mems"))})
        return list(writes.values())

    def _fill(self, directory: str, names: tuple[str, ...]) -> list[CgroupWrite]:
        # v1 cpusets start empty, and refuse tasks (ENOSPC) until both files hold something.
        writes = []
        for name in names:
            value, above = "", os.path.dirname(directory)
            if files.text_or_nothing(f"{directory}/cpuset.{name}"):
                continue
            while not value and above.startswith(self._hierarchies["cpuset"]):
                value, above = files.text_or_nothing(f"{above}/cpuset.{name}"), os.path.dirname(above)
            writes.append(CgroupWrite(f"{directory}/cpuset.{name}", value, f"a new v1 cpuset has no {name} at all"))
        return writes

    def _container_writes(self, name: str, limits: Limits) -> list[CgroupWrite]:
        directories = self._directories(name, limits)
        writes = [CgroupWrite(path, "", MAKE) for path in dict.fromkeys(directories.values())]
        return writes + (self._fill(directories["cpuset"], ("mems",)) if "cpuset" in directories else [])


class V1Cgroup(CgroupBase):
    """``directories``: controller → directory; ``unified`` is the cgroup v2 directory of a hybrid host."""

    def __init__(self, name: str, directories: dict[str, str], driver: V1Driver) -> None:
        unique = list(dict.fromkeys(directories.values()))
        super().__init__(name, next(iter(unique), ""), unique)
        self._by_controller, self._driver = directories, driver
        self._unified, self._freezer = directories.get(UNIFIED, ""), directories.get("freezer", "")
        self._user = self._system = 0.0
        files = {
            "memory": ("memory.usage_in_bytes", "memory.stat", "memory.max_usage_in_bytes", "memory.oom_control"),
            "cpuacct": ("cpuacct.usage", "cpuacct.usage_user", "cpuacct.usage_sys"),
            "cpu": ("cpu.stat",),
            "pids": ("pids.current", "pids.peak"),
            "blkio": (_IO_NESTED, _IO),
        }
        paths = [(file, f"{directories.get(name, '')}/{file}") for name, found in files.items() for file in found]
        # What is not there reads as nothing: pids.peak before Linux 6.12, the I/O of nested cgroups before 4.18.
        self._paths = {file: path if driver.has(file, path) else "" for file, path in paths}
        if self._paths[_IO_NESTED]:
            self._paths[_IO] = self._paths[_IO_NESTED]
        self._reads = [self._paths[file] for file in _SAMPLED]

    def set_limits(self, limits: Limits, previous: Limits | None = None) -> None:
        self._driver.check(limits)
        if limits.cpuset is not None and "cpuset" not in self._by_controller:
            raise HostError("--cpuset: cgroup v1 cannot add it to a running container", "give --cpuset when it is started")
        try:
            self._put(limit_writes(self._by_controller, limits, previous, self._driver))
        except SetupError:
            if previous is not None:
                self._put(limit_writes(self._by_controller, previous, limits, self._driver))
            raise

    def _put(self, writes: list[CgroupWrite]) -> None:
        for write in writes:
            put_limit(write, in_force, self._remedy)

    def _remedy(self, write: CgroupWrite, number_: int) -> str:
        if number_ == errno.EBUSY and "memory" in write.path:
            used = number(self._files.read(self._paths["memory.usage_in_bytes"]))
            return v2.in_use(used, self.memory_by_kind())
        if number_ == errno.EINVAL and write.path.endswith("cpu.cfs_quota_us"):
            return "cgroup v1 refuses more CPU than a cgroup above allows; give fewer --cpus"
        if number_ in (errno.EACCES, errno.EINVAL) and write.path.endswith("cpuset.cpus"):
            return "these CPUs are not all in the cpuset above; see Cpus_allowed_list in /proc/self/status"
        return ""

    def task_fds(self) -> list[int]:
        return [self._files.open(f"{path}/tasks", os.O_WRONLY) for path in self._directories if path != self._unified]

    def clone_fd(self) -> int:
        return self._files.open(self._unified, os.O_RDONLY | os.O_DIRECTORY) if self._unified else -1

    def views(self) -> tuple[tuple[str, str], ...]:
        return tuple(self._by_controller.items())

    def sample(self) -> Sample:
        used, peak, processes, total, user, system, stat, oom, cpu, io = map(self._files.read, self._reads)
        memory = number(used)
        self._memory_peak = max(self._memory_peak, number(peak), memory)
        self._pids_peak = max(self._pids_peak, number(processes))
        cpu_seconds = self._divide(number(total) / 1e9, number(user), number(system))
        io_read, io_written = _throttle_bytes(io)
        return Sample(
            monotonic_seconds=time.monotonic(),
            memory_bytes=memory,
            working_set_bytes=max(0, memory - field(stat, b"total_inactive_file ")),
            memory_peak_bytes=self._memory_peak,
            cpu_seconds=cpu_seconds,
            user_seconds=self._user,
            system_seconds=self._system,
            throttled_seconds=field(cpu, b"throttled_time ") / 1e9,
            pids=number(processes),
            oom_kills=field(oom, b"oom_kill "),
            io_read_bytes=io_read,
            io_write_bytes=io_written,
        )

    def _divide(self, total_seconds: float, user_ticks: int, system_ticks: int) -> float:
        # The total is exact, its two parts are counted by clock ticks. As v2's cpu.stat does: divide the total as the
        # ticks say, and let neither part ever fall.
        share = user_ticks / (user_ticks + system_ticks) if user_ticks + system_ticks else 1.0
        self._user = max(self._user, min(total_seconds * share, total_seconds - self._system))
        self._system = max(self._system, total_seconds - self._user)
        return total_seconds

    def usage(self, wall_seconds: float, last: Sample | None = None) -> Usage:
        peak = number(self._files.read(self._paths["pids.peak"]))
        return v2.usage_of(last or self.sample(), wall_seconds, max(self._pids_peak, peak))

    def oom_kills(self) -> int:
        return field(self._files.read(self._paths["memory.oom_control"]), b"oom_kill ")

    def memory_by_kind(self) -> dict[str, int]:
        stat = self._files.read(self._paths["memory.stat"])
        shmem = field(stat, b"total_shmem ")
        cache = max(0, field(stat, b"total_cache ") - shmem)
        return {"anon": field(stat, b"total_rss "), "file": cache, "shmem": shmem}

    def kill(self) -> None:
        inside: list[str] = []
        if self._unified and os.path.exists(f"{self._unified}/cgroup.kill"):
            inside = files.text_or_nothing(f"{self._unified}/cgroup.procs").split()
        if inside:
            files.write_text(f"{self._unified}/cgroup.kill", "1")
        if set(self.pids()) - set(map(int, inside)):
            self._kill_one_by_one()
        # A task that the v1 freezer holds dies of SIGKILL only when it is thawed.
        if self._freezer and files.text_or_nothing(f"{self._freezer}/freezer.state") not in ("THAWED", ""):
            self.thaw()

    def _kill_one_by_one(self) -> None:
        if self._freezer:
            try:
                # Frozen tasks cannot fork, so that one round of signals reaches all.
                self._set_freezer("FROZEN", "freeze the container", seconds=0.05)
            except SetupError:
                pass  # a task that waits in Linux cannot be frozen, but must be killed all the same
        self.signal_all(signal.SIGKILL)

    def freeze(self) -> None:
        self._set_freezer("FROZEN", "freeze the container")

    def thaw(self) -> None:
        self._set_freezer("THAWED", "thaw the container")

    def _set_freezer(self, state: str, step: str, seconds: float = 1.0) -> None:
        if not self._freezer:
            raise HostError("pause: no writable cgroup v1 freezer hierarchy", "mount the freezer hierarchy (systemd does at boot)")
        files.write_text(f"{self._freezer}/freezer.state", state)
        self._wait_for(f"{self._freezer}/freezer.state", state, step, seconds)


def _throttle_bytes(data: bytes) -> tuple[int, int]:
    """(read, written) bytes from lines such as ``8:0 Read 4096``."""
    if data.startswith(b"Total"):
        return 0, 0
    sums = {b"Read": 0, b"Write": 0}
    for line in data.splitlines():
        words = line.split()
        if len(words) == 3 and words[1] in sums:
            sums[words[1]] += int(words[2])
    return sums[b"Read"], sums[b"Write"]
