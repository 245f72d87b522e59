"""Subordinate ids: which of /etc/subuid and /etc/subgid are a user's, and how they are divided among containers."""

from __future__ import annotations

import itertools
import os
import pwd
from pathlib import Path

import pytest

from nbcontainer.errors import HostError
from nbcontainer.linux import subordinate
from nbcontainer.linux.subordinate import DISTINCT_FROM, IDS_OF_A_CONTAINER, SubordinateIds

NAME = pwd.getpwuid(os.geteuid()).pw_name


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files in place of /etc/subuid, /etc/subgid and /proc/self/status, and newuidmap and newgidmap on the path."""
    for name in ("newuidmap", "newgidmap"):
        (tmp_path / name).touch(0o755)
    monkeypatch.setattr(subordinate, "_PATH", str(tmp_path))
    (tmp_path / "status").write_text("Name:\tx\nNoNewPrivs:\t0\n")
    return tmp_path


def find(files: Path, subuid: str, subgid: str) -> SubordinateIds:
    (files / "subuid").write_text(subuid)
    (files / "subgid").write_text(subgid)
    return subordinate.find(str(files / "subuid"), str(files / "subgid"), str(files / "status"))


def test_by_name_and_by_number_the_largest_range_counts(files: Path) -> None:
    found = find(files, f"{NAME}:1000:10\nother:5:999999\n{os.geteuid()}:200000:65536\n", f"# a comment\n{NAME}:300000:70000\n")
    assert (found.first_uid, found.first_gid, found.count) == (200000, 300000, 65536)
    assert found.newuidmap == str(files / "newuidmap")


@pytest.mark.parametrize("text", ["", "other:100000:65536\n", f"{NAME}:100000:0\n", f"{NAME}:x:y\n", f"{NAME}:1\n", f"{NAME}::\n"])
def test_no_range_says_what_to_type(files: Path, text: str) -> None:
    with pytest.raises(HostError, match="usermod --add-subuids"):
        find(files, text, f"{NAME}:100000:65536\n")
    with pytest.raises(HostError, match="usermod --add-subuids"):
        find(files, f"{NAME}:100000:65536\n", text)


def test_no_programs_and_no_new_privileges_say_what_to_do(files: Path) -> None:
    line = f"{NAME}:100000:65536\n"
    (files / "status").write_text("NoNewPrivs:\t1\n")
    with pytest.raises(HostError, match="allowPrivilegeEscalation"):
        find(files, line, line)
    (files / "newgidmap").unlink()
    with pytest.raises(HostError, match="apt-get install uidmap"):
        find(files, line, line)


def test_a_small_range_is_shared_and_a_large_one_is_divided() -> None:
    few = SubordinateIds(100000, 200000, 65536, "", "")
    assert (few.ranges, few.range(0)) == (1, (100000, 200000, IDS_OF_A_CONTAINER))
    assert SubordinateIds(100000, 100000, 500, "", "").range(0) == (100000, 100000, 500)
    many = SubordinateIds(100000, 200000, DISTINCT_FROM * IDS_OF_A_CONTAINER + 5, "", "")
    assert many.ranges == DISTINCT_FROM
    ranges = [many.range(number) for number in range(many.ranges)]
    for (first_uid, first_gid, count), (next_uid, next_gid, _) in itertools.pairwise(ranges):
        assert (first_uid + count, first_gid + count) == (next_uid, next_gid)
    assert ranges[-1][0] + ranges[-1][2] <= many.first_uid + many.count
