"""Sessions, containers in the background and the verbs, in real kernels."""

from __future__ import annotations

import os
import queue
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from facilities import require
from jupyter_client.manager import start_new_kernel

OTHERS = Path(__file__).resolve().parents[2] / ".venv" / "ipykernels"


class Kernel:
    """Executes cells one after the other; what is shown below each, also later."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.outputs: dict[str, list[Any]] = {}

    def run(self, source: str) -> str:
        """The id of the cell."""
        cell: str = self.client.execute(source)
        self.outputs[cell] = []
        self.listen(lambda message: _is_idle(message) and message["parent_header"].get("msg_id") == cell, 90)
        return cell

    def listen(self, until: Any, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            try:
                message = self.client.get_iopub_msg(timeout=left)
            except queue.Empty:
                break
            self.outputs.setdefault(message["parent_header"].get("msg_id", ""), []).append(message)
            if until(message):
                return
        raise AssertionError(f"not seen within {seconds} s; {self.outputs}")

    def text(self, cell: str) -> str:
        parts = []
        for message in self.outputs[cell]:
            content = message["content"]
            if message["msg_type"] == "stream":
                parts.append(content["text"])
            elif message["msg_type"] == "error":
                parts.append("\n".join(content["traceback"]) + "\n")
            elif "data" in content:
                parts.append(content["data"].get("text/plain", "") + "\n")
        return re.sub(r"\x1b\[[0-9;]*m", "", "".join(parts))

    def say(self, source: str) -> str:
        return self.text(self.run(source))


def _is_idle(message: Any) -> bool:
    return bool(message["msg_type"] == "status" and message["content"]["execution_state"] == "idle")


@pytest.fixture(scope="module", params=["installed", "6.31.0", "7.3.0"])
def kernel(request: pytest.FixtureRequest) -> Iterator[Kernel]:
    require(os.geteuid() == 0, "the local engine needs root: sudo tests/run --lane notebook")
    environment = dict(os.environ)
    if request.param != "installed":
        require((OTHERS / request.param).is_dir(), f"ipykernel {request.param}: tests/run --lane notebook installs it")
        environment["PYTHONPATH"] = str(OTHERS / request.param)
    manager, client = start_new_kernel(env=environment)
    kernel = Kernel(client)
    try:
        kernel.run("%load_ext nbcontainer")
        yield kernel
    finally:
        client.stop_channels()
        manager.shutdown_kernel()


@pytest.fixture
def lab(kernel: Kernel) -> Iterator[str]:
    assert kernel.say("%container start lab --mem 128M") == "lab\n"
    yield "lab"
    kernel.run("%container rm -f lab")
    assert kernel.say("from nbcontainer.containers import CONTAINERS\nprint(CONTAINERS.all())") == "[]\n"  # ps shows other notebooks' too


def test_a_session_keeps_its_variables(kernel: Kernel, lab: str) -> None:
    assert kernel.say("%%container --exec lab\nx = 41\nprint('in', x)") == "in 41\n"
    assert kernel.say("%%container --exec lab -o y\ny = x + 1\ny") == "42\n"
    assert kernel.say("print(y)") == "42\n"
    assert kernel.say("z = [1, 2]\n%container exec lab id -un") == "root\n"
    assert kernel.say("%%container --exec lab -i z\nprint(z + [x])") == "[1, 2, 41]\n"
    assert "ZeroDivisionError" in kernel.say("%%container --exec lab\n1 / 0")
    assert kernel.say("%%container --exec lab\nprint(x)") == "41\n"


def results(kernel: Kernel, cell: str) -> list[tuple[int, str]]:
    contents = [message["content"] for message in kernel.outputs[cell] if message["msg_type"] == "execute_result"]
    return [(content["execution_count"], content["data"]["text/plain"]) for content in contents]


def test_a_session_s_results_are_out_of_both(kernel: Kernel, lab: str) -> None:
    ((number, text),) = results(kernel, kernel.run("%%container --exec lab\nclass A:\n    def __repr__(self): return 'a'\n    size = 5\nA()"))
    assert text == "a"
    assert kernel.say(f"%%container --exec lab\n_.size + Out[{number}].size + _{number}.size") == "15\n"
    assert kernel.say(f"_, Out[{number}]") == "(15, a)\n"
    assert f"Cell In[{number + 3}], line 1" in kernel.say("%%container --exec lab\n1 / 0")


def test_a_detached_container_s_result_is_out_of_the_cell_that_started_it(kernel: Kernel) -> None:
    cell = kernel.run("%%container -d --name slow --mem 64M\nimport time\ntime.sleep(1)\n'late'")
    kernel.run("'mine'")
    if not results(kernel, cell):
        kernel.listen(lambda message: message["msg_type"] == "execute_result", 30)
    ((number, text),) = results(kernel, cell)
    assert text == "'late'" and kernel.say(f"_, Out[{number}]") == "('mine', 'late')\n"


def test_another_process_sees_the_sessions_files_and_processes(kernel: Kernel, lab: str) -> None:
    kernel.run("%%container --exec lab\nopen('/tmp/x', 'w').write('from python')")
    assert kernel.say("%%container --exec lab bash\ncat /tmp/x; echo; cat /proc/1/comm") == "from python\npython\n"
    assert "exit code 3" in kernel.say("%%container --exec lab bash\nexit 3")


def test_the_stop_button_interrupts_a_cell_and_keeps_the_session(kernel: Kernel, lab: str) -> None:
    kernel.run("%%container --exec lab\nx = 'kept'")
    kernel.run("import threading, os, signal\nthreading.Timer(0.7, os.kill, (os.getpid(), signal.SIGINT)).start()")
    said = kernel.say("%%container --exec lab --no-live\nimport time; time.sleep(60)")
    assert "KeyboardInterrupt" in said and "the session goes on, with its variables" in said
    assert kernel.say("%%container --exec lab\nprint(x)") == "kept\n"


def test_out_of_memory_says_that_the_variables_are_gone(kernel: Kernel, lab: str) -> None:
    said = kernel.say("%%container --exec lab --no-live\nx = bytearray(500_000_000)")
    assert "Out of memory" in said and "its variables are gone" in said
    assert "lab" in kernel.say("%%container --exec lab\n1")


def test_output_of_a_detached_container_goes_to_the_cell_that_started_it(kernel: Kernel) -> None:
    code = "import time\nprint('first', flush=True)\ntime.sleep(1)\nprint('second', flush=True)\ndisplay({'text/plain': 'shown'}, raw=True)\n1 / 0"
    cell = kernel.run(f"%%container -d --name back --mem 64M --keep\n{code}")
    other = kernel.run("print('meanwhile')")
    if "ended (exit code 1)" not in kernel.text(cell):
        kernel.listen(lambda message: "ended (exit code 1)" in str(message["content"]), 30)
    said = kernel.text(cell)
    assert [word for word in ("back", "first", "second", "shown", "ZeroDivisionError") if word not in said] == []
    assert kernel.text(other) == "meanwhile\n"
    assert kernel.say("%container logs back") == "first\nsecond\n"
    assert kernel.say("%container logs -n 1 back") == "second\n"
    assert kernel.say("%container wait back") == "1\n"
    assert "Exited (1)" in kernel.say("%container ps -a")
    assert kernel.say("%container rm back") == "back\n"


def test_a_program_in_the_background_of_a_session(kernel: Kernel, lab: str) -> None:
    cell = kernel.run("%container exec -d lab sh -c 'sleep 0.5; echo beside; exit 3'")
    assert kernel.text(cell) == ""
    assert kernel.say("%%container --exec lab\nprint('meanwhile')") == "meanwhile\n"
    if "ended (exit code 3)" not in kernel.text(cell):
        kernel.listen(lambda message: "ended (exit code 3)" in str(message["content"]), 30)
    assert "beside\n" in kernel.text(cell) and "sh in lab: ended (exit code 3)" in kernel.text(cell)


def test_python_in_the_background_of_a_session_is_a_process_of_its_own(kernel: Kernel, lab: str) -> None:
    kernel.run("%%container --exec lab\nx = 'the session\\'s'")
    cell = kernel.run("%%container -d --exec lab python3 -\nimport os\nprint('beside', os.getpid() > 1, 'x' in globals())")
    if "beside" not in kernel.text(cell):
        kernel.listen(lambda message: "beside" in str(message["content"]), 30)
    assert "beside True False" in kernel.text(cell)


def test_a_session_that_has_ended_says_how_and_what_to_type(kernel: Kernel) -> None:
    kernel.run("%container start gone --mem 64M")
    kernel.run("%%container --exec gone --no-live\nx = bytearray(500_000_000)")
    said = kernel.say("%%container --exec gone\nprint(x)")
    assert said == "UsageError: --exec: gone has ended (out of memory); start it anew: %container start gone\n"


def test_verbs_reach_the_container_of_a_cell_that_another_thread_waits_for(kernel: Kernel) -> None:
    code = "import time; print(1, flush=True); time.sleep(600)"
    start = "import threading, nbcontainer\nfrom nbcontainer.containers import CONTAINERS\ndone = []\nthread = threading.Thread(target=lambda: done.append(nbcontainer.run(code, mem='64M', name='cell')))\nthread.start()"
    kernel.run(f"code = {code!r}\n{start}\nimport time\nwhile not CONTAINERS.all(): time.sleep(0.01)")
    assert "/proc/self" in kernel.say("%container exec cell ls -d /proc/self")
    assert kernel.say("%container kill cell") == "cell\n"
    assert kernel.say("thread.join(10)\nprint(done[0].outcome)") == "killed\n"


def test_following_logs_and_attaching_end_with_the_container(kernel: Kernel) -> None:
    kernel.run("%container run -d --name count --mem 64M sh -c 'for i in 1 2 3 4 5; do echo $i; sleep 0.3; done'")
    assert "5\n" in kernel.say("%container logs -f count")
    kernel.run("%container run -d --name later --mem 64M sh -c 'sleep 1; echo later'")
    assert kernel.say("%container attach later") == "later\n"


def test_verbs(kernel: Kernel, lab: str) -> None:
    kernel.run("%%container --exec lab bash\necho new >/etc/new; rm /etc/passwd; mkdir -p /opt/a; echo >/opt/a/b; rm -rf /etc/apt; mkdir /etc/apt")
    changes = kernel.say("%container diff lab").splitlines()
    for line in ("A  /etc/new", "D  /etc/passwd", "A  /opt/a/b", "C  /etc"):
        assert line in changes
    assert not any("resolv.conf" in line or "hostname" in line for line in changes)
    table = kernel.outputs[kernel.run("%container ps")]
    data = next(message["content"]["data"] for message in table if message["msg_type"] == "display_data")
    assert data["text/plain"].split("\n")[0].split()[:5] == ["CONTAINER", "ID", "IMAGE", "COMMAND", "CREATED"]
    assert "<table>" in data["text/html"] and "lab" in data["text/html"]
    assert '"Name": "lab"' in kernel.say("%container inspect lab")
    assert "python" in kernel.say("%container top lab")
    tree = kernel.say("%container tree").splitlines()
    assert next(line for line in tree if line.startswith("time")).count("=") == 1
    assert "=" not in next(line for line in tree if line.startswith("pid"))
    assert kernel.say("%container update --mem 200M --cpus 0.5 lab") == "lab: memory 200 MiB, cpus 0.5, pids 256\n"
    assert kernel.say("%container pause lab") == "lab\n"
    assert "(Paused)" in kernel.say("%container ps")
    assert "is paused" in kernel.say("%%container --exec lab\n1")
    assert kernel.say("%container unpause lab") == "lab\n"
    stats = kernel.outputs[kernel.run("%container stats --no-stream lab")]
    data = next(message["content"]["data"] for message in stats if message["msg_type"] == "display_data")
    assert data["text/plain"].splitlines()[0].split() == "CONTAINER ID NAME CPU % MEM USAGE / LIMIT MEM % NET I/O BLOCK I/O PIDS".split()
    assert "<table>" in data["text/html"] and "/ 200 MiB" in data["text/html"]
    assert kernel.say("%container stop lab") == "lab\n"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("%container pasue lab", "did you mean pause?"),
        ("%container images", "is not available yet"),
        ("%container cp lab:/etc/hi .", "-v"),
        ("%container restart lab", "stop it"),
        ("%container exec -it lab bash", "no terminals"),
        ("%container run -it bash", "no terminals"),
        ("%%container -d --exec lab\n1", "write %%container -d --exec lab python3 - for this cell"),
        ("%container exec -d -o x lab true", "not for what runs in the background"),
        ("%%container --exec lab --explain\n1", "the plan of a new container"),
        ("%container stats nosuch", "there is no container nosuch"),
        ("%container stop lba", "did you mean lab"),
        ("%container stop", "the following arguments are required: NAME"),
        ("%container kill -s NOPE lab", "is not a signal"),
        ("%container update lab", "nothing is to be changed"),
        ("%container update --mem nonsense lab", "nonsense"),
        ("%container start lab", "there is a container lab already"),
        ("%%container --name lab\n1", "there is a container lab already"),
        ("%%container --exec nosuch\n1", "there is no container nosuch"),
        ("%%container --exec lab --mem 1G\n1", "--mem: belongs to the container"),
        ("%%container --exec lab nosuch\n1", "'nosuch' is not in the container"),
        ("%%container --keep\n1", "add -d"),
        ("%%container -d\n", "the cell is empty"),
        ("%%container -d -o x\n1", "not for what runs in the background"),
        ("%container start --live other", "a session has no view of its own; its cells have"),
        ("%container exec -d --live lab true", "--live: is not for what runs in the background"),
        ("%%container -d --live --no-live\n1", "--live: contradicts --no-live"),
        ("%container exec lab", "a NAME and a PROGRAM are needed"),
        ("%container logs --tail x lab", "tail"),
        ("%container volume rm nosuch", "there is no volume nosuch"),
        ("%container ps --format '{nonsense}'", "names no column; write '{{.ID}}'"),
        ("%container ps --format '{{.Name}}'", "did you mean .Names?"),
        ("%container ps --filter nmae=x", "did you mean name?"),
        ("%container inspect -f '{{.State.OOMKiled}}' lab", "did you mean .State.OOMKilled?"),
        ("%container logs --since yesterday lab", "--since"),
        ("%container rm lab", "lab is running; stop it first"),
        ("%container strat lab", "did you mean start?"),
        ("%container exec lba ls", "exec: there is no container lba; did you mean lab?"),
    ],
)
def test_mistakes_are_one_line(kernel: Kernel, lab: str, line: str, said: str) -> None:
    text = kernel.say(line).strip()
    assert said in text and text.count("\n") == 0, text


def test_waiting_for_one_that_has_ended_meanwhile(kernel: Kernel) -> None:
    name = kernel.say("%container run -d --quiet --mem 64M sh -c 'exit 4'").strip()
    kernel.run("%container run -d --quiet --name brief --mem 64M sh -c 'kill -9 $$; exit 3'")
    kernel.run("import time\nfrom nbcontainer.containers import CONTAINERS\nfor _ in range(300):\n    if CONTAINERS.all(): time.sleep(0.1)")
    assert kernel.say(f"%container wait {name} brief") == "4\n3\n"
    for verb in ("logs", "inspect", "diff"):
        said = kernel.say(f"%container {verb} brief")
        assert "brief has ended (exit code 3); what runs with -d --keep can be asked for" in said and said.count("\n") == 1
    assert "--keep" not in kernel.say("%container top brief")
    assert kernel.say("%container wait brief nope").startswith("UsageError: wait: there is no container nope")


def test_the_stop_button_ends_waiting_in_a_line(kernel: Kernel, lab: str) -> None:
    kernel.run("import threading, os, signal\nthreading.Timer(0.7, os.kill, (os.getpid(), signal.SIGINT)).start()")
    assert kernel.say("%container wait lab") == "Interrupted: %container wait did not get to its end\n"
    assert "lab" in kernel.say("%container ps --format '{{.Names}}'")


def test_templates_are_docker_s(kernel: Kernel, lab: str) -> None:
    kernel.run("name = 'mine'; target = 'lab'; end = 'x'; template = '{{.Names}} in a variable'")
    assert "lab running" in kernel.say("%container ps --format '{{.Names}} {{.State}}'").splitlines()
    assert "lab" in kernel.say("%container ps --format={{.Names}}").splitlines()
    assert "lab in a variable" in kernel.say("%container ps --format {template}").splitlines()
    assert kernel.say("%container inspect -f '{{.Name}} {{.State.OOMKilled}}{{range .Config.Cmd}} {{.}}{{end}}' {target}") == "lab false python\n"
    (shown,) = [message["content"]["data"] for message in kernel.outputs[kernel.run(r"%container ps --filter name=^lab$ --format 'table {{.Names}}\t{{.Networks}}'")] if "data" in message["content"]]
    assert [line.split() for line in shown["text/plain"].splitlines()] == [["NAMES", "NETWORKS"], ["lab", "none"]] and "<table>" in shown["text/html"]
    assert kernel.say("%container stats --no-stream --format '{{.Name}} {{.PIDs}}' lab") == "lab 1\n"
    assert kernel.say("%container exec {target} echo {name}") == "mine\n"


def test_volumes_outlive_containers_and_are_kept_while_in_use(kernel: Kernel) -> None:
    name = f"test-{os.getpid()}"
    try:
        kernel.run(f"%%container -v {name}:/data sh\necho kept >/data/f")
        assert kernel.say(f"%%container -v {name}:/data:ro sh\ncat /data/f; echo x >/data/g || true").startswith("kept\n")
        kernel.run(f"%container start user -v {name}:/data")
        assert "is in use" in kernel.say(f"%container volume rm {name}")
        assert name in kernel.say("%container volume ls")
        kernel.run("%container rm -f user")
    finally:
        assert kernel.say(f"%container volume rm {name}") == f"{name}\n"
    assert name not in kernel.say("%container volume ls -q")


def test_help_of_each_verb(kernel: Kernel) -> None:
    from nbcontainer.verbs import NAMES, VERBS

    overview = kernel.say("%container")
    assert all(f"  {name} " in overview for name in NAMES)
    for verb in ("run", "start", "exec"):
        assert kernel.say(f"%container {verb} --help").startswith(f"usage: %container {verb} [OPTIONS]")
    assert "--mem" not in kernel.say("%container exec --help") and "--detach" in kernel.say("%container exec --help")
    for verb in VERBS:
        assert kernel.say(f"%container {verb.name} --help").startswith(f"usage: %container {verb.name}")


def test_everything_ends_with_the_extension(kernel: Kernel) -> None:
    kernel.run("%container start one\n%container run -d --name two sleep 600")
    assert kernel.say("%unload_ext nbcontainer\nfrom nbcontainer.state import list_containers\nimport os\nprint([r for r in list_containers() if r.kernel_pid == os.getpid()])").endswith("[]\n")
    kernel.run("%load_ext nbcontainer")
    assert "one" not in kernel.say("%container ps -a")
