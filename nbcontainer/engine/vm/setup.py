"""``nbcontainer vm setup``, and what the doctor says about the virtual machine."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nbcontainer.engine.vm import kernelimage, qemu
from nbcontainer.engine.vm.engine import guest_cpus, guest_memory_mib, open_vm
from nbcontainer.engine.vm.template import Template, cache_directory
from nbcontainer.errors import HostError, NbcontainerError

NAME = "virtual machine"
SETUP = "nbcontainer vm setup"
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that the virtual machine needs."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""


def set_up(kernel: str | None, force: bool, tell: Tell) -> None:
    """Everything that a first cell would wait for, and a cell to see that it works. Raises NbcontainerError."""
    began = time.monotonic()
    program = qemu.find()
    tell(f"QEMU {program.version}: {program.program}")
    image = _kernel(kernel, tell)
    tell(f"Linux {image.release}: {image.origin}")
    downloaded = time.monotonic()
    template = Template(cache_directory(), program, image, guest_memory_mib(), guest_cpus())
    open_vm().look_ahead()
    with template.locked():
        if force or not template.bootable:
            template.build_boot_files(tell, force=True)
        if template.snapshot() is None:
            template.build_snapshot(tell)
        template.remove_old()
    _try(tell)
    tell(f"ready after {time.monotonic() - began:.1f} s ({time.monotonic() - downloaded:.1f} s without downloads); its files are in {template.directory}")


def _kernel(explicit: str | None, tell: Tell) -> kernelimage.KernelImage:
    cache = cache_directory()
    if explicit is not None:
        image = kernelimage.find(explicit, cache)
        # Later runs are to use it too.
        (cache / kernelimage.SETTINGS).write_text(json.dumps({"kernel": str(Path(explicit).expanduser().resolve())}))
        return image
    try:
        return kernelimage.find(None, cache)
    except HostError:
        return kernelimage.download(cache, tell)


def _try(tell: Tell) -> None:
    from nbcontainer.container import run

    began = time.monotonic()
    result = run("import os; print(os.uname().release)", engine="vm", mem="64M", workspace="none")
    seconds = time.monotonic() - began
    if not result.ok:
        raise HostError(f"a first cell in the virtual machine failed: {result.describe()}", f"{SETUP} --force")
    tell(f"a first cell, restored from the snapshot: {seconds:.2f} s, in Linux {result.stdout.strip()}")


def findings() -> list[Finding]:
    """Nothing is built or started."""
    try:
        program = qemu.find()
    except HostError as error:
        return [Finding("QEMU", False, error.message, error.remedy)]
    found = [Finding("QEMU", True, f"{program.version}, {program.program}")]
    try:
        cache = cache_directory()
        image = kernelimage.find(None, cache)
        template = Template(cache, program, image, guest_memory_mib(), guest_cpus())
    except HostError as error:
        return [*found, Finding(NAME, False, error.message, error.remedy)]
    except NbcontainerError as error:
        return [*found, Finding(NAME, False, str(error), SETUP)]
    what = f"Linux {image.release} ({image.origin})"
    if template.snapshot() is not None:
        return [*found, Finding(NAME, True, f"{what}, ready to be restored")]
    if os.access(cache, os.W_OK):
        return [*found, Finding(NAME, True, f"{what}; the first cell takes some seconds, unless: {SETUP}")]
    return [*found, Finding(NAME, False, f"{cache} cannot be written", "export NBCONTAINER_VM_CACHE=DIRECTORY")]
