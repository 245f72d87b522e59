"""Ten students on one JupyterHub: their cells run in containers, and what one of them does is no matter of the others'."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import textwrap
import threading
import time
import urllib.error
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import psutil
import pytest
from facilities import require

from nbcontainer.cgroups import delegate, open_driver

from .hubs import (
    NO_ACCOUNT,
    PLACE,
    START_SECONDS,
    Hub,
    Reply,
    Student,
    cgroups_of,
    container_pids,
    end_proxy,
    free_bytes,
    free_port,
    processes_of,
    remove_servers,
    runtime_directory,
    small_disk,
    unix_users,
)

STUDENTS = 10
ROUNDS = 3
OPENINGS = 3
HOME = Path(os.environ.get("NBCONTAINER_HUB_HOME", "/nowhere"))
FIGURES = os.environ.get("NBCONTAINER_SCREENSHOTS")
LIVE = "%%container --live --mem 64M --cpus 0.5\nimport os, time\nprint('pid', os.getpid(), flush=True)\ntime.sleep(1.5)\nprint('done')"
SHORT = "%%container --mem 64M --no-live\nprint(6 * 7)"
FORK_BOMB = """import os, time
end = time.time() + 2
while time.time() < end:
    try:
        os.fork()
    except OSError:
        time.sleep(0.05)
os._exit(0)
"""
UNCONTAINED = f"import subprocess, sys\nprint(subprocess.run([sys.executable, '-I', '-S', '-c', {FORK_BOMB!r}]).returncode)"
MEMORY_HOG = "data = []\nwhile True: data.append(bytearray(8 << 20))"
PLACES = ("/tmp", "/var/tmp", "/root", "/workspace", "/dev/shm", "/data")
DISK_FILLER = f"""%%container --mem 256M --no-live -v .:/data
import os
for place in {PLACES}:
    path, written = place + "/all-of-it", 0
    with open(path, "ab", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    written += file.write(bytes(size))
            except OSError as error:
                why = error.strerror
    print(place, why, written > 1 << 20)
    if place != "/data":
        os.unlink(path)
"""
"""To the last byte: its copy-on-write files, and by a volume its home, which is on the same disk as everybody's."""
ASIDE = re.compile(r"The history saving thread hit .*?written to the database\.|Matplotlib is building the font cache; this may take a moment\.")
"""What IPython says, once, when the disk is full, and Matplotlib on a busy machine: by threads of their own, in the middle of whatever is said."""
DISK_MEBIBYTES = 256
HOMES = HOME / "home"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    require(os.geteuid() == 0, "users are made and removed: sudo tests/run --lane hub")
    require((HOME / "venv/bin/jupyterhub").exists(), "JupyterHub, its proxy and a Python for all users: tests/run --lane hub")
    driver = open_driver(PLACE.strip("/"), parent="/")
    with small_disk(HOMES, DISK_MEBIBYTES), unix_users(STUDENTS, HOMES) as names:
        hub = Hub(tmp_path_factory.mktemp("hub"), HOME, names)
        try:
            hub.start()
            yield hub
        finally:
            hub.stop(signal.SIGKILL)
            hub.end_proxy()
            remove_servers(driver)


async def open_student(hub: Hub, name: str) -> Student:
    """Jupyter chooses a kernel's ports before that kernel has them: of ten that start at once, two may have the same, and one dies. Who sees
    that opens the notebook again."""
    for _ in range(OPENINGS):
        student = Student(hub, name)
        await student.open()
        with contextlib.suppress(ConnectionError):
            if (reply := await student.run("%load_ext nbcontainer")).status != "dead":
                assert reply.status == "ok", reply.errors
                return student
        await student.close()
    raise RuntimeError(f"{name}'s kernels die at their start, see the hub's log")


def said(reply: Reply) -> str:
    """By the cell itself, without empty lines."""
    return "".join(f"{line}\n" for line in ASIDE.sub("", reply.text).splitlines() if line)


def each_runs(hub: Hub, *phases: dict[str, list[str]]) -> list[dict[str, list[Reply]]]:
    """The students run their cells at the same time, each in a kernel of their own, phase after phase.

    All are ready before the first begins.
    """

    async def everybody() -> list[dict[str, list[Reply]]]:
        names = list(dict.fromkeys(name for phase in phases for name in phase))
        students = dict(zip(names, await asyncio.gather(*(open_student(hub, name) for name in names)), strict=True))

        async def one(name: str, cells: list[str]) -> list[Reply]:
            return [await students[name].run(code) for code in cells]

        replies = []
        for cells in phases:
            replies.append(dict(zip(cells, await asyncio.gather(*(one(name, codes) for name, codes in cells.items())), strict=True)))
        for student in students.values():
            await student.end()
        return replies

    return asyncio.run(everybody())


def run_one(hub: Hub, name: str, code: str) -> Reply:
    return each_runs(hub, {name: [code]})[0][name][0]


def test_ten_students_run_contained_cells_with_live_panels(hub: Hub) -> None:
    (replies,) = each_runs(hub, {name: [LIVE] for name in hub.users})
    for name, (reply,) in replies.items():
        assert (reply.status, reply.errors) == ("ok", []), name
        assert said(reply) == "pid 1\ndone\n", name
        assert reply.widgets >= 1, f"{name} saw no panel"


def test_each_server_is_in_a_cgroup_that_its_user_cannot_widen(hub: Hub) -> None:
    code = """
        import glob, json, os
        own = {line.split(":")[1]: line.strip().split(":")[2] for line in open("/proc/self/cgroup")}
        place = own.get("memory", os.path.dirname(own.get("", "/")))
        files = [f"/sys/fs/cgroup/{name}" for name in (f"memory{place}/memory.limit_in_bytes", f"{place[1:]}/memory.max", f"pids{place}/pids.max", f"{place[1:]}/pids.max")]
        there = [file for file in files if os.path.exists(file)]
        tried = []
        for file in there:
            try:
                open(file, "w").write("max")
            except PermissionError:
                tried.append(int(open(file).read()))
        print(json.dumps([os.getuid(), place, len(there), tried]))"""
    reply = run_one(hub, hub.users[1], textwrap.dedent(code))
    uid, place, there, tried = json.loads(reply.text)
    assert uid == psutil.Process(hub.server(hub.users[1])["state"]["pid"]).uids().real > 0
    assert place == f"{PLACE}/{hub.users[1]}"
    assert (there, tried) == (2, [640 << 20, 300])


@dataclass
class _Class:
    """Who is in the room, in open notebooks; the one who takes all memory has two."""

    students: dict[str, Student]
    spare: Student
    over: bool = False

    async def goes_on(self, student: Student, cells: list[str]) -> list[list[Reply]]:
        """These cells again and again, until the others have finished; at least once."""
        rounds = []
        while not rounds or not self.over:
            rounds.append([await student.run(code) for code in cells])
        return rounds

    async def each_runs(self, names: list[str], cells: list[str]) -> dict[str, list[Reply]]:
        async def one(student: Student) -> list[Reply]:
            return [await student.run(code) for code in cells]

        return dict(zip(names, await asyncio.gather(*(one(self.students[name]) for name in names)), strict=True))


def test_what_three_of_them_do_is_no_matter_of_the_others(hub: Hub) -> None:
    """All three go on until the seven have finished, and the disk that all homes are on is full meanwhile."""
    bomber, hog, filler, *others = hub.users

    async def scene() -> _Scene:
        opened = await asyncio.gather(*(open_student(hub, name) for name in hub.users))
        room = _Class(dict(zip(hub.users, opened, strict=True)), await open_student(hub, hog))
        before = await room.each_runs(hub.users, [SHORT] * 3)
        await room.each_runs(others, [LIVE])  # Matplotlib keeps a list of fonts, for which there is no room later
        assert (await room.spare.run(SHORT)).text == "42\n"
        has_started_twice(others[2])
        filling = await room.students[filler].run(DISK_FILLER)
        free = [free_bytes(HOMES)]

        async def take_all_memory() -> tuple[Reply, list[list[Reply]]]:
            dead = await room.students[hog].run(MEMORY_HOG)
            return dead, await room.goes_on(room.spare, [f"%%container --mem 96M --no-live\n{MEMORY_HOG}"])

        bombs = asyncio.create_task(room.goes_on(room.students[bomber], [f"%%container --mem 256M --pids 64 --no-live\n{FORK_BOMB}", UNCONTAINED]))
        hogs = asyncio.create_task(take_all_memory())
        fills = asyncio.create_task(room.goes_on(room.students[filler], [DISK_FILLER]))
        during = await room.each_runs(others, [LIVE, SHORT, SHORT] * ROUNDS)
        free.append(free_bytes(HOMES))
        saved = [await asyncio.to_thread(saves_a_notebook, hub, others[0])]
        late = [await first_cell(hub, others[1])]
        await room.students[others[2]].close()
        await asyncio.to_thread(hub.stop_server, others[2])
        late.append(await first_cell(hub, others[2]))
        free.append(free_bytes(HOMES))
        room.over = True
        seen = _Scene({name: before[name] for name in others}, during, [[filling], *await fills], await bombs, await hogs, free, saved, late)
        (HOMES / filler / "work/all-of-it").unlink()
        saved.append(await asyncio.to_thread(saves_a_notebook, hub, others[0]))
        del room.students[others[2]]  # ended with the server
        for student in (*room.students.values(), room.spare):
            await student.end()
        return seen

    with asking(hub, others[0]) as hub_seconds:
        seen = asyncio.run(scene())
    _check_the_attacks(seen)
    for name in others:
        live, short = seen.during[name][::3], [reply for number, reply in enumerate(seen.during[name]) if number % 3]
        assert [(reply.status, said(reply), reply.errors) for reply in live] == [("ok", "pid 1\ndone\n", [])] * ROUNDS, name
        assert all(reply.widgets >= 1 and reply.pictures >= 1 for reply in live), f"{name}: a panel while it runs, and its figure at the end"
        assert [(reply.status, said(reply), reply.errors) for reply in short] == [("ok", "42\n", [])] * 2 * ROUNDS, name
    new_kernel, new_server = ((reply.status, said(reply), reply.errors) for reply in seen.late)
    assert new_kernel == ("ok", "42\n", [])
    assert new_server == ("ok", "42\n", [])
    assert all(hub.server(name)["ready"] for name in hub.users)
    assert len(hub_seconds) >= 2
    assert seen.saved == [False, True], "what they do suffer, for as long as there are no quotas: nothing new is saved"
    _keep(seen.before, seen.during, hub_seconds)


def has_started_twice(name: str) -> None:
    """Then Jupyter has made this, without which no server starts; for a third time it needs nothing in the home."""
    directory = HOMES / name / ".jupyter"
    directory.mkdir()
    (directory / "migrated").touch()
    for path in (directory, directory / "migrated"):
        shutil.chown(path, name, name)


async def first_cell(hub: Hub, name: str) -> Reply:
    """Of a new notebook."""
    student = await open_student(hub, name)
    reply = await student.run(SHORT)
    await student.end()
    return reply


def saves_a_notebook(hub: Hub, name: str) -> bool:
    notebook = {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    try:
        hub.of_server(name, "PUT", "api/contents/work/mine.ipynb", {"type": "notebook", "content": notebook})
    except urllib.error.HTTPError as error:
        assert "No space left on device" in error.read().decode()
        return False
    return True


@dataclass(frozen=True)
class _Scene:
    before: dict[str, list[Reply]]
    during: dict[str, list[Reply]]
    fills: list[list[Reply]]
    bombs: list[list[Reply]]
    hogs: tuple[Reply, list[list[Reply]]]
    free: list[int]
    """Bytes on the disk of all homes, when the seven began, when they had finished, and at the end."""
    saved: list[bool]
    """Whether one of the seven could save a notebook then, and when the disk filler's file was gone."""
    late: list[Reply]
    """The first contained cell of a new kernel, and of a new server, while the disk was full."""


def _check_the_attacks(seen: _Scene) -> None:
    """Each of them was made, and met its limit."""
    assert max(seen.free) < 1 << 12, "not a block for anybody"
    (first,), *later = seen.fills
    assert first.text == "".join(f"{place} No space left on device True\n" for place in PLACES), first.errors
    assert all(said(reply).startswith("/tmp No space left on device True\n") for (reply,) in later)
    (contained, uncontained), *more = seen.bombs
    assert contained.status == "ok", contained.errors  # it could not fork more, and ended
    assert (uncontained.status, said(uncontained)) == ("ok", "0\n")
    # What the one outside has left may still take all that this user may have.
    assert all(reply.status in ("ok", "error") for replies in more for reply in replies)
    uncontained, contained_hogs = seen.hogs
    assert uncontained.status == "dead", "Linux killed the kernel, within its user's limit"
    assert all("Out of memory" in reply.errors[0] for (reply,) in contained_hogs)


@contextlib.contextmanager
def asking(hub: Hub, name: str) -> Iterator[list[float]]:
    """Somebody who asks the hub ten times a second; yields the seconds of its answers."""
    stop, seconds = threading.Event(), []

    def ask() -> None:
        while not stop.wait(0.1):
            begin = time.monotonic()
            hub.call("GET", f"users/{name}")
            seconds.append(time.monotonic() - begin)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield seconds
    finally:
        stop.set()
        thread.join()


def _keep(before: dict[str, list[Reply]], during: dict[str, list[Reply]], hub_seconds: list[float]) -> None:
    """Figures for people: seconds of a short contained cell of the seven others, and of an answer of the hub."""
    figures = {
        name: {"median": round(statistics.median(values), 3), "worst": round(max(values), 3)}
        for name, values in {
            "cells before": [reply.seconds for replies in before.values() for reply in replies],
            "cells during": [reply.seconds for replies in during.values() for number, reply in enumerate(replies) if number % 3],
            "hub during": hub_seconds,
        }.items()
    }
    print(json.dumps(figures))
    if FIGURES:
        Path(FIGURES).mkdir(parents=True, exist_ok=True)
        Path(FIGURES, "hub.json").write_text(json.dumps(figures, indent=1))


def test_nobody_sees_or_signals_another_s_containers(hub: Hub) -> None:
    owner, other = hub.users[3:5]

    async def scene() -> tuple[Reply, Reply, Reply]:
        first, second = await open_student(hub, owner), await open_student(hub, other)
        running = asyncio.create_task(first.run("%%container --mem 64M --no-live\nimport time\ntime.sleep(5)\nprint('undisturbed')"))
        while not (pids := container_pids(owner)):
            await asyncio.sleep(0.05)
        cgroup = next(path for path in cgroups_of(owner) if "/memory/" in path or path.count("/") == 5)
        code = f"""
            import os, nbcontainer.state
            done = []
            def attempt(name, call, *arguments):
                try:
                    done.append((name, call(*arguments)))
                except PermissionError:
                    pass
            for pid in {pids}:
                attempt("kill", os.kill, pid, 9)
                attempt("root", os.listdir, f"/proc/{{pid}}/root")
                attempt("environ", open, f"/proc/{{pid}}/environ")
                attempt("memory", open, f"/proc/{{pid}}/mem")
                attempt("move", lambda: open({cgroup!r} + "/cgroup.procs", "w").write(str(pid)))
            attempt("home", os.listdir, os.path.expanduser("~{owner}"))
            attempt("cgroup", os.mkdir, {cgroup!r} + "/x")
            print(done, nbcontainer.state.list_containers())"""
        outside = await second.run(textwrap.dedent(code))
        inside = await second.run("%%container --mem 64M --no-live\nimport os\nprint(sorted(name for name in os.listdir('/proc') if name.isdigit()))")
        undisturbed = await running
        await first.end()
        await second.end()
        return outside, inside, undisturbed

    outside, inside, undisturbed = asyncio.run(scene())
    assert (outside.errors, outside.text) == ([], "[] []\n")
    assert inside.text == "['1']\n"
    assert (undisturbed.status, undisturbed.text) == ("ok", "undisturbed\n")


def test_a_user_s_whole_kernel_in_a_container(hub: Hub) -> None:
    """Installed by root for all; what Linux killed it for is under the cell."""
    command = str(HOME / "venv/bin/nbcontainer")
    subprocess.run([command, "kernel", "install", "--name", "contained", "--mem", "160M"], check=True, stdout=subprocess.DEVNULL)

    async def scene() -> tuple[Reply, Reply]:
        student = Student(hub, hub.users[9], "contained")
        await student.open()
        who = await student.run("import os\nprint(os.getpid(), os.getuid())")
        hog = await student.run(MEMORY_HOG)
        await student.close()
        return who, hog

    try:
        who, hog = asyncio.run(scene())
    finally:
        subprocess.run([command, "kernel", "rm", "contained"], check=True, stdout=subprocess.DEVNULL)
    assert who.text == "1 0\n"
    assert hog.status == "dead"
    assert "Linux killed this kernel when its container reached --mem 160 MiB" in hog.errors[0]


def test_stopping_a_server_leaves_nothing(hub: Hub) -> None:
    name = hub.users[5]

    async def scene() -> None:
        student = await open_student(hub, name)
        await student.run("import subprocess\nsubprocess.Popen(['sleep', '1000'], start_new_session=True)")
        running = asyncio.create_task(student.run("%%container --mem 64M --no-live\nimport time\ntime.sleep(1000)"))
        while not container_pids(name):
            await asyncio.sleep(0.05)
        await asyncio.to_thread(hub.stop_server, name)
        running.cancel()
        await student.close()

    hub.ensure_server(name)
    assert cgroups_of(name)
    assert runtime_directory(name)
    asyncio.run(scene())
    assert (processes_of(name), cgroups_of(name), runtime_directory(name)) == ([], [], "")
    hub.start_server(name)
    assert run_one(hub, name, SHORT).text == "42\n"


def test_a_restarted_hub_finds_servers_kernels_and_running_containers(hub: Hub) -> None:
    name = hub.users[2]

    async def scene() -> tuple[list[int], Reply]:
        student = await open_student(hub, name)
        await student.run("kept = 6 * 7")
        assert (await student.run("%%container -d --name stays --mem 64M\nimport time\ntime.sleep(1000)")).status == "ok"
        before = container_pids(name)
        await student.close()
        await asyncio.to_thread(hub.stop)
        assert container_pids(name) == before, "while there is no hub"
        await asyncio.to_thread(hub.start)
        await student.connect()
        reply = await student.run("print(kept)\n%container ps --format '{{.Names}} {{.Status}}'")
        await student.end()
        return before, reply

    server = hub.ensure_server(name)
    before, reply = asyncio.run(scene())
    assert before
    assert hub.server(name)["state"]["pid"] == server
    assert reply.text.startswith("42\nstays Up "), reply
    assert container_pids(name) == [], "they end with their kernel"


def test_a_crashed_hub_takes_its_servers_over_and_sweeps(hub: Hub) -> None:
    running, dead, *_ = hub.users[6:]
    server = hub.ensure_server(running)
    hub.ensure_server(dead)
    hub.stop(signal.SIGKILL)
    for process in processes_of(dead):
        process.kill()
    deadline = time.monotonic() + 30
    while processes_of(dead) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert cgroups_of(dead), "nobody has removed it yet"
    hub.end_proxy()
    assert runtime_directory(dead)
    hub.start()
    assert (cgroups_of(dead), runtime_directory(dead)) == ([], "")
    assert hub.server(running)["state"]["pid"] == server
    assert run_one(hub, running, SHORT).text == "42\n"
    hub.stop_server(running)
    assert (processes_of(running), cgroups_of(running), runtime_directory(running)) == ([], [], "")
    hub.start_server(dead)
    assert run_one(hub, dead, SHORT).text == "42\n"


def test_a_pid_of_somebody_else_is_no_server(hub: Hub) -> None:
    """After a crash, only the pid is known; the cgroup tells whether that is still the server."""
    name = hub.users[8]
    pid = hub.ensure_server(name)
    assert pid in delegate.processes(open_driver(PLACE.strip("/"), parent="/"), name)
    assert os.getpid() not in delegate.processes(open_driver(PLACE.strip("/"), parent="/"), name)


def test_a_server_that_cannot_be_started_says_why(hub: Hub) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        hub.start_server(NO_ACCOUNT)
    assert "Your server was not started: there is no user 'nbcnoaccount' on this machine" in refused.value.read().decode()
    assert cgroups_of(NO_ACCOUNT) == []


@pytest.mark.parametrize(
    ("name", "spawner"),
    [
        ("jupyterhub_config.py", "nbcontainer.jupyter.hub.DelegatingSpawner"),
        # What it gives a student is tried where there is a systemd: tests/guest/hub_under_systemd.py.
        ("systemd_config.py", "systemdspawner.systemdspawner.SystemdSpawner"),
        # What it may and may not do: test_sudo.py.
        ("sudo_config.py", "nbcontainer.jupyter.hub.SudoSpawner"),
    ],
)
def test_the_examples_start_a_hub(tmp_path: Path, name: str, spawner: str) -> None:
    require((HOME / "venv/bin/jupyterhub").exists(), "JupyterHub: tests/run --lane hub")
    require(os.geteuid() == 0, "the example's hub runs as root: sudo tests/run --lane hub")
    example = resources.files("nbcontainer.jupyter") / "examples" / name
    (tmp_path / "jupyterhub_config.py").write_text(example.read_text())
    addresses = [f"--{name}=http://127.0.0.1:{free_port()}" for name in ("JupyterHub.bind_url", "JupyterHub.hub_bind_url", "ConfigurableHTTPProxy.api_url")]
    path = f"{HOME}/venv/bin:{HOME}/proxy/node_modules/.bin:/usr/bin:/bin"
    log, deadline = tmp_path / "log", time.monotonic() + START_SECONDS
    with log.open("wb") as file:
        environment = {"PATH": path, "HOME": "/root", "LANG": "C.UTF-8"}
        hub = subprocess.Popen([str(HOME / "venv/bin/jupyterhub"), *addresses], cwd=tmp_path, env=environment, stdout=file, stderr=file)
    try:
        while "JupyterHub is now running" not in log.read_text() and hub.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        assert "JupyterHub is now running" in log.read_text()
        assert f"Using Spawner: {spawner}" in log.read_text()
        assert "not recognized" not in log.read_text(), "each name of its settings is known"
    finally:
        hub.terminate()
        hub.wait(START_SECONDS)
        end_proxy(tmp_path)
    assert not any(Path(directory).exists() for directory in open_driver("jupyterhub", parent="/").directories), "nothing is made before a user comes"


def test_without_delegation_the_hub_says_what_to_type() -> None:
    require(Path("/usr/bin/bwrap").exists(), "needs bubblewrap: apt install bubblewrap")
    require((HOME / "venv/bin/jupyterhub").exists(), "JupyterHub: tests/run --lane hub")
    code = "from nbcontainer.jupyter.hub import check_host; check_host('/nbcontainer-nowhere')"
    command = ["bwrap", "--dev-bind", "/", "/", "--ro-bind", "/sys/fs/cgroup", "/sys/fs/cgroup", str(HOME / "venv/bin/python"), "-c", code]
    done = subprocess.run(command, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("nbcontainer.errors.HostError: no permission to make cgroups")
