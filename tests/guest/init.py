"""Process 1 of the test guest: an ext4 root, the source tree on it, cgroup v2, then pytest.

Its output goes to the virtio port as it comes; the last line there is ``exit CODE``.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from typing import Any

from guest import session
from nbcontainer.engine.vm import guestinit
from nbcontainer.engine.vm.layout import LATER_MODULES_DIRECTORY, MODULES_DIRECTORY, PORT_PATH
from nbcontainer.linux import syscalls

SOURCE = "/source"
ORDINARY_USER = 1000
WAIT_SECONDS = 20.0
TRACING = "/proc/sys/kernel/yama/ptrace_scope"


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
    guestinit.enter("/newroot")


def delegate() -> str:
    """A cgroup that belongs to the ordinary user, as systemd's Delegate=yes makes one; its path."""
    slice_, session = "/sys/fs/cgroup/delegated", "/sys/fs/cgroup/delegated/session"
    os.makedirs(session, exist_ok=True)
    for directory in ("/sys/fs/cgroup", slice_):
        with open(f"{directory}/cgroup.subtree_control", "w", encoding="ascii") as file:
            file.write("+memory +pids +cpu +cpuset +io")
    for name in ("", "/cgroup.procs", "/cgroup.subtree_control", "/cgroup.threads"):
        os.chown(session + name, ORDINARY_USER, ORDINARY_USER)
    return session


def run_tests(job: dict[str, Any], ordinary: bool, port: int) -> int:
    """pytest in a process of its own, as root or as the ordinary user; its exit code."""
    environment = {**guestinit.ENVIRONMENT, **job["environment"]}
    command = [job["python"], "-m", "pytest", "-p", "no:cacheprovider", *job["arguments"]]
    if ordinary:
        session = delegate()
        os.chown(job["source"], ORDINARY_USER, ORDINARY_USER)  # pytest and hypothesis keep files there
        environment["HOME"] = environment["XDG_RUNTIME_DIR"] = "/tmp/home"
        os.makedirs("/tmp/home", exist_ok=True)
        os.chown("/tmp/home", ORDINARY_USER, ORDINARY_USER)
        user = f"setpriv --reuid {ORDINARY_USER} --regid {ORDINARY_USER} --clear-groups --no-new-privs --bounding-set -all"
        command = ["/bin/sh", "-c", f'echo $$ > {session}/cgroup.procs && exec {user} "$@"', "sh", *command]
    os.write(port, f"--- as {'an ordinary user' if ordinary else 'root'}\n".encode())
    os.chdir(job["source"])
    actions = [(os.POSIX_SPAWN_DUP2, port, 1), (os.POSIX_SPAWN_DUP2, port, 2)]
    child = os.posix_spawn(command[0], command, environment, file_actions=actions)
    while True:
        pid, status = os.wait()
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            # 5: nothing was selected, which only a -k of the caller's can bring about.
            return 0 if code == 5 and job["selected"] else code


def main() -> None:
    sys.excepthook = guestinit.die
    guestinit.mount_first()
    for directory in (MODULES_DIRECTORY, LATER_MODULES_DIRECTORY):
        guestinit.load_packed_modules(directory)
    with open(f"{SOURCE}.json", encoding="utf-8") as file:
        job = json.load(file)
    enter_root(job["source"])
    guestinit.mount_the_rest()
    guestinit.loopback_up()
    if os.path.exists(TRACING):
        with open(TRACING, "w", encoding="ascii") as file:
            file.write("0")  # as on a Linux without it: some tests' containers trace their own processes
    await_path(PORT_PATH)
    port = os.open(PORT_PATH, os.O_WRONLY | os.O_CLOEXEC)
    statuses = [run_tests(job, ordinary, port) for ordinary in job["ordinary"]]
    status = max((abs(status) for status in statuses), default=0)
    if job["session"] is not None:
        os.close(port)  # it has room for one
        session.start_systemd({**job, "arguments": job["session"], "status": status})
    os.write(port, b"\nexit %d\n" % status)
    time.sleep(0.2)  # what was written last is still on its way to the host
    syscalls.restart_machine()
