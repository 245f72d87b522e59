"""Kernels' files: what a dead kernel left is removed by what its file says, and nothing of a living one is touched."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from nbcontainer import state
from nbcontainer.errors import HostError, SetupError


@pytest.fixture
def kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty state directory's kernels/."""
    monkeypatch.setattr(state, "state_directory", lambda: tmp_path / "state")
    directory = tmp_path / "state" / "kernels"
    directory.mkdir(parents=True)
    return directory


def _dead_kernel(kernels: Path, place: str, directories: list[Path]) -> Path:
    path = kernels / f"{place}.json"
    path.write_text(json.dumps({"kernel_pid": 1, "cgroups": [str(directory) for directory in directories], "containers": []}))
    return path


def test_a_dead_kernel_s_cgroups_go_wherever_they_are(kernels: Path, tmp_path: Path) -> None:
    places = [tmp_path / "memory" / "elsewhere" / "nbc-dead", tmp_path / "pids" / "elsewhere" / "nbc-dead"]
    for place in places:
        (place / "abc" / "nested").mkdir(parents=True)
    file = _dead_kernel(kernels, "nbc-dead", [*places, tmp_path / "never-made" / "nbc-dead"])
    assert state.prune() == ["container abc of nbc-dead", "kernel state nbc-dead"]
    assert not file.exists()
    assert [path.name for path in tmp_path.glob("*/elsewhere/*")] == []
    assert (tmp_path / "memory" / "elsewhere").is_dir()


def test_a_living_kernel_keeps_everything(kernels: Path, tmp_path: Path) -> None:
    living = state.KernelState()
    place = tmp_path / living.place
    (place / "abc").mkdir(parents=True)
    living.nests_in((str(place),))
    # A file that names another kernel's directory is no leave to remove it.
    _dead_kernel(kernels, "nbc-dead", [place])
    assert state.prune() == ["kernel state nbc-dead"]
    assert (place / "abc").is_dir()
    assert [path.stem for path in kernels.iterdir()] == [living.place]
    living.close()
    assert list(kernels.iterdir()) == []


def test_a_file_stays_until_its_cgroups_are_gone(kernels: Path, tmp_path: Path) -> None:
    stuck = tmp_path / "a" / "nbc-stuck"
    stuck.mkdir(parents=True)
    (stuck / "file").touch()  # rmdir refuses, as it does for a cgroup with processes
    first = _dead_kernel(kernels, "nbc-stuck", [stuck])
    second = _dead_kernel(kernels, "nbc-zfree", [])
    with pytest.raises(SetupError, match="remove the cgroup"):
        state.prune()
    assert first.exists()
    assert not second.exists()
    (stuck / "file").unlink()
    assert state.prune() == ["kernel state nbc-stuck"]


@pytest.mark.parametrize(("content", "stays"), [("", False), ('{"kernel_pid": 1}', True), ("garbage", True)])
def test_a_file_without_a_record(kernels: Path, content: str, stays: bool) -> None:
    (kernels / "nbc-x.json").write_text(content)
    state.prune()
    assert (kernels / "nbc-x.json").exists() == stays


def test_a_record_that_got_shorter_reads_the_same_when_its_end_was_not_cut(kernels: Path) -> None:
    path = _dead_kernel(kernels, "nbc-cut", [])
    path.write_text(path.read_text() + '"}]}')
    assert state.prune() == ["kernel state nbc-cut"]


@pytest.mark.parametrize(("number", "remedy"), [(errno.ENOSPC, "make room"), (errno.EDQUOT, "make room"), (errno.EACCES, "mkdir -p")])
def test_without_a_place_for_state_it_says_what_helps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, remedy: str) -> None:
    def refuse(path: Path, **unused: object) -> None:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(HostError) as refused:
        state.state_directory()
    assert os.strerror(number) in str(refused.value)
    assert refused.value.remedy.startswith(remedy)
