"""Starts the peers, and times them, in a process and a mount namespace of their own.

The server is small, so that its spawns are fast, and its mount namespace is private: crun refuses a host with both
cgroup versions mounted, so the unified mount is taken away there, and only there. A request is the name of a peer on
one line; the answer is a line of JSON with wall and CPU seconds.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

PLAIN, BWRAP, CRUN, RUNC = "plain Python", "bwrap", "crun", "runc"
PEERS = (PLAIN, BWRAP, CRUN, RUNC)
PYTHON = [getattr(sys, "_base_executable", sys.executable), "-I", "-S", "-c", "pass"]
MEMORY_BYTES, PIDS = 128 << 20, 64
CAPABILITIES = [
    f"CAP_{name}"
    for name in "CHOWN DAC_OVERRIDE FSETID FOWNER SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT KILL".split()
]


@dataclass(frozen=True)
class Timing:
    wall_seconds: float
    cpu_seconds: float


def find(program: str) -> str | None:
    """Its path, also where sbin is not on the PATH."""
    return shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")


def version(program: str) -> str:
    path = find(program)
    if path is None:
        return "not installed"
    output = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
    return output.splitlines()[0] if output else "installed"


class Peers:
    """The client: one server process until :meth:`close`."""

    def __init__(self) -> None:
        self._directory = tempfile.mkdtemp(prefix="peers-")
        command = [sys.executable, "-I", os.path.abspath(__file__), self._directory]
        if os.geteuid() == 0:
            command = ["unshare", "--mount", "--propagation", "private", *command]
        self._server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.missing: dict[str, str] = self._answer()

    def _answer(self) -> dict[str, str]:
        assert self._server.stdout is not None
        line = self._server.stdout.readline()
        if not line:
            raise RuntimeError("the peers' server ended")
        answer: dict[str, str] = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    @property
    def available(self) -> list[str]:
        return [name for name in PEERS if name not in self.missing]

    def run(self, name: str) -> Timing:
        """Start the peer's container, wait for its end. Raises RuntimeError where it fails."""
        assert self._server.stdin is not None
        self._server.stdin.write(f"{name}\n")
        self._server.stdin.flush()
        answer = self._answer()
        return Timing(float(answer["wall_seconds"]), float(answer["cpu_seconds"]))

    def close(self) -> None:
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait()
        self._server.stdout.close()
        shutil.rmtree(self._directory)


# ---- the server


def _bundle(directory: Path, cgroup_path: str) -> None:
    """An OCI bundle: the host's tree, the same namespaces and limits as a cell's. No rlimits: see CAP_SYS_RESOURCE."""
    (directory / "rootfs").mkdir(parents=True)
    subprocess.run(["mount", "--bind", "/", directory / "rootfs"], check=True)
    capabilities = {name: CAPABILITIES for name in ("bounding", "effective", "permitted")}
    config = {
        "ociVersion": "1.0.0",
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "args": PYTHON,
            "env": ["PATH=/usr/bin:/bin"],
            "cwd": "/",
            "noNewPrivileges": True,
            "capabilities": capabilities,
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "peer",
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {
            "cgroupsPath": cgroup_path,
            "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount", "cgroup")],
            "resources": {
                "memory": {"limit": MEMORY_BYTES},
                "cpu": {"quota": 100000, "period": 100000},
                "pids": {"limit": PIDS},
            },
        },
    }
    (directory / "config.json").write_text(json.dumps(config))


def _hide_unified_cgroup() -> None:
    """Only where v1 controllers are mounted too; this process's mount namespace is private."""
    with open("/proc/self/mountinfo", encoding="utf-8") as table:
        mounts = [(line.split()[4], line.partition(" - ")[2].split()[0]) for line in table]
    if any(kind == "cgroup" for _, kind in mounts):
        for point in [point for point, kind in mounts if kind == "cgroup2"]:
            subprocess.run(["umount", "--lazy", point], check=True)


def _commands(directory: Path, missing: dict[str, str]) -> dict[str, Callable[[int], list[str]]]:
    """How each peer is started, by a running number that makes names unique."""
    commands: dict[str, Callable[[int], list[str]]] = {PLAIN: lambda number: PYTHON}
    bwrap = find("bwrap")
    if bwrap is None:
        missing[BWRAP] = "not installed"
    else:
        commands[BWRAP] = lambda number: [bwrap, "--unshare-all", "--ro-bind", "/", "/", *PYTHON]
    parent = os.environ.get("NBCONTAINER_CGROUP_PARENT") or "/nbcontainer"
    if os.geteuid() == 0:
        _hide_unified_cgroup()
    for name in (CRUN, RUNC):
        path = find(name)
        if path is None:
            missing[name] = "not installed"
        elif os.geteuid() != 0:
            missing[name] = "needs root here"
        else:
            _bundle(directory / name, f"{parent}/bench-{name}-{os.getpid()}")
            commands[name] = _runtime(path, directory / name)
    return commands


def _runtime(path: str, directory: Path) -> Callable[[int], list[str]]:
    return lambda number: [path, "--root", f"{directory}/state", "run", "--bundle", str(directory), f"peer-{os.getpid()}-{number}"]


def _time(command: list[str]) -> dict[str, float]:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begin = time.perf_counter()
    pid = os.posix_spawn(command[0], command, {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin"})
    _, status = os.waitpid(pid, 0)
    wall = time.perf_counter() - begin
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if status != 0:
        raise RuntimeError(f"{command[0]} ended with status {status}")
    return {"wall_seconds": wall, "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime}


def serve(directory: Path) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # a peer's own words must not get between the answers
    missing: dict[str, str] = {}
    commands = _commands(directory, missing)
    print(json.dumps(missing), file=answers, flush=True)
    for number, line in enumerate(sys.stdin):
        try:
            answer: dict[str, object] = {**_time(commands[line.strip()](number))}
        except (OSError, RuntimeError) as error:
            answer = {"error": str(error)}
        print(json.dumps(answer), file=answers, flush=True)
    for name in (CRUN, RUNC):
        if name in commands:
            subprocess.run(["umount", directory / name / "rootfs"], check=True)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
