"""The doctor: it answers, and each no has a remedy."""

from __future__ import annotations

import json

from nbcontainer.host import Check, HostReport, examine_host


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
