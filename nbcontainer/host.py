"""What this host can do, why not, and what to type: the doctor."""

from __future__ import annotations

import errno
import glob
import html
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from nbcontainer.errors import HostError
from nbcontainer.linux import capabilities
from nbcontainer.linux.meminfo import host_memory_bytes
from nbcontainer.spec import ALL_NAMESPACES, NAMESPACES, Limits
from nbcontainer.units import format_size

if TYPE_CHECKING:
    from nbcontainer.cgroups import Driver

PROBE_SECONDS = 60.0
REQUIRED_GROUP = "needed"
VIRTUAL_MACHINE = "virtual machine"
AS_ROOT = "sudo nbcontainer run ..., or run Jupyter as root in a virtual machine of your own"
OUTER_CONTAINER = "docker run --privileged --cgroupns=private ... (on Kubernetes: securityContext.privileged: true)"


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
        if not self.ready and any(check.name == VIRTUAL_MACHINE and check.ok for check in self.checks):
            verdict = "%%container runs in a virtual machine here (--engine vm); for this host itself, see the lines with no."
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
    """(errno, where) by name; {} where no process could be started to try it."""
    parent = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    code = f"import sys; sys.path.append({parent!r}); from nbcontainer.linux.probe import main; main()"
    # -I: the directory that the user is in may have a json.py of its own.
    command = [sys.executable, "-I", "-c", code]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=PROBE_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    if done.returncode:
        return {}
    return {name: (number, where) for name, (number, where) in json.loads(done.stdout).items()}


def _user_check() -> Check:
    if not _rootless():
        return Check("user ids in containers", "info", True, "root: each container gets a range of user ids of its own")
    from nbcontainer.linux import subordinate

    name, mine = "user ids in containers", f"user id {os.geteuid()}, without privileges: root in a container is you"
    try:
        found = subordinate.find()
    except HostError as error:
        return Check(name, "optional", False, f"{mine}, and there is no other user ({error.message})", error.remedy)
    shared = "each container has its own" if found.ranges > 1 else "all your containers share them"
    return Check(name, "optional", True, f"{mine}; others are subordinate ids from {found.first_uid} on, {shared}")


def _rootless() -> bool:
    return not capabilities.may_administer()


def _needed(rootless: bool) -> str:
    """The group of a check that containers need, of root (False) or of an ordinary user (True); optional for the other."""
    return REQUIRED_GROUP if rootless == _rootless() else "optional"


def _sysctl(name: str) -> str | None:
    try:
        with open(f"/proc/sys/{name}", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return None


def _why_not(kind: str, number: int) -> tuple[str, str]:
    """(reason, what to type) for a namespace that Linux refused with errno ``number``."""
    maximum = f"user.max_{kind}_namespaces"
    if number == errno.ENOSPC or _sysctl(maximum.replace(".", "/")) == "0":
        return f"{maximum} is reached", f"sudo sysctl -w {maximum}=15000"
    if number == errno.EINVAL:
        config = "CONFIG_CGROUPS" if kind == "cgroup" else f"CONFIG_{kind.upper()}_NS"
        return f"this Linux was built without {config}", f"a Linux with {config} (all distributions' own have it)"
    if kind == "user" or os.geteuid():
        # Other namespaces need rights that an ordinary user only has in a user namespace.
        if _sysctl("user/max_user_namespaces") == "0":
            return "user.max_user_namespaces is 0", "sudo sysctl -w user.max_user_namespaces=15000"
        if _sysctl("kernel/unprivileged_userns_clone") == "0":
            return "kernel.unprivileged_userns_clone is 0", "sudo sysctl -w kernel.unprivileged_userns_clone=1"
        if _sysctl("kernel/apparmor_restrict_unprivileged_userns") == "1":
            return "AppArmor restricts user namespaces", "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
    return "an outer container's capabilities or seccomp filter forbid it", OUTER_CONTAINER


def _from_probe(name: str, group: str, probes: dict[str, tuple[int, str]], works: str, reason: str, remedy: str) -> Check:
    if name not in probes:
        return Check(name, group, False, "could not be tried; the command says why", f"{sys.executable} -m nbcontainer.linux.probe")
    number, where = probes[name]
    if number == 0:
        return Check(name, group, True, works)
    code = errno.errorcode.get(number, "no answer") + (f" at {where}" if where else "")
    return Check(name, group, False, f"{code}: {reason}" if reason else code, remedy)


def _namespace_checks(probes: dict[str, tuple[int, str]]) -> list[Check]:
    checks = []
    for kind in ALL_NAMESPACES:
        name = f"namespace {kind}"
        group = REQUIRED_GROUP if kind in NAMESPACES else "optional"
        checks.append(_from_probe(name, group, probes, "works", *_why_not(kind, probes.get(name, (0, ""))[0])))
    name = "user namespace for ordinary users"
    return [*checks, _from_probe(name, _needed(True), probes, "works", *_why_not("user", probes.get(name, (0, ""))[0]))]


def _cgroup_checks() -> list[Check]:
    """Nothing is made but a scope that ends at once: opening a driver only looks, at permissions too."""
    from nbcontainer.cgroups import open_driver, scope
    from nbcontainer.engine.site import may_have_scope

    try:
        return _driver_checks(open_driver("nbc-ID"), "")
    except HostError as error:
        refused = [Check("cgroups", REQUIRED_GROUP, False, error.message, error.remedy)]
        if not may_have_scope(_rootless()):
            return refused
    try:
        with scope.trial() as file:
            return _driver_checks(open_driver("nbc-ID", proc_self_cgroup=file), " (a transient scope of your systemd manager, by busctl)")
    except HostError as error:
        return [*refused, Check("a scope of your systemd manager", "optional", False, error.message, error.remedy)]


def _driver_checks(driver: Driver, how: str) -> list[Check]:
    hybrid = driver.version == 1 and "unified" in driver.controllers
    controllers = ", ".join(sorted(driver.controllers - {"unified"})) or "none"
    version = f"version {driver.version}{' and 2 (hybrid)' if hybrid else ''}"
    checks = [
        Check("cgroups", REQUIRED_GROUP, True, f"{version}; controllers: {controllers}"),
        Check("where containers nest", "info", True, f"{driver.place}{how}; writable"),
    ]
    for name, option, limits in _LIMITS_TO_TRY:
        group = "optional" if name == "cpu" else REQUIRED_GROUP
        try:
            driver.plan("ID", limits)
        except HostError as error:
            checks.append(Check(f"controller {name}", group, False, error.message, error.remedy))
        else:
            checks.append(Check(f"controller {name}", group, True, f"for {option}"))
    return checks


_LIMITS_TO_TRY = (
    ("memory", "--mem", Limits(memory_bytes=1 << 27, pids=None)),
    ("cpu", "--cpus", Limits(cpus=1.0, pids=None)),
    ("pids", "--pids", Limits(pids=64)),
)


def _file_system_checks(probes: dict[str, tuple[int, str]]) -> list[Check]:
    release = f"Linux {platform.release()}"
    overlay = ("this Linux does not have it loaded or built in", "sudo modprobe overlay")
    if probes.get("overlay", (0, ""))[0] == errno.EPERM:
        overlay = _why_not("mnt", errno.EPERM)
    in_userns = (f"{release}; 5.11 is needed", "a Linux from 5.11 on")
    proc = ("parts of this /proc are hidden", "docker run --security-opt systempaths=unconfined ... (on Kubernetes: procMount: Unmasked)")
    refused = probes.get("user namespace for ordinary users", (0, ""))[0]
    if refused:
        in_userns = proc = _why_not("user", refused)
    return [
        _from_probe("overlay", _needed(False), probes, "copy-on-write roots", *overlay),
        _idmapped_check(probes, release),
        _from_probe("overlay in a user namespace", _needed(True), probes, "works", *in_userns),
        _from_probe("a /proc of its own", _needed(True), probes, "works", *proc),
    ]


def _idmapped_check(probes: dict[str, tuple[int, str]], release: str) -> Check:
    number, where = probes.get("idmapped mounts", (0, ""))
    reason, remedy = f"{release}; 6.3 is needed", "%%container --share user, or a Linux from 6.3 on"
    if number == errno.EINVAL and where == "/":
        reason, remedy = "the file system of / cannot be idmapped", "%%container --share user, or a host with / on ext4, xfs or btrfs"
    elif number == errno.EPERM and os.geteuid():
        reason, remedy = "only root can make them", AS_ROOT
    elif number == errno.EPERM:
        reason, remedy = _why_not("mnt", number)
    return _from_probe("idmapped mounts", _needed(False), probes, f"on / and on tmpfs ({release})", reason, remedy)


def _other_checks() -> list[Check]:
    actions = _sysctl("kernel/seccomp/actions_avail")
    library = [path for pattern in ("/usr/lib/*/libseccomp.so.2", "/usr/lib*/libseccomp.so.2") for path in glob.glob(pattern)]
    seccomp = f"{'libseccomp found' if library else 'libseccomp.so.2 is missing'}; Linux offers: {actions or 'nothing'}"
    mend = "sudo apt-get install libseccomp2" if actions else "a Linux with CONFIG_SECCOMP_FILTER"
    total, available = host_memory_bytes()
    return [
        Check("seccomp", REQUIRED_GROUP, bool(actions and library), seccomp, mend),
        *_network_checks(),
        _kvm_check(),
        *_vm_checks(),
        Check("machine", "info", True, f"{os.cpu_count()} CPUs, {format_size(total)} of memory, {format_size(available)} available"),
        Check("Python", "info", sys.version_info >= (3, 11), platform.python_version(), "install Python 3.11 or newer"),
    ]


def _network_checks() -> list[Check]:
    """Nothing is made: what Linux has not got shows when the first network is."""
    name, out = "networks (--net bridge)", "way out of networks"
    if importlib.util.find_spec("pyroute2") is None:
        return [Check(name, "optional", False, "the Python package pyroute2 is missing", f"{sys.executable} -m pip install pyroute2")]
    works = Check(name, "optional", True, "pyroute2 found")
    if not _rootless() and _sysctl("net/ipv4/ip_forward") == "1":
        return [works, Check(out, "optional", True, "net.ipv4.ip_forward is 1")]
    pasta = shutil.which("pasta")
    return [works, Check(out, "optional", pasta is not None, pasta or "pasta is not installed", "sudo apt-get install passt")]


def _kvm_check() -> Check:
    if os.access("/dev/kvm", os.R_OK | os.W_OK):
        return Check("KVM", "optional", True, "/dev/kvm is usable")
    if os.path.exists("/dev/kvm"):
        return Check("KVM", "optional", False, "/dev/kvm is not yours", "sudo usermod -aG kvm $USER, and log in anew")
    remedy = "sudo modprobe kvm_intel || sudo modprobe kvm_amd (in a virtual machine: turn nested virtualization on)"
    return Check("KVM", "optional", False, "there is no /dev/kvm", remedy)


def _vm_checks() -> list[Check]:
    from nbcontainer.engine.vm.setup import findings

    return [Check(found.name, "optional", found.ok, found.detail, found.remedy) for found in findings()]
