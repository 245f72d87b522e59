"""Volumes from file systems with and without idmapped mounts: what is written belongs to the notebook's user, or is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from facilities import in_guest, only_as_root

CODE = """
import json, os, sys, nbcontainer as nbc
place = sys.argv[1]
def attempt(code, **options):
    try:
        result = nbc.run(code, program=["sh"], mem="64M", **options)
        return [result.outcome, result.exit_code, result.stdout]
    except nbc.NbcontainerError as error:
        return [type(error).__name__, str(error)]
listing = "stat -c '%u %g' /d/. ; cat /d/here; echo new > /d/new && stat -c %u /d/new"
said = {
    "volume": attempt(listing, volumes=[f"{place}:/d"]),
    "read-only": attempt("cat /d/here; touch /d/x", volumes=[f"{place}:/d:ro"]),
    "workspace": attempt("cat here; echo x > here; cat here", base=place),
    "root": attempt("true", root=place),
    "shared ids": attempt(listing, volumes=[f"{place}:/d"], share="user"),
    "next": attempt("echo ok"),
}
said["new"] = os.stat(f"{place}/new").st_uid if os.path.exists(f"{place}/new") else -1
said["here"] = open(f"{place}/here").read()
print(json.dumps(said))
"""
GOES = """
import os, subprocess, sys, nbcontainer as nbc
place = sys.argv[1]
def look():
    return nbc.run(f"ls {place} 2>&1", program=["sh"], root="host", mem="64M", workspace="none").stdout
before = look()
subprocess.run(["umount", place], check=True)
os.rmdir(place)
print([before, look(), look()])
"""
MOUNTS = {
    "tmpfs": "mount -t tmpfs tmpfs {place}",
    "ramfs": "mount -t ramfs ramfs {place}",
    "overlay": "mount -t tmpfs t {place} && mkdir {place}/l {place}/u {place}/w && mount -t overlay o -o lowerdir={place}/l,upperdir={place}/u,workdir={place}/w {place}",
}


def test_a_file_system_that_is_unmounted_is_gone_from_later_containers(tmp_path: Path) -> None:
    only_as_root("file systems of one's own")
    if in_guest():
        pytest.skip("the guest has no loop devices")
    place, image = tmp_path / "place", tmp_path / "image"
    place.mkdir()
    for directory in (tmp_path, *tmp_path.parents[:2]):
        directory.chmod(0o755)  # else nobody's, and in no root
    image.touch()
    os.truncate(image, 16 << 20)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", image], check=True, env={"PATH": "/usr/sbin:/sbin:/usr/bin"})
    script = f'mount -o loop {image} {place} && rmdir {place}/lost+found && touch {place}/here && exec "$@"'
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", sys.executable, "-c", GOES, str(place)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    gone = f"ls: cannot access '{place}': No such file or directory\n"
    assert done.stdout == f"{['here' + chr(10), gone, gone]}\n"


def said_by(kind: str, directory: Path) -> dict[str, list[object]]:
    """What a kernel says that sees such a file system, mounted for it alone."""
    place = directory / "place"
    place.mkdir()
    directory.chmod(0o755)
    mount = MOUNTS[kind].format(place=place)
    script = f'({mount}) && echo here > {place}/here && exec "$@"'
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", sys.executable, "-c", CODE, str(place)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    found: dict[str, list[object]] = json.loads(done.stdout)
    return found


def test_what_root_writes_belongs_to_the_notebook_s_user(tmp_path: Path) -> None:
    only_as_root("file systems of one's own")
    said = said_by("tmpfs", tmp_path)
    assert said["volume"] == ["exited", 0, "0 0\nhere\n0\n"]
    assert said["read-only"] == ["exited", 1, "here\n"]
    assert said["workspace"] == ["exited", 0, "here\nx\n"]
    assert said["shared ids"] == ["exited", 0, "0 0\nhere\n0\n"]
    assert (said["new"], said["here"], said["next"]) == (os.getuid(), "here\n", ["exited", 0, "ok\n"])


@pytest.mark.parametrize("kind", ["ramfs", "overlay"])
def test_without_idmapped_mounts_it_is_refused_and_says_what_to_type(kind: str, tmp_path: Path) -> None:
    only_as_root("file systems of one's own")
    said = said_by(kind, tmp_path)
    for what in ("volume", "read-only", "workspace", "root"):
        name, text = said[what]
        assert name == "SetupError", what
        assert "idmapped mounts" in str(text)
        assert "--share user" in str(text)
        assert "\n" not in str(text)
    assert said["shared ids"] == ["exited", 0, "0 0\nhere\n0\n"]
    assert (said["new"], said["here"], said["next"]) == (os.getuid(), "here\n", ["exited", 0, "ok\n"])
