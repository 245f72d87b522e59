"""``nbcontainer run``, ``demo`` and ``ps`` for real."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


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
    done = _command("run", "--hostname", "box", "--", "sh", text="echo out $(hostname); echo err >&2")
    assert (done.stdout, done.stderr, done.returncode) == ("out box\n", "err\n", 0)


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
