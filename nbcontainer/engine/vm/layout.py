"""Where things are in the guest, and which host directories it sees there."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass, replace

from nbcontainer.errors import SpecError
from nbcontainer.mounts import Mount
from nbcontainer.spec import ContainerSpec

HOME = "/nbcontainer"
"""Our own files in the guest's initramfs."""
CONFIG_PATH = f"{HOME}/config.json"
BUNDLE_PATH = f"{HOME}/bundle"
FINDER_PATH = f"{HOME}/finder"
"""The code of the module that reads the bundle."""
MODULES_DIRECTORY = f"{HOME}/modules"
LATER_MODULES_DIRECTORY = f"{HOME}/later-modules"
"""What networks need besides; loaded while the first cell runs already."""
NETWORK_MODULES = ("veth", "bridge", "nf_tables", "nft_ct", "nft_chain_nat", "nft_masq", "sch_tbf", "sch_netem")
NETWORKS_PATH = "/run/nbcontainer-networks"
"""There once those are loaded."""
SHARES_DIRECTORY = "/run/nbcontainer-shares"
PORT_PATH = "/dev/vport0p1"
SLOTS = 8
"""9p devices of a guest; what is in a snapshot cannot be changed, so unused ones show an empty directory."""
PROGRAMS = "/usr"
_PROGRAM_LINKS = ("/bin", "/sbin", "/lib", "/lib32", "/lib64")


@dataclass(frozen=True, slots=True)
class Share:
    """A host directory in the guest. Mounted with ``cached``, changes on the host are seen after a refresh only."""

    tag: str
    source: str
    target: str
    read_only: bool
    cached: bool


def _is_below(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def base_directories() -> tuple[str, ...]:
    """The host's programs, and the directories that this Python runs from; outermost only, never / and no home."""
    candidates = {sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix}
    candidates |= {sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib", "platstdlib")}
    site = sys.modules.get("site")
    if site is not None and getattr(site, "ENABLE_USER_SITE", False):
        candidates.add(site.getusersitepackages())
    real = sorted({os.path.realpath(path) for path in candidates if os.path.isdir(path)} - {"/", os.path.expanduser("~")})
    # Where /bin and the like are not links into /usr, they are directories of their own.
    outermost = [PROGRAMS, *(path for path in _PROGRAM_LINKS if os.path.isdir(path) and not os.path.islink(path))]
    for path in real:
        if not any(_is_below(path, other) for other in outermost):
            outermost.append(path)
    return tuple(outermost)


def base_shares() -> tuple[Share, ...]:
    return tuple(Share(f"s{index}", path, path, True, True) for index, path in enumerate(base_directories()))


def wanted_sources(spec: ContainerSpec) -> frozenset[tuple[str, bool]]:
    """(directory, read-only) of what a container needs beyond the base shares; of a single file, its directory."""
    wanted: dict[str, bool] = {}

    def want(path: str, read_only: bool) -> None:
        directory = path if os.path.isdir(path) else os.path.dirname(path)
        if not _is_below(directory, PROGRAMS) or not read_only:
            wanted[directory] = wanted.get(directory, True) and read_only

    if spec.workspace is not None:
        want(spec.workspace, True)
    if spec.root.kind == "dir":
        want(spec.root.path, not spec.root.writable)
    for mount in spec.mounts:
        if mount.kind == "bind":
            want(mount.source, mount.read_only)
    return frozenset(wanted.items())


def shares_for(sources: Iterable[tuple[str, bool]]) -> tuple[Share, ...]:
    """All shares of a guest. Raises SpecError where there are more than a guest has room for."""
    base = base_shares()
    extra = sorted(sources)
    if len(base) + len(extra) > SLOTS:
        raise SpecError(f"--volume: the virtual machine has room for {SLOTS - len(base)} directories, and these are {len(extra)}")
    first = len(base)
    return base + tuple(
        Share(f"s{first + index}", path, f"{SHARES_DIRECTORY}/{index}", read_only, False) for index, (path, read_only) in enumerate(extra)
    )


def translate(spec: ContainerSpec, shares: Iterable[Share]) -> ContainerSpec:
    """The same container with the guest's paths in place of the host's."""
    table = {share.source: share.target for share in shares if not share.cached}

    def inside(path: str) -> str:
        if path in table:
            return table[path]
        directory, name = os.path.split(path)
        return f"{table[directory]}/{name}" if directory in table else path

    return spec.replace(
        ports=(),  # the host's: they lead into the guest through the channel
        workspace=None if spec.workspace is None else inside(spec.workspace),
        root=replace(spec.root, path=inside(spec.root.path)) if spec.root.kind == "dir" else spec.root,
        mounts=tuple(_translated(mount, inside(mount.source)) for mount in spec.mounts),
    )


def _translated(mount: Mount, source: str) -> Mount:
    return replace(mount, source=source) if mount.kind == "bind" else mount


def stamp() -> str:
    """Changes when packages are installed or removed where the guest's Python looks for them."""
    times = []
    for path in sys.path:
        try:
            times.append(str(os.stat(path).st_mtime_ns))
        except OSError:
            times.append("-")
    return " ".join(times)
