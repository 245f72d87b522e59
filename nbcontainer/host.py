"""What this host can do, why not, and what to type: the doctor."""

from __future__ import annotations

import errno
import glob
import html
import json
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass

from nbcontainer.errors import HostError
from nbcontainer.spec import format_size, host_memory_bytes

PROBE_SECONDS = 60.0
REQUIRED_GROUP = "needed"


@dataclass(frozen=True, slots=True)
class Check:
    """One question. ``remedy`` is what to type where ``ok`` is False."""

    name: str
    group: str
    ok: bool
    detail: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class HostReport:
    """All answers, in order."""

    checks: tuple[Check, ...]

    @property
    def ready(self) -> bool:
        """A container with the default isolation and limits can run here."""
        return all(check.ok for check in self.checks if check.group == REQUIRED_GROUP)

    def as_text(self) -> str:
        width = max(len(check.name) for check in self.checks)
        lines = []
        for check in self.checks:
            lines.append(f"{'yes' if check.ok else 'no ':<4} {check.name:<{width}}  {check.detail}")
            if not check.ok and check.remedy:
                lines.append(f"     {'':<{width}}  -> {check.remedy}")
        verdict = "%%container works on this host." if self.ready else "%%container cannot run here yet: see the lines with no."
        return "\n".join([*lines, "", verdict])

    def to_json(self) -> str:
        return json.dumps({"ready": self.ready, "checks": [asdict(check) for check in self.checks]}, indent=2)

    def __repr__(self) -> str:
        return self.as_text()

    def _repr_html_(self) -> str:
        rows = [
            f"<tr><td>{'✔' if check.ok else '✘'}</td><td>{html.escape(check.name)}</td><td>{html.escape(check.detail)}</td>"
            f"<td>{'<code>' + html.escape(check.remedy) + '</code>' if check.remedy and not check.ok else ''}</td></tr>"
            for check in self.checks
        ]
        head = "<tr><th></th><th>What</th><th>Found</th><th>What to type</th></tr>"
        return f"<table>{head}{''.join(rows)}</table>"


def examine_host() -> HostReport:
    """Try everything, in a process of its own; nothing on the host is changed."""
    probes = _run_probes()
    checks = [_user_check(), *_namespace_checks(probes), *_cgroup_checks(), *_file_system_checks(probes), *_other_checks()]
    return HostReport(tuple(checks))


def _run_probes() -> dict[str, tuple[int, str]]:
    parent = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    code = f"import sys; sys.path.append({parent!r}); from nbcontainer.linux.probe import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=PROBE_SECONDS, check=False)
    if done.returncode:
        return {}
    return {name: (number, where) for name, (number, where) in json.loads(done.stdout).items()}


def _user_check() -> Check:
    root = os.geteuid() == 0
    detail = "root" if root else f"user id {os.geteuid()}: the local engine needs root for now"
    return Check("user", REQUIRED_GROUP, root, detail, "sudo nbcontainer run ..., or run Jupyter as root in a virtual machine of your own")


def _sysctl(name: str) -> str | None:
    try:
        with open(f"/proc/sys/{name}", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return None


def _why_no_user_namespace() -> tuple[str, str]:
    """(reason, command) for the settings that forbid user namespaces."""
    if _sysctl("user/max_user_namespaces") == "0":
        return "user.max_user_namespaces is 0", "sudo sysctl -w user.max_user_namespaces=15000"
    if _sysctl("kernel/unprivileged_userns_clone") == "0":
        return "kernel.unprivileged_userns_clone is 0", "sudo sysctl -w kernel.unprivileged_userns_clone=1"
    if _sysctl("kernel/apparmor_restrict_unprivileged_userns") == "1":
        return "AppArmor restricts them", "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
    return "a container's or pod's seccomp filter may forbid it", "docker run --security-opt seccomp=unconfined --cap-add SYS_ADMIN ..."


def _from_probe(name: str, group: str, probes: dict[str, tuple[int, str]], remedy: str) -> Check:
    number, where = probes.get(name, (errno.EIO, "the probe did not run"))
    detail = "works" if number == 0 else f"{errno.errorcode.get(number, number)}{' at ' + where if where else ''}"
    return Check(name, group, number == 0, detail, remedy)


def _namespace_checks(probes: dict[str, tuple[int, str]]) -> list[Check]:
    reason, command = _why_no_user_namespace()
    checks = []
    for name in ("pid", "net", "mnt", "ipc", "uts", "user", "cgroup", "time"):
        group = "optional" if name == "time" else REQUIRED_GROUP
        remedy = "a Linux from 5.6 on, with CONFIG_TIME_NS" if name == "time" else command
        checks.append(_from_probe(f"namespace {name}", group, probes, remedy))
    ordinary = _from_probe("user namespace for ordinary users", "optional", probes, command)
    if not ordinary.ok:
        ordinary = Check(ordinary.name, ordinary.group, False, f"{ordinary.detail}: {reason}", command)
    return [*checks, ordinary]


def _cgroup_checks() -> list[Check]:
    from nbcontainer.cgroups import open_driver

    try:
        driver = open_driver("nbc-doctor")
    except HostError as error:
        return [Check("cgroups", REQUIRED_GROUP, False, error.message, error.remedy)]
    controllers = ", ".join(sorted(driver.controllers)) or "none"
    checks = [
        Check("cgroups", REQUIRED_GROUP, True, f"version {driver.version}; controllers: {controllers}"),
        Check("where containers nest", "info", True, driver.place),
    ]
    for name, option in (("memory", "--mem"), ("cpu", "--cpus"), ("pids", "--pids")):
        there = name in driver.controllers
        group = REQUIRED_GROUP if name != "cpu" else "optional"
        remedy = "boot with cgroup_enable=memory" if name == "memory" else "sudo systemctl set-property user.slice Delegate=yes"
        checks.append(Check(f"controller {name}", group, there, f"for {option}" if there else f"{option} cannot be enforced", remedy))
    return checks


def _file_system_checks(probes: dict[str, tuple[int, str]]) -> list[Check]:
    with open("/proc/filesystems", encoding="ascii") as file:
        overlay = any(line.split()[-1] == "overlay" for line in file)
    overlay = overlay or os.path.isdir("/sys/module/overlay")
    release = tuple(int(part) for part in platform.release().split(".")[:2] if part.isdigit())
    new_enough = release >= (6, 3)
    return [
        Check("overlay", REQUIRED_GROUP, overlay, "copy-on-write roots" if overlay else "not in /proc/filesystems", "sudo modprobe overlay"),
        Check(
            "idmapped mounts", REQUIRED_GROUP, new_enough,
            f"Linux {platform.release()}" + ("" if new_enough else " is older than 6.3"),
            "a Linux from 6.3 on, or run cells with --share user",
        ),
        _from_probe("overlay in a user namespace", "optional", probes, "a Linux from 5.11 on, where user namespaces are allowed"),
        _from_probe("a /proc of its own", "optional", probes, "run the outer container with an unmasked /proc (procMount: Unmasked)"),
    ]  # fmt: skip


def _other_checks() -> list[Check]:
    actions = _sysctl("kernel/seccomp/actions_avail")
    library = [path for pattern in ("/usr/lib/*/libseccomp.so.2", "/usr/lib*/libseccomp.so.2") for path in glob.glob(pattern)]
    kvm = os.access("/dev/kvm", os.R_OK | os.W_OK)
    qemu = shutil.which(f"qemu-system-{platform.machine()}")
    total, available = host_memory_bytes()
    seccomp = f"{'libseccomp found' if library else 'libseccomp.so.2 is missing'}; Linux offers: {actions or 'nothing'}"
    return [
        Check("seccomp", "optional", bool(actions and library), seccomp, "sudo apt-get install libseccomp2"),
        Check("KVM", "optional", kvm, "/dev/kvm is usable" if kvm else "/dev/kvm is not there or not yours", "sudo usermod -aG kvm $USER"),
        Check("QEMU", "optional", qemu is not None, qemu or "not on PATH", "sudo apt-get install qemu-system-x86"),
        Check("machine", "info", True, f"{os.cpu_count()} CPUs, {format_size(total)} of memory, {format_size(available)} available"),
        Check("Python", "info", sys.version_info >= (3, 11), platform.python_version(), "install Python 3.11 or newer"),
    ]
