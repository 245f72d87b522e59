"""The doctor: it answers, and each no has a remedy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import nbcontainer
from nbcontainer import host
from nbcontainer.host import Check, HostReport, examine_host

PACKAGE_PARENT = str(Path(nbcontainer.__file__).parent.parent)


def test_this_host_is_examined() -> None:
    report = examine_host()
    names = [check.name for check in report.checks]
    for name in ("pid", "net", "mnt", "ipc", "uts", "user", "cgroup", "time"):
        assert f"namespace {name}" in names
    for name in ("cgroups", "overlay in a user namespace", "seccomp", "KVM", "QEMU", "user namespace for ordinary users"):
        assert name in names
    assert [check.name for check in report.checks if not check.ok and not check.remedy] == []


def test_text_table_and_json_say_the_same() -> None:
    checks = (Check("one", "needed", True, "fine"), Check("<two>", "needed", False, "not there", "type this"))
    report = HostReport(checks)
    assert not report.ready
    assert "type this" in report.as_text()
    assert json.loads(report.to_json())["checks"][1]["remedy"] == "type this"
    assert json.loads(report.to_json())["ready"] is False
    assert "&lt;two&gt;" in report._repr_html_()
    assert "<code>type this</code>" in report._repr_html_()


def test_optional_things_do_not_decide() -> None:
    assert HostReport((Check("a", "needed", True, ""), Check("b", "optional", False, "", "x"))).ready


def test_a_probe_that_cannot_start_is_a_no_and_not_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    report = examine_host()
    assert not report.ready
    refused = {check.name: check for check in report.checks if not check.ok}
    assert "/no/such/python -m nbcontainer.linux.probe" in refused["namespace pid"].remedy


def test_the_user_s_directory_cannot_mislead_the_probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit(1)")
    monkeypatch.chdir(tmp_path)
    assert host._run_probes()


def test_looking_changes_nothing() -> None:
    def traces() -> tuple[str, list[str]]:
        mounts = Path("/proc/self/mountinfo").read_text()
        return mounts, [path for path, _, _ in os.walk("/sys/fs/cgroup") if "nbc-ID" in path]

    before = traces()
    examine_host()
    assert traces() == before == (before[0], [])


@pytest.mark.parametrize(
    ("kind", "number", "word"),
    [("pid", 28, "user.max_pid_namespaces=15000"), ("time", 22, "CONFIG_TIME_NS"), ("cgroup", 22, "CONFIG_CGROUPS")],
)
def test_the_remedy_fits_what_linux_said(kind: str, number: int, word: str) -> None:
    assert word in host._why_not(kind, number)[1]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has capabilities to give up")
def test_without_capabilities_the_answer_is_no_with_a_reason() -> None:
    """A root without CAP_SYS_ADMIN, as in a plain Docker container."""
    code = (
        "import os, sys; from nbcontainer.linux import syscalls\n"
        "for number in range(64):\n"
        "    try: syscalls.prctl(syscalls.PR_CAPBSET_DROP, number)\n"
        "    except OSError: pass\n"
        "os.execv(sys.executable, [sys.executable, '-m', 'nbcontainer.cli', 'doctor', '--json'])"
    )
    environment = {**os.environ, "PYTHONPATH": PACKAGE_PARENT}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 1, done.stderr
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    for name in ("namespace net", "overlay", "idmapped mounts"):
        assert not checks[name]["ok"]
        assert checks[name]["detail"].startswith("EPERM: ")
        assert "--privileged" in checks[name]["remedy"]
