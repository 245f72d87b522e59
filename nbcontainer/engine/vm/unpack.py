"""Taking apart what kernels come in: compressed data of several kinds, bzImage, kernel modules, Debian packages."""

from __future__ import annotations

import bz2
import importlib
import io
import lzma
import shutil
import struct
import subprocess
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from nbcontainer.errors import HostError

ELF = b"\x7fELF"
PT_LOAD = 1
PVH_ENTRY_NOTE = 18
LOAD_ADDRESS = 0x1000000
_ZSTD = b"\x28\xb5\x2f\xfd"
_LZ4 = b"\x02\x21\x4c\x18"


def decompress(data: bytes, what: str) -> bytes:
    """``data`` as it was before gzip, xz, lzma, bzip2, zstd or lz4; what follows the stream is ignored.

    Raises HostError where the machine has nothing that unpacks it, ValueError where it is damaged.
    """
    try:
        if data.startswith(b"\x1f\x8b"):
            return zlib.decompressobj(wbits=31).decompress(data)
        if data.startswith((b"\xfd7zXZ\0", b"\x5d\0\0")):
            return lzma.LZMADecompressor().decompress(data)
        if data.startswith(b"BZh"):
            return bz2.BZ2Decompressor().decompress(data)
    except (zlib.error, lzma.LZMAError, OSError, EOFError) as error:
        raise ValueError(f"{what} is damaged: {error}") from None
    if data.startswith(_ZSTD):
        return _zstd(data, what)
    if data.startswith(_LZ4):
        return _program("lz4", data, what)
    return data


def _zstd(data: bytes, what: str) -> bytes:
    try:
        # In the standard library from Python 3.14 on.
        library = importlib.import_module("compression.zstd")
    except ImportError:
        return _program("zstd", data, what)
    result: bytes = library.ZstdDecompressor().decompress(data)
    return result


def _program(name: str, data: bytes, what: str) -> bytes:
    found = shutil.which(name)
    if found is None:
        raise HostError(f"{what} is compressed with {name}, which is not here", f"sudo apt-get install {name}")
    # Both complain about what follows the stream, and have written all of it by then.
    done = subprocess.run([found, "-dcq"], input=data, capture_output=True, check=False)
    if not done.stdout:
        raise ValueError(f"{what} is damaged: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


@dataclass(frozen=True, slots=True)
class BzImage:
    """What the header of an x86 boot image says."""

    release: str
    """As ``uname -r`` will say, such as ``6.1.0-50-amd64``."""
    payload: bytes
    head: bytes
    """The part that a boot loader reads, and next to nothing of the rest: for guests that go on from a snapshot."""

    @classmethod
    def read(cls, path: Path) -> BzImage:
        """Raises ValueError where ``path`` is no such image, OSError where it cannot be read."""
        data = path.read_bytes()
        if data[0x202:0x206] != b"HdrS":
            raise ValueError(f"{path} is not a Linux boot image for x86_64")
        sectors = data[0x1F1] or 4
        (version_at,) = struct.unpack_from("<H", data, 0x20E)
        version = data[version_at + 0x200 : version_at + 0x200 + 256].partition(b"\0")[0].decode("ascii", "replace")
        offset, length = struct.unpack_from("<II", data, 0x248)
        begin = (sectors + 1) * 512 + offset
        return cls(version.split(" ")[0], data[begin : begin + length], data[: (sectors + 2) * 512])

    def vmlinux(self) -> bytes:
        """The uncompressed kernel, which QEMU can start without a BIOS (PVH)."""
        image = decompress(self.payload, "the kernel image")
        if not image.startswith(ELF):
            raise ValueError("the kernel image holds something unknown")
        return image


def stand_in_kernel() -> bytes:
    """A kernel that QEMU accepts as it accepts vmlinux (PVH), and that is never run: for guests that go on from a snapshot.

    QEMU keeps the real one and its initramfs in memory otherwise, some 90 MiB that nobody reads.
    """
    note = struct.pack("<III4sQ", 4, 8, PVH_ENTRY_NOTE, b"Xen\0", LOAD_ADDRESS)
    notes_at = 64 + 2 * 56
    header = ELF + bytes([2, 1, 1]) + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, LOAD_ADDRESS, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    load = struct.pack("<IIQQQQQQ", 1, 5, notes_at, LOAD_ADDRESS, LOAD_ADDRESS, len(note), len(note), 4096)
    annotate = struct.pack("<IIQQQQQQ", 4, 4, notes_at, LOAD_ADDRESS, LOAD_ADDRESS, len(note), len(note), 4)
    return header + load + annotate + note


def without_symbols(program: bytes) -> bytes:
    """A program or shared library without what Linux and the dynamic loader never read: symbols and debugging information.

    Everything else is returned as it is.
    """
    if not program.startswith(ELF + b"\2\1"):
        return program
    try:
        table_at, entry_size, count = *struct.unpack_from("<Q", program, 0x20), *struct.unpack_from("<HH", program, 0x36)
        headers = [struct.unpack_from("<IIQQQQ", program, table_at + index * entry_size) for index in range(count)]
    except (struct.error, OverflowError):
        return program  # it ends too early, and whoever starts it will say so
    loaded = max((offset + size for kind, _, offset, _, _, size in headers if kind == PT_LOAD), default=0)
    if not 0 < loaded < len(program):
        return program  # a kernel module has no such headers
    # e_shoff, and then e_shentsize, e_shnum and e_shstrndx: there are no sections.
    return program[:0x28] + bytes(8) + program[0x30:0x3A] + bytes(6) + program[0x40:loaded]


def module_dependencies(module: bytes) -> list[str]:
    """The ``depends`` of a kernel module (an ELF file), from its .modinfo section; names have underscores."""
    if not module.startswith(ELF):
        return []
    (table_at,) = struct.unpack_from("<Q", module, 0x28)
    entry_size, count, names_index = struct.unpack_from("<HHH", module, 0x3A)
    sections = [struct.unpack_from("<IIQQQQ", module, table_at + index * entry_size) for index in range(count)]
    names_at = sections[names_index][4]
    for name, _, _, _, offset, size in sections:
        if module[names_at + name : names_at + name + 9] == b".modinfo\0":
            for item in module[offset : offset + size].split(b"\0"):
                if item.startswith(b"depends="):
                    return [word.replace("-", "_") for word in item[8:].decode("ascii").split(",") if word]
    return []


def unpack_deb(package: Path, target: Path) -> None:
    """What ``dpkg -x`` does, of /boot and /lib/modules only. Raises ValueError for what is no Debian package, or leads out of ``target``."""
    data = package.read_bytes()
    if not data.startswith(b"!<arch>\n"):
        raise ValueError(f"{package} is not a Debian package")
    position = 8
    while position + 60 <= len(data):
        name, size = data[position : position + 16].decode("ascii").strip(" /"), int(data[position + 48 : position + 58])
        begin = position + 60
        if name.startswith("data.tar"):
            _unpack_tar(decompress(data[begin : begin + size], str(package)), target)
            return
        position = begin + size + size % 2
    raise ValueError(f"{package} holds no data")


def _unpack_tar(data: bytes, target: Path) -> None:
    """Files and directories only. Not with ``extractall(filter=)``, which Python has from 3.11.4 on: Debian 12's is older."""
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for member in archive:
            name = member.name.removeprefix("./")
            if not name.startswith(("boot/vmlinuz", "lib/modules", "usr/lib/modules")):
                continue
            if ".." in Path(name).parts:
                raise ValueError(f"{member.name!r} leads out of the package")
            if member.isdir():
                (target / name).mkdir(parents=True, exist_ok=True)
            elif member.isfile():
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                with (target / name).open("wb") as file:
                    shutil.copyfileobj(cast(IO[bytes], archive.extractfile(member)), file)
