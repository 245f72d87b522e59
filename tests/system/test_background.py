"""Containers in the background: their logs, their ends, what is kept of them, what they have written; and volumes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import footprint
import pytest
from facilities import rootless

import nbcontainer as nbc
from nbcontainer import volumes
from nbcontainer.containers import CONTAINERS
from nbcontainer.errors import SpecError
from nbcontainer.events import Event, Output
from nbcontainer.logs import IN_MEMORY_BYTES, SEGMENT_BYTES, Log
from nbcontainer.state import prune


@pytest.mark.essential
def test_a_program_runs_on_and_its_output_is_kept() -> None:
    said: list[str] = []

    def on_event(event: Event) -> None:
        if isinstance(event, Output):
            said.append(event.text)

    with nbc.start(program=["sh", "-c", "echo out; echo err >&2; sleep 600"], mem="64M", workspace="none", on_event=on_event) as container:
        assert container.status == "running" and container in CONTAINERS.all()
        follow = container.follow()
        while "err" not in container.logs():
            next(follow)
        assert sorted(container.logs().splitlines()) == ["err", "out"]
        assert container.wait(0.05) is None
        container.kill()
        result = container.wait()
    assert result is not None and (result.outcome, result.stdout, result.stderr) == ("killed", "out\n", "err\n")
    assert sorted(said) == ["err\n", "out\n"] and CONTAINERS.all() == []


def test_python_and_its_error() -> None:
    container = nbc.start("print(1)\n1 / 0", mem="64M", workspace="none")
    result = container.wait(30)
    assert result is not None and result.error is not None and (result.stdout, result.exit_code) == ("1\n", 1)


def test_stop_says_sigterm_first() -> None:
    handler = "import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\nprint('ready', flush=True)\ntime.sleep(600)"
    with nbc.start(handler, mem="64M", workspace="none") as container:
        next(container.follow()) if not container.logs() else None
        container.stop()
        assert container.wait().exit_code == 7  # type: ignore[union-attr]
    with nbc.start(program=["sleep", "600"], mem="64M", workspace="none") as container:
        container.stop(timeout=0.2)  # pid 1 without a handler: Linux ignores SIGTERM for it
        assert container.wait().outcome == "killed"  # type: ignore[union-attr]


@pytest.mark.essential
def test_an_init_passes_signals_on() -> None:
    with nbc.start(program=["sleep", "600"], init=True, mem="64M", workspace="none") as container:
        container.stop(timeout=60)
        result = container.wait()
        assert result is not None and (result.outcome, result.signal) == ("signalled", signal.SIGTERM)
    names = ["USR1", "HUP", "INT", "WINCH"]
    code = (
        "import signal, time\nseen = []\n"
        f"for name in {names}: signal.signal(signal.Signals['SIG' + name], lambda number, _: seen.append(signal.Signals(number).name[3:]))\n"
        f"print('ready', flush=True)\nwhile len(seen) < {len(names)}: time.sleep(0.01)\ntime.sleep(0.1)\nprint(*seen)"
    )
    with nbc.start(code, init=True, mem="64M", workspace="none", timeout=60) as container:
        follow = container.follow()
        while "ready" not in container.logs():
            next(follow)
        for name in names:
            container.kill(name)
        result = container.wait()
        assert result is not None and sorted(result.stdout.split()[1:]) == sorted(names)


def test_a_session_below_an_init_is_interrupted_and_stopped() -> None:
    with nbc.start(init=True, mem="64M", workspace="none") as lab:
        cell = "import time\nx = 5\ntry: time.sleep(60)\nexcept KeyboardInterrupt: print('interrupted')"
        timer = threading.Timer(0.5, lab.kill, ["INT"])
        timer.start()
        assert lab.run(cell).stdout == "interrupted\n" and lab.run("print(x)").stdout == "5\n"
        timer.join()
        lab.stop(timeout=60)
        result = lab.wait()
        assert result is not None and result.outcome != "killed"


def test_input_is_refused_in_the_background() -> None:
    container = nbc.start("input('who? ')", mem="64M", workspace="none")
    result = container.wait(30)
    assert result is not None and result.error is not None and "background" in result.error.evalue


@pytest.mark.parametrize(
    ("options", "said"),
    [({"program": ["nosuch-program"]}, "is not in the container"), ({"code": "1", "workdir": "/nowhere"}, "--workdir"), ({"code": b"1"}, "is not a str")],
    ids=str,
)
def test_what_cannot_begin_is_said_at_once(options: dict[str, object], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        nbc.start(mem="64M", workspace="none", **options)  # type: ignore[arg-type]
    assert CONTAINERS.all() == []


def test_an_error_of_who_listens_ends_the_container_and_is_raised() -> None:
    def fail(event: Event) -> None:
        if isinstance(event, Output):
            raise RuntimeError("the listener")

    with pytest.raises(RuntimeError, match="the listener"):
        nbc.start("print(1, flush=True)\nimport time; time.sleep(600)", mem="64M", workspace="none", on_event=fail).wait(30)


@pytest.mark.essential
def test_what_was_written_is_told_from_what_was_there() -> None:
    write = (
        "echo x >/tmp/new; mkdir -p /opt/made/deep 2>/dev/null; echo y >/workspace/w; cd /usr/share/doc && d=$(ls -d */ | head -1);"
        "chmod 777 . 2>/dev/null; echo done"
    )
    with nbc.start(program=["sh", "-c", write + "; sleep 600"], mem="64M", base=str(Path(__file__).parent)) as container:
        while "done" not in container.logs():
            next(container.follow())
        changes = {(change.kind, change.path) for change in container.diff()}
    assert {("A", "/tmp/new"), ("A", "/workspace/w")} <= changes
    assert not any(path in ("/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/proc", "/dev/null", "/dev") for _, path in changes)


def test_changed_deleted_and_replaced(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("1")
    (tmp_path / "changed").write_text("1")
    (tmp_path / "gone").write_text("1")
    (tmp_path / "emptied").mkdir()
    (tmp_path / "emptied/inner").write_text("1")
    code = (
        "import os, shutil\nos.chdir('/workspace')\nopen('changed', 'a').write('2'); os.remove('gone'); open('added', 'w').close()\n"
        "shutil.rmtree('emptied'); os.mkdir('emptied'); open('emptied/other', 'w').close(); os.symlink('/etc', 'link'); os.mkfifo('pipe')"
    )
    container = nbc.start(code, mem="64M", base=str(tmp_path), keep=True)
    try:
        result = container.wait(30)
        assert result is not None and result.ok, result
        found = [(change.kind, change.path.removeprefix("/workspace/")) for change in container.diff() if change.path.startswith("/workspace/")]
        assert found == [
            ("A", "added"), ("C", "changed"), ("C", "emptied"), ("D", "emptied/inner"), ("A", "emptied/other"), ("D", "gone"), ("A", "link"), ("A", "pipe"),
        ]  # fmt: skip
    finally:
        container.remove()
    with pytest.raises(SpecError, match="has ended"):
        container.diff()


def test_a_hostile_tree_ends_the_search_and_not_the_kernel() -> None:
    """Directories that move while they are read, and links that lead outside."""
    code = (
        "import os, threading\nos.chdir('/tmp')\nos.makedirs('a/' + '/'.join('d' * 200)[:399])\nos.symlink('/', 'root')\nprint('ready', flush=True)\n"
        "while True:\n    os.rename('a', 'b'); os.symlink('/etc', 'a'); os.remove('a'); os.rename('b', 'a')"
    )
    with nbc.start(code, mem="96M", workspace="none") as container:
        while "ready" not in container.logs():
            next(container.follow())
        for _ in range(20):
            assert not any(change.path.startswith(("/tmp/root/", "/tmp/a/passwd")) for change in container.diff())


DEEP = "import os\nos.chdir({place!r})\nfor _ in range(3000): os.mkdir('d'); os.chdir('d')\nopen('end', 'w').write('12345')\nprint('ready', flush=True)\n"


def test_directories_thousands_of_levels_deep(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(volumes, "directory", lambda: tmp_path / "volumes")
    code = DEEP.format(place="/tmp") + "import time; time.sleep(600)"
    with nbc.start(code, mem="256M", workspace="none") as container:
        next(container.follow()) if not container.logs() else None
        with pytest.raises(SpecError, match="levels deep"):
            container.diff()
    assert nbc.run(DEEP.format(place="/box"), mem="256M", workspace="none", volumes=["box:/box"]).stdout == "ready\n"
    assert volumes.find("box").size_bytes() == 5
    volumes.remove("box")
    assert volumes.find_all() == []


def test_there_is_nothing_to_compare() -> None:
    with nbc.start(program=["sleep", "600"], mem="64M", root="none") as container, pytest.raises(SpecError, match="host's own tree"):
        container.diff()


def test_a_kept_container_stays_until_it_is_removed() -> None:
    container = nbc.start("open('/tmp/x', 'w').close(); print('said')", mem="64M", workspace="none", keep=True, name="kept")
    container.wait(30)
    assert CONTAINERS.find("kept") is container and container.logs() == "said\n"
    assert ("A", "/tmp/x") in [(change.kind, change.path) for change in container.diff()]
    with pytest.raises(SpecError, match="container kept already"):
        nbc.start(name="kept")
    container.remove()
    assert CONTAINERS.all() == [] and container.logs() == "said\n"


def test_a_log_forgets_its_beginning_and_follows_its_end() -> None:
    log = Log()
    follow = log.follow()
    line = "x" * 99_999 + "\n"
    for number in range(3 * SEGMENT_BYTES // len(line)):
        log.append("stdout", f"{number} {line}")
        assert next(follow).text.startswith(f"{number} ")
    kept = sum(len(record.text) for record in log.records())
    assert SEGMENT_BYTES < kept <= 2 * SEGMENT_BYTES + 2 * len(line)
    log.append("stderr", "begun ")
    log.append("stdout", "other\n")
    log.append("stderr", "and ended\n")
    assert [(found.stream, found.text) for found in log.lines(2)] == [("stdout", "other\n"), ("stderr", "begun and ended\n")]
    log.close()
    assert [record.text for record in follow] == ["begun ", "other\n", "and ended\n"]
    log.forget()
    assert sum(len(record.text) for record in log.records()) <= IN_MEMORY_BYTES


def test_volumes_are_kept_shared_and_refused_while_in_use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(volumes, "directory", lambda: tmp_path / "volumes")
    assert nbc.run("echo 1 >/data/x", program=["sh"], mem="64M", volumes=["box:/data"], workspace="none").ok
    assert nbc.run("cat /data/x", program=["sh"], mem="64M", volumes=["box:/data:ro"], workspace="none").stdout == "1\n"
    owner = os.stat(tmp_path / "volumes/box/data/x").st_uid
    assert owner == os.geteuid(), "what a container's root writes belongs to whom the volume belongs"
    with nbc.start(program=["sleep", "600"], mem="64M", volumes=["box:/data"], workspace="none"):
        assert volumes.find("box").in_use()
        with pytest.raises(SpecError, match="in use"):
            volumes.remove("box")
    assert not volumes.find("box").in_use()
    with pytest.raises(SpecError, match="did you mean box"):
        volumes.find("bax")
    volumes.remove("box")
    assert volumes.find_all() == []
    with pytest.raises(SpecError, match="--volume"):
        nbc.run("1", volumes=["-bad:/data"])


@pytest.mark.essential
def test_a_kernel_that_is_killed_leaves_nothing_of_its_sessions() -> None:
    code = (
        "import nbcontainer as nbc, threading\nfrom nbcontainer.engine import local\n"
        "lab = nbc.start(mem='64M'); back = nbc.start(program=['sleep', '600'], mem='64M', keep=True)\nlab.run('x = 1')\n"
        "threading.Thread(target=lab.exec, args=(['sleep', '601'],), daemon=True).start()\n"
        "threading.Thread(target=lab.run, args=('import time; time.sleep(602)',), daemon=True).start()\n"
        "import time; time.sleep(0.3); print(local.open_local().state.place, flush=True); time.sleep(600)"
    )
    kernel = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert kernel.stdout is not None
    place = kernel.stdout.readline().strip()
    assert footprint.cgroup_directories(place)
    kernel.send_signal(signal.SIGKILL)
    kernel.wait()
    kernel.stdout.close()
    deadline = time.monotonic() + 10
    while footprint.cgroup_directories(place) and time.monotonic() < deadline:
        prune()
    assert footprint.cgroup_directories(place) == []


def test_the_zygotes_death_ends_sessions_with_an_error() -> None:
    from nbcontainer.engine import local

    container = nbc.start(mem="64M", workspace="none")
    zygote = local.open_local()._client
    os.kill(zygote.pid, signal.SIGKILL)
    with pytest.raises(nbc.InternalError, match="zygote died"):
        container.wait(30)
    with pytest.raises(SpecError, match="has ended"):
        container.run("1")
    assert nbc.run("print('next')", mem="64M", workspace="none").stdout == "next\n"
    assert rootless() or CONTAINERS.all() == []


def test_a_program_of_a_cell_in_a_volume_is_nobody_else_s_to_run() -> None:
    """It may be set-uid, and belongs to the notebook's user."""
    make = "cp /bin/true /data/set-uid; chmod 4755 /data/set-uid"
    try:
        assert nbc.run(make, program=["sh"], volumes=["nbc-test-uid:/data"], mem="64M", workspace="none").ok
        made = volumes.find("nbc-test-uid").path / "set-uid"
        assert made.stat().st_mode & 0o4000 and made.stat().st_uid == os.geteuid()
        assert volumes.directory().stat().st_mode & 0o077 == 0
        if not rootless():
            other = subprocess.run(["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "sh", "-c", str(made)], check=False, capture_output=True)
            assert b"Permission denied" in other.stderr
    finally:
        volumes.remove("nbc-test-uid")
