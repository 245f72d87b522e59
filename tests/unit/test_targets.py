"""Where mounts go: links are followed inside the root, and whoever mounts into a user's directory is told what is missing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbcontainer.errors import SpecError
from nbcontainer.runtime.skeleton import Branch
from nbcontainer.runtime.targets import ContainerTree, Target, find_targets
from nbcontainer.spec import ContainerSpec
from nbcontainer.validate import make_spec


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A DIR root with links of every kind."""
    root = tmp_path / "root"
    (root / "usr" / "bin").mkdir(parents=True)
    for name, target in {
        "bin": "usr/bin", "absolute": "/usr/bin", "up": "../../../usr", "round": "/round", "outside": "/etc", "proc-link": "/proc/self",
        "usr/back": "../bin", "etc": "/usr",
    }.items():  # fmt: skip
        (root / name).symlink_to(target)
    (root / "file").touch()
    return root


def _spec(root: Path, *volumes: str, **options: object) -> ContainerSpec:
    return make_spec(root=str(root), program="sh", base=str(root.parent), volume=list(volumes), **options)


def _targets(root: Path, *volumes: str, **options: object) -> list[Target]:
    return find_targets(_spec(root, *volumes, **options), ())


def _refusal(root: Path, *volumes: str, **options: object) -> str:
    with pytest.raises(SpecError) as caught:
        _targets(root, *volumes, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/bin/x", "/usr/bin/x"),
        ("/absolute/x", "/usr/bin/x"),
        ("/up/x", "/usr/x"),
        ("/usr/back/x", "/usr/bin/x"),
        ("/outside/x", "/etc/x"),
        ("/new/deep", "/new/deep"),
        ("/new/../bin", "/usr/bin"),
    ],
)
def test_links_are_followed_inside_the_root(root: Path, path: str, expected: str) -> None:
    assert ContainerTree(_spec(root), ()).resolve(path) == expected


@given(st.lists(st.sampled_from(["bin", "up", "outside", "absolute", "usr", "back", "..", ".", "", "x"]), max_size=8))
def test_no_path_leads_out_of_the_root(tmp_path_factory: pytest.TempPathFactory, parts: list[str]) -> None:
    root = tmp_path_factory.getbasetemp() / "links"
    if not root.exists():
        (root / "usr" / "bin").mkdir(parents=True)
        for name, target in {"bin": "usr/bin", "absolute": "/usr/bin", "up": "../../../usr", "outside": "/etc", "usr/back": "../bin"}.items():
            (root / name).symlink_to(target)
    path = ContainerTree(make_spec(root=str(root), program="sh", base="/usr"), ()).resolve("/" + "/".join(parts))
    assert path.startswith("/")
    assert not {"..", "."} & set(path[1:].split("/"))


def test_what_cannot_be_a_target(root: Path) -> None:
    assert "round in circles" in _refusal(root, "/usr:/round/x")
    assert "leads to /proc/self/x" in _refusal(root, "/usr:/proc-link/x")
    assert "two mounts at /usr/bin" in _refusal(root, "/usr:/bin", "/opt:/usr/bin")
    assert "/file is a file in the container" in _refusal(root, "/usr:/file/x")
    assert "/file is a file in the container, and /usr is a directory" in _refusal(root, "/usr:/file")
    assert "/usr is a directory in the container, and /etc/passwd is a file" in _refusal(root, "/etc/passwd:/usr")


def test_files_of_its_own_can_be_covered(root: Path) -> None:
    """Whatever the host has there: /etc/resolv.conf is often a link."""
    assert _targets(root, "/etc/passwd:/etc/resolv.conf")[0].mount.target == "/etc/resolv.conf"


def test_outer_mounts_come_first_in_any_order(root: Path) -> None:
    (root.parent / "d" / "in").mkdir(parents=True)
    for volumes in (["./d:/data", "/usr:/data/in"], ["/usr:/data/in", "./d:/data"]):
        outer, inner = _targets(root, *volumes)
        assert (outer.mount.target, outer.within, inner.mount.target, inner.within) == ("/data", None, "/data/in", outer.mount)


def test_nothing_is_made_in_a_user_s_directory(root: Path) -> None:
    directory = root.parent / "d"
    directory.mkdir()
    assert f"make it yourself: mkdir -p {directory}/new" in _refusal(root, "./d:/data", "/usr:/data/new")
    assert f"make it yourself: mkdir -p {directory}/new" in _refusal(root, "./d:/data", tmpfs=["/data/new"])
    assert f"make it yourself: touch {directory}/new" in _refusal(root, "/etc/passwd:/data/new", "./d:/data")
    assert f"make it yourself: mkdir -p {directory}/zz" in _refusal(root, "./d:/workspace", "/usr:/workspace/zz")
    with pytest.raises(SpecError, match=f"make it yourself: mkdir -p {root}/new"):
        find_targets(make_spec(root=f"{root}:rw", program="sh", base=str(root.parent), volume=["/usr:/new"]), ())
    assert os.listdir(directory) == []


def test_links_of_volumes_are_followed_too(root: Path) -> None:
    (root.parent / "d" / "real").mkdir(parents=True)
    (root.parent / "d" / "link").symlink_to("real")
    assert _targets(root, "./d:/data", "/usr:/data/link")[1].mount.target == "/data/real"


def test_the_host_s_tree_as_a_root_is_not_changed() -> None:
    spec = make_spec(root="none", volume=["/usr:/no/such/place"])
    with pytest.raises(SpecError, match="/no/such/place does not exist, and --root none"):
        find_targets(spec, ())


def test_a_system_root_shows_links_of_programs_and_nobody_s_data(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "link").symlink_to("/etc")
    tree = ContainerTree(make_spec(base="/usr/share"), [Branch(str(tmp_path / "venv"), "python-0", "", True)])
    assert tree.resolve("/bin/x") == f"{os.path.realpath('/bin')}/x"
    assert tree.resolve(f"{data}/link/x") == f"{data}/link/x"
    assert tree.resolve("/var/run/x") == "/run/x"
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv" / "lib64").symlink_to("lib")
    assert tree.resolve(f"{tmp_path}/venv/lib64/x") == f"{tmp_path}/venv/lib/x"
