"""A kernel's modules on a disk image are read here, on the host."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import zlib
from pathlib import Path

import pytest
from facilities import require
from linuximages import kernel_module

from nbcontainer.engine.vm import guestinit
from nbcontainer.engine.vm.diskimage import Ext4, Qcow2
from nbcontainer.engine.vm.kernelimage import KernelImage
from nbcontainer.errors import HostError
from nbcontainer.linux import syscalls

BITS = 16
CLUSTER = 1 << BITS
DISK = 32 << 20


def qcow2(path: Path, disk: bytes, *, compressed: bool) -> None:
    """As QEMU writes it; what is zero is left out."""
    table: list[int] = []
    content = bytearray(3 * CLUSTER)  # the header and the two tables
    for at in range(0, len(disk), CLUSTER):
        cluster = disk[at : at + CLUSTER]
        if not any(cluster):
            table.append(1 if compressed else 0)  # "reads as zeros", or nothing
        elif compressed:
            packer = zlib.compressobj(wbits=-12)
            packed = packer.compress(cluster) + packer.flush()
            sectors = (len(content) % 512 + len(packed) - 1) // 512
            table.append(1 << 62 | sectors << (62 - (BITS - 8)) | len(content))
            content += packed
        else:
            table.append(1 << 63 | len(content))
            content += cluster
    content[2 * CLUSTER : 2 * CLUSTER + 8 * len(table)] = struct.pack(f">{len(table)}Q", *table)
    content[CLUSTER : CLUSTER + 8] = struct.pack(">Q", 1 << 63 | 2 * CLUSTER)
    header = struct.pack(">4sIQIIQIIQQIIQQQQII", b"QFI\xfb", 3, 0, 0, BITS, len(disk), 0, 1, CLUSTER, 0, 0, 0, 0, 0, 0, 0, 4, 112)
    content[: len(header)] = header
    path.write_bytes(content)


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An ext4 file system with modules."""
    program = shutil.which("mke2fs", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    require(program is not None, "mke2fs is missing -> sudo apt-get install e2fsprogs")
    directory = tmp_path_factory.mktemp("disk")
    modules = directory / "tree/usr/lib/modules/6.9.1-test"
    (modules / "kernel").mkdir(parents=True)
    (directory / "tree/lib").symlink_to("usr/lib")
    (directory / "tree/usr/lib/modules/new").symlink_to("/lib/../lib/modules/6.9.1-test")
    (directory / "tree/usr/lib/modules/round").symlink_to("round")
    names = ["9p", "9pnet_virtio", "overlay", "virtio_pci", "veth", *(f"other{index}" for index in range(500))]
    for name in names:
        (modules / f"kernel/{name}.ko").write_bytes(kernel_module("9pnet_virtio" if name == "9p" else "") + name.encode())
    (modules / "modules.dep").write_text("".join(f"kernel/{name}.ko:\n" for name in names))
    (modules / "modules.builtin").write_text("kernel/virtio_console.ko\n")
    with open(modules / "large", "wb") as file:
        for index in range(40):  # with holes, so in many pieces
            file.seek(index * 200_000)
            file.write(b"%05d" % index * 1000)
    image = directory / "ext4"
    with open(image, "wb") as file:
        file.truncate(DISK)
    assert program is not None
    subprocess.run([program, "-q", "-t", "ext4", "-d", str(directory / "tree"), str(image)], check=True)
    return image.read_bytes()


@pytest.mark.parametrize("compressed", [False, True])
def test_files_on_a_disk_image_are_what_was_written(disk: bytes, tmp_path: Path, compressed: bool) -> None:
    qcow2(tmp_path / "disk", disk, compressed=compressed)
    image = Qcow2(tmp_path / "disk")
    try:
        assert image.read(1000, 3 * CLUSTER) == disk[1000 : 1000 + 3 * CLUSTER]
        files = Ext4(image)
        assert files.read("/lib/modules/new/kernel/other499.ko") == kernel_module("") + b"other499"
        large = files.read("usr/lib/modules/6.9.1-test/large")
        assert len(large) == 39 * 200_000 + 5000
        assert all(large[index * 200_000 :][:5000] == b"%05d" % index * 1000 for index in range(40))
        assert not any(large[5000:200_000])
        for path in ("/lib/modules/none", "/lib/modules", "/lib/modules/new/large/x"):
            with pytest.raises(FileNotFoundError):
                files.read(path)
        with pytest.raises(ValueError, match="too many links"):
            files.read("/lib/modules/round")
    finally:
        image.close()


def test_modules_are_taken_from_a_disk_image(disk: bytes, tmp_path: Path) -> None:
    qcow2(tmp_path / "disk", disk, compressed=False)
    image = KernelImage(tmp_path / "linux", "6.9.1-test", None, tmp_path / "disk", "a test")
    order, later = image.load_order(["other7", "nowhere"])
    assert [name for name, _ in order] == ["virtio_pci", "9pnet_virtio", "9p", "overlay", "other7"]
    assert later == [("veth", kernel_module("") + b"veth")]


@pytest.mark.parametrize("how", ["not qcow2", "not ext4", "backed", "cut"])
def test_a_disk_image_that_cannot_be_read_says_so(disk: bytes, tmp_path: Path, how: str) -> None:
    path = tmp_path / "disk"
    qcow2(path, bytes(DISK) if how == "not ext4" else disk, compressed=False)
    if how == "not qcow2":
        path.write_bytes(disk)
    elif how == "backed":
        with open(path, "r+b") as file:
            file.seek(8)
            file.write(struct.pack(">Q", 512))
    elif how == "cut":
        os.truncate(path, 3 * CLUSTER)
    fds = os.listdir("/proc/self/fd")
    with pytest.raises(HostError, match=f"{path} cannot be read") as refused:
        KernelImage(tmp_path / "linux", "6.9.1-test", None, path, "a test").load_order()
    assert refused.value.remedy and len(os.listdir("/proc/self/fd")) == len(fds)


def _signed(module: bytes) -> bytes:
    return module + b"s" * 70 + bytes(8) + struct.pack(">I", 70) + guestinit.SIGNED


def test_modules_are_loaded_without_their_signatures_where_linux_takes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[bytes] = []
    refusals: list[int] = []

    def init_module(module: bytes) -> None:
        given.append(module)
        if refusals:
            raise OSError(refusals.pop(), "refused")

    monkeypatch.setattr(syscalls, "init_module", init_module)
    guestinit._load(_signed(b"module"), "a")
    guestinit._load(b"module", "b")
    assert given == [b"module", b"module"]
    given.clear()
    refusals.append(129)  # EKEYREJECTED
    guestinit._load(_signed(b"module"), "c")
    assert given == [b"module", _signed(b"module")]
    refusals.append(8)  # ENOEXEC
    with pytest.raises(OSError, match="module d"):
        guestinit._load(_signed(b"module"), "d")
