"""The vm engine: the same cells, outcomes and limits, in a guest."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from facilities import only_as_root, require

import nbcontainer as nbc
from nbcontainer.engine.vm import engine as vm
from nbcontainer.errors import HostError
from nbcontainer.events import Event, Finished, Output, Started
from nbcontainer.validate import make_spec

IDLE_BYTES = 150 << 20
SECCOMP_FILTER = 2


def run(code: str = "", **options: object) -> nbc.Result:
    return nbc.run(code, **{"engine": "vm", "mem": "64M", **options})  # type: ignore[arg-type]


def _status(process: int | str) -> dict[str, str]:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


@pytest.mark.essential
def test_qemu_has_no_more_rights_than_the_kernel_and_a_sandbox() -> None:
    """tests/run has this as root, and as an ordinary user without any capability and with no_new_privs."""
    assert run("print(1)").stdout == "1\n"
    pid = next(reversed(vm.open_vm()._guests.values())).process.pid
    of_qemu, ours = _status(pid), _status("self")
    assert int(of_qemu["Seccomp"]) == SECCOMP_FILTER
    assert [of_qemu[field] for field in ("Uid", "CapEff", "CapBnd")] == [ours[field] for field in ("Uid", "CapEff", "CapBnd")]
    if os.geteuid() != 0:
        assert (ours["CapEff"], ours["CapBnd"], ours["NoNewPrivs"]) == ("0" * 16, "0" * 16, "1"), "tests/run --lane rootless starts this"


@pytest.mark.essential
def test_what_other_may_not_read_of_the_kernel_s_packages_is_not_there() -> None:
    """As on the host itself, though QEMU may be root's."""
    only_as_root("the environment that tests run from belongs to root")

    secret = Path(sys.prefix, "nbcontainer-test-secret")
    secret.write_text("secret")
    vm.shutdown()
    try:
        code = f"import os; print(os.path.exists({str(secret)!r}), {secret.name!r} in os.listdir({sys.prefix!r}), 'bin' in os.listdir({sys.prefix!r}))"
        assert run(code).stdout == "True True True\n"
        secret.chmod(0o600)
        vm.shutdown()
        assert run(code).stdout == "False False True\n"
    finally:
        secret.unlink()


@pytest.mark.essential
def test_a_cell_runs_in_another_linux_as_pid_1() -> None:
    result = run("import os; print(os.getpid(), os.uname().release); 40 + 2")
    pid, release = result.stdout.split()
    assert (result.outcome, pid) == ("exited", "1")
    assert release != os.uname().release
    assert result.outputs == [{"text/plain": "42"}]


def test_a_program_gets_the_cell_and_ends_with_its_code() -> None:
    result = run("echo out; echo err >&2; exit 3", program=["bash"])
    assert (result.exit_code, result.stdout, result.stderr) == (3, "out\n", "err\n")


def test_the_kernel_s_own_packages_are_there() -> None:
    code = "import sys, psutil, matplotlib; print(sys.prefix, psutil.__file__, matplotlib.__version__)"
    import matplotlib

    result = run(code, mem="256M")
    assert result.stdout.split() == [sys.prefix, psutil.__file__, matplotlib.__version__], result.stderr


def test_an_exception_looks_the_same() -> None:
    result = run("def f():\n    return 1 / 0\nf()")
    assert result.error is not None and result.error.ename == "ZeroDivisionError"
    assert "nbcontainer" not in "".join(result.error.traceback)


@pytest.mark.essential
@pytest.mark.parametrize(
    ("code", "options", "outcome"),
    [
        ("data = []\nwhile True: data.append(bytearray(1 << 20))", {}, "oom"),
        ("import time; time.sleep(60)", {"timeout": 0.3}, "timeout"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", {"init": True}, "signalled"),
        ("import sys; sys.exit(5)", {}, "exited"),
    ],
)
def test_outcomes(code: str, options: dict[str, object], outcome: str) -> None:
    result = run(code, **options)
    assert result.outcome == outcome
    if outcome == "oom":
        assert result.usage.oom_kills >= 1 and result.usage.memory_peak_bytes <= 64 << 20


@pytest.mark.essential
def test_limits_of_control_groups_version_2() -> None:
    high = run("x = bytearray(28 << 20); print('slow')", memory_high="32M")
    assert high.stdout == "slow\n"
    quota = run("import time\nend = time.monotonic() + 1\nwhile time.monotonic() < end: pass", cpus=0.2)
    assert quota.usage.throttled_seconds > 0.2
    pids = run("for i in 1 2 3 4 5 6 7 8; do sleep 0.3 & done; wait", program=["bash"], pids=4)
    assert "Resource temporarily unavailable" in pids.stderr


def test_interrupt_and_kill() -> None:
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    assert run("import time; time.sleep(60)").outcome == "interrupted"
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    stubborn = run("import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: time.sleep(1)")
    assert stubborn.outcome == "interrupted" and stubborn.usage.wall_seconds < 10


def test_events_come_while_the_cell_runs_and_have_this_host_s_clock() -> None:
    seen: list[tuple[float, Event]] = []
    began = time.monotonic()
    run("import time\nfor i in range(4): print(i, flush=True); time.sleep(0.2)", on_event=lambda event: seen.append((time.monotonic(), event)))
    ended = time.monotonic()
    lines = [when for when, event in seen if isinstance(event, Output)]
    assert lines[-1] - lines[0] > 0.4
    started = seen[0][1]
    assert isinstance(started, Started) and began - 0.5 < started.monotonic_seconds < ended
    assert isinstance(seen[-1][1], Finished)


def test_samples_make_a_chart() -> None:
    result = run("import time; x = bytearray(20 << 20); time.sleep(0.4)")
    memory = result.samples.columns()["memory_bytes"]
    assert len(memory) > 3 and max(memory) > 20 << 20


@pytest.mark.essential
def test_volumes_write_through_and_the_workspace_does_not(tmp_path: Path) -> None:
    (tmp_path / "nb").mkdir()
    (tmp_path / "nb" / "data.txt").write_text("old")
    (tmp_path / "out").mkdir()
    code = "cat data.txt; echo new > data.txt; echo made > /out/file; echo x > /ro/file || echo refused"
    result = run(code, program=["sh"], base=str(tmp_path / "nb"), volumes=["../out:/out", "../out:/ro:ro"])
    assert result.stdout == "oldrefused\n", result.stderr
    assert (tmp_path / "nb" / "data.txt").read_text() == "old"
    assert (tmp_path / "out" / "file").read_text() == "made\n"
    (tmp_path / "nb" / "data.txt").write_text("changed on the host")
    assert run("print(open('data.txt').read())", base=str(tmp_path / "nb")).stdout == "changed on the host\n"


def test_what_another_user_writes_is_yours_or_refused(tmp_path: Path) -> None:
    """The virtual machine cannot map owners: root's QEMU would give the file to that user, an ordinary user's cannot."""
    tmp_path.chmod(0o777)
    options: dict[str, Any] = {"program": ["sh"], "user": "4321", "volumes": [f"{tmp_path}:/v"]}
    if os.geteuid() == 0:
        with pytest.raises(HostError, match=r"'4321' writes to .* would not be yours: the virtual machine") as caught:
            run("touch /v/its", **options)
        assert "--engine local" in caught.value.remedy
        assert run("ls -d /v", **options | {"volumes": [f"{tmp_path}:/v:ro"]}).stdout == "/v\n"
    else:
        assert run("touch /v/its", **options).ok
        assert (tmp_path / "its").stat().st_uid == os.geteuid()


def test_a_directory_as_root(tmp_path: Path) -> None:
    busybox = shutil.which("busybox") or "/bin/busybox"
    require(os.path.exists(busybox), "busybox-static: apt-get install busybox-static")
    (tmp_path / "bin").mkdir()
    shutil.copy(busybox, tmp_path / "bin" / "sh")
    assert run("echo /*", program=["sh"], root=str(tmp_path), bare=True).stdout == "/bin\n"


def test_many_at_once() -> None:
    results: list[nbc.Result] = []
    threads = [threading.Thread(target=lambda number=number: results.append(run(f"print({number})", mem="32M"))) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(result.stdout for result in results) == [f"{number}\n" for number in range(6)]


def test_guests_do_not_share_randomness_or_an_old_clock() -> None:
    """Two that were restored from one snapshot."""
    code = "import os, random, time, uuid; print(random.random(), uuid.uuid4(), os.urandom(8).hex()); print(time.time())"
    seen = []
    for _ in range(2):
        vm.shutdown()
        numbers, moment = run(code).stdout.splitlines()
        seen += numbers.split()
        assert abs(float(moment) - time.time()) < 5
    assert len(set(seen)) == len(seen)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"mem": "3G"}, nbc.HostError, "NBCONTAINER_VM_MEMORY"),
        ({"io_read": "1M"}, nbc.HostError, "no disk"),
        ({"cpuset": f"{(os.cpu_count() or 1) - 1}"}, nbc.HostError, "NBCONTAINER_VM_CPUS"),
        ({"program": ["no-such-program"]}, nbc.SpecError, "PROGRAM"),
        ({"user": "no-such-user"}, nbc.SpecError, "--user"),
        ({"workdir": "/no/such"}, nbc.SpecError, "--workdir"),
    ],
)
def test_bad_input_is_one_clear_line(options: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        run("", **options)
    assert "\n" not in str(caught.value)
    assert run("print(1)").stdout == "1\n"


def test_without_mem_the_guest_s_own_size_is_the_limit() -> None:
    assert run("print(1)", mem=None).ok


def test_idle_it_takes_little_memory() -> None:
    """All that QEMU has in memory, also what it shares with other guests of the snapshot and with other QEMUs."""
    vm.shutdown()
    guest, _ = vm.open_vm()._guest_for(make_spec(workspace="none"))
    assert guest.responds()
    process = psutil.Process(guest.process.pid)
    assert "-incoming" in process.cmdline(), "it was booted, not restored"
    idle = process.memory_info().rss
    assert idle < IDLE_BYTES, {name: _status(process.pid)[name] for name in ("VmRSS", "RssAnon", "RssFile", "RssShmem")}


def test_a_restored_guest_has_no_containers_but_its_own() -> None:
    """What waited when the snapshot was written would be the same in every guest."""
    code = "import os; print(sum(open(f'/proc/{pid}/cmdline').read() != '' for pid in os.listdir('/proc') if pid.isdigit()))"
    vm.shutdown()
    assert run(code, share=["pid"]).stdout == "5\n", "process 1, the agent, the zygote, the router that waits, the cell"


def test_ps_lists_it_while_it_runs() -> None:
    from nbcontainer.state import list_containers

    thread = threading.Thread(target=run, args=("import time; time.sleep(1)",), kwargs={"name": "in-the-guest"})
    thread.start()
    deadline = time.monotonic() + 10
    while not (names := [record.name for record in list_containers() if record.name == "in-the-guest"]):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    thread.join()
    assert names == ["in-the-guest"]


def test_explain_says_what_is_shared() -> None:
    text = nbc.explain(engine="vm", mem="64M")
    assert "9p /usr (read-only)" in text and "restored from a snapshot" in text


def test_pause_resume_update_and_readings() -> None:
    engine = vm.open_vm()
    from nbcontainer.events import Changed, Paused, Resumed

    current = engine.start(make_spec({"mem": "64M", "workspace": "none"}), "import time\nwhile True: time.sleep(0.01)")
    seen: list[Event] = []
    ticks: list[float] = []
    steps = iter([current.pause, current.resume, lambda: current.update(mem="96M"), current.readings, current.kill])
    results: list[object] = []

    def step() -> None:
        ticks.append(time.monotonic())
        if (do := next(steps, None)) is not None:
            results.append(do())

    current.attend(step)
    seen += list(current.events())
    assert [type(event) for event in seen if isinstance(event, Paused | Resumed | Changed)] == [Paused, Resumed, Changed]
    assert getattr(results[2], "memory_bytes", 0) == 96 << 20
    assert getattr(results[3], "memory_by_kind", {})["anon"] > 0
    assert isinstance(seen[-1], Finished) and seen[-1].outcome == "killed"
    with pytest.raises(nbc.SpecError, match="has ended"):
        current.pause()


def test_variables_and_questions() -> None:
    result = run("print(x, input('name? ')); y = x * 2; z = (1, b'raw')", input={"x": 21}, output=["y", "z"], on_input=lambda request: "typed")
    assert result.stdout == "21 typed\n", result.describe()
    assert result.values == {"y": 42, "z": (1, b"raw")}
    data = os.urandom(3 << 20)
    assert run("back = data[::-1]", input={"data": data}, output=["back"]).values["back"] == data[::-1]
    missing = run("big = bytes(200 << 20)", output=["big"], mem="128M")
    assert missing.values == {} and "big" in missing.missing
    with pytest.raises(nbc.HostError, match=r"-i: .* of variables are more than .* the virtual machine can take"):
        run("1", input={"data": bytes(300 << 20)})
