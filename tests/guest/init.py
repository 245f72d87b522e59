"""Process 1 of the test guest: an ext4 root, the source tree on it, cgroup v2, then pytest.

Its output goes to the virtio port as it comes; the last line there is ``exit CODE``.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
import traceback
from types import TracebackType

from nbcontainer.engine.vm import guestinit
from nbcontainer.engine.vm.layout import PORT_PATH
from nbcontainer.linux import syscalls

SOURCE = "/source"
ORDINARY_USER = 1000
WAIT_SECONDS = 20.0


def await_path(path: str) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not os.path.exists(path):
        if time.monotonic() > deadline:
            raise OSError(19, "a device did not appear", path)
        time.sleep(0.005)


def enter_root(source: str) -> None:
    """ext4, because its mounts can be idmapped; the source tree is copied onto it at its own path."""
    await_path("/dev/vda")
    guestinit.mount("/dev/vda", "/newroot", "ext4")
    shutil.copytree(SOURCE, f"/newroot{source}", dirs_exist_ok=True)
    for name in ("proc", "sys", "dev"):
        os.makedirs(f"/newroot/{name}", exist_ok=True)
        syscalls.mount(f"/{name}", f"/newroot/{name}", None, syscalls.MS_MOVE)
    os.chdir("/newroot")
    syscalls.mount(".", "/", None, syscalls.MS_MOVE)
    os.chroot(".")
    os.chdir("/")


def delegate() -> str:
    """A cgroup that belongs to the ordinary user, as systemd's Delegate=yes makes one; its path."""
    path = "/sys/fs/cgroup/delegated"
    with open("/sys/fs/cgroup/cgroup.subtree_control", "w", encoding="ascii") as file:
        file.write("+memory +pids +cpu")
    os.makedirs(f"{path}/session", exist_ok=True)
    for directory in (path, f"{path}/session"):
        for name in ("", "/cgroup.procs", "/cgroup.subtree_control", "/cgroup.threads"):
            os.chown(directory + name, ORDINARY_USER, ORDINARY_USER)
    return f"{path}/session"


def run_tests(job: dict[str, object], port: int) -> int:
    """pytest in a process of its own, as root or as the ordinary user."""
    words = [str(word) for word in job["arguments"]]  # type: ignore[attr-defined]
    environment = {**guestinit.ENVIRONMENT, **job["environment"]}  # type: ignore[dict-item]
    command = [str(job["python"]), "-m", "pytest", *words]
    if job["ordinary"]:
        session = delegate()
        os.chown(str(job["source"]), ORDINARY_USER, ORDINARY_USER)  # pytest and hypothesis keep files there
        environment["HOME"] = "/tmp"
        join = f"echo $$ > {session}/cgroup.procs && exec setpriv --reuid {ORDINARY_USER} --regid {ORDINARY_USER} --clear-groups \"$@\""
        command = ["/bin/sh", "-c", join, "sh", *command]
    os.chdir(str(job["source"]))
    actions = [(os.POSIX_SPAWN_DUP2, port, 1), (os.POSIX_SPAWN_DUP2, port, 2)]
    child = os.posix_spawn(command[0], command, environment, file_actions=actions)
    while True:
        pid, status = os.wait()
        if pid == child:
            return os.waitstatus_to_exitcode(status)


def _die(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    traceback.print_exception(kind, error, trace)
    sys.stderr.flush()
    syscalls.restart_machine()


def main() -> None:
    sys.excepthook = _die
    for source, target, fstype in (("proc", "/proc", "proc"), ("sys", "/sys", "sysfs"), ("dev", "/dev", "devtmpfs")):
        guestinit.mount(source, target, fstype)
    guestinit.load_packed_modules()
    with open(f"{SOURCE}.json", encoding="utf-8") as file:
        job = json.load(file)
    enter_root(job["source"])
    guestinit.mount_the_rest()
    guestinit.loopback_up()
    await_path(PORT_PATH)
    port = os.open(PORT_PATH, os.O_WRONLY | os.O_CLOEXEC)
    status = run_tests(job, port)
    os.write(port, b"\nexit %d\n" % status)
    time.sleep(0.2)  # what was written last is still on its way to the host
    syscalls.restart_machine()
