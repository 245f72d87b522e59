"""Whole kernels in containers, driven as Jupyter's servers drive them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import footprint
import nbclient
import psutil
import pytest
from facilities import in_guest, require
from jupyter_client.manager import KernelManager
from jupyter_client.provisioning import KernelProvisionerFactory
from jupyter_core.utils import ensure_event_loop
from nbformat import v4

from nbcontainer.errors import SpecError
from nbcontainer.jupyter.kernelspec import install, read_words
from nbcontainer.state import CONTROL, list_containers, prune, state_directory

READY_SECONDS = 60
GROW = "import time\ndata = []\nprint('growing', flush=True)\nwhile True: data.append(bytearray(8 << 20)); time.sleep(0.02)"


@pytest.fixture(scope="module", autouse=True)
def kernelspecs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A place for kernelspecs that Jupyter looks into, and the provisioner known also where the package is only a path."""
    prefix = tmp_path_factory.mktemp("prefix")
    before, directory = os.environ.get("JUPYTER_PATH"), os.getcwd()
    os.environ["JUPYTER_PATH"] = str(prefix / "share" / "jupyter")
    entry = EntryPoint("nbcontainer", "nbcontainer.jupyter.provisioner:ContainerProvisioner", KernelProvisionerFactory.GROUP_NAME)
    KernelProvisionerFactory.instance().provisioners["nbcontainer"] = entry
    install_words(prefix, "--name small --mem 160M --cpus 1 --pids 64")
    with Kernel("small", prefix) as kernel:  # what first use makes is nobody's leak
        assert kernel.run("1 + 1") == ("ok", "2")
    yield prefix
    os.chdir(directory)
    ensure_event_loop().close()  # jupyter_client's
    if before is None:
        del os.environ["JUPYTER_PATH"]
    else:
        os.environ["JUPYTER_PATH"] = before


def install_words(prefix: Path, words: str) -> str:
    return install(read_words([*words.split(), "--prefix", str(prefix)]))


class Kernel:
    """A kernel and a client of it."""

    def __init__(self, name: str, directory: Path, **settings: Any) -> None:
        self.manager = KernelManager(kernel_name=name, **settings)
        self._directory = directory

    def __enter__(self) -> Kernel:
        self.manager.start_kernel(cwd=str(self._directory))
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(READY_SECONDS)
        return self

    def __exit__(self, *unused: object) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)

    def run(self, code: str) -> tuple[str, str]:
        """(status of the reply, everything that is shown)."""
        shown: list[str] = []

        def take(message: Any) -> None:
            content = message["content"]
            shown.append(content.get("text") or content.get("evalue") or content.get("data", {}).get("text/plain", ""))

        reply = self.client.execute_interactive(textwrap.dedent(code), output_hook=take, timeout=READY_SECONDS)
        return reply["content"]["status"], "".join(shown).strip()

    def begin(self, code: str) -> str:
        """Code that says ``going`` and goes on; returns its request's id when it has said so."""
        message: str = self.client.execute(code, stop_on_error=False)
        while self.client.get_iopub_msg(timeout=READY_SECONDS)["content"].get("text") != "going\n":
            pass
        return message

    @property
    def container(self) -> Any:
        return next(record for record in list_containers() if record.name == f"kernel-{self.manager.kernel_id[:8]}")


def sockets() -> list[Path]:
    """Of the kernels of this process."""
    return [path for place in footprint.places() for path in (state_directory() / "sockets" / place).rglob("*") if CONTROL not in path.parts]


def test_the_kernel_is_the_first_process_of_a_container(tmp_path: Path) -> None:
    (tmp_path / "beside.txt").write_text("beside the notebook")
    with Kernel("small", tmp_path) as kernel:
        status, shown = kernel.run("""
            import glob, json, os, socket
            limits = [int(open(path).read()) for path in glob.glob("/sys/fs/cgroup/memory*/memory.limit_in_bytes") + glob.glob("/sys/fs/cgroup/memory.max")]
            interfaces = [name for _, name in socket.if_nameindex()]
            print(json.dumps([os.getpid(), os.getcwd(), open("beside.txt").read(), limits, interfaces, sorted(os.environ)]))""")
        pid, directory, text, limits, interfaces, environment = json.loads(shown)
        assert (status, pid, directory, text) == ("ok", 1, "/workspace", "beside the notebook")
        assert limits == [160 << 20]
        assert interfaces == ["lo"]
        assert not {name for name in environment if name.startswith(("JUPYTER", "JPY", "NBCONTAINER", "PYTEST"))} - {"JPY_PARENT_PID"}
        assert kernel.container.pid == kernel.manager.provisioner.pid
        assert sockets()
        kernel.run("open('made.txt', 'w').write('x')")
    assert not (tmp_path / "made.txt").exists(), "/workspace is copy-on-write"
    assert sockets() == []


def test_a_volume_keeps_what_the_notebook_writes(kernelspecs: Path, tmp_path: Path) -> None:
    install_words(kernelspecs, "--name through --mem 160M -v .:/workspace")
    with Kernel("through", tmp_path) as kernel:
        assert kernel.run("open('made.txt', 'w').write('x')")[0] == "ok"
    assert (tmp_path / "made.txt").read_text() == "x"
    assert (tmp_path / "made.txt").stat().st_uid == os.geteuid()


def test_interrupt_and_restart(tmp_path: Path) -> None:
    with Kernel("small", tmp_path) as kernel:
        first = kernel.container.id
        kernel.run("x = 1")
        message = kernel.begin("import time\nprint('going', flush=True)\nwhile True: time.sleep(0.1)")
        kernel.manager.interrupt_kernel()
        reply = kernel.client.get_shell_msg(timeout=READY_SECONDS)
        assert (reply["parent_header"]["msg_id"], reply["content"]["ename"]) == (message, "KeyboardInterrupt")
        assert kernel.run("x") == ("ok", "1")
        kernel.manager.restart_kernel()
        kernel.client.wait_for_ready(READY_SECONDS)
        assert kernel.run("x") == ("error", "name 'x' is not defined")
        assert kernel.container.id != first


def test_any_command_is_a_kernel(kernelspecs: Path, tmp_path: Path) -> None:
    """A script that starts the real kernel, in the kernelspec's own directory, with a variable of the kernelspec's."""
    base = kernelspecs / "share" / "jupyter" / "kernels" / "script"
    base.mkdir(parents=True)
    (base / "start.sh").write_text(f'#!/bin/sh\nexec {sys.executable} -m ipykernel_launcher "$@"\n')
    spec = {
        "argv": ["/bin/sh", "{resource_dir}/start.sh", "-f", "{connection_file}"],
        "display_name": "Script", "language": "python", "env": {"FLAVOUR": "vanilla"}, "interrupt_mode": "message",
    }  # fmt: skip
    (base / "kernel.json").write_text(json.dumps(spec))
    install_words(kernelspecs, "--name script-contained --kernelspec script --mem 160M -e COLOUR=blue")
    with Kernel("script-contained", tmp_path) as kernel:
        assert kernel.run("import os; print(os.environ['FLAVOUR'], os.environ['COLOUR'], os.getpid())") == ("ok", "vanilla blue 1")
        kernel.begin("print('going', flush=True)\nwhile True: pass")
        kernel.manager.interrupt_kernel()
        assert kernel.client.get_shell_msg(timeout=READY_SECONDS)["content"]["ename"] == "KeyboardInterrupt"


def test_a_cell_in_a_container_of_a_kernel_in_a_container(tmp_path: Path) -> None:
    """There is no room for a virtual machine in it, and cgroups cannot be made: both are said."""
    with Kernel("small", tmp_path) as kernel:
        assert kernel.run("%load_ext nbcontainer") == ("ok", "")
        status, said = kernel.run("%%container --engine local --mem 32M\nprint(1)")
        assert status == "error" and "this is a container of nbcontainer's already" in said and "--engine vm" in said
        status, said = kernel.run("%%container --mem 32M\nprint(1)")
        assert status == "error" and "Remedy: " in said and "\n" not in said
        assert kernel.run("6 * 7") == ("ok", "42")


def test_a_kernel_of_another_language(kernelspecs: Path, tmp_path: Path) -> None:
    """R's own, which has no Python in it and is installed with the distribution's packages."""
    if in_guest():
        pytest.skip("the guest's disk has no room for R")
    require(os.path.isdir("/usr/lib/R/site-library/IRkernel"), "R's kernel: apt-get install r-cran-irkernel")
    base = kernelspecs / "share" / "jupyter" / "kernels" / "ir"
    base.mkdir(parents=True)
    argv = ["R", "--slave", "-e", "IRkernel::main()", "--args", "{connection_file}"]
    (base / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "R", "language": "R"}))
    install_words(kernelspecs, "--name r-contained --kernelspec ir --mem 256M")
    with Kernel("r-contained", tmp_path) as kernel:
        assert kernel.run("cat(Sys.getpid(), getwd(), sum(1:10))") == ("ok", "1 /workspace 55")
        kernel.begin("cat('going\\n'); flush.console(); while (TRUE) Sys.sleep(0.1)")
        kernel.manager.interrupt_kernel()
        assert kernel.client.get_shell_msg(timeout=READY_SECONDS)["content"]["status"] in ("abort", "error")
        while kernel.client.get_iopub_msg(timeout=READY_SECONDS)["content"].get("execution_state") != "idle":
            pass  # what came earlier would be aborted too
        assert kernel.run("cat(6 * 7)") == ("ok", "42")
    client = notebook_client("r-contained", tmp_path, "x <- numeric(1e8)\nx[] <- 1")
    with pytest.raises(nbclient.exceptions.DeadKernelError):
        client.execute()
    assert "Linux killed this kernel when its container reached --mem 256 MiB" in client.nb.cells[0].outputs[-1].evalue
    assert "nbcontainer kernel install --kernelspec ir --name NAME --mem 512M" in client.nb.cells[0].outputs[-1].evalue


def notebook_client(name: str, directory: Path, *cells: str) -> nbclient.NotebookClient:
    notebook = v4.new_notebook(cells=[v4.new_code_cell(cell) for cell in cells])
    return nbclient.NotebookClient(notebook, timeout=READY_SECONDS, kernel_name=name, resources={"metadata": {"path": str(directory)}})


def test_out_of_memory_is_said_under_the_cell(tmp_path: Path) -> None:
    client = notebook_client("small", tmp_path, "before = 1", GROW)
    with pytest.raises(nbclient.exceptions.DeadKernelError):
        client.execute()
    outputs = client.nb.cells[1].outputs
    assert outputs[0].text == "growing\n"
    assert (outputs[1].output_type, outputs[1].ename) == ("error", "OutOfMemory")
    assert "Linux killed this kernel when its container reached --mem 160 MiB" in outputs[1].evalue
    assert "nbcontainer kernel install --kernelspec python3 --name NAME --mem 320M" in outputs[1].evalue
    assert sockets() == []


def test_an_encrypted_kernel_has_last_words_too(tmp_path: Path) -> None:
    if not KernelManager.class_traits().get("transport_encryption"):
        pytest.skip("this jupyter_client knows no encryption: pip install 'jupyter_client>=8.10'")
    with Kernel("small", tmp_path, transport_encryption="required") as kernel:
        message = kernel.client.execute(GROW)
        names = []
        while "error" not in names:
            answer = kernel.client.get_iopub_msg(timeout=READY_SECONDS)
            names += [answer["msg_type"]] if answer["parent_header"].get("msg_id") == message else []
        assert answer["content"]["ename"] == "OutOfMemory"


def test_how_else_a_kernel_ended_is_said_too(tmp_path: Path) -> None:
    client = notebook_client("small", tmp_path, "import ctypes, time; time.sleep(0.5); ctypes.string_at(0)")
    with pytest.raises(nbclient.exceptions.DeadKernelError):
        client.execute()
    assert client.nb.cells[0].outputs[-1].evalue == "The kernel ended by signal 11 (SIGSEGV)."


def test_after_out_of_memory_the_next_container_takes_over(tmp_path: Path) -> None:
    """As the server's restarter does it."""
    with Kernel("small", tmp_path) as kernel:
        kernel.client.execute(GROW)
        deadline = time.monotonic() + READY_SECONDS
        while kernel.manager.is_alive():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        kernel.manager.restart_kernel(now=True)
        kernel.client.wait_for_ready(READY_SECONDS)
        assert kernel.run("6 * 7") == ("ok", "42")


SERVER = """
import os, sys
from importlib.metadata import EntryPoint
from jupyter_client.manager import KernelManager
from jupyter_client.provisioning import KernelProvisionerFactory
entry = EntryPoint("nbcontainer", "nbcontainer.jupyter.provisioner:ContainerProvisioner", KernelProvisionerFactory.GROUP_NAME)
KernelProvisionerFactory.instance().provisioners["nbcontainer"] = entry
manager = KernelManager(kernel_name="small")
manager.start_kernel(cwd=sys.argv[1])
client = manager.client()
client.start_channels()
client.wait_for_ready(60)
print(manager.provisioner.pid, manager.ip, flush=True)
sys.stdin.read()
"""


def start_server(directory: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SERVER, str(directory)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def started(server: subprocess.Popen[str]) -> tuple[psutil.Process, str]:
    """(its kernel, the directory of the kernel's sockets)."""
    assert server.stdout is not None
    pid, ip = server.stdout.readline().split()
    assert os.listdir(os.path.dirname(ip))
    return psutil.Process(int(pid)), os.path.dirname(ip)


def test_the_kernel_does_not_outlive_its_server(tmp_path: Path) -> None:
    with start_server(tmp_path) as server:
        kernel, directory = started(server)
        server.send_signal(signal.SIGKILL)
    kernel.wait(READY_SECONDS)
    prune()
    assert not os.path.exists(directory)


def test_a_server_that_ends_takes_its_kernels_along_and_says_nothing(tmp_path: Path) -> None:
    with start_server(tmp_path) as server:
        kernel, directory = started(server)
        _, said = server.communicate(timeout=READY_SECONDS)
    assert (server.returncode, said) == (0, "")
    assert not kernel.is_running()
    assert not os.path.exists(directory)


def test_what_cannot_be_executed_fails_at_the_start(kernelspecs: Path, tmp_path: Path) -> None:
    base = kernelspecs / "share" / "jupyter" / "kernels" / "missing"
    base.mkdir(parents=True)
    (base / "kernel.json").write_text(json.dumps({"argv": ["no-such-program", "{connection_file}"], "display_name": "Missing", "language": "x"}))
    install_words(kernelspecs, "--name missing-contained --kernelspec missing")
    with pytest.raises(SpecError, match=r"PROGRAM: 'no-such-program' is not in the container"):
        KernelManager(kernel_name="missing-contained").start_kernel(cwd=str(tmp_path))
    assert sockets() == []


def test_a_kernelspec_that_lost_its_command_says_so(kernelspecs: Path, tmp_path: Path) -> None:
    """Somebody has edited what was installed."""
    directory = Path(install_words(kernelspecs, "--name emptied --mem 160M"))
    spec = json.loads((directory / "kernel.json").read_text())
    for argv in ({"argv": []}, {}):
        (directory / "kernel.json").write_text(json.dumps({key: value for key, value in spec.items() if key != "argv"} | argv))
        with pytest.raises(SpecError, match="the kernelspec emptied has no argv: there is nothing to run in the container"):
            KernelManager(kernel_name="emptied").start_kernel(cwd=str(tmp_path))
    assert sockets() == []


def test_where_its_connection_file_cannot_be_written_nothing_stays(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        KernelManager(kernel_name="small", connection_file=str(tmp_path / "nowhere/kernel.json")).start_kernel(cwd=str(tmp_path))
    assert sockets() == []


def test_without_containers_on_this_host_the_start_says_so(kernelspecs: Path, tmp_path: Path) -> None:
    require(Path("/usr/bin/bwrap").exists(), "needs bubblewrap: apt install bubblewrap")
    code = f"""
        import nbcontainer
        from importlib.metadata import EntryPoint
        from jupyter_client.manager import KernelManager
        from jupyter_client.provisioning import KernelProvisionerFactory
        entry = EntryPoint("nbcontainer", "nbcontainer.jupyter.provisioner:ContainerProvisioner", KernelProvisionerFactory.GROUP_NAME)
        KernelProvisionerFactory.instance().provisioners["nbcontainer"] = entry
        try:
            KernelManager(kernel_name="small").start_kernel(cwd={str(tmp_path)!r})
        except nbcontainer.HostError as error:
            print(error)"""
    command = ["bwrap", "--dev-bind", "/", "/", "--ro-bind", "/sys/fs/cgroup", "/sys/fs/cgroup", sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("a kernel in a container needs containers on this host, and "), done
    assert "no permission to make cgroups" in done.stdout and ". Remedy: " in done.stdout
