"""Inside of Docker and the like, files of /etc are mounts, so that /etc itself can be no layer. tests/run mounts some and runs this."""

from __future__ import annotations

import os

import pytest
from facilities import require

import nbcontainer as nbc


@pytest.fixture(scope="module", autouse=True)
def mounted() -> None:
    with open("/proc/self/mountinfo") as table:
        points = [line.split()[4] for line in table]
    require("/etc/hosts" in points, "an outer container's /etc/hosts: mount --bind /etc/hosts /etc/hosts")


@pytest.mark.parametrize("root", ["system", "host"])
def test_files_of_etc_are_there_all_the_same(root: str) -> None:
    code = "cat /etc/passwd; cat /etc/hosts; ls -d /etc/ssl /etc/os-release"
    result = nbc.run(code, program=["sh"], root=root, hostname="inside")
    assert result.ok, result.stderr
    with open("/etc/passwd") as file:
        assert result.stdout.startswith(file.read())
    assert "localhost inside" in result.stdout


@pytest.mark.parametrize("root", ["system", "host"])
def test_what_is_secret_is_not(root: str) -> None:
    code = "cat /etc/shadow /etc/gshadow /etc/ssh/ssh_host_*_key; ls -A /etc/ssl/private /etc/sudoers.d; true"
    assert nbc.run(code, program=["sh"], root=root).stdout == ""


def test_the_host_s_own_files_cannot_be_written() -> None:
    result = nbc.run("echo x >> /etc/passwd || echo refused; touch /etc/new && rm /etc/new && echo made", program=["sh"])
    assert result.stdout == "refused\nmade\n", result.stderr


def test_a_python_cell_and_a_volume_in_etc(tmp_path: os.PathLike[str]) -> None:
    with open(os.path.join(tmp_path, "own.conf"), "w") as file:
        file.write("own")
    volumes = [f"{tmp_path}/own.conf:/etc/own.conf:ro", f"{tmp_path}/own.conf:/etc/group:ro"]
    result = nbc.run("import ssl; print(open('/etc/own.conf').read(), open('/etc/group').read())", volumes=volumes)
    assert result.stdout == "own own\n", result.stderr
