"""Runs system tests in a QEMU guest with control groups version 2: ``python tests/guest/run.py [--root | --user | --session] PYTEST-ARGUMENT...``.

As root, as an ordinary user with a cgroup of its own, and what a user of systemd has besides (tests/ordinary); one boot for all tests. The guest's root is an ext4 image (its mounts can be idmapped; 9p's cannot) with this Python, the
virtual environment, and the programs that tests use; it is made once for each state of the virtual environment.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import stat
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT))

from nbcontainer.engine.vm import kernelimage, layout, qemu, ramdisk  # noqa: E402
from nbcontainer.engine.vm.unpack import BzImage  # noqa: E402
from nbcontainer.errors import NbcontainerError  # noqa: E402

sys.path.append(str(ROOT / "tests"))
from guest import session  # noqa: E402

MEMORY_MIB = 1536
CPUS = 1
"""With two, QEMU's software emulation now and then runs code that Linux is just patching on the other, and Linux panics."""
IMAGE_BYTES = 3072 << 20
FULL = os.environ.get("NBCONTAINER_FULL") == "1"
SECONDS = 3 * 3600.0 if FULL else 1500.0
SILENT_SECONDS = 900.0 if FULL else 240.0
SESSION_TESTS = "tests/ordinary"
OLDEST_RELEASE = (6, 3)
"""Idmapped mounts of a tmpfs, which the local engine needs."""
PROGRAMS = (
    "sh bash od ls cat ps grep head tail tr find rm touch dd id hostname sleep wc true false echo mkdir rmdir chmod env unshare setpriv mount "
    "umount kill stat sort uname nproc seq busybox cp mv ln test expr date readlink awk mawk perl cut tee xargs sed setsid strace pasta nginx"
).split()
SYSTEM_PYTHON = "/usr/bin/python3"
SOURCES = ("nbcontainer", "tests", "pyproject.toml", "notebooks")
LEFT_OUT = {"__pycache__", "test", "tests", "idlelib", "turtledemo", "ensurepip", "config-3.11-x86_64-linux-gnu"}


class Tree:
    """A directory that becomes the image; files are linked where that is possible."""

    def __init__(self, base: Path) -> None:
        self._base = base

    def __contains__(self, path: str) -> bool:
        return os.path.lexists(self._place(path))

    def _place(self, path: str) -> str:
        place = f"{self._base}/{path.strip('/')}"
        os.makedirs(os.path.dirname(place), exist_ok=True)
        return place

    def directory(self, path: str, mode: int = 0o755) -> None:
        place = self._place(path)
        os.makedirs(place, exist_ok=True)
        os.chmod(place, mode)

    def link(self, path: str, target: str) -> None:
        if path not in self:
            os.symlink(target, self._place(path))

    def file(self, path: str, data: bytes, mode: int = 0o644, modified_seconds: int = 0) -> None:
        if path not in self:
            place = self._place(path)
            Path(place).write_bytes(data)
            os.chmod(place, mode)
            os.utime(place, (modified_seconds, modified_seconds))

    def copy(self, source: str, ignore: set[str]) -> None:
        """A whole directory at its own path, without what ``ignore`` names."""
        for directory, names, files in os.walk(source):
            names[:] = [name for name in names if name not in ignore]
            self.directory(directory)
            for name in [*files, *(name for name in names if os.path.islink(f"{directory}/{name}"))]:
                path = f"{directory}/{name}"
                mode = os.lstat(path).st_mode
                if stat.S_ISLNK(mode):
                    self.link(path, os.readlink(path))
                elif stat.S_ISREG(mode) and path not in self:
                    try:
                        os.link(path, self._place(path))
                    except OSError:
                        shutil.copy2(path, self._place(path))


def build_image(image: Path) -> None:
    """An ext4 file system, without root's rights beyond those over the files themselves."""
    with tempfile.TemporaryDirectory(dir=image.parent) as directory:
        tree = Tree(Path(directory))
        os.chmod(directory, 0o755)
        packer = ramdisk.Packer(tree)  # type: ignore[arg-type]
        for name in ramdisk._EMPTY:
            tree.directory(name, 0o1777 if name.endswith("tmp") else 0o755)
        for name in ("/bin", "/sbin", "/lib", "/lib64"):
            if os.path.islink(name):
                tree.link(name, os.readlink(name))
        for name in ("/usr/local/bin", "/usr/local/share", "/etc/ssl/certs"):
            tree.directory(name)
        _add_secrets(tree)
        tree.link("/usr/local/bin/python3", sys.executable)
        for name in PROGRAMS:
            found = shutil.which(name, path="/usr/bin:/usr/sbin:/bin:/sbin")
            if found is not None:
                packer.program(found)
        traced = ramdisk.trace()
        for path in traced["libraries"]:
            packer.library(path)
        packer.add(sys.executable)
        packer.add(ramdisk._loader(os.path.realpath(sys.executable)))
        ramdisk._add_configuration(packer, tree)  # type: ignore[arg-type]
        stdlib = sysconfig.get_path("stdlib")
        base_packages = os.path.join(os.path.dirname(os.__file__), "site-packages")
        tree.copy(stdlib, LEFT_OUT | {os.path.basename(base_packages)})
        tree.copy(sys.prefix, {"__pycache__"} if sys.prefix == sys.base_prefix else {"share", kernelimage.PACKAGE})
        _add_libraries_of_extensions(packer, [stdlib, *_add_system_python(packer, tree), sys.prefix])
        if not session.missing_packages():
            session.add_systemd(Path(directory), lambda path: (packer.add(path), packer.library(os.path.realpath(path)))[0])
        partial = image.with_suffix(".tmp")
        partial.unlink(missing_ok=True)
        with open(partial, "wb") as file:
            file.truncate(IMAGE_BYTES)
        command = [shutil.which("mke2fs", path="/usr/sbin:/sbin:/usr/bin:/bin") or "mke2fs", "-q", "-F", "-t", "ext4", "-d", directory, "-m", "0"]
        subprocess.run([*command, "-O", "^has_journal", str(partial)], check=True)
        os.rename(partial, image)


def _add_secrets(tree: Tree) -> None:
    """What every machine has and "other" may not read. Nobody can log in with these."""
    tree.directory("/etc/ssl/private", 0o700)
    for name in ("shadow", "gshadow"):
        tree.file(f"/etc/{name}", b"root:*:::::::\n", 0o640)


def _add_system_python(packer: ramdisk.Packer, tree: Tree) -> list[str]:
    """Where this Python is nobody else's: one that every user may run, for containers without a root of their own. Its standard library, if there is one."""
    if not os.path.exists(SYSTEM_PYTHON):
        return []
    packer.program(SYSTEM_PYTHON)
    code = "import sysconfig; print(sysconfig.get_path('stdlib'))"
    stdlib = subprocess.run([SYSTEM_PYTHON, "-Ic", code], capture_output=True, text=True, check=True).stdout.strip()
    tree.copy(stdlib, LEFT_OUT | {"dist-packages", "site-packages"})
    return [stdlib]


def _add_libraries_of_extensions(packer: ramdisk.Packer, directories: list[str]) -> None:
    """Shared libraries outside of Python's own directories that its extension modules need."""
    paths = [str(path) for directory in directories for path in Path(directory).rglob("*.so") if "site-packages" in str(path) or directory != directories[-1]]
    done = subprocess.run(["ldd", *paths], capture_output=True, text=True, check=False)
    for word in sorted({word for word in done.stdout.split() if word.startswith(("/lib", "/usr"))}):
        packer.add(word)
        packer.library(os.path.realpath(word))


def image_path(cache: Path) -> Path:
    stamp = (ROOT / ".venv/nbcontainer-stamp").read_text() if (ROOT / ".venv/nbcontainer-stamp").exists() else layout.stamp()
    libraries = ramdisk.trace()["libraries"]
    key = hashlib.sha256(f"{stamp} {sys.executable} {PROGRAMS} {libraries} {Path(__file__).stat().st_size} {session.stamp()}".encode()).hexdigest()[:12]
    return cache / f"root-{key}.ext4"


def source_files() -> list[tuple[str, bytes]]:
    found = []
    for name in SOURCES:
        path = ROOT / name
        for file in [path] if path.is_file() else sorted(path.rglob("*")):
            if file.is_file() and "__pycache__" not in file.parts:
                found.append((f"source/{file.relative_to(ROOT)}", file.read_bytes()))
    return found


def command(machine: qemu.Machine, image: Path, stream: socket.socket) -> list[str]:
    arguments = [machine.qemu.program, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-M", "pc", "-accel", "tcg,thread=multi"]
    arguments += ["-cpu", "max", "-smp", str(machine.cpus), "-m", f"{machine.memory_mib}M", "-sandbox", qemu.SANDBOX]
    arguments += ["-kernel", str(machine.kernel), "-initrd", str(machine.initramfs), "-append", qemu.COMMAND_LINE, "-serial", "stdio"]
    arguments += ["-device", "virtio-serial-pci", "-chardev", f"socket,id=out,fd={stream.fileno()}", "-device", "virtserialport,chardev=out,name=out"]
    disk = f"file={qemu.quoted(str(image))},format=raw,if=none,id=root,snapshot=on"
    arguments += ["-drive", disk, "-device", "virtio-blk-pci,drive=root"]
    return arguments


def follow(stream: socket.socket, process: subprocess.Popen[bytes]) -> int:
    """Print what the tests say; their exit code."""
    stream.settimeout(SILENT_SECONDS)
    deadline = time.monotonic() + SECONDS
    last = b""
    try:
        while (data := stream.recv(65536)) and time.monotonic() < deadline:
            sys.stdout.buffer.write(data)
            sys.stdout.flush()
            last = (last + data)[-4096:]
    except TimeoutError:
        print(f"\nnothing was heard of the guest for {SILENT_SECONDS:.0f} s")
    process.kill()
    process.wait()
    lines = last.decode("utf-8", "replace").strip().splitlines()
    if lines and lines[-1].startswith("exit "):
        return int(lines[-1].split()[1])
    print("the guest ended before the tests did")
    return 1


def main() -> int:
    words = sys.argv[1:]
    chosen = [word for word in words if word in ("--root", "--user", "--session")] or ["--root", "--user", "--session"]
    users = [word == "--user" for word in chosen if word != "--session"]
    words = [word for word in words if word not in chosen]
    cache = ROOT / ".guest"
    cache.mkdir(exist_ok=True)
    try:
        kernel = kernelimage.find(None, cache)
        program = qemu.find()
    except NbcontainerError as error:
        print(f"the guest lane cannot run: {error}")
        return 1
    if tuple(int(part) for part in kernel.release.split(".")[:2]) < OLDEST_RELEASE:
        print(f"the guest lane needs Linux {OLDEST_RELEASE[0]}.{OLDEST_RELEASE[1]}; {kernel.origin} is {kernel.release}")
        return 1
    image = image_path(cache)
    began = time.monotonic()
    if not image.exists():
        for old in cache.glob("root-*"):
            old.unlink()
        build_image(image)
        print(f"made the guest's disk in {time.monotonic() - began:.0f} s")
    environment = {key: value for key, value in os.environ.items() if key in ("CI", "NBCONTAINER_REQUIRE")}
    # Without NBCONTAINER_FULL: --full is all tests here, and the long ones at CI's length; what their length shows is seen on the host.
    environment |= {"NBCONTAINER_REQUIRE": "all", "NBCONTAINER_TEST_GUEST": "1"}
    job: dict[str, Any] = {"python": sys.executable, "arguments": words or ["-q", "tests/system"], "selected": "-k" in words}
    job |= {"environment": environment, "source": str(ROOT), "ordinary": users}
    job["session"] = [SESSION_TESTS if word == "tests/system" else word for word in job["arguments"]] if "--session" in chosen else None
    if "--session" in chosen and session.missing_packages():
        print(f"the tests of a user of systemd cannot run; missing: apt-get install {' '.join(session.missing_packages())}")
        return 1
    if "--session" in chosen and not session.SPAWNER.is_dir():
        print("the tests of a hub under systemd cannot run; missing: tests/run --lane guest installs it into .venv/spawner")
        return 1
    return _boot(kernel, program, image, cache, job)


def _boot(kernel: kernelimage.KernelImage, program: qemu.Qemu, image: Path, cache: Path, job: dict[str, Any]) -> int:
    import json

    start = f"import sys\nsys.path[:0] = [{layout.HOME!r}, '/source/tests']\nfrom guest.init import main\nmain()\n"
    with tempfile.TemporaryDirectory(dir=cache) as directory:
        linux, initramfs = Path(directory, "vmlinux"), Path(directory, "initramfs")
        linux.write_bytes(BzImage.read(kernel.image).vmlinux())
        with open(initramfs, "wb") as file:
            ramdisk.build(file, kernel, start, [("source.json", json.dumps(job).encode()), *source_files()], modules=("virtio_blk", "ext4", "tun"))
        machine = qemu.Machine(program, linux, initramfs, MEMORY_MIB, CPUS)
        ours, theirs = socket.socketpair()
        with ours:
            process = subprocess.Popen(command(machine, image, theirs), stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])
            theirs.close()
            print(f"Linux {kernel.release}, {machine.memory_mib} MiB, {machine.cpus} CPUs, QEMU {program.version}", flush=True)
            return follow(ours, process)


if __name__ == "__main__":
    sys.exit(main())
