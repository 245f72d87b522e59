"""The command: help, refusals and exit codes, as a shell sees them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest


def _command(*words: str, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "nbcontainer.cli", *words], input=text, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("words", [(), ("--help",), ("help",), ("doctor", "--help"), ("lab", "-h")])
def test_help(words: tuple[str, ...]) -> None:
    done = _command(*words)
    assert done.returncode == 0
    for command in ("run", "doctor", "ps", "stats", "volume", "prune", "demo", "lab"):
        assert f"  {command}" in done.stdout


def test_version_and_run_help() -> None:
    import nbcontainer

    assert _command("--version").stdout == f"nbcontainer {nbcontainer.__version__}\n"
    assert "--mem, -m, --memory SIZE" in _command("run", "--help").stdout


@pytest.mark.parametrize(
    "words",
    [
        ("nonsense",),
        ("run",),
        ("run", "--meem", "1", "ls"),
        ("run", "--mem", "1Q", "ls"),
        ("run", "--image", "x", "ls"),
        ("run", "--result", "r", "ls"),
        ("doctor", "--xml"),
        ("ps", "x"),
        ("demo", "--output", "/no/such/directory/x.png"),
        ("demo", "--output", "chart.txt"),
        ("demo", "--output", "/proc/1/chart.png"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(words: tuple[str, ...]) -> None:
    done = _command(*words)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("nbcontainer: ")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_doctor_prints_json() -> None:
    done = _command("doctor", "--json")
    report = json.loads(done.stdout)
    assert done.returncode == (0 if report["ready"] else 1)
    assert len(report["checks"]) > 10
