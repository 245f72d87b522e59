"""Limits that bite, and what is said when they do."""

from __future__ import annotations

import os
import sys
import threading
import time

import pytest
from facilities import rootless

import nbcontainer as nbc

GROW = "data = []\nimport time\nwhile True:\n    data.append(bytearray(8 << 20)); time.sleep(0.005)"


@pytest.mark.essential
def test_out_of_memory_says_limit_peak_and_what_to_try() -> None:
    result = nbc.run(GROW, mem="128M")
    assert result.outcome == "oom"
    assert result.usage.oom_kills >= 1
    assert 120 << 20 <= result.usage.memory_peak_bytes <= 128 << 20
    text = result.describe()
    assert "128 MiB" in text
    assert "the cell's own process" in text
    assert "--mem 256M" in text
    memory = result.samples.columns()["memory_bytes"]
    assert len(memory) > 10
    assert memory[0] < 20 << 20 < max(memory) <= 128 << 20


@pytest.mark.essential
def test_swap_does_not_help() -> None:
    assert nbc.run("x = bytearray(100 << 20)", mem="64M").outcome == "oom"


@pytest.mark.essential
def test_only_a_child_was_killed_is_a_note() -> None:
    code = "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'x = bytearray(300 << 20)'])\nprint('went on')"
    result = nbc.run(code, mem="64M")
    assert (result.outcome, result.exit_code, result.stdout) == ("exited", 0, "went on\n")
    assert "killed for memory" in result.note
    failed = nbc.run(code.replace("run([", "check_call(["), mem="64M")
    assert failed.outcome == "oom"


def test_an_error_that_has_nothing_to_do_with_a_child_s_end_stays_the_cell_s_own() -> None:
    code = "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'x = bytearray(300 << 20)'])\nraise RuntimeError('unrelated')"
    result = nbc.run(code, mem="64M")
    assert (result.outcome, result.exit_code) == ("exited", 1)
    assert result.error is not None
    assert result.error.ename == "RuntimeError"
    assert "killed for memory" in result.note
    shell = nbc.run(f"{sys.executable} -c 'x = bytearray(300 << 20)'; exit 7", program=["bash"], mem="64M")
    assert (shell.outcome, shell.exit_code) == ("exited", 7)
    assert nbc.run(f"{sys.executable} -c 'x = bytearray(300 << 20)'", program=["bash"], mem="64M").outcome == "oom"


@pytest.mark.essential
def test_files_in_the_writable_layer_count_as_memory() -> None:
    result = nbc.run("head -c 100000000 /dev/zero > /tmp/x", program=["bash"], mem="64M", disk="512M")
    assert result.usage.oom_kills >= 1


@pytest.mark.essential
def test_cpu_quota() -> None:
    code = "import time\nend = time.monotonic() + 1.0\nwhile time.monotonic() < end: pass"
    result = nbc.run(code, cpus=0.2)
    assert result.usage.throttled_seconds > 0.2
    assert result.usage.cpu_seconds < 0.6 * result.usage.wall_seconds


@pytest.mark.essential
def test_pids() -> None:
    result = nbc.run("for i in 1 2 3 4 5 6 7 8; do sleep 0.3 & done; wait; echo end", program=["bash"], pids=4)
    assert "Resource temporarily unavailable" in result.stderr
    assert result.usage.pids_peak <= 4


def test_pids_1_runs_a_plain_cell() -> None:
    assert nbc.run("print(1)", pids=1).stdout == "1\n"


@pytest.mark.essential
@pytest.mark.parametrize("share", [None, "pid"])
def test_fork_bomb(share: str | None) -> None:
    assert nbc.run("import os; print(os.path.exists('/.nbc'))").ok
    code = "import os, time\nwhile True:\n    try: os.fork()\n    except OSError: time.sleep(0.01)"
    result = nbc.run(code, pids=50, timeout=1, share=share)
    assert result.outcome == "timeout"
    assert result.usage.pids_peak <= 50


@pytest.mark.essential
def test_cpuset() -> None:
    assert nbc.run("import os; print(os.sched_getaffinity(0))", cpuset="0").stdout == "{0}\n"


def test_ulimits() -> None:
    code = "import resource; print(resource.getrlimit(resource.RLIMIT_NOFILE))"
    assert nbc.run(code, ulimit=["nofile=64:128"]).stdout == "(64, 128)\n"


@pytest.mark.essential
def test_memory_high_needs_cgroup_v2() -> None:
    from nbcontainer.engine.local import open_local

    if open_local()._driver.version == 2:
        assert nbc.run("print(1)", mem="128M", memory_high="64M").ok
    else:
        with pytest.raises(nbc.HostError, match="memory"):
            nbc.run("print(1)", mem="128M", memory_high="64M", engine="local")


def test_oom_score() -> None:
    assert nbc.run("print(open('/proc/self/oom_score_adj').read().strip())").stdout == "500\n"


@pytest.mark.essential
def test_one_mebibyte_is_not_enough_and_says_so() -> None:
    try:
        result = nbc.run("print(1)", mem="1M")
    except nbc.SetupError as error:
        assert "--mem" in str(error)
    else:
        assert result.outcome == "oom"
        assert "needs some" in result.describe()


@pytest.mark.essential
def test_samples_cover_the_run() -> None:
    result = nbc.run("import time; time.sleep(0.3)")
    columns = result.samples.columns()
    span = columns["monotonic_seconds"][-1] - columns["monotonic_seconds"][0]
    assert span >= 0.29
    assert len(columns["monotonic_seconds"]) > 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mem": "128Q"}, "--mem"),
        ({"mem": "0"}, "--mem"),
        ({"mem": "-1"}, "--mem"),
        ({"mem": "100T"}, "more than this host"),
        ({"cpus": 0}, "--cpus"),
        ({"cpus": 10_000}, "--cpus"),
        ({"pids": 0}, "--pids"),
        ({"timeout": -1}, "--timeout"),
        ({"cpuset": "5000"}, "no CPU"),
        ({"root": "relative/dir"}, "relative"),
        ({"root": "/nonexistent-dir"}, "not a directory"),
        ({"volumes": ["/nonexistent:/x"]}, "does not exist"),
        ({"name": "a\nb"}, "--name"),
        ({"hostname": "a b"}, "--hostname"),
        ({"hostname": "x", "share": "uts"}, "--hostname"),
        ({"net": "none", "share": "net"}, "--net"),
        ({"net": "none", "publish": ["8080:80"]}, "--publish"),
        ({"program": ["no-such-program"]}, "PROGRAM"),
        ({"workdir": "/no/such"}, "--workdir"),
        ({"unknown_option": 1}, "unknown_option"),
    ],
)
def test_bad_input_is_one_clear_line(options: dict[str, object], message: str) -> None:
    with pytest.raises(nbc.SpecError, match=message) as caught:
        nbc.run("", **options)
    assert "\n" not in str(caught.value)
    assert nbc.run("print(1)").stdout == "1\n"


def test_a_user_that_does_not_exist() -> None:
    with pytest.raises(nbc.HostError if rootless() else nbc.SpecError, match="--user"):
        nbc.run("", user="no-such-user")


def test_a_container_is_listed_while_it_runs() -> None:
    from nbcontainer.state import list_containers

    thread = threading.Thread(target=nbc.run, args=("import time; time.sleep(1)",), kwargs={"name": "listed", "mem": "64M"})
    thread.start()
    deadline = time.monotonic() + 10
    records = []
    while not records and time.monotonic() < deadline:
        records = [record for record in list_containers() if record.name == "listed"]
        time.sleep(0.01)
    thread.join()
    assert records[0].kernel_pid == os.getpid()
    assert records[0].memory_limit_bytes == 64 << 20
    assert not [record for record in list_containers() if record.name == "listed"]


def test_a_body_that_is_too_large_is_one_clear_line() -> None:
    with pytest.raises(nbc.SpecError, match="64 MiB"):
        nbc.run("x" * (65 << 20), program=["cat"])
    assert nbc.run("print(1)").stdout == "1\n"
