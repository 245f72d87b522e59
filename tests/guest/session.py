"""The last part of a guest's tests: systemd as process 1, a user of it who has a session and no cgroup of its own, and a hub.

On the host, :func:`add_systemd` puts systemd and what belongs to it into the image. In the guest, :func:`start_systemd`
ends pid 1's own work by becoming systemd, which starts one unit; that runs :func:`main`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

PACKAGES = "systemd libsystemd-shared dbus dbus-bin dbus-daemon dbus-session-bus-common dbus-system-bus-common dbus-user-session uidmap".split()
SPAWNER = Path(sys.prefix) / "spawner/systemdspawner"
"""What tests/run installs for ``HUB_TESTS``."""
HUB_TESTS = "tests/guest/hub_under_systemd.py"
JOB = "/session.json"
UID = 1000
NAME = "nbcontainer-test"
UNIT = "/etc/systemd/system"
WAIT_SECONDS = 90.0
# Of what a machine has and the guest has not; each takes a second or more to start there.
MASKED = (
    "tmp.mount systemd-udevd.service systemd-udev-trigger.service systemd-journal-flush.service systemd-hwdb-update.service systemd-random-seed.service "
    "systemd-timesyncd.service systemd-sysctl.service systemd-modules-load.service systemd-sysusers.service ldconfig.service "
    "systemd-firstboot.service systemd-pstore.service systemd-binfmt.service systemd-update-utmp.service systemd-journal-catalog-update.service "
    "kmod-static-nodes.service systemd-tmpfiles-setup-dev.service systemd-tmpfiles-setup-dev-early.service systemd-remount-fs.service "
    "dev-hugepages.mount dev-mqueue.mount sys-kernel-debug.mount sys-kernel-tracing.mount sys-kernel-config.mount sys-fs-fuse-connections.mount "
    "proc-sys-fs-binfmt_misc.automount systemd-ask-password-wall.path systemd-ask-password-console.path apparmor.service e2scrub_reap.service"
).split()


def missing_packages() -> list[str]:
    """What of systemd this machine has not, by the files that matter."""
    files = {"systemd": "/lib/systemd/systemd", "dbus-user-session": "/usr/lib/systemd/user/dbus.socket", "uidmap": "/usr/bin/newuidmap", "dpkg": "/usr/bin/dpkg"}
    return [name for name, path in files.items() if not os.path.exists(path)]


def stamp() -> str:
    """It changes with what :func:`add_systemd` adds."""
    return f"{Path(__file__).stat().st_size} {missing_packages()} {SPAWNER.is_dir()}"


def add_systemd(base: Path, add_library: Callable[[str], None]) -> None:
    """Put the packages into the tree at ``base``, as they are installed here; ``add_library`` takes a path of this machine."""
    programs: list[str] = []
    for package in PACKAGES:
        done = subprocess.run(["dpkg", "-L", package], capture_output=True, text=True, check=False)
        for path in done.stdout.splitlines():
            if path.startswith(("/usr/share/doc", "/usr/share/man", "/usr/share/locale", "/usr/share/bash-completion")):
                continue
            # Where /lib is a link to /usr/lib, packages still say /lib.
            place = base / os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path)).lstrip("/")
            if os.path.islink(path) or os.path.isfile(path):
                place.parent.mkdir(parents=True, exist_ok=True)
                if not os.path.lexists(place):
                    shutil.copy2(path, place, follow_symlinks=False)
                if os.path.isfile(path) and Path(path).read_bytes()[:4] == b"\x7fELF":
                    programs.append(path)
    done = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=False)
    for word in sorted({word for word in done.stdout.split() if word.startswith(("/lib", "/usr")) and not word.endswith(":")}):
        add_library(word)
    _configure(base)


def _configure(base: Path) -> None:
    """A machine id, a user with subordinate ids, and user managers that need no PAM."""
    etc = base / "etc"
    (etc / "machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    accounts = [line for line in (etc / "passwd").read_text().splitlines() if line.split(":")[2] != str(UID)]
    accounts += [f"{NAME}:x:{UID}:{UID}::/tmp/home:/bin/sh"]
    if not any(line.startswith("messagebus:") for line in accounts):
        accounts.append("messagebus:x:994:994::/nonexistent:/usr/sbin/nologin")
    (etc / "passwd").unlink()  # it may be a hard link to this machine's
    (etc / "passwd").write_text("\n".join(accounts) + "\n")
    for name in ("subuid", "subgid"):
        (etc / name).unlink(missing_ok=True)
        (etc / name).write_text(f"{NAME}:100000:65536\n")
    system = base / UNIT.lstrip("/")
    (system / "user@.service.d").mkdir(parents=True, exist_ok=True)
    (system / "user@.service.d/test.conf").write_text("[Service]\nPAMName=\nEnvironment=XDG_RUNTIME_DIR=/run/user/%i\n")
    # Debian's rule for /tmp empties it at boot; this tree may lie in it.
    (etc / "tmpfiles.d").mkdir(exist_ok=True)
    (etc / "tmpfiles.d/tmp.conf").unlink(missing_ok=True)
    os.symlink("/dev/null", etc / "tmpfiles.d/tmp.conf")
    for name in MASKED:
        if not (system / name).exists():
            os.symlink("/dev/null", system / name)


def start_systemd(job: dict[str, Any]) -> NoReturn:
    """In the guest, as process 1."""
    with open(JOB, "w", encoding="utf-8") as file:
        json.dump(job, file)
    code = f"import sys; sys.path[:0] = [{job['source']!r}, {job['source'] + '/tests'!r}]; from guest.session import main; main()"
    service = f'[Unit]\nAfter=dbus.service systemd-logind.service\nFailureAction=reboot-immediate\n[Service]\nType=oneshot\nTimeoutStartSec=infinity\nExecStart={job["python"]} -c "{code}"\n'
    wanted = "Requires=dbus.service systemd-logind.service nbcontainer-test.service\nAfter=dbus.service\n"
    Path(f"{UNIT}/nbcontainer-test.service").write_text(service)
    Path(f"{UNIT}/nbcontainer-test.target").write_text(f"[Unit]\n{wanted}")
    subprocess.run(["mount", "-o", "remount,nsdelegate", "/sys/fs/cgroup"], check=True)
    os.execv("/lib/systemd/systemd", ["systemd", "--unit=nbcontainer-test.target", "--log-target=console", "--show-status=0", "--log-level=notice"])


def main() -> None:
    """In the guest, as a unit of systemd's."""
    from nbcontainer.engine.vm import guestinit
    from nbcontainer.engine.vm.layout import PORT_PATH
    from nbcontainer.linux import syscalls

    with open(JOB, encoding="utf-8") as file:
        job = json.load(file)
    port = os.open(PORT_PATH, os.O_WRONLY)
    codes = [1]
    try:
        os.write(port, b"--- as a user of systemd, with a session and subordinate ids\n")
        _start_user_manager()
        os.makedirs("/tmp/home", exist_ok=True)
        for path in ("/tmp/home", job["source"]):
            os.chown(path, UID, UID)
        variables = {**guestinit.ENVIRONMENT, **job["environment"], "HOME": "/tmp/home", "XDG_RUNTIME_DIR": f"/run/user/{UID}"}
        # As logind makes a session's scope: in the user's slice, and root's.
        scope = ["systemd-run", "--quiet", "--scope", f"--slice=user-{UID}.slice", f"--uid={UID}", f"--gid={UID}", f"--working-directory={job['source']}"]
        pytest = [job["python"], "-m", "pytest", "-p", "no:cacheprovider"]
        as_user = subprocess.run([*scope, *pytest, *job["arguments"]], env=variables, stdout=port, stderr=port, check=False)
        os.write(port, b"--- as a hub with SystemdSpawner\n")
        arguments = [HUB_TESTS if "/" in word else word for word in job["arguments"]]
        as_hub = subprocess.run([*pytest, *arguments], env={**variables, "HOME": "/root"}, cwd=job["source"], stdout=port, stderr=port, check=False)
        codes = [0 if done.returncode == 5 and job["selected"] else done.returncode for done in (as_user, as_hub)]
    except BaseException as error:
        os.write(port, f"{type(error).__name__}: {error}\n".encode())
    finally:
        os.write(port, b"\nexit %d\n" % max(*map(abs, codes), job["status"]))
        time.sleep(0.2)  # what was written last is still on its way to the host
        syscalls.restart_machine()


def _start_user_manager() -> None:
    subprocess.run(["systemctl", "start", f"user@{UID}.service"], check=True, timeout=WAIT_SECONDS)
    deadline = time.monotonic() + WAIT_SECONDS
    while not os.path.exists(f"/run/user/{UID}/bus"):
        if time.monotonic() > deadline:
            sys.exit("the user's bus did not appear")
        time.sleep(0.05)
