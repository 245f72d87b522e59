"""The directory in memory of a user who has a server: made by root, bounded, and removed with whatever the user has put there."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from facilities import only_as_root

from nbcontainer.errors import SetupError
from nbcontainer.jupyter import rundir
from nbcontainer.linux import syscalls

UID, OTHER = 61237, 61238
PLACE = "/nbcontainer-rundir/below"


@pytest.fixture
def directories(nothing_leaks: None, tmp_path: Path) -> Iterator[rundir.RuntimeDirectories]:
    only_as_root("mounting for others is root's")
    for directory in (tmp_path, *tmp_path.parents[:2]):
        directory.chmod(0o711)  # pytest's are for root alone
    made = rundir.RuntimeDirectories(PLACE, str(tmp_path / "root"))
    yield made
    made.keep_only(list)


def as_user(uid: int, command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", "-c", command], user=uid, group=uid, extra_groups=[], cwd="/", capture_output=True, text=True, check=False)


def test_it_is_its_user_s_alone(directories: rundir.RuntimeDirectories) -> None:
    path, other = directories.make(UID, UID), directories.make(OTHER, OTHER)
    found = os.stat(path)
    assert (found.st_mode & 0o7777, found.st_uid, found.st_gid) == (0o700, UID, UID)
    assert as_user(UID, f"mkdir {path}/nbcontainer && stat -c %u {path}/nbcontainer").stdout == f"{UID}\n"
    for command in (f"ls {other}", f"touch {other}/x", f"rmdir {path}", f"mv {path} {path}2", f"mkdir {os.path.dirname(path)}/99", f"ls {os.path.dirname(path)}"):
        done = as_user(UID, command)
        assert done.returncode != 0, command
        assert "Permission denied" in done.stderr, command


def test_what_one_user_fills_is_nobody_else_s_room(directories: rundir.RuntimeDirectories) -> None:
    path, other = directories.make(UID, UID), directories.make(OTHER, OTHER)
    assert "No space left" in as_user(UID, f"cat /dev/zero >{path}/all").stderr
    assert os.stat(f"{path}/all").st_size == rundir.SIZE_BYTES
    assert as_user(OTHER, f"head -c 1000000 /dev/zero >{other}/some").returncode == 0


def test_a_second_server_of_the_user_s_finds_what_the_first_has(directories: rundir.RuntimeDirectories) -> None:
    path = directories.make(UID, UID)
    as_user(UID, f"echo here >{path}/x")
    directories.keep_only(lambda: {UID, OTHER})
    assert directories.make(UID, UID) == directories.of(UID) == path
    assert Path(path, "x").read_text() == "here\n"
    directories.keep_only(lambda: {OTHER})
    assert (directories.of(UID), os.path.exists(path)) == ("", False)
    assert os.listdir(directories.make(UID, UID)) == [], "nothing of the time before"


def _nest(path: str, levels: int) -> None:
    """Directories in each other, whose path is longer than Linux takes in one piece."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(levels):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)


def test_what_the_user_put_there_leads_nowhere_else(directories: rundir.RuntimeDirectories, tmp_path: Path) -> None:
    """Links, a tree too deep for what walks it, and a file that is still open."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").write_text("kept")
    path = directories.make(UID, UID)
    assert as_user(UID, f"ln -s {elsewhere} {path}/link && ln -s / {path}/nbcontainer").stderr == ""
    _nest(path, 2000)
    with open(f"{path}/open", "w"):
        directories.keep_only(list)
    assert not os.path.exists(os.path.dirname(path))
    assert (elsewhere / "kept").read_text() == "kept"


def test_where_others_may_write_nothing_is_made(directories: rundir.RuntimeDirectories, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    root.chmod(0o777)
    with pytest.raises(SetupError, match="make the server's directory in memory") as refused:
        directories.make(UID, UID)
    assert (refused.value.errno, refused.value.path) == (errno.EPERM, str(root))
    root.rmdir()
    root.symlink_to(tmp_path)
    with pytest.raises(SetupError):
        directories.make(UID, UID)
    root.unlink()


def test_without_the_right_to_mount_there_is_none(directories: rundir.RuntimeDirectories, tmp_path: Path) -> None:
    code = f"from nbcontainer.jupyter.rundir import *; d = RuntimeDirectories({PLACE!r}, {str(tmp_path / 'root')!r}); print(environment(d.make({UID}, {UID})), d.of({UID}))"
    command = ["setpriv", "--bounding-set", "-sys_admin", sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("{} \n", "")


def test_nor_where_run_is_read_only(directories: rundir.RuntimeDirectories, tmp_path: Path) -> None:
    directories.make(UID, UID)
    directories.keep_only(list)
    syscalls.mount("tmpfs", str(tmp_path), "tmpfs", syscalls.MS_RDONLY)
    try:
        directories.keep_only(list)
        assert (directories.make(UID, UID), directories.of(UID)) == ("", "")
    finally:
        syscalls.umount2(str(tmp_path), 0)
