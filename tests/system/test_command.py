"""``nbcontainer run``, ``demo`` and ``ps`` for real."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import footprint
import pytest

from nbcontainer.state import state_directory


def _command(*words: str, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "nbcontainer.cli", *words], input=text, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("sh", "-c", "exit 3"), 3),
        (("--timeout", "0.2", "sleep", "60"), 124),
        (("--mem", "32M", "--", "sh", "-c", "head -c 200000000 /dev/zero | tail"), 1),
        (("--init", "sh", "-c", "kill -TERM $$"), 143),
    ],
)
def test_exit_codes(words: tuple[str, ...], code: int) -> None:
    done = _command("run", *words)
    assert done.returncode in (code, 137 if "--mem" in words else code), done.stderr


def test_standard_streams() -> None:
    done = _command("run", "-i", "--hostname", "box", "--", "sh", text="echo out $(hostname); echo err >&2")
    assert (done.stdout, done.stderr, done.returncode) == ("out box\n", "err\n", 0)


def test_standard_input_may_be_bytes_and_is_empty_by_default() -> None:
    words = [sys.executable, "-m", "nbcontainer.cli", "run"]
    assert subprocess.run([*words, "-i", "cat"], input=b"\xff\0", capture_output=True, check=True).stdout == b"\xef\xbf\xbd\0"
    assert subprocess.run([*words, "cat"], input=b"x", capture_output=True, check=True).stdout == b""


def test_a_pipe_that_stays_open_does_not_keep_it_from_starting() -> None:
    words = [sys.executable, "-m", "nbcontainer.cli", "run", "echo", "hi"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as command:
        assert command.stdout is not None
        assert command.stdout.read() == b"hi\n"
        assert command.wait() == 0


@pytest.mark.parametrize("code", ["sleep 60", "trap '' INT TERM; while :; do sleep 1; done"])
def test_sigterm_ends_the_container_and_leaves_nothing(code: str) -> None:
    words = [sys.executable, "-m", "nbcontainer.cli", "run", "--init", "sh", "-c", f"echo started; {code}"]
    before = {path.name for path in (state_directory() / "kernels").iterdir()}
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as command:
        assert command.stdout is not None
        assert command.stdout.readline() == "started\n"
        own = [name.removesuffix(".json") for name in _kernels_of(command.pid)]
        assert len(own) == 1
        assert footprint.cgroup_directories(own[0])
        command.terminate()
        assert command.wait() == 143
    assert footprint.cgroup_directories(own[0]) == []
    assert f"{own[0]}.json" not in before | {path.name for path in (state_directory() / "kernels").iterdir()}


@pytest.mark.parametrize("interrupts", ["", "signal.signal(signal.SIGINT, signal.SIG_IGN); "])
def test_sigterm_while_standard_input_is_read(interrupts: str) -> None:
    words = [sys.executable, "-c", f"import signal; {interrupts}print('here', flush=True)\nimport sys; from nbcontainer.cli import main; sys.exit(main(['run', '-i', 'cat']))"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as command:
        assert command.stdout is not None
        command.stdout.readline()
        while not _has_handler(command.pid, signal.SIGTERM):
            time.sleep(0.01)
        command.terminate()
        assert command.wait(60) == 143
        assert command.stderr is not None
        assert command.stderr.read() == b""


def _has_handler(pid: int, number: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    return bool(int(status.partition("SigCgt:\t")[2].split()[0], 16) >> (number - 1) & 1)


def _kernels_of(pid: int) -> list[str]:
    found = []
    for path in (state_directory() / "kernels").iterdir():
        try:
            text = path.read_text()
        except FileNotFoundError:
            continue  # another kernel's, which has just ended
        if f'"kernel_pid": {pid},' in text:
            found.append(path.name)
    return found


def test_demo_shows_the_verdict_and_writes_the_chart(tmp_path: Path) -> None:
    done = _command("demo", "--output", str(tmp_path / "chart.png"))
    assert done.returncode == 0, done.stderr
    assert "I am pid 1 on" in done.stdout
    assert "Out of memory: Linux killed the cell's own process when the container reached --mem 128 MiB" in done.stdout
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")


def test_dry_run_prints_the_plan() -> None:
    done = _command("run", "--dry-run", "--mem", "64M", "ls")
    assert done.returncode == 0
    for word in ("clone3(CLONE_NEWPID", "pivot_root", "67108864", "NO_NEW_PRIVS"):
        assert word in done.stdout
