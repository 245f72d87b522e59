"""``nbcontainer kernel``: kernelspecs whose kernels run in containers."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import KernelSpec, KernelSpecManager, NoSuchKernel
from traitlets import TraitError

from nbcontainer.errors import SpecError
from nbcontainer.jupyter.provisioner import kernel_spec
from nbcontainer.options import OPTIONS, help_of, parse_options
from nbcontainer.units import format_size

PROVISIONER = "nbcontainer"
DEFAULT_BASE = "python3"
USAGE = """usage: nbcontainer kernel install --name NAME [--kernelspec BASE] [--display-name TEXT] [--user | --prefix DIR] [OPTIONS]
       nbcontainer kernel ls
       nbcontainer kernel rm NAME

install makes a kernel for the launcher and for `jupyter kernelspec list`: that of BASE (python3), whatever its language, as
the first process of a container. A restart is a new container. The notebook's directory is at /workspace, copy-on-write: what
the notebook writes there is gone when its kernel ends. With -v .:/workspace it goes to the directory itself.

  --name NAME            of the kernel: letters, digits, - . _
  --kernelspec BASE      the kernel to put in a container (python3); `jupyter kernelspec list` shows them
  --display-name TEXT    what the launcher shows
  --user                 for this user's Jupyter; without it, for the environment that nbcontainer is in
  --prefix DIR           for the environment at DIR

OPTIONS are those of %%container that are about the container:"""
_NOT_FOR_KERNELS = frozenset(("name", "user", "max_output", "engine"))


@dataclass(frozen=True, slots=True)
class Installation:
    """What ``kernel install`` was asked for. ``prefix`` None: the user's directory."""

    name: str
    base: str
    display_name: str
    prefix: str | None
    options: dict[str, Any]


def main(words: list[str]) -> int:
    """``nbcontainer kernel ...``; returns the exit code. Raises SpecError."""
    command, rest = (words[0], words[1:]) if words else ("", [])
    if command in ("--help", "-h") or "--help" in rest or "-h" in rest:
        print(help_text())
        return 0
    if command == "install":
        wanted = read_words(rest)
        path = install(wanted)
        print(f"The kernel {wanted.name} is in {path}.")
        if not any(volume.split(":")[1:2] == ["/workspace"] for volume in wanted.options.get("volume", ())):
            print("What its notebooks write is gone when the kernel ends; -v .:/workspace keeps it in the notebook's directory.")
        return 0
    if command == "ls" and not rest:
        print(table())
        return 0
    if command == "rm" and len(rest) == 1:
        print(f"removed {remove(rest[0])}")
        return 0
    raise SpecError(f"kernel: {' '.join(words) or 'a command'!r} is not understood; there are install --name NAME, ls and rm NAME")


def help_text() -> str:
    options = tuple(option for option in OPTIONS if option.key not in _NOT_FOR_KERNELS and option.group in ("resources", "isolation", "life"))
    return "\n".join([USAGE, *help_of(options)])


def read_words(words: Sequence[str]) -> Installation:
    """Raises SpecError of one line."""
    own: dict[str, str] = {}
    rest: list[str] = []
    waiting = list(words)
    while waiting:
        word = waiting.pop(0)
        name, equals, value = word.partition("=")
        if name == "--user" and not equals and not (waiting and not waiting[0].startswith("-")):
            own[name] = "yes"
        elif name in ("--name", "--kernelspec", "--display-name", "--prefix"):
            if not equals and not waiting:
                raise SpecError(f"{name}: a value is missing")
            own[name] = value if equals else waiting.pop(0)
        else:
            rest.append(word)
    parsed = parse_options(rest)
    if parsed.program:
        raise SpecError(f"kernel install: {parsed.program[0]!r} is not understood; the kernelspec's own command is run (--kernelspec BASE)")
    for key in parsed.front:
        raise SpecError(f"--{key.replace('_', '-')}: is for cells, not for a kernel")
    if "--name" not in own:
        raise SpecError("kernel install: --name is missing, such as: nbcontainer kernel install --name py-512m --mem 512M")
    if "--user" in own and "--prefix" in own:
        raise SpecError("--user, --prefix: one of them")
    prefix = None if "--user" in own else own.get("--prefix", sys.prefix)
    base = own.get("--kernelspec", DEFAULT_BASE)
    return Installation(own["--name"], base, own.get("--display-name", ""), prefix, parsed.container)


def install(wanted: Installation) -> str:
    """Write the kernelspec; returns its directory. Everything is checked before anything is written. Raises SpecError."""
    manager = KernelSpecManager()
    base = _base(manager, wanted.base)
    if not all(character.isascii() and (character.isalnum() or character in "-._") for character in wanted.name) or not wanted.name:
        raise SpecError(f"--name: {wanted.name!r} is not a name for a kernel (letters, digits, - . _)")
    if wanted.name.lower() in (wanted.base.lower(), DEFAULT_BASE):
        raise SpecError(f"--name: {wanted.name!r} is the kernel without a container; choose another, such as {wanted.base}-contained")
    # Relative sources start at a notebook's directory, and which that will be is not known yet.
    known = [volume for volume in wanted.options.get("volume", ()) if not volume.startswith("./") and not volume.startswith("../")]
    kernel_spec({**wanted.options, "volume": known}, base.argv, "kernel", os.getcwd(), [])
    content = base.to_dict()
    content["display_name"] = wanted.display_name or f"{base.display_name} · {_summary(wanted.options)}"
    content["metadata"] = {
        **base.metadata,
        "kernel_provisioner": {"provisioner_name": PROVISIONER, "config": {"base": wanted.base, "options": wanted.options}},
    }
    with tempfile.TemporaryDirectory(prefix="nbcontainer-") as directory:
        source = f"{directory}/kernel"
        shutil.copytree(base.resource_dir, source)
        Path(source, "kernel.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        try:
            return str(manager.install_kernel_spec(source, wanted.name, user=wanted.prefix is None, prefix=wanted.prefix))
        except OSError as error:
            where = wanted.prefix or "your Jupyter directory"
            raise SpecError(f"the kernel cannot be written to {where}: {error.strerror or error}; try --user, or --prefix DIR") from None


def _base(manager: KernelSpecManager, name: str) -> KernelSpec:
    """Raises SpecError for what is not there, or cannot run in a container."""
    directory = manager.find_kernel_specs().get(name.lower())
    if directory is None or not os.path.exists(f"{directory}/kernel.json"):
        # Jupyter's own Python kernel need not be written anywhere; it is found by the directory of its icons.
        try:
            spec = manager.get_kernel_spec(name)
        except NoSuchKernel:
            known = ", ".join(sorted(manager.find_kernel_specs())) or "none"
            raise SpecError(f"--kernelspec: there is no {name!r}; there are {known}") from None
    else:
        spec = _read(directory, f"--kernelspec: {name}/kernel.json")
    if not spec.argv:
        raise SpecError(f"--kernelspec: {name}/kernel.json has no argv: there is nothing to run in a container")
    provisioner = spec.metadata.get("kernel_provisioner", {}).get("provisioner_name", "local-provisioner")
    if provisioner != "local-provisioner":
        raise SpecError(f"--kernelspec: {name} is started by another provisioner ({provisioner}); choose one that runs on this host as it is")
    return spec


def _read(directory: str, what: str) -> KernelSpec:
    try:
        argv = json.loads(Path(directory, "kernel.json").read_text(encoding="utf-8")).get("argv", [])
        if not isinstance(argv, list) or not all(isinstance(word, str) for word in argv):
            raise ValueError("argv is not a list of strings")
        return KernelSpec.from_resource_dir(directory)
    except (OSError, ValueError, TypeError, AttributeError, TraitError) as error:
        raise SpecError(f"{what} cannot be read: {error}") from None


def _summary(options: dict[str, Any]) -> str:
    """What the launcher shows after the name of the kernel's language."""
    words = [str(options["mem"])] if "mem" in options else []
    if "cpus" in options:
        words.append(f"{options['cpus']} CPU{'' if str(options['cpus']) == '1' else 's'}")
    return " · ".join(words) or "in a container"


def _contained(manager: KernelSpecManager) -> dict[str, tuple[str, dict[str, Any]]]:
    """(display name, options) of each kernel of ours."""
    found = {}
    for name, directory in sorted(manager.find_kernel_specs().items()):
        try:
            spec = _read(directory, name)
        except SpecError:
            continue  # whoever wrote it has to mend it; it is none of ours
        provisioner = spec.metadata.get("kernel_provisioner", {})
        if provisioner.get("provisioner_name") == PROVISIONER:
            found[name] = (spec.display_name, provisioner.get("config", {}).get("options", {}))
    return found


def table() -> str:
    """The kernels in containers, one a line."""
    rows = [("NAME", "DISPLAY NAME", "OPTIONS")]
    for name, (display_name, options) in _contained(KernelSpecManager()).items():
        rows.append((name, display_name, " ".join(_words(options))))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def _words(options: dict[str, Any]) -> list[str]:
    words = []
    for key, value in options.items():
        name = f"--{key.replace('_', '-')}"
        for item in value if isinstance(value, list) else [value]:
            words.append(name if item is True else f"{name} {format_size(item) if isinstance(item, int) else item}")
    return words


def remove(name: str) -> str:
    """Remove a kernel of ours; returns its directory. Raises SpecError."""
    manager = KernelSpecManager()
    ours = _contained(manager)
    if name.lower() not in ours:
        raise SpecError(f"kernel rm: {name!r} is not a kernel in a container; there are {', '.join(ours) or 'none'}")
    try:
        return str(manager.remove_kernel_spec(name.lower()))
    except OSError as error:
        raise SpecError(f"kernel rm: {name} cannot be removed: {error.strerror or error}") from None
