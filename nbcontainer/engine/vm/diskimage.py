"""Files out of a disk image (qcow2 with ext4, as cloud images are), read on the host: a guest would need drivers for it, and time."""

from __future__ import annotations

import os
import stat
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

SECTOR_BYTES = 512
LINKS = 8
"""Symbolic links on one path."""
_SUPPORTED_QCOW2 = 1
"""Incompatible features: an image that was not closed (only its counts of references are in doubt)."""
_SUPPORTED_EXT4 = 0x2 | 0x4 | 0x40 | 0x80 | 0x200 | 0x2000 | 0x4000
"""filetype, recover (as "noload" does: without the journal), extents, 64bit, flex_bg, csum_seed, largedir."""
_EXTENTS, _OFFSET = 0x80000, 0x00FFFFFFFFFFFE00
_ROOT_INODE = 2


class Qcow2:
    """See QEMU's docs/interop/qcow2.rst. Raises ValueError for what it cannot read, OSError."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._read_header(path)
        except BaseException:
            self.close()
            raise

    def _read_header(self, path: Path) -> None:
        header = os.pread(self._fd, 104, 0)
        if len(header) < 104 or header[:4] != b"QFI\xfb":
            raise ValueError(f"{path} is not a qcow2 image")
        version, backing, _, bits, _, encrypted, entries, table = struct.unpack_from(">IQIIQIIQ", header, 4)
        incompatible = struct.unpack_from(">Q", header, 72)[0] if version >= 3 else 0
        if backing or encrypted or incompatible & ~_SUPPORTED_QCOW2:
            raise ValueError(f"{path} is a kind of qcow2 image that cannot be read here")
        self._bits: int = bits
        self._l1 = struct.unpack(f">{entries}Q", os.pread(self._fd, 8 * entries, table))
        self._l2: dict[int, tuple[int, ...]] = {}

    def close(self) -> None:
        os.close(self._fd)

    def read(self, offset: int, size: int) -> bytes:
        pieces, cluster = [], 1 << self._bits
        while size > 0:
            within = offset & (cluster - 1)
            length = min(size, cluster - within)
            pieces.append(self._cluster(offset >> self._bits)[within : within + length])
            offset, size = offset + length, size - length
        return b"".join(pieces)

    def _cluster(self, number: int) -> bytes:
        size, per_table = 1 << self._bits, 1 << (self._bits - 3)
        table = self._l1[number // per_table] & _OFFSET if number // per_table < len(self._l1) else 0
        if not table:
            return bytes(size)
        if table not in self._l2:
            self._l2[table] = struct.unpack(f">{per_table}Q", os.pread(self._fd, size, table))
        entry = self._l2[table][number % per_table]
        if entry & 1 << 62:
            shift = 62 - (self._bits - 8)
            at, sectors = entry & ((1 << shift) - 1), (entry >> shift & ((1 << (self._bits - 8)) - 1)) + 1
            packed = os.pread(self._fd, sectors * SECTOR_BYTES - at % SECTOR_BYTES, at)
            try:
                return zlib.decompressobj(-12).decompress(packed, size).ljust(size, b"\0")
            except zlib.error as error:
                raise ValueError(f"{self._path}: {error}") from None
        if entry & 1 or not entry & _OFFSET:
            return bytes(size)
        return os.pread(self._fd, size, entry & _OFFSET).ljust(size, b"\0")


class Ext4:
    """The files of one; see the kernel's documentation, filesystems/ext4. Raises ValueError for what it cannot read."""

    def __init__(self, disk: Qcow2) -> None:
        self._disk = disk
        block = disk.read(1024, 1024)
        (magic,) = struct.unpack_from("<H", block, 56)
        first, log_size, per_group, features = (struct.unpack_from("<I", block, at)[0] for at in (20, 24, 40, 96))
        if magic != 0xEF53 or features & ~_SUPPORTED_EXT4:
            raise ValueError("the disk image has no ext4 file system that can be read here")
        self._block_bytes = 1024 << log_size
        self._per_group: int = per_group
        self._inode_bytes, self._descriptor_bytes = struct.unpack_from("<H", block, 88)[0], struct.unpack_from("<H", block, 254)[0] if features & 0x80 else 32
        self._descriptors_at = (first + 1) * self._block_bytes

    def read(self, path: str) -> bytes:
        """A file's content. Raises FileNotFoundError."""
        parts, links = [part for part in reversed(path.split("/")) if part], LINKS
        number, inode = _ROOT_INODE, self._inode(_ROOT_INODE)
        above: list[int] = []
        while parts:
            name = parts.pop()
            if name == "..":
                number = above.pop() if above else _ROOT_INODE
                inode = self._inode(number)
                continue
            found = dict(self._entries(inode)).get(name.encode()) if name != "." else number
            if found is None:
                raise FileNotFoundError(2, "not on the disk image", path)
            entry = self._inode(found)
            if stat.S_ISLNK(_mode(entry)):
                links -= 1
                if not links:
                    raise ValueError(f"too many links on the disk image: {path}")
                target = self._content(entry).decode()
                if target.startswith("/"):
                    number, inode, above = _ROOT_INODE, self._inode(_ROOT_INODE), []
                parts += [part for part in reversed(target.split("/")) if part]
                continue
            above.append(number)
            number, inode = found, entry
        if not stat.S_ISREG(_mode(inode)):
            raise FileNotFoundError(2, "not a file on the disk image", path)
        return self._content(inode)

    def _inode(self, number: int) -> bytes:
        group, index = divmod(number - 1, self._per_group)
        descriptor = self._disk.read(self._descriptors_at + group * self._descriptor_bytes, self._descriptor_bytes)
        table = struct.unpack_from("<I", descriptor, 8)[0]
        if self._descriptor_bytes >= 64:
            table |= struct.unpack_from("<I", descriptor, 40)[0] << 32
        return self._disk.read(table * self._block_bytes + index * self._inode_bytes, 128)

    def _content(self, inode: bytes) -> bytes:
        size = struct.unpack_from("<I", inode, 4)[0] | struct.unpack_from("<I", inode, 108)[0] << 32
        if stat.S_ISLNK(_mode(inode)) and size < 60:
            return inode[40 : 40 + size]
        if not struct.unpack_from("<I", inode, 32)[0] & _EXTENTS:
            raise ValueError("a file on the disk image is kept in a way that cannot be read here")
        content = bytearray(size)
        for at, count, start in self._extents(inode[40:100]):
            begin = at * self._block_bytes
            data = self._disk.read(start * self._block_bytes, min(count * self._block_bytes, max(0, size - begin)))
            content[begin : begin + len(data)] = data
        return bytes(content)

    def _extents(self, node: bytes) -> Iterator[tuple[int, int, int]]:
        """(first block of the file, blocks, first block of the disk) of what was written."""
        magic, count, _, depth = struct.unpack_from("<HHHH", node)
        if magic != 0xF30A:
            raise ValueError("the disk image is damaged")
        for index in range(count):
            if depth:
                _, low, high = struct.unpack_from("<IIH", node, 12 * (index + 1))
                yield from self._extents(self._disk.read((high << 32 | low) * self._block_bytes, self._block_bytes))
                continue
            at, blocks, high, low = struct.unpack_from("<IHHI", node, 12 * (index + 1))
            if blocks <= 1 << 15:
                yield at, blocks, high << 32 | low

    def _entries(self, inode: bytes) -> Iterator[tuple[bytes, int]]:
        if not stat.S_ISDIR(_mode(inode)):
            return
        data, at = self._content(inode), 0
        while at + 8 <= len(data):
            number, length, name_length = struct.unpack_from("<IHB", data, at)
            if length < 8:
                raise ValueError("the disk image is damaged")
            if number:
                yield data[at + 8 : at + 8 + name_length], number
            at += length


def _mode(inode: bytes) -> int:
    mode: int = struct.unpack_from("<H", inode)[0]
    return mode
