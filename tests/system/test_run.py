"""A cell in a container, end to end: what it prints, shows and how it ends."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

import nbcontainer as nbc
from nbcontainer.events import Display, Event, Finished, Output, Started


@pytest.mark.essential
def test_a_python_cell_is_pid_1_and_prints() -> None:
    result = nbc.run("import os\nprint('I am pid', os.getpid())", mem="128M")
    assert (result.outcome, result.exit_code, result.signal) == ("exited", 0, None)
    assert result.stdout == "I am pid 1\n"
    assert result.pid not in (None, 1)


def test_the_kernel_s_packages_are_there() -> None:
    assert nbc.run("import psutil; print(psutil.__name__)").stdout == "psutil\n"


@pytest.mark.essential
def test_program_gets_the_body_on_standard_input() -> None:
    result = nbc.run("echo out; echo err >&2; exit 3", program=["bash"])
    assert (result.outcome, result.exit_code, result.stdout, result.stderr) == ("exited", 3, "out\n", "err\n")


@pytest.mark.essential
def test_last_expression_and_displays_keep_their_order_with_prints() -> None:
    events: list[Event] = []
    code = "from IPython.display import HTML, display\nprint('one'); display(HTML('<b>two</b>')); print('three')\n40 + 2"
    result = nbc.run(code, on_event=events.append)
    told = [event.text if isinstance(event, Output) else event.data for event in events if isinstance(event, Output | Display)]
    assert told[0] == "one\n"
    assert told[1]["text/html"] == "<b>two</b>"  # type: ignore[index]
    assert told[2] == "three\n"
    assert told[3] == {"text/plain": "42"}
    assert [sorted(bundle) for bundle in result.outputs] == [["text/html", "text/plain"], ["text/plain"]]
    assert isinstance(events[0], Started)
    assert isinstance(events[-1], Finished)


def test_a_semicolon_hides_the_value() -> None:
    assert nbc.run("40 + 2;").outputs == []


def test_inline_figures_come_as_png() -> None:
    result = nbc.run("import matplotlib.pyplot as plt; plt.plot([1, 2]); plt.show()", mem="512M")
    assert any("image/png" in bundle for bundle in result.outputs), result.stderr


def test_output_arrives_while_the_cell_runs() -> None:
    seen = threading.Event()
    inside: list[float] = []

    def watch(event: Event) -> None:
        if isinstance(event, Output) and "first" in event.text:
            seen.set()
        if isinstance(event, Output) and "last" in event.text:
            inside.append(float(event.text.split()[-1]))

    code = "import time\nprint('first', flush=True)\ntime.sleep(0.3)\nprint('last', time.monotonic())"
    thread = threading.Thread(target=nbc.run, args=(code,), kwargs={"on_event": watch})
    thread.start()
    assert seen.wait(10)
    arrived = time.monotonic()
    thread.join()
    assert arrived < inside[0]


def test_output_of_subprocesses_comes_too() -> None:
    assert nbc.run("import subprocess; subprocess.run(['echo', 'from a child'])").stdout == "from a child\n"
    assert nbc.run("!echo shell").stdout.strip() == "shell"


@pytest.mark.essential
def test_an_exception_is_rendered_by_ipython() -> None:
    result = nbc.run("def f():\n    return 1 / 0\nf()")
    assert result.outcome == "exited"
    assert result.exit_code == 1
    assert result.error is not None
    assert result.error.ename == "ZeroDivisionError"
    assert "return" in "".join(result.error.traceback)
    assert "nbcontainer" not in "".join(result.error.traceback)


@pytest.mark.parametrize(("code", "expected"), [("import sys; sys.exit(5)", 5), ("import os; os._exit(7)", 7), ("exit()", 0)])
def test_exit_codes(code: str, expected: int) -> None:
    result = nbc.run(code)
    assert (result.outcome, result.exit_code, result.error) == ("exited", expected, None)


def test_top_level_await() -> None:
    assert nbc.run("import asyncio\nawait asyncio.sleep(0)\nprint('awaited')").stdout == "awaited\n"


@pytest.mark.essential
def test_signalled() -> None:
    result = nbc.run("kill -TERM $$; sleep 5", program=["bash"], init=True)
    assert (result.outcome, result.signal, result.exit_code) == ("signalled", signal.SIGTERM, None)


def test_pid_1_ignores_its_own_kill_and_init_changes_that() -> None:
    code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL); print('still here')"
    assert nbc.run(code).stdout == "still here\n"
    assert nbc.run(code, init=True).signal == signal.SIGKILL


def test_init_reaps_orphans() -> None:
    code = "(sleep 0.05 & ) ; sleep 0.2; ps -eo stat= | grep -c Z || true"
    assert nbc.run(code, program=["sh"], init=True).stdout.strip() == "0"


@pytest.mark.essential
def test_timeout() -> None:
    result = nbc.run("import time; time.sleep(60)", timeout=0.2)
    assert result.outcome == "timeout"
    assert 0.2 <= result.usage.wall_seconds < 30


@pytest.mark.essential
@pytest.mark.parametrize(
    "code",
    [
        "import time; time.sleep(60)",
        "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: time.sleep(1)",
        "import subprocess; subprocess.run('trap \"\" INT; sleep 60', shell=True)",
    ],
    ids=["sleeps", "ignores SIGINT", "child ignores SIGINT"],
)
def test_interrupt_ends_the_whole_tree(code: str) -> None:
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    result = nbc.run(code)
    timer.join()
    assert result.outcome == "interrupted"
    assert result.usage.wall_seconds < 10


def test_a_cell_that_handles_the_interrupt_has_exited() -> None:
    def stop(event: Event) -> None:
        if isinstance(event, Output) and "ready" in event.text:
            os.kill(os.getpid(), signal.SIGINT)

    result = nbc.run("import time\ntry:\n    print('ready', flush=True); time.sleep(60)\nexcept KeyboardInterrupt: print('saved')", on_event=stop)
    assert (result.outcome, result.stdout) == ("exited", "ready\nsaved\n")


def test_max_output_bounds_what_is_shown_not_what_is_kept() -> None:
    shown: list[str] = []

    def keep(event: Event) -> None:
        if isinstance(event, Output):
            shown.append(event.text)

    result = nbc.run("for i in range(100_000): print('x' * 99)", max_output="1M", on_event=keep)
    assert len(result.stdout) == 10_000_000
    assert sum(map(len, shown)) < (1 << 20) + 1000
    assert "--max-output" in shown[-1]


def test_a_hundred_megabytes_of_output() -> None:
    result = nbc.run("head -c 100000000 /dev/zero | tr '\\0' a", program=["bash"], max_output="1M")
    assert result.outcome == "exited"
    assert len(result.stdout) == 100_000_000


def test_invalid_utf8_becomes_replacement_characters() -> None:
    assert nbc.run("import os; os.write(1, b'a\\xffb\\n')").stdout == "a\ufffdb\n"


@pytest.mark.parametrize("code", ["", "   \n", "# nothing"])
def test_an_empty_cell(code: str) -> None:
    assert nbc.run(code).ok


def test_nul_in_a_cell_is_the_cell_s_own_error() -> None:
    result = nbc.run("print('a')\0")
    assert result.outcome == "exited"
    assert result.exit_code == 1


def test_two_runs_share_no_random_numbers() -> None:
    code = "import random; print(random.random())"
    assert nbc.run(code).stdout != nbc.run(code).stdout


@pytest.mark.essential
def test_parallel_runs() -> None:
    results: list[nbc.Result] = []
    threads = [
        threading.Thread(target=lambda number=number: results.append(nbc.run(f"print({number})", mem="64M")))
        for number in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(result.stdout for result in results) == [f"{number}\n" for number in range(8)]


@pytest.mark.essential
def test_environment_is_clean_and_yours() -> None:
    os.environ["NBC_TEST_SECRET"] = "token"
    try:
        result = nbc.run("import os; print(sorted(os.environ)); print(os.environ['MINE'])", env=["MINE=1"])
        assert "NBC_TEST_SECRET" not in result.stdout
        assert result.stdout.endswith("1\n")
        seen = nbc.run("tr '\\0' '\\n' < /proc/1/environ", program=["bash"]).stdout
        assert "NBC_TEST_SECRET" not in seen
    finally:
        del os.environ["NBC_TEST_SECRET"]


def test_no_descriptor_of_the_kernel_is_open_inside() -> None:
    assert nbc.run("ls /proc/self/fd", program=["bash"]).stdout.split() == ["0", "1", "2", "3"]
    # A Python cell also has the channel, and the file in which it says at which line it is.
    links = nbc.run("import os\nfor n in range(3, 64):\n    if os.path.exists(f'/proc/self/fd/{n}'): print(n, os.readlink(f'/proc/self/fd/{n}'))").stdout
    assert [line.partition(":")[0] for line in links.splitlines()] == ["3 socket", "4 /memfd"]


def test_a_callback_that_raises_ends_the_container() -> None:
    def fail(event: Event) -> None:
        if isinstance(event, Output):
            raise RuntimeError("the caller's own")

    with pytest.raises(RuntimeError, match="the caller's own"):
        nbc.run("import time; print('x', flush=True); time.sleep(60)", on_event=fail)


@pytest.mark.parametrize("code", ["1 +", "import asyncio\nawait asyncio.sleep(0)\n1 / 0", "!true\n1 / 0"])
def test_tracebacks_of_what_is_not_plain_python_are_the_cell_s_own(code: str) -> None:
    error = nbc.run(code).error
    assert error is not None
    text = "".join(error.traceback)
    assert "nbcontainer" not in text
    assert "During handling" not in text


def test_code_that_is_no_text_is_refused_and_bytes_go_to_programs() -> None:
    with pytest.raises(nbc.SpecError, match=r"code: .* is not valid text"):
        nbc.run("print('\udcff')")
    with pytest.raises(nbc.SpecError, match=r"code: .* is not valid text"):
        nbc.run("echo \ud800", program=["sh"])
    with pytest.raises(nbc.SpecError, match="code: bytes"):
        nbc.run(b"print(1)")
    assert nbc.run(b"\xff\x00\n", program=["od", "-An", "-tx1"]).stdout.split() == ["ff", "00", "0a"]


def test_a_deleted_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(nbc.SpecError, match="the current directory does not exist any more"):
        nbc.run("print(1)")
    assert nbc.run("import os; print(os.getcwd())", base=str(tmp_path), root="none").stdout == "/\n"


def test_a_python_prefix_with_a_colon_is_not_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", "/opt/a:b")
    assert "b/bin" not in nbc.run("echo $PATH", program=["sh"]).stdout
    monkeypatch.setattr(sys, "prefix", "/opt/ab")
    assert nbc.run("echo $PATH", program=["sh"]).stdout.startswith("/opt/ab/bin:")


def test_the_smallest_number_of_descriptors_and_of_processes() -> None:
    assert nbc.run("print('starts')", ulimit=["nofile=16"]).stdout == "starts\n"
    assert nbc.run("print('starts')", pids=2, init=True).stdout == "starts\n"
