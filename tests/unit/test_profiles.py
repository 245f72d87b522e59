"""Defaults and caps from files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from nbcontainer import profiles
from nbcontainer.errors import SpecError
from nbcontainer.spec import ContainerSpec
from nbcontainer.units import MIB
from nbcontainer.validate import change_limits, make_spec


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(profiles, "SYSTEM_FILE", str(tmp_path / "etc.toml"))
    (tmp_path / "project" / "notebooks").mkdir(parents=True)
    return tmp_path / "project"


def spec_in(project: Path, **options: Any) -> ContainerSpec:
    return make_spec(options, base=str(project / "notebooks"))


def write(project: Path, text: str) -> None:
    (project / "pyproject.toml").write_text(text)


def cap(project: Path, text: str) -> None:
    (project.parent / "etc.toml").write_text(text)


def test_the_nearest_project_s_file_sets_defaults(project: Path) -> None:
    write(project, '[tool.nbcontainer]\nmem = "96M"\nmax-output = "1M"\npids = 32\nvolumes = ["./data:/data:ro"]\n')
    (project / "data").mkdir()
    (project / "notebooks" / "pyproject.toml").write_text("[tool.other]\n")
    spec = make_spec({}, base=str(project))
    assert (spec.limits.memory_bytes, spec.max_output_bytes, spec.limits.pids) == (96 * MIB, MIB, 32)
    assert spec.mounts[0].source == str(project / "data")
    assert make_spec({"mem": "64M"}, base=str(project)).limits.memory_bytes == 64 * MIB


def test_a_file_that_changes_is_read_again(project: Path) -> None:
    write(project, '[tool.nbcontainer]\nmem = "96M"\n')
    assert spec_in(project).limits.memory_bytes == 96 * MIB
    write(project, '[tool.nbcontainer]\nmem = "100M"\n')
    assert spec_in(project).limits.memory_bytes == 100 * MIB
    os.unlink(project / "pyproject.toml")
    assert spec_in(project).memory_by_default


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[tool.nbcontainer]\nmemm = "96M"', "has 'memm', and there is no such option; did you mean mem"),
        ('[tool.nbcontainer]\nmem = "96Q"', r"--mem: '96Q' is not .*pyproject.toml\)"),
        ("[tool]\nnbcontainer = 3", "is not a table"),
        ("[tool.nbcontainer", "cannot be read"),
        ('[tool.nbcontainer]\nnet = "host"', "net = 'host' would open something"),
        ('[tool.nbcontainer]\nsecurity = "unconfined"', "security = 'unconfined' would open something"),
        ('[tool.nbcontainer]\ncap_add = ["SYS_ADMIN"]', "would open something"),
        ('[tool.nbcontainer]\nvolume = ["/:/host"]', "'/:/host' is not below the project"),
        ('[tool.nbcontainer]\nvolume = ["../..:/host"]', "is not below the project"),
        ("[tool.nbcontainer]\nvolume = 3", "is not below the project"),
    ],
)
def test_wrong_and_open_handed_projects(project: Path, text: str, message: str) -> None:
    write(project, text)
    with pytest.raises(SpecError, match=message) as caught:
        spec_in(project)
    assert "pyproject.toml" in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_the_administrator_s_defaults_are_below_the_project_s(project: Path) -> None:
    cap(project, '[defaults]\nmem = "64M"\npids = 16\n')
    write(project, '[tool.nbcontainer]\nmem = "96M"\n')
    spec = spec_in(project)
    assert (spec.limits.memory_bytes, spec.limits.pids) == (96 * MIB, 16)


def test_caps_hold_for_what_is_asked_for_and_for_what_is_not(project: Path) -> None:
    cap(project, '[caps]\nmem = "128M"\ncpus = 0.5\ntimeout = 60\nnet = ["none"]\ncap_add = false\nio_read = "1M/s"\n')
    spec = spec_in(project)
    assert (spec.limits.memory_bytes, spec.limits.cpus, spec.timeout_seconds) == (128 * MIB, 0.5, 60)
    assert spec.limits.io_read_bytes_per_second == MIB
    assert spec_in(project, mem="64M", net="none", timeout=5).timeout_seconds == 5
    for options, message in [
        ({"mem": "129M"}, r"--mem: '129M' is more than the '128M' that .*etc.toml allows"),
        ({"cpus": 1}, "--cpus: 1 is more than the 0.5"),
        ({"net": "host"}, "--net: 'host' is not allowed here; .*etc.toml allows none"),
        ({"cap_add": ["NET_RAW"]}, r"--cap-add: is not allowed here \(.*etc.toml\)"),
    ]:
        with pytest.raises(SpecError, match=message):
            spec_in(project, **options)


def test_caps_hold_while_a_container_runs(project: Path) -> None:
    cap(project, '[caps]\nmem = "128M"\n')
    limits = spec_in(project).limits
    assert change_limits(limits, {"mem": "64M", "cpus": None}).memory_bytes == 64 * MIB
    for value in ("129M", None):
        with pytest.raises(SpecError, match=r"etc\.toml allows"):
            change_limits(limits, {"mem": value})


def test_volumes_of_the_cell_take_the_place_of_the_project_s(project: Path) -> None:
    write(project, '[tool.nbcontainer]\nvolumes = ["./notebooks:/a"]\n')
    assert [mount.target for mount in spec_in(project, volumes=[f"{project}:/b"]).mounts] == ["/b"]
    cap(project, "[caps]\nvolume = false\n")
    with pytest.raises(SpecError, match="--volume: is not allowed here"):
        spec_in(project)


@pytest.mark.parametrize(
    ("text", "message"),
    [("[caps]\nmem = 'x'", "mem: 'x' is not"), ("[cap]\n", "neither"), ("[caps]\nnet = 'none'", "neither a list"), ("[caps]\nmeem = 1", "did you mean mem")],
)
def test_a_wrong_administrator_s_file_stops_everything(project: Path, text: str, message: str) -> None:
    cap(project, text)
    with pytest.raises(SpecError, match=message):
        spec_in(project)
