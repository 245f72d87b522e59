"""Volumes from file systems with and without idmapped mounts: what is written belongs to the notebook's user, or is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from facilities import only_as_root

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
MOUNTS = {
    "tmpfs": "mount -t tmpfs tmpfs {place}",
    "ramfs": "mount -t ramfs ramfs {place}",
    "overlay": "mount -t tmpfs t {place} && mkdir {place}/l {place}/u {place}/w && mount -t overlay o -o lowerdir={place}/l,upperdir={place}/u,workdir={place}/w {place}",
}


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
