"""How much memory this Linux has."""

from __future__ import annotations


def host_memory_bytes() -> tuple[int, int]:
    """(total, available) memory of the host in bytes, from /proc/meminfo."""
    fields: dict[str, int] = {}
    with open("/proc/meminfo", encoding="ascii") as meminfo:
        for line in meminfo:
            key, value = line.split(":")
            fields[key] = int(value.split()[0]) * 1024
            if "MemAvailable" in fields:
                break
    return fields["MemTotal"], fields["MemAvailable"]
