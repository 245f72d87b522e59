"""Further processes in a running container: in all of its namespaces, its cgroup and its rights, and safe from who is in there."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from facilities import one_id, only_as_root, require, rootless

import nbcontainer
from nbcontainer.containers import Container
from nbcontainer.errors import SetupError, SpecError

LOOK = """\
import json, os
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
names = ("Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Seccomp_filters")
found = {name: status[name].strip() for name in names}
found["namespaces"] = {name: os.readlink(f"/proc/self/ns/{name}") for name in os.listdir("/proc/self/ns")}
found["cgroup"] = open("/proc/self/cgroup").read()
found["root"] = [os.stat("/").st_dev, os.stat("/").st_ino]
found["oom"] = open("/proc/self/oom_score_adj").read()
found["environment"] = sorted(os.environ)
found["umask"] = os.umask(0)
print(json.dumps(found))
"""


@pytest.fixture
def lab() -> Iterator[Container]:
    with nbcontainer.start(mem="128M", workspace="none") as container:
        yield container


@pytest.mark.essential
@pytest.mark.parametrize("options", [{}, {"share": "pid"}, {"share": "user"}, {"cap_drop": ["ALL"]}, {"init": True}, {"root": "none"}], ids=str)
def test_a_further_process_is_where_the_first_one_is_and_can_do_what_it_can(options: dict[str, object]) -> None:
    with nbcontainer.start(mem="128M", workspace="none", **options) as container:
        first, further = container.run(LOOK), container.exec(["python3", "-"], LOOK)
        assert further.ok, further.describe() + further.stderr
        ours, theirs = json.loads(first.stdout), json.loads(further.stdout)
        theirs["environment"] = [name for name in theirs["environment"] if name != "LC_CTYPE"]
        ours["environment"] = [name for name in ours["environment"] if name not in ("MPLBACKEND", "LC_CTYPE")]
        assert theirs == ours


@pytest.mark.essential
def test_it_has_no_descriptor_that_it_should_not_have(lab: Container) -> None:
    result = lab.exec(["bash", "-c", "ls -l /proc/$$/fd; readlink /proc/$$/cwd /proc/$$/root"])
    lines = result.stdout.splitlines()
    assert [line.split()[8] for line in lines if "->" in line][:3] == ["0", "1", "2"]
    assert all(" 255 ->" in line for line in [line for line in lines if "->" in line][3:])  # bash's own
    assert lines[-2:] == ["/workspace", "/"]


def test_it_shares_files_and_memory_limit_with_the_container(lab: Container) -> None:
    lab.run("open('/tmp/x', 'w').write('from the session')")
    assert lab.exec(["cat", "/tmp/x"]).stdout == "from the session"
    killed = lab.exec(["bash", "-c", "head -c 400000000 /dev/zero | tail; exit ${PIPESTATUS[1]}"])
    assert killed.outcome == "oom" and killed.goes_on and killed.usage.oom_kills == 1
    assert lab.run("print('alive')").stdout == "alive\n"


def test_input_arguments_and_surroundings(lab: Container) -> None:
    assert lab.exec(["wc", "-c"], b"\x00\xff12").stdout == "4\n"
    assert lab.exec(["sh", "-c", 'echo "$A" "$PWD" "$1"', "sh", "a b"], env={"A": "1"}, workdir="/tmp").stdout == "1 /tmp a b\n"
    with pytest.raises(SpecError, match="'nosuch' is not in the container"):
        lab.exec("nosuch")
    with pytest.raises(SpecError, match="--workdir"):
        lab.exec("true", workdir="/nowhere")
    assert lab.exec(["sh", "-c", "exit 5"]).exit_code == 5
    assert lab.exec(["sh", "-c", "kill -TERM $$"]).signal == 15


def test_another_user(lab: Container) -> None:
    if one_id():
        pytest.skip("an ordinary user's container has one user")
    assert lab.exec(["id", "-u"], user="nobody").stdout == "65534\n"


@pytest.mark.essential
def test_a_timeout_ends_what_it_started_and_nothing_else(lab: Container) -> None:
    lab.run("import subprocess; mine = subprocess.Popen(['sleep', '600'])")
    result = lab.exec(["sh", "-c", "sleep 601 & sleep 602"], timeout=0.3)
    assert result.outcome == "timeout" and result.goes_on
    sleeping = lab.exec(["sh", "-c", "for f in /proc/[0-9]*/cmdline; do tr '\\0' ' ' <$f; echo; done"]).stdout
    assert "sleep 600" in sleeping and "sleep 601" not in sleeping and "sleep 602" not in sleeping
    assert lab.run("print(mine.poll())").stdout == "None\n"


def test_what_it_leaves_in_the_background_goes_on_until_the_container_ends(lab: Container) -> None:
    assert lab.exec(["sh", "-c", "sleep 600 >/dev/null 2>&1 &"]).ok
    assert lab.exec(["sh", "-c", "grep -l sleep /proc/[0-9]*/comm"]).ok


def test_interrupting_a_cell_leaves_other_processes_alone(lab: Container) -> None:
    done = threading.Event()
    results = {}

    def run() -> None:
        results["exec"] = lab.exec(["sh", "-c", "echo ready; sleep 1; echo done"], on_start=lambda run: done.set())

    thread = threading.Thread(target=run)
    thread.start()
    assert done.wait(10)
    interrupted = lab.run("import time; time.sleep(60)", timeout=0.3)
    thread.join()
    assert interrupted.outcome == "timeout" and results["exec"].stdout == "ready\ndone\n"


def test_the_end_of_the_container_is_the_end_of_its_further_processes(lab: Container) -> None:
    """Also where its first process is the last to die."""
    busy = "for _ in range(2 * len(os.sched_getaffinity(0))):\n    if os.fork() == 0:\n        while True: pass\n"
    lab.run(f"import os\n{busy}os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))")
    timer = threading.Timer(0.3, lab.kill)
    result = lab.exec(["sleep", "600"], on_start=lambda run: timer.start())
    timer.join()
    assert not result.goes_on and "the container has ended" in result.note
    with pytest.raises(SpecError, match="has ended"):
        lab.exec("true")


def test_a_program_as_the_container_can_be_joined_too() -> None:
    with nbcontainer.start(program=["sleep", "600"], mem="64M", workspace="none") as container:
        assert "sleep" in container.exec(["cat", "/proc/1/comm"]).stdout
        # Python without a session is a new process each time.
        assert container.run("import os\nx = 1\nprint(os.getpid() != 1, os.listdir('/proc/self/fd') is not None)").stdout == "True True\n"
        assert container.run("x").error is not None


def test_processes_are_limited_for_all_of_the_container() -> None:
    fill = "import os, time\nfor _ in range(20):\n    try: pid = os.fork()\n    except OSError: break\n    if pid == 0: break\n"
    fill += "print('full', flush=True)\ntime.sleep(600)"
    with nbcontainer.start(fill, mem="64M", pids=12, workspace="none") as container:
        deadline = time.monotonic() + 20
        while container.logs().count("full") < 12 and time.monotonic() < deadline:
            time.sleep(0.01)  # they come one after the other
        try:
            result = container.exec(["sh", "-c", "sleep 600 & wait"], timeout=5)
        except SetupError as error:
            assert error.step == "clone"
        else:
            assert not result.ok


ATTACK = """\
import ctypes, os, threading
libc = ctypes.CDLL(None, use_errno=True)
hits, names, stop = set(), set(), threading.Event()
def comm(pid):
    with open(f"/proc/{pid}/stat") as file: name, _, rest = file.read().partition("(")[2].rpartition(")")
    if rest.split()[1] != "0": raise OSError("a child of ours, not one that comes from outside")
    return name
def seize(pid):
    child = os.fork()  # whose end lets it go again
    if child == 0: os._exit(1 if libc.ptrace(0x4206, pid, 0, 0) < 0 else 0)
    if os.waitpid(child, 0)[1]: raise OSError("ptrace")
ways = {
    "mem": lambda pid: os.close(os.open(f"/proc/{pid}/mem", os.O_RDWR)),
    "exe": lambda pid: os.close(os.open(f"/proc/{pid}/exe", os.O_RDONLY)),
    "cwd": lambda pid: os.close(os.open(f"/proc/{pid}/cwd", os.O_RDONLY)),
    "root": lambda pid: os.close(os.open(f"/proc/{pid}/root", os.O_RDONLY)),
    "fd": lambda pid: os.listdir(f"/proc/{pid}/fd"),
    "maps": lambda pid: os.close(os.open(f"/proc/{pid}/maps", os.O_RDONLY)),
    "environ": lambda pid: open(f"/proc/{pid}/environ", "rb").read(),
    "ptrace": seize,
}
def attack():
    while not stop.is_set():
        for name in os.listdir("/proc"):
            if not name.isdigit() or int(name) == os.getpid(): continue
            for way, attempt in ways.items():
                try:
                    before = comm(name)
                    names.add(before)
                    attempt(int(name))
                    # It was still on its way here when that worked.
                    if before == comm(name) == "python": hits.add(way)
                except OSError: pass
threads = [threading.Thread(target=attack, daemon=True) for _ in range(2)]
for thread in threads: thread.start()
"""


def test_nobody_in_the_container_gets_at_a_process_on_its_way_in(lab: Container) -> None:
    """What CVE-2016-9962 and CVE-2019-5736 were about."""
    lab.run(ATTACK)
    for _ in range(60):
        lab.exec("true", timeout=20)
    result = lab.run("stop.set()\nfor thread in threads: thread.join()\nprint(sorted(hits), 'python' in names)")
    assert result.stdout == "[] True\n", result.stdout + str(result.error)


def test_a_process_that_is_held_by_a_tracer_holds_nobody_else(lab: Container) -> None:
    """Until its tracer lets it go, nobody can have its status: the tracer goes."""
    scope = Path("/proc/sys/kernel/yama/ptrace_scope")
    require(not scope.exists() or scope.read_text().strip() == "0", "a Linux whose processes may trace others: sysctl kernel.yama.ptrace_scope=0")
    lab.run(
        "import ctypes, os, threading\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        "for _ in range(2 * len(os.sched_getaffinity(0))):\n    if os.fork() == 0:\n        while True: pass\n"
        "def trace():\n    while True:\n"
        "        for name in os.listdir('/proc'):\n            if name.isdigit() and int(name) != 1: libc.ptrace(0x4206, int(name), 0, 0)\n"
        "threading.Thread(target=trace, daemon=True).start()\n"
        # When it is killed, the thread that traces is gone before this one even runs.
        "os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))"
    )
    result = lab.exec(["sleep", "2"], timeout=20)
    assert not result.goes_on
    assert lab.wait(10) is not None
    assert nbcontainer.run("print('others are well')", mem="64M", workspace="none").stdout == "others are well\n"


def test_a_root_that_became_a_trap_leads_nowhere(lab: Container) -> None:
    """A program that is a link to /proc/self/exe, a passwd that is a device: the container's own affair."""
    lab.run("import os\nos.symlink('/proc/self/exe', '/tmp/trap')")
    if not rootless():  # to whom /etc is not given
        assert lab.run("os.remove('/etc/passwd'); os.mkfifo('/etc/passwd')").ok
        with pytest.raises(SpecError, match="'someone' is not a user of the container"):  # nobody waits for the pipe
            lab.exec("true", user="someone", timeout=20)
    result = lab.exec(["/tmp/trap", "-c", "import os; os.open('/proc/self/exe', os.O_WRONLY)"], timeout=20)
    assert "Error" in result.stderr and not result.ok
    assert lab.run("print('alive')").stdout == "alive\n"


def test_stopped_and_killed_on_the_way_in(lab: Container) -> None:
    """The container's root may signal what is in its namespace: that may end or hold the new process, and nobody else."""
    lab.run(
        "import os, threading\nstop = threading.Event()\n"
        "def pester():\n    number = 0\n    while not stop.is_set():\n"
        "        for name in os.listdir('/proc'):\n            if name.isdigit() and int(name) != 1:\n                number += 1\n"
        "                try: os.kill(int(name), 19 if number % 2 else 9)\n                except OSError: pass\n"
        "thread = threading.Thread(target=pester); thread.start()"
    )
    for _ in range(10):
        try:
            lab.exec("true", timeout=0.5)
        except (SetupError, nbcontainer.InternalError, SpecError):
            continue
    assert nbcontainer.run("print('others are well')", mem="64M", workspace="none").stdout == "others are well\n"
    assert lab.run("stop.set(); thread.join(); print('alive')").stdout == "alive\n"


def test_the_hosts_root_is_not_in_reach(lab: Container) -> None:
    only_as_root("an ordinary user's container is that user's")
    result = lab.exec(["sh", "-c", "cat /etc/shadow; ls /root; cat /proc/1/root/etc/shadow; echo x >/proc/sys/kernel/hostname"])
    assert "root:" not in result.stdout and os.uname().nodename != "x"
