"""Whatever happens to QEMU, its files or its host: one typed error or none, and the next cell works."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from facilities import full_run, require

import nbcontainer as nbc
from nbcontainer.engine.vm import engine as vm
from nbcontainer.engine.vm import guest as guest_module


def run(code: str = "print('fine')", **options: object) -> nbc.Result:
    return nbc.run(code, **{"engine": "vm", "mem": "64M", **options})  # type: ignore[arg-type]


def qemu_pid() -> int:
    return next(reversed(vm.open_vm()._guests.values())).process.pid


def test_qemu_killed_while_a_cell_runs() -> None:
    run()
    threading.Timer(0.4, os.kill, (qemu_pid(), signal.SIGKILL)).start()
    with pytest.raises(nbc.InternalError, match="the virtual machine was killed; if by Linux, for want of memory"):
        run("import time; time.sleep(30)")
    assert run().stdout == "fine\n"


def test_qemu_killed_between_cells() -> None:
    run()
    os.kill(qemu_pid(), signal.SIGKILL)
    assert run().stdout == "fine\n"


def test_a_guest_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest_module, "PING_SECONDS", 0.5)
    monkeypatch.setattr(guest_module, "SILENCE_SECONDS", 2.0)
    run()
    threading.Timer(0.4, os.kill, (qemu_pid(), signal.SIGSTOP)).start()
    with pytest.raises(nbc.InternalError, match="has not answered"):
        run("import time; time.sleep(30)")
    monkeypatch.undo()
    assert run().stdout == "fine\n"


def test_the_guest_is_out_of_memory() -> None:
    """Two cells, each below its own limit, together more than there is."""
    code = "import time\ndata = bytearray(b'x' * (250 << 20)); time.sleep(1.5)"
    results: list[nbc.Result] = []
    threads = [threading.Thread(target=lambda: results.append(run(code, mem="300M"))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert "oom" in [result.outcome for result in results]
    assert run().stdout == "fine\n"


@pytest.mark.parametrize("kind", ["memory", "device"])
@pytest.mark.parametrize("damage", ["garbage", "empty", "gone"] if full_run() else ["garbage"])
def test_a_damaged_snapshot(kind: str, damage: str) -> None:
    vm.shutdown()
    template = vm.make_template()
    (path,) = template.directory.glob(f"{kind}-*")
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(os.urandom(1 << 20) if damage == "garbage" else b"")
    assert run().stdout == "fine\n"
    assert vm.make_template().snapshot() is not None, "a new one was written"


def test_a_device_state_that_qemu_refuses() -> None:
    """Damage that no checksum shows: the checksum is of the damaged file."""
    vm.shutdown()
    template = vm.make_template()
    (memory,), (device,) = template.directory.glob("memory-*"), template.directory.glob("device-*")
    device.write_bytes(device.read_bytes()[:5000])
    template._publish(memory, device)
    assert run().stdout == "fine\n"


def _command(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, **environment}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=variables, timeout=300, check=False)


RUN = "import nbcontainer as nbc\ntry: print(nbc.run('print(1)', engine='vm', mem='64M').stdout)\nexcept nbc.NbcontainerError as e: print(type(e).__name__, e)"


def test_no_qemu_and_no_kernel(tmp_path: Path) -> None:
    done = _command(RUN, NBCONTAINER_VM_QEMU="/no/such/qemu")
    assert done.stdout.startswith("HostError no QEMU that works") and "Remedy: sudo apt-get install" in done.stdout
    done = _command(RUN, NBCONTAINER_VM_KERNEL=str(tmp_path / "vmlinuz"))
    assert done.stdout.startswith("SpecError") and "No such file" in done.stdout


@pytest.mark.essential
def test_a_qemu_that_is_too_old(tmp_path: Path) -> None:
    old = tmp_path / "qemu-system-x86_64"
    old.write_text("#!/bin/sh\necho QEMU emulator version 5.2.0\n")
    old.chmod(0o755)
    done = _command(RUN, NBCONTAINER_VM_QEMU=str(old))
    assert done.stdout.startswith("HostError") and "version 5.2 is too old; 6.0 is needed" in done.stdout and "Remedy:" in done.stdout


@pytest.mark.essential
def test_a_qemu_that_cannot_be_started(tmp_path: Path) -> None:
    broken = tmp_path / "qemu-system-x86_64"
    broken.write_bytes(b"\x7fELF and no more")
    broken.chmod(0o755)
    done = _command(RUN, NBCONTAINER_VM_QEMU=str(broken))
    assert done.stdout.startswith("HostError no QEMU that works") and "Remedy:" in done.stdout


@pytest.mark.essential
def test_a_kernel_image_that_is_none(tmp_path: Path) -> None:
    image = tmp_path / "vmlinuz"
    image.write_bytes(os.urandom(4096))
    done = _command(RUN, NBCONTAINER_VM_KERNEL=str(image))
    assert done.stdout.startswith("SpecError") and "is not a Linux boot image" in done.stdout
    if os.geteuid() != 0:
        image.chmod(0)
        done = _command(RUN, NBCONTAINER_VM_KERNEL=str(image))
        assert done.stdout.startswith("SpecError") and "Permission denied" in done.stdout


def test_auto_without_both_says_what_to_install() -> None:
    code = RUN.replace("engine='vm', mem='64M'", "engine='auto', mem='128M', memory_high='64M'")
    done = _command(code, NBCONTAINER_VM_QEMU="/no/such/qemu")
    require(done.stdout.startswith("HostError"), "this host can do --memory-high itself")
    assert "for a virtual machine: sudo apt-get install" in done.stdout


def test_auto_goes_to_the_guest_for_what_this_host_cannot_do() -> None:
    vm.shutdown()
    result = nbc.run("import os; print(os.uname().release)", engine="auto", mem="128M", memory_high="64M")
    require(result.stdout.strip() != os.uname().release, "this host can do --memory-high itself")
    assert "This runs in a virtual machine (--engine vm), because" in " ".join(result.spec.notes)
    again = nbc.run("print(1)", engine="auto", mem="128M", memory_high="64M")
    assert again.spec.notes == (), "it is said once"


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
@pytest.mark.parametrize("size", ["20M", "200M"])
def test_a_full_disk(tmp_path: Path, size: str) -> None:
    """No room for anything: a HostError that names the place. Room for the boot files only: no snapshot, and it works."""
    script = f"mount -t tmpfs -o size={size} small {tmp_path} && exec {sys.executable} -c \"$1\""
    command = ["unshare", "--mount", "sh", "-c", script, "sh", RUN]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "NBCONTAINER_VM_CACHE": str(tmp_path)}, timeout=300, check=False)
    if size == "20M":
        assert done.stdout.startswith("HostError") and "No space left" in done.stdout and "make room" in done.stdout, done.stdout + done.stderr
    else:
        assert done.stdout == "1\n\n", done.stdout + done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_cache_that_cannot_be_written(cache: Path, tmp_path: Path) -> None:
    """With a snapshot in it, it is all that is needed."""
    script = f"mount --bind {cache} {tmp_path} && mount -o remount,bind,ro {tmp_path} && exec {sys.executable} -c \"$1\""
    run()
    command = ["unshare", "--mount", "sh", "-c", script, "sh", RUN]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "NBCONTAINER_VM_CACHE": str(tmp_path)}, timeout=300, check=False)
    assert done.stdout == "1\n\n", done.stdout + done.stderr


def test_two_kernels_at_once_build_one_template_and_share_it(tmp_path: Path) -> None:
    environment = {**os.environ, "NBCONTAINER_VM_CACHE": str(tmp_path)}
    kernels = [subprocess.Popen([sys.executable, "-c", RUN], stdout=subprocess.PIPE, text=True, env=environment) for _ in range(2)]
    assert [kernel.communicate(timeout=300)[0] for kernel in kernels] == ["1\n\n", "1\n\n"]
    assert len(list(tmp_path.glob("*/memory-*"))) == 1


def test_a_kernel_that_is_killed_leaves_no_qemu() -> None:
    code = (
        "import nbcontainer as nbc, sys\nfrom nbcontainer.engine.vm import engine as vm\n"
        "def told(event):\n    if type(event).__name__ == 'Started':\n"
        "        print(next(iter(vm.open_vm()._guests.values())).process.pid, flush=True)\n"
        "nbc.run('import time; time.sleep(60)', engine='vm', mem='64M', on_event=told)"
    )
    kernel = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert kernel.stdout is not None
    pid = int(kernel.stdout.readline())
    kernel.kill()
    kernel.wait()
    kernel.stdout.close()
    deadline = time.monotonic() + 5
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "QEMU outlives its kernel"
        time.sleep(0.01)


def test_a_shared_directory_that_disappears(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    directory.mkdir()
    assert run("print(1)", volumes=[f"{directory}:/data"]).ok
    shutil.rmtree(directory)
    with pytest.raises(nbc.SpecError, match="does not exist"):
        run("print(1)", volumes=[f"{directory}:/data"])
    assert run().stdout == "fine\n"


def test_a_shared_directory_that_disappears_under_a_cell(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    directory.mkdir()
    code = "import os, time\nopen('/data/ready', 'w').close()\nwhile os.path.exists('/data/ready'): time.sleep(0.05)\nopen('/data/more', 'w')"

    def take_away() -> None:
        while not (directory / "ready").exists():
            time.sleep(0.05)
        shutil.rmtree(directory)

    thread = threading.Thread(target=take_away)
    thread.start()
    result = run(code, volumes=[f"{directory}:/data"], timeout=30)
    thread.join()
    assert result.error is not None and result.error.ename in ("FileNotFoundError", "OSError"), result.describe()
    assert run().stdout == "fine\n"


@pytest.mark.skipif(not full_run(), reason="only with NBCONTAINER_FULL=1: it makes another snapshot")
def test_a_virtual_environment_behind_a_link(tmp_path: Path) -> None:
    link = tmp_path / "venv"
    link.symlink_to(sys.prefix)
    code = RUN.replace("print(1)", "import psutil, sys; print(sys.prefix)")
    done = subprocess.run([link / "bin/python", "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout == f"{link}\n\n", done.stdout + done.stderr


def test_more_sets_of_directories_than_guests_are_kept(tmp_path: Path) -> None:
    for number in range(vm.GUESTS + 1):
        directory = tmp_path / str(number)
        directory.mkdir()
        (directory / "n").write_text(str(number))
        assert run("cat /data/n", program=["sh"], volumes=[f"{directory}:/data"], base=str(directory)).stdout == str(number)
    assert len(vm.open_vm()._guests) <= vm.GUESTS
