"""What Python opens on its way to a warm zygote: run as a program on the host, it prints the files as JSON.

Everything on this list has to be in the guest's memory before any share is mounted. Nothing imports this module.
"""

from __future__ import annotations

import base64
import codecs
import contextlib
import importlib.util
import json
import os
import sys
import tempfile
from importlib.machinery import SourceFileLoader
from typing import Any

from nbcontainer.network import lean
from nbcontainer.runtime import bundle

WARM_MODULES = (
    "nbcontainer.runtime.forkhooks",
    "nbcontainer.runtime.zygote",
    "nbcontainer.runtime.cell",
    "nbcontainer.engine.local",
    "nbcontainer.engine.vm.guestinit",
    "nbcontainer.engine.vm.guesthelpers",
    "nbcontainer.engine.vm.agent",
)


def main(first: list[str]) -> None:
    """``first``: names of the modules that were there before anything of ours."""
    opened: set[str] = set()

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[0], str) and arguments[0].startswith("/"):
            opened.add(arguments[0])

    sys.addaudithook(hook)
    for name in WARM_MODULES:
        importlib.import_module(name)
    for encoding in ("ascii", "latin-1", "utf-8", "idna"):
        codecs.lookup(encoding)
    from nbcontainer.runtime import cell, rootfs
    from nbcontainer.validate import make_spec

    rootfs.make_plan(make_spec({"mem": "64M"}), rootfs.look_around(False), (), 0)
    with tempfile.TemporaryDirectory() as directory:
        shell = cell.build_shell(directory)
        cell.warm(shell)
        cell.warm(shell)
    with contextlib.suppress(ImportError):  # networks need pyroute2, and nothing else does
        lean.import_router()
    for module in list(sys.modules.values()):
        origin = getattr(getattr(module, "__spec__", None), "origin", None) or getattr(module, "__file__", None)
        if isinstance(origin, str) and os.path.isfile(origin):
            opened.add(origin)
    # Also of modules that are not there any more.
    opened.update(importlib.util.source_from_cache(path) for path in list(opened) if path.endswith(".pyc"))
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
        mapped = {line.split(maxsplit=5)[5].strip() for line in maps if line.count("/") and "(deleted)" not in line}
    libraries = sorted(path for path in mapped if os.path.isfile(path))
    found = {"files": sorted(path for path in opened if os.path.isfile(path)), "libraries": libraries, "path": sys.path, "modules": _modules(), "first": first}
    json.dump({**found, "generated": base64.b64encode(bundle.recorded()).decode()}, sys.stdout)


def _modules() -> list[tuple[str, str, bool]]:
    """(name, source file, whether it is a package) of what was imported."""
    specs = [getattr(module, "__spec__", None) for module in list(sys.modules.values())]
    return sorted({
        (spec.name, spec.origin, spec.submodule_search_locations is not None)
        for spec in specs
        if spec is not None and type(spec.loader) is SourceFileLoader and spec.origin is not None and os.path.isfile(spec.origin)
    })
