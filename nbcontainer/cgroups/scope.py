"""A transient scope of the user's systemd manager: a cgroup of one's own for an ordinary user whom nobody has delegated one.

The manager moves one process (the zygote) into a new scope with Delegate=yes. Linux lets a process be cloned into a
cgroup only where its user may also write to the nearest cgroup above both: that is the scope, for the zygote's
children. systemd removes a scope with all that is in it when its last process has ended.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

from nbcontainer.cgroups import files
from nbcontainer.errors import HostError

ROOT = "/sys/fs/cgroup"
ANSWER_SECONDS = 10.0
_POLL_SECONDS = 0.002
_LIMIT_FILES = ("memory.max", "memory.high", "cpu.max")


def find_bus() -> dict[str, str] | None:
    """Variables that lead busctl(1) to the user's systemd manager; None where there is none to be seen."""
    if shutil.which("busctl") is None or not os.path.exists(f"{ROOT}/cgroup.controllers"):
        return None  # on version 1 systemd gives controllers to nobody
    directory = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}"
    address = os.environ.get("DBUS_SESSION_BUS_ADDRESS") or f"unix:path={directory}/bus"
    if address == f"unix:path={directory}/bus" and not os.path.exists(f"{directory}/bus"):
        return None
    return {"PATH": os.environ.get("PATH", ""), "XDG_RUNTIME_DIR": directory, "DBUS_SESSION_BUS_ADDRESS": address}


def enter(pid: int, unit: str) -> str:
    """Have the manager make the scope ``unit`` around a process of this user. Returns the file that says where it is then.

    Raises HostError: there is no manager, it refuses, or limits hold here that would not hold there.
    """
    bus = find_bus()
    if bus is None:
        raise HostError("this user has no systemd manager", "log in by a way that starts one, or: loginctl enable-linger")
    own, file = files.text_or_nothing("/proc/self/cgroup"), f"/proc/{pid}/cgroup"
    properties = ["Description", "s", "nbcontainer", "PIDs", "au", "1", str(pid), "Delegate", "b", "true"]
    properties += ["CollectMode", "s", "inactive-or-failed"]
    manager = ("org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager")
    call = ["busctl", "--user", "--quiet", "call", *manager, "StartTransientUnit", "ssa(sv)a(sa(sv))", unit, "fail", "4", *properties, "0"]
    try:
        done = subprocess.run(call, env=bus, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=ANSWER_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HostError(f"the user's systemd manager does not answer: {error}", "systemctl --user status") from None
    if done.returncode:
        words = done.stderr.strip().splitlines()
        raise HostError(f"the user's systemd manager makes no scope: {words[-1] if words else 'no reason given'}", "systemctl --user status")
    # What was started is a job; it is done when the process is there.
    deadline = time.monotonic() + ANSWER_SECONDS
    while os.path.basename(place := _v2_path(files.text_or_nothing(file))) != unit:
        if time.monotonic() > deadline or not place:
            raise HostError(f"the user's systemd manager did not move a process into {unit}", f"systemctl --user status {unit}")
        time.sleep(_POLL_SECONDS)
    _refuse_limits_around(_v2_path(own), place)
    return file


def _v2_path(text: str) -> str:
    """Of the content of a /proc/PID/cgroup; "" where the process is gone."""
    return next((line.removeprefix("0::") for line in text.splitlines() if line.startswith("0::")), "")


def _refuse_limits_around(own: str, scope: str, root: str = ROOT) -> None:
    """Limits of cgroups that this process is in and the scope is not: a container must not get around them."""
    shared = os.path.commonpath([own, scope])
    while own != shared:
        for name in _LIMIT_FILES:
            value = files.text_or_nothing(f"{root}{own}/{name}").split() or ["max"]
            if value[0] != "max":
                raise HostError(
                    f"{root}{own}/{name} limits this process to {value[0]}, and would not limit containers in a scope of the user's systemd",
                    "put Delegate=yes into the unit that starts the notebook",
                )
        own = os.path.dirname(own)


@contextmanager
def trial() -> Iterator[str]:
    """Like :func:`enter`, for a process that lives as long as the ``with``: whether it can be done. Raises HostError."""
    with subprocess.Popen(["sleep", "60"], stdin=subprocess.DEVNULL) as process:
        try:
            yield enter(process.pid, f"nbc-trial-{process.pid}.scope")
        finally:
            process.kill()
