"""Mount points: wherever a volume goes, the root around it stays as it was, and nothing is made in anybody's directory."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest
from facilities import require, rootless

import nbcontainer as nbc

ROOTS = ("system", "host", "dir")


@pytest.fixture
def notebook(tmp_path: Path) -> Path:
    """A notebook's directory with one file, two directories to mount, and a root made of busybox with merged /bin."""
    require(os.path.exists("/bin/busybox"), "busybox-static: apt-get install busybox-static")
    for name in ("work", "d", "e", "dir/usr/bin", "dir/var/tmp", "dir/private"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "d" / "here").write_text("d\n")
    (tmp_path / "e" / "here").write_text("e\n")
    (tmp_path / "dir" / "bin").symlink_to("usr/bin")
    (tmp_path / "dir" / "private").chmod(0o710)
    (tmp_path / "dir" / "var" / "tmp").chmod(0o1777)
    for name in ("sh", "cat", "stat", "ls"):
        shutil.copy("/bin/busybox", tmp_path / "dir" / "usr" / "bin" / name)
    return tmp_path


def _run(notebook: Path, root: str, code: str, *volumes: str, **options: object) -> nbc.Result:
    before = _listing(notebook)
    place = str(notebook / "dir") if root == "dir" else root
    result = nbc.run(code, program=["sh"], root=place, base=str(notebook / "work"), volumes=list(volumes), **options)
    assert _listing(notebook) == before
    return result


def _listing(directory: Path) -> list[str]:
    return sorted(str(path) for path in directory.rglob("*"))


@pytest.mark.parametrize("root", ROOTS)
@pytest.mark.parametrize("target", ["/bin/extra", "/usr/bin/extra", "/srv/a/b", "/tmp/extra", "/var/tmp/extra", "/root/extra", "/workspace/x"])
def test_a_volume_leaves_the_root_around_it_as_it_was(notebook: Path, root: str, target: str) -> None:
    # An ordinary user can give a copy of root's directory to nobody else.
    format_ = "%a 0 %n" if rootless() else "%a %u %n"
    code = "stat -c '%a %u %n' / /bin/. /usr/bin /usr /tmp /workspace; for d in /var/tmp /root /var; do stat -c '%a %u %n' $d 2>/dev/null; done; stat -c '%A %N' /bin".replace("%a %u %n", format_)
    plain, with_volume = _run(notebook, root, code), _run(notebook, root, f"{code}; cat {target}/here", f"../d:{target}")
    assert with_volume.stdout.splitlines()[-1] == "d", with_volume.stderr
    seen, expected = with_volume.stdout.splitlines()[:-1], plain.stdout.splitlines()
    # What was not there before is made for it, as a directory that everybody may pass.
    new = [line for line in seen if line.split()[:2] == ["755", "0"] and line.split()[2] in ("/root", "/var", "/var/tmp")]
    assert [line for line in seen if line not in new] == [line for line in expected if line not in new]
    assert plain.stdout


@pytest.mark.parametrize("root", ROOTS)
@pytest.mark.parametrize("target", ["/bin/one", "/tmp/one", "/etc/resolv.conf", "/workspace/one", "/new/one"])
def test_a_file_goes_anywhere_too(notebook: Path, root: str, target: str) -> None:
    assert _run(notebook, root, f"cat {target}; cat {target}", f"../d/here:{target}").stdout == "d\nd\n"


def test_modes_of_a_directory_root_are_kept(notebook: Path) -> None:
    code = "stat -c '%a %u' /private /var/tmp; cat /private/x/here /var/tmp/x/here"
    assert _run(notebook, "dir", code, "../d:/private/x", "../e:/var/tmp/x").stdout == "710 0\n1777 0\nd\ne\n"


@pytest.mark.parametrize("root", ROOTS)
def test_volumes_nest_in_any_order(notebook: Path, root: str) -> None:
    (notebook / "d" / "in").mkdir()
    for volumes in (["../d:/data", "../e:/data/in"], ["../e:/data/in", "../d:/data"]):
        assert _run(notebook, root, "cat /data/here /data/in/here", *volumes).stdout == "d\ne\n"


@pytest.mark.parametrize("root", ROOTS)
def test_volumes_in_a_tmpfs_and_a_tmpfs_in_a_volume(notebook: Path, root: str) -> None:
    (notebook / "d" / "in").mkdir()
    code = "cat /t/a/b/here /t/a/c/here /t/f; echo x > /t/y; echo x > /data/in/y; ls /data/in"
    volumes = ["../d:/t/a/b", "../e:/t/a/c", "../e/here:/t/f", "../d:/data"]
    assert _run(notebook, root, code, *volumes, tmpfs=["/t", "/data/in"]).stdout == "d\ne\ne\ny\n"


def test_a_mount_point_in_a_user_s_directory_is_the_user_s_to_make(notebook: Path) -> None:
    for volumes in (["../d:/data", "../e:/data/new"], [".:/workspace", "../e:/workspace/zz"]):
        with pytest.raises(nbc.SpecError, match="make it yourself: mkdir -p"):
            _run(notebook, "system", "true", *volumes)


@pytest.mark.parametrize("root", ["system", "host"])
def test_a_volume_below_the_python_prefix(notebook: Path, root: str) -> None:
    result = nbc.run(
        f"print(open({sys.prefix!r} + '/extra/deep/here').read(), end='')", root=root, base=str(notebook / "work"),
        volumes=[f"../d:{sys.prefix}/extra/deep"],
    )  # fmt: skip
    assert result.stdout == "d\n", result.stderr
    assert not os.path.exists(f"{sys.prefix}/extra")


def test_a_read_only_root_has_room_for_volumes(notebook: Path) -> None:
    assert _run(notebook, "system", "cat /new/x/here; echo x > /new/y || echo refused", "../d:/new/x", read_only=True).stdout == "d\nrefused\n"


@pytest.mark.parametrize("what", ["volume", "workspace", "root"])
def test_a_link_that_appears_after_the_line_was_read_leads_nowhere(notebook: Path, what: str) -> None:
    """A cell that may write to a directory above could put it there while the next line is carried out."""
    from nbcontainer.engine import local
    from nbcontainer.validate import make_spec

    secret, place = notebook / "secret", notebook / "d" / "place"
    shutil.copytree(notebook / "dir", place, symlinks=True)
    shutil.copytree(notebook / "dir", secret, symlinks=True)
    (secret / "here").write_text("secret\n")
    options: dict[str, object] = {"mem": "64M", "program": ["sh"], "base": str(notebook / "work")}
    if what == "volume":
        options["volumes"] = [f"{place}:/data"]
    elif what == "workspace":
        options["base"] = str(place)
    else:
        options["root"] = str(place)
    spec = make_spec(options)
    shutil.rmtree(place)
    place.symlink_to(secret)
    with pytest.raises(nbc.SetupError, match="leads through a symbolic link that was not there"):
        local.open_local().start(spec, "cat /data/here /workspace/here /here")
    place.unlink()
    place.mkdir()
    if what != "root":
        run = local.open_local().start(spec, "true")
        assert [event.outcome for event in run.events() if isinstance(event, nbc.events.Finished)] == ["exited"]
