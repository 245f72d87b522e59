"""A hub that is not root, with real sudo: servers, their limits and their end, and what such a hub may not do."""

from __future__ import annotations

import os
import signal
import subprocess
import urllib.error
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import pytest
from facilities import require

from nbcontainer.cgroups import open_driver

from .hubs import Hub, cgroups_of, processes_of, remove_servers, runtime_directory, unix_users
from .test_hub import SHORT, each_runs

HOME = Path(os.environ.get("NBCONTAINER_HUB_HOME", "/nowhere"))
PLACE = "/nbcontainer-sudotest"
GROUP = "nbcsudoers"
SUDOERS = Path("/etc/sudoers.d/nbcontainer-sudotest")
MORE = f"""
c.JupyterHub.spawner_class = "nbcontainer.jupyter.hub.SudoSpawner"
c.SudoSpawner.group = {GROUP!r}
c.SudoSpawner.cgroup_place = {PLACE!r}
c.SudoSpawner.pids_limit = 200
"""
LIMITS = """
import glob, os
files = [*glob.glob("/sys/fs/cgroup/*/nbcontainer-sudotest/*/memory.limit_in_bytes"), *glob.glob("/sys/fs/cgroup/nbcontainer-sudotest/*/memory.max")]
print(os.getuid(), [int(open(file).read()) >> 20 for file in files], [os.access(file, os.W_OK) for file in files], "SUDO_USER" in os.environ)
print(os.environ["XDG_RUNTIME_DIR"], os.environ["JUPYTER_RUNTIME_DIR"])
"""


@dataclass(frozen=True)
class Place:
    hub: Hub
    owner: str
    """The hub's own user."""
    student: str
    stranger: str
    """Not in the group."""

    def steward(self, *words: str) -> subprocess.CompletedProcess[str]:
        """As the hub's user would type it."""
        python = str(HOME / "venv/bin/python")
        command = ["sudo", "-n", python, "-I", "-m", "nbcontainer.jupyter.steward", *words]
        return subprocess.run(command, user=self.owner, group=self.owner, extra_groups=[], cwd="/", capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    require(os.geteuid() == 0, "users are made and removed: sudo tests/run --lane hub")
    require((HOME / "venv/bin/jupyterhub").exists(), "JupyterHub, its proxy and a Python for all users: tests/run --lane hub")
    require(Path("/usr/bin/sudo").exists(), "needs sudo: apt install sudo")
    driver = open_driver(PLACE.strip("/"), parent="/")
    with unix_users(3, HOME / "sudohome", "nbcsudo") as (owner, student, stranger):
        subprocess.run(["/usr/sbin/groupadd", "-f", GROUP], check=True)
        subprocess.run(["/usr/sbin/usermod", "-aG", GROUP, student], check=True)
        example = (resources.files("nbcontainer.jupyter") / "examples" / "sudo_config.py").read_text()
        line = next(line for line in example.splitlines() if "NOPASSWD" in line).split("'")[1]
        for word, ours in (("jupyterhub ALL", f"{owner} ALL"), ("/opt/hub", str(HOME / "venv")), ("students", GROUP), ("/jupyterhub *", f"{PLACE} *")):
            assert line.count(word) == 1
            line = line.replace(word, ours)
        SUDOERS.write_text(line + "\n")
        SUDOERS.chmod(0o440)
        subprocess.run(["/usr/sbin/visudo", "-cqf", str(SUDOERS)], check=True)
        directory = HOME / "sudohome" / owner / "hub"
        hub = Hub(directory, HOME, [student, stranger], more=MORE, runs_as=owner)
        subprocess.run(["chown", "-R", f"{owner}:", str(directory)], check=True)
        try:
            hub.start()
            yield Place(hub, owner, student, stranger)
        finally:
            hub.stop(signal.SIGKILL)
            hub.end_proxy()
            SUDOERS.unlink()
            remove_servers(driver, PLACE)
            subprocess.run(["/usr/sbin/groupdel", GROUP], check=False)


def test_a_server_runs_as_its_user_within_its_limits_and_nothing_stays(place: Place) -> None:
    hub, student = place.hub, place.student
    replies = each_runs(hub, {student: [LIMITS, SHORT]})[0][student]
    uid = int(subprocess.run(["id", "-u", student], check=True, capture_output=True, text=True).stdout)
    memory = f"/run/nbcontainer-hub/{PLACE.strip('/')}/{uid}"
    assert replies[0].text == f"{uid} [640] [False] False\n{memory} {memory}/jupyter\n"
    assert runtime_directory(student, PLACE) == memory
    assert (replies[1].status, replies[1].text) == ("ok", "42\n"), replies[1].errors
    server = hub.server(student)["started"]
    hub.stop(signal.SIGKILL)
    hub.end_proxy()
    hub.start()
    assert hub.server(student)["ready"], "a hub that was started anew finds its servers"
    assert hub.server(student)["started"] == server
    hub.stop_server(student)
    assert processes_of(student) == []
    assert cgroups_of(student, PLACE) == []
    assert runtime_directory(student, PLACE) == ""


def test_who_is_not_in_the_group_gets_no_server_and_is_told(place: Place) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        place.hub.start_server(place.stranger)
    assert f"user '{place.stranger}' is not in the group '{GROUP}'" in refused.value.read().decode()
    assert cgroups_of(place.stranger, PLACE) == []


@pytest.mark.parametrize(
    "words",
    [
        ("--group", "root", "--place", PLACE, "run", "root", "", "id"),
        ("--place", PLACE, "--group", GROUP, "run", "root", "", "id"),
        ("--group", GROUP, "--place", "/", "remove", "x", ""),
    ],
)
def test_sudo_allows_nothing_else(place: Place, words: tuple[str, ...]) -> None:
    done = place.steward(*words)
    assert (done.returncode, done.stdout) == (1, "")
    assert "a password is required" in done.stderr


@pytest.mark.parametrize("user", ["root", "nobody", "nbcnobodyatall", "../..", ""])
def test_the_hub_can_start_nothing_as_anybody_else(place: Place, user: str) -> None:
    for words in (("limit", user, "", "0", "0", "64"), ("run", user, "", "id"), ("remove", user, "")):
        done = place.steward("--group", GROUP, "--place", PLACE, *words)
        assert (done.returncode, done.stdout) == (126, ""), words
        assert "is not in the group" in done.stderr or "there is no user" in done.stderr


def test_a_server_s_name_leads_nowhere_else(place: Place) -> None:
    done = place.steward("--group", GROUP, "--place", PLACE, "limit", place.student, "../../elsewhere", "67108864", "0", "64")
    try:
        assert done.returncode == 0, done.stderr
        assert all(f"{PLACE}/{place.student}:..%2F..%2Felsewhere" in line for line in done.stdout.split())
    finally:
        place.steward("--group", GROUP, "--place", PLACE, "remove", place.student, "../../elsewhere")
    assert cgroups_of(f"{place.student}:..%2F..%2Felsewhere", PLACE) == []
