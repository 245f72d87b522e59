"""Containers of an ordinary user with subordinate ids: root inside is the user, everybody else is nobody's."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from facilities import require, rootless

import nbcontainer as nbc
from nbcontainer.engine import local
from nbcontainer.errors import HostError
from nbcontainer.linux import subordinate
from nbcontainer.linux.subordinate import IDS_OF_A_CONTAINER, SubordinateIds


@pytest.fixture(scope="module", autouse=True)
def ids() -> Iterator[SubordinateIds]:
    """The user's subordinate ids, which the engine uses."""
    require(rootless(), "an ordinary user")
    try:
        found = subordinate.find()
    except HostError as error:
        require(False, str(error))
        raise
    engine = local.open_local()
    engine.explain(nbc.validate.make_spec({}))
    assert engine._user_ids is not None
    assert engine._user_ids.found == found, engine._user_ids.why_not
    yield found


def test_root_is_the_user_and_others_are_subordinate_ids(ids: SubordinateIds) -> None:
    result = nbc.run("for name in ('uid', 'gid'): print([list(map(int, line.split())) for line in open(f'/proc/self/{name}_map')])")
    uids, gids = map(eval, result.stdout.splitlines())
    assert uids[0] == [0, os.getuid(), 1]
    assert gids[0] == [0, os.getgid(), 1]
    count = min(ids.count, IDS_OF_A_CONTAINER)
    assert uids[1][0] == gids[1][0] == 1
    assert uids[1][2] == gids[1][2] == count
    assert ids.first_uid <= uids[1][1] <= ids.first_uid + ids.count - count


@pytest.mark.parametrize(
    ("user", "expected"), [("nobody", "65534 65534 [65534]"), ("1000:1001", "1000 1001 [1001]"), ("7", "7 7 [7]"), ("root", "0 0 []")]
)
def test_a_cell_can_be_another_user(user: str, expected: str) -> None:
    result = nbc.run("import os; print(os.getuid(), os.getgid(), os.getgroups())", user=user)
    assert result.stdout == f"{expected}\n", result.stderr


def test_another_user_has_no_capability() -> None:
    status = nbc.run("grep -E 'CapEff|CapPrm|CapInh|CapAmb' /proc/self/status", program=["sh"], user="1000", cap_add=["NET_RAW"]).stdout
    assert {line.split()[1] for line in status.splitlines()} == {"0" * 16}


def test_files_of_other_users_show_as_such() -> None:
    code = "import os\nfor ids in ((1000, 1001), (65534, 0)):\n    open('/tmp/x', 'w').close(); os.chown('/tmp/x', *ids); print(os.stat('/tmp/x')[4:6])"
    assert nbc.run(code).stdout == "(1000, 1001)\n(65534, 0)\n"


def test_another_user_may_do_no_more_than_its_files_allow() -> None:
    code = "echo x > /workspace/x || echo no; cat /root/x || echo no; echo x > /tmp/x && echo yes; kill -0 1 && echo itself"
    assert nbc.run(code, program=["sh"], user="1000").stdout == "no\nno\nyes\nitself\n"


def test_what_is_written_to_a_volume(tmp_path: Path, ids: SubordinateIds) -> None:
    """Root's is the user's, and nobody else may write there: it would belong to a subordinate id. Root can give a file to one, as with Podman."""
    volume = tmp_path / "volume"
    volume.mkdir()
    volume.chmod(0o1777)
    for parent in (tmp_path, *tmp_path.parents[:2]):
        if parent.stat().st_uid == os.getuid():
            parent.chmod(0o755)
    assert nbc.run("touch /v/root", program=["sh"], volumes=[f"{volume}:/v"]).ok
    with pytest.raises(HostError, match=f"'1000' writes to {volume} would not be yours") as caught:
        nbc.run("touch /v/other", program=["sh"], user="1000", volumes=[f"{volume}:/v"])
    assert f"-v {volume}:/v:ro" in caught.value.remedy
    assert nbc.run("ls /v", program=["sh"], user="1000", volumes=[f"{volume}:/v:ro"]).stdout == "root\n"
    shared = nbc.run("touch /v/other; chown 1000 /v/other; cat /proc/self/uid_map", program=["sh"], volumes=[f"{volume}:/v"])
    assert shared.ok, shared.stderr
    first = int(shared.stdout.split()[4])
    assert (volume / "root").stat().st_uid == os.getuid()
    assert (volume / "other").stat().st_uid == first + 999


@pytest.mark.parametrize("init", [False, True])
def test_the_kernel_can_end_processes_of_other_ids(init: bool) -> None:
    result = nbc.run("import time; time.sleep(60)", user="1000", timeout=0.3, init=init)
    assert result.outcome == "timeout"
    forks = "import os, time\nfor _ in range(3):\n    if os.fork() == 0:\n        os.setresuid(2000, 2000, 2000); time.sleep(60)\nos.wait()"
    assert nbc.run(forks, timeout=0.5).outcome == "timeout"


def test_out_of_memory_as_another_user() -> None:
    result = nbc.run("x = bytearray(200 << 20)", user="1000", mem="48M")
    assert (result.outcome, result.signal) == ("oom", signal.SIGKILL)


def test_set_uid_programs_give_nothing() -> None:
    code = "cp /bin/sh /tmp/sh; chmod 6755 /tmp/sh; chmod 777 /tmp; setpriv --reuid 1000 --regid 1000 --clear-groups /tmp/sh -p -c 'cat /proc/self/status' | grep ^Uid"
    assert nbc.run(code, program=["sh"]).stdout.split()[1:] == ["1000"] * 4


def test_explain_says_which_ids(ids: SubordinateIds) -> None:
    lines = "\n".join(local.open_local().explain(nbc.validate.make_spec({})))
    assert f"container id 0 is host id {os.getuid()}, 1-{min(ids.count, IDS_OF_A_CONTAINER)} are subordinate ids" in lines
    assert "setgroups" in lines


def test_no_container_is_made_where_newuidmap_refuses(ids: SubordinateIds, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids that are not the user's: one typed error, nothing left, and the next cell runs."""
    engine = local.open_local()
    engine.drop_spares()
    monkeypatch.setattr(SubordinateIds, "range", lambda self, number: (1, 1, 100))
    with engine._lock, pytest.raises(nbc.SetupError, match=r"set-up step 'id maps' at .*newuidmap: EPERM"):
        engine.drop_spares()
        nbc.run("pass")
    monkeypatch.undo()
    assert nbc.run("print('next')").stdout == "next\n"
