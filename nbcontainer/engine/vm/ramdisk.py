"""Builds the guest's initramfs: the kernel's own Python with what a warm zygote needs, our code, kernel modules.

Nothing is compiled and no program is needed but this Python: a script is the guest's process 1.
"""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import marshal
import os
import shutil
import stat
import struct
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from nbcontainer.engine.vm.cpio import Writer
from nbcontainer.engine.vm.kernelimage import KernelImage
from nbcontainer.engine.vm.layout import (
    BUNDLE_PATH,
    CONFIG_PATH,
    FINDER_PATH,
    HOME,
    LATER_MODULES_DIRECTORY,
    MODULES_DIRECTORY,
    base_directories,
)
from nbcontainer.engine.vm.unpack import without_symbols
from nbcontainer.errors import HostError, InternalError
from nbcontainer.runtime import bundle

TRACE_SECONDS = 120.0
LINKS_DEPTH = 40
PYC_HEADER_BYTES = 16
_KERNEL_SIDE = frozenset({"notebook", "jupyter", "images"})
"""What only the kernel's side imports."""
_ETC = (
    "passwd group nsswitch.conf ld.so.cache ld.so.conf ld.so.conf.d alternatives localtime timezone profile bash.bashrc inputrc "
    "services protocols mime.types debian_version os-release terminfo ssl/openssl.cnf"
).split()
_EMPTY = ("proc", "sys", "dev", "run", "tmp", "var/lib", "var/log", "var/tmp", "var/cache", "var/spool", "root", "home", "opt", "srv", "mnt", "media")


class Packer:
    """Puts host files into an archive at their own paths, links as links."""

    def __init__(self, archive: Writer) -> None:
        self._archive = archive
        self._names: dict[str, dict[str, list[str]]] = {}

    def add(self, path: str) -> None:
        """A file or an empty directory, with every link on the way to it; what cannot be read is left out."""
        for _ in range(LINKS_DEPTH):
            link = self._first_link(path)
            if link is None:
                break
            target = os.readlink(link)
            self._archive.link(link, target)
            resolved = os.path.normpath(os.path.join(os.path.dirname(link), target))
            path = resolved + path[len(link) :]
        try:
            status = os.stat(path)
            if stat.S_ISDIR(status.st_mode):
                self._archive.directory(path)
            elif stat.S_ISREG(status.st_mode):
                data = without_symbols(Path(path).read_bytes())
                self._archive.file(path, data, 0o755 if status.st_mode & 0o111 else 0o644, int(status.st_mtime))
        except OSError:
            return  # a test that reads it in the guest would miss it; containers read the share

    @staticmethod
    def _first_link(path: str) -> str | None:
        current = ""
        for part in path.strip("/").split("/"):
            current = f"{current}/{part}"
            if os.path.islink(current):
                return current
        return None

    def module(self, path: str) -> None:
        """A Python source file with its compiled form."""
        self.add(path)
        if path.endswith(".py"):
            real = os.path.realpath(path)
            status = os.stat(real)
            cached = importlib.util.cache_from_source(path)
            self._archive.file(cached, _compiled(real, path, int(status.st_mtime), status.st_size), modified_seconds=int(status.st_mtime))

    def library(self, path: str) -> None:
        """A shared library under all of its names."""
        self.add(path)
        directory = os.path.dirname(path)
        if directory not in self._names:
            names: dict[str, list[str]] = {}
            self._names[directory] = names
            with os.scandir(directory) as entries:
                for entry in entries:
                    if ".so" in entry.name and entry.is_symlink():
                        names.setdefault(os.path.realpath(entry.path), []).append(entry.path)
        for link in self._names[directory].get(os.path.realpath(path), ()):
            self.add(link)

    def program(self, path: str) -> None:
        """A program with its libraries, as the dynamic loader itself lists them."""
        self.add(path)
        done = subprocess.run([path], env={"LD_TRACE_LOADED_OBJECTS": "1"}, capture_output=True, text=True, check=False)
        for line in done.stdout.splitlines():
            for word in line.split():
                if word.startswith("/"):
                    self.add(word)
                    self.library(os.path.realpath(word))


def _compiled(source: str, name: str, modified: int, size: int) -> bytes:
    """A .pyc: the one that is there, if it is right, else a new one."""
    header = importlib.util.MAGIC_NUMBER + struct.pack("<III", 0, modified & 0xFFFFFFFF, size & 0xFFFFFFFF)
    try:
        present = Path(importlib.util.cache_from_source(source)).read_bytes()
        if present.startswith(header) and source == name:
            return present
    except OSError:
        pass  # not compiled yet, or not for us to read
    return header + marshal.dumps(compile(Path(source).read_bytes(), name, "exec", dont_inherit=True))


class Trace:
    """The tracer, in a process of its own, beside whatever the caller does meanwhile; its owner asks for the result, or calls :meth:`close`."""

    def __init__(self) -> None:
        parent = str(Path(__file__).resolve().parents[3])
        code = (
            f"import sys; first = list(sys.modules); sys.path.append({parent!r}); from nbcontainer.runtime import bundle; bundle.record(); "
            "from nbcontainer.engine.vm.traced import main; main(first)"
        )
        environment = {"PATH": os.defpath, "LANG": "C.UTF-8", "PYTHONUTF8": "1", "PYTHONDONTWRITEBYTECODE": "1", "HOME": "/"}
        self._process = subprocess.Popen([sys.executable, "-P", "-c", code], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def result(self) -> dict[str, Any]:
        """Raises InternalError."""
        try:
            said, complaint = self._process.communicate(timeout=TRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self.close()
            raise InternalError(f"Python's files could not be listed within {TRACE_SECONDS:.0f} s") from None
        if self._process.returncode:
            raise InternalError(f"Python's files could not be listed: {(complaint.strip().splitlines() or ['no message'])[-1]}")
        found: dict[str, Any] = json.loads(said)
        return found

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def trace() -> dict[str, Any]:
    """What the tracer says. Raises InternalError."""
    return Trace().result()


def sources() -> Iterator[tuple[Path, str]]:
    """(file, path below the package's parent) of our own code that the guest runs."""
    package = Path(__file__).resolve().parents[2]
    for path in sorted(package.rglob("*.py")):
        relative = path.relative_to(package)
        if relative.parts[0] not in _KERNEL_SIDE:
            yield path, str(Path(package.name, relative))


START = f"""import marshal, sys
bundle = type(sys)({bundle.__name__!r})
sys.modules[bundle.__name__] = bundle
with open({FINDER_PATH!r}, "rb") as file:
    exec(marshal.load(file), vars(bundle))
sys.path.append({HOME!r})
bundle.use({BUNDLE_PATH!r})
from nbcontainer.runtime import forkhooks
forkhooks.hold()
from nbcontainer.engine.vm.guestinit import main
main()
"""
"""The bundle's own module is not imported: its package would be found, and what that imports, the slow way."""
INTERPRETER_FLAGS = "-PBXutf8"
"""Of process 1, and so of the zygote and of all cells: those of a host's zygote, which has the last two from its environment."""


def build(
    file: IO[bytes],
    kernel: KernelImage,
    start: str = START,
    extra: Iterable[tuple[str, bytes]] = (),
    tracer: Trace | None = None,
    modules: Iterable[str] = (),
) -> None:
    """Write the whole archive. ``start`` is process 1, in Python; ``extra`` are further (path, content); ``tracer`` one that was begun;
    ``modules`` further ones of Linux, where they exist.

    Raises HostError, InternalError, OSError (such as a full disk).
    """
    archive = Writer(file)
    packer = Packer(archive)
    tracer = tracer or Trace()
    try:
        for directory, loaded in zip((MODULES_DIRECTORY, LATER_MODULES_DIRECTORY), kernel.load_order(modules), strict=True):
            archive.directory(directory)
            for index, (name, data) in enumerate(loaded):
                archive.file(f"{directory}/{index:03}-{name}", data)
    except BaseException:
        tracer.close()
        raise
    traced = tracer.result()
    for name in _EMPTY:
        archive.directory(name, 0o1777 if name.endswith("tmp") else 0o700 if name == "root" else 0o755)
    archive.device("dev/console", 0o600, 5, 1)
    archive.device("dev/null", 0o666, 1, 3)
    for name in ("/bin", "/sbin", "/lib", "/lib64"):
        if os.path.islink(name):
            archive.link(name, os.readlink(name))
    _add_python(packer, archive, traced, without_bundled=start == START)
    find = shutil.which("find", path="/usr/bin:/bin")
    if find is None:
        raise HostError("the program find is missing", "sudo apt-get install findutils")
    packer.program(find)
    _add_configuration(packer, archive)
    for path, relative in sources():
        status = path.stat()
        target = f"{HOME}/{relative}"
        archive.file(target, path.read_bytes(), modified_seconds=int(status.st_mtime))
        data = _compiled(str(path), target, int(status.st_mtime), status.st_size)
        archive.file(importlib.util.cache_from_source(target), data, modified_seconds=int(status.st_mtime))
    archive.file(CONFIG_PATH, json.dumps({"branches": list(base_directories())}).encode())
    _add_bundle(archive, traced)
    for path_inside, content in extra:
        archive.file(path_inside, content)
    # Linux itself starts a script as process 1 when its first line names a program.
    archive.file("init", f"#!{sys.executable} {INTERPRETER_FLAGS}\n{start}".encode(), 0o755)
    archive.close()


def _add_bundle(archive: Writer, traced: dict[str, Any]) -> None:
    """All modules that the guest imports on its way, ours too: two hundred searches fewer."""
    ours = str(Path(__file__).resolve().parents[2])
    modules = []
    for name, source, is_package in traced["modules"]:
        path = f"{HOME}/{os.path.relpath(source, os.path.dirname(ours))}" if source.startswith(ours + os.sep) else source
        status = os.stat(source)
        modules.append((name, path, is_package, _compiled(source, path, int(status.st_mtime), status.st_size)[PYC_HEADER_BYTES:]))
    file = io.BytesIO()
    bundle.write(file, modules, base64.b64decode(traced["generated"]))
    archive.file(BUNDLE_PATH, file.getvalue())
    archive.file(FINDER_PATH, next(code for name, _, _, code in modules if name == bundle.__name__))


def _add_python(packer: Packer, archive: Writer, traced: dict[str, Any], *, without_bundled: bool) -> None:
    """``without_bundled``: no files of what comes from the bundle; Linux takes a tenth of a second to unpack these thousand."""
    packer.add(sys.executable)
    if sys.prefix != sys.base_prefix:
        packer.add(f"{sys.prefix}/pyvenv.cfg")
    ours = str(Path(__file__).resolve().parents[2]) + os.sep
    # getpath looks for these two before it believes that a directory is a Python's.
    stdlib = os.path.dirname(os.__file__)
    packer.add(f"{stdlib}/lib-dynload")
    packer.module(f"{stdlib}/os.py")
    # What an interpreter imports by itself, and what the bundle's own module does, comes before anybody can ask the bundle.
    early = {*traced["first"], "__future__"}
    bundled = {source for name, source, _ in traced["modules"] if name not in early} if without_bundled else frozenset[str]()
    for path in traced["files"]:
        if path in bundled or path.startswith(ours) or path.startswith(("/proc/", "/dev/", "/sys/")):
            continue
        if path.endswith(".pyc"):
            continue  # comes with its source
        packer.module(path)
    for path in traced["libraries"]:
        packer.library(path)
    packer.add(_loader(os.path.realpath(sys.executable)))
    _add_path_entries(archive, traced["path"])


def _add_path_entries(archive: Writer, path: Iterable[str]) -> None:
    """Directories of sys.path that .pth files add on the host: a .pth file of ours adds them in the guest."""
    import sysconfig

    packages = sysconfig.get_path("purelib")
    base = base_directories()
    added = [entry for entry in path if entry and os.path.isdir(entry) and any(entry.startswith(f"{directory}/") for directory in base)]
    for entry in added:
        archive.directory(entry)
    archive.file(f"{packages}/nbcontainer-guest.pth", "".join(f"{entry}\n" for entry in added).encode())


def _loader(program: str) -> str:
    """PT_INTERP of an ELF file: the dynamic loader, by the name under which Linux looks for it."""
    with open(program, "rb") as file:
        data = file.read(1 << 16)
    table_at, entry_size, count = *struct.unpack_from("<Q", data, 0x20), *struct.unpack_from("<HH", data, 0x36)
    for index in range(count):
        kind, _, offset, _, _, size = struct.unpack_from("<IIQQQQ", data, table_at + index * entry_size)
        if kind == 3:
            return data[offset : offset + size - 1].decode()
    return program


def _add_configuration(packer: Packer, archive: Writer) -> None:
    """The few files of /etc that programs look for; those with secrets are not among them."""
    for name in _ETC:
        path = f"/etc/{name}"
        if not os.path.isdir(path):
            if os.path.exists(path):
                packer.add(path)
            continue
        for entry in sorted(os.listdir(path)):
            full = f"{path}/{entry}"
            if os.path.islink(full):
                archive.link(full, os.readlink(full))
            else:
                packer.add(full)
    archive.file("etc/hostname", b"guest\n")
    archive.file("etc/hosts", b"127.0.0.1\tlocalhost guest\n")
    archive.file("etc/resolv.conf", b"# The virtual machine has no network.\n")
