"""Files like those of a Linux kernel."""

from __future__ import annotations

import struct


def kernel_module(depends: str) -> bytes:
    """An ELF file with a .modinfo section and a table of section names."""
    names = b"\0.modinfo\0.shstrtab\0"
    info = f"license=GPL\0depends={depends}\0name=x\0".encode()
    header = bytearray(64)
    header[:4] = b"\x7fELF"
    table_at = 64 + len(names) + len(info)
    struct.pack_into("<Q", header, 0x28, table_at)
    struct.pack_into("<HHH", header, 0x3A, 64, 3, 2)
    sections = bytearray(3 * 64)
    struct.pack_into("<IIQQQQ", sections, 64, 1, 1, 0, 0, 64 + len(names), len(info))
    struct.pack_into("<IIQQQQ", sections, 128, 10, 3, 0, 0, 64, len(names))
    return bytes(header) + names + info + bytes(sections)
