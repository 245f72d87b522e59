"""What the caller's cgroups leave of memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from nbcontainer.cgroups.headroom import memory_left_bytes
from nbcontainer.engine.vm import template
from nbcontainer.errors import HostError

MIB = 1 << 20


def make(directory: Path, files: dict[str, object]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (directory / name).write_text(f"{content}\n")


def left(tmp_path: Path, cgroup: str) -> int | None:
    (tmp_path / "cgroup").write_text(cgroup)
    (tmp_path / "mountinfo").write_text(f"30 23 0:26 / {tmp_path}/fs rw - cgroup2 cgroup2 rw\n")
    return memory_left_bytes(str(tmp_path / "fs"), str(tmp_path / "cgroup"), str(tmp_path / "mountinfo"))


def test_the_tightest_of_all_above_counts(tmp_path: Path) -> None:
    make(tmp_path / "fs", {"cgroup.controllers": "memory"})
    make(tmp_path / "fs/hub", {"memory.max": 500 * MIB, "memory.current": 450 * MIB, "memory.stat": f"anon 1\ninactive_file {30 * MIB}"})
    make(tmp_path / "fs/hub/user", {"memory.max": "max", "memory.current": 100 * MIB, "memory.stat": "inactive_file 0"})
    assert left(tmp_path, "0::/hub/user\n") == 80 * MIB
    make(tmp_path / "fs/hub/user", {"memory.max": 110 * MIB})
    assert left(tmp_path, "0::/hub/user\n") == 10 * MIB
    assert left(tmp_path, "0::/hub\n") == 80 * MIB
    assert left(tmp_path, "0::/\n") is None


def test_version_1(tmp_path: Path) -> None:
    own = {"memory.limit_in_bytes": 200 * MIB, "memory.usage_in_bytes": 220 * MIB, "memory.stat": f"inactive_file 7\ntotal_inactive_file {5 * MIB}"}
    make(tmp_path / "fs/memory", {"memory.limit_in_bytes": 0x7FFFFFFFFFFFF000, "memory.usage_in_bytes": 1, "memory.stat": ""})
    make(tmp_path / "fs/memory/own", own)
    assert left(tmp_path, "4:memory:/own\n0::/\n") == 0
    make(tmp_path / "fs/memory/own", {"memory.usage_in_bytes": 60 * MIB})
    assert left(tmp_path, "4:memory:/own\n0::/\n") == 145 * MIB


def test_what_cannot_be_seen_is_no_limit(tmp_path: Path) -> None:
    make(tmp_path / "fs", {"cgroup.controllers": ""})
    for cgroup in ("", "nonsense\n", "0::/not/here\n", "0::/../above\n"):
        assert left(tmp_path, cgroup) is None


def test_a_guest_that_would_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template, "memory_left_bytes", lambda: 300 * MIB)
    template.check_memory(template.RESTORED_BYTES)
    with pytest.raises(HostError, match="takes 384 MiB of memory before its first cell, and this kernel's limit leaves 300 MiB") as refused:
        template.check_memory(template.BOOTED_BYTES)
    assert "vm setup" in refused.value.remedy
    monkeypatch.setattr(template, "memory_left_bytes", lambda: None)
    template.check_memory(template.BOOTED_BYTES)
