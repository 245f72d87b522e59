"""Nothing leads out of a container: every probe of tests/escape_probes.py is refused, in the way it should be.

All probes of a variant run in one container. Where a variant opens a door, the probe's table says why it is left out.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import escape_probes
import footprint
import pytest
from escape_probes import PROBES, Probe
from facilities import one_id, require, rootless

import nbcontainer as nbc
from nbcontainer.engine import local

VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "init": {"init": True},
    "root host": {"root": "host"},
    "program": {"program": ["python3", "-"]},
    "root none": {"root": "none", "program": ["/usr/bin/python3", "-"]},  # the kernel's own Python may lie where only its user can read
    "share user": {"share": "user"},
    "share pid": {"share": "pid"},
    "share net": {"share": "net"},
    "user nobody": {"user": "nobody"},
    "all capabilities": {"cap_add": ["ALL"]},
}
IN_THE_GUEST = ("init", "user nobody")
"""Beside the default; each takes ten seconds there, and --full has the others. Its image has no Python for "root none"."""
OPEN_DOORS = {"cap_add": ["ALL"], "security": "unconfined", "share": "net"}
Verdicts = Callable[[str], dict[str, str]]


@pytest.fixture(scope="module", autouse=True)
def each_test_leaves_nothing(engine_leaves_nothing: None) -> Iterator[None]:
    """In place of the one for each test: containers run once for all of them, and are looked after once."""
    before = footprint.take()
    yield
    leaks = footprint.leaks_since(before)
    assert not leaks, "left behind:\n" + "\n".join(leaks)


@pytest.fixture(scope="module")
def host_facts() -> Iterator[dict[str, Any]]:
    """What the probes look for: things of the host that are this test's own."""
    listener, abstract = socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_UNIX)
    name = f"nbcontainer-test-{os.getpid()}"
    abstract.bind(f"\0{name}")
    abstract.listen()
    # One in the notebook's directory, and one that --root host shows.
    places = [Path.cwd() / f".{name}", Path("/var/tmp") / name]
    with contextlib.ExitStack() as stack, tempfile.NamedTemporaryFile(dir=Path.home(), prefix=".nbcontainer-test-") as secret:
        for sock in (listener, abstract, *map(_listen, places)):
            stack.enter_context(sock)
        secret.write(b"secret")
        secret.flush()
        yield {
            "kernel": os.getpid(),
            "zygote": local.open_local()._client.pid,
            "port": listener.getsockname()[1],
            "abstract": name,
            "secret": secret.name,
            "sockets": [f"/workspace/.{name}", *map(str, places)],
        }
    for path in places:
        path.unlink()


def _listen(path: Path) -> socket.socket:
    unix = socket.socket(socket.AF_UNIX)
    unix.bind(str(path))
    path.chmod(0o777)
    unix.listen()
    return unix


@pytest.fixture(scope="module")
def verdicts(host_facts: dict[str, Any]) -> Verdicts:
    """(variant) → probe's name → its verdict; the container runs when the first test asks."""
    source = Path(escape_probes.__file__).read_text(encoding="utf-8")
    known: dict[str, dict[str, str]] = {}

    def look(variant: str) -> dict[str, str]:
        if variant not in known:
            if variant == "root none":
                require(os.path.exists("/usr/bin/python3"), "a Python that everybody may run: apt-get install python3")
            facts = {**host_facts, "zygote": local.open_local()._client.pid}
            names = [probe.name for probe in PROBES.values() if variant == "open doors" or belongs(variant, probe)]
            options = OPEN_DOORS if variant == "open doors" else VARIANTS[variant]
            result = nbc.run(f"{source}\nmain({facts!r}, {names!r})", mem="256M", **options)
            assert result.ok, result.describe() + result.stderr
            known[variant] = dict(json.loads(line) for line in result.stdout.splitlines())
            assert list(known[variant]) == names
        return known[variant]

    return look


def belongs(variant: str, probe: Probe) -> bool:
    if (one_id() and variant == "user nobody") or (rootless() and variant == "share user"):
        return False  # an ordinary user mostly has one id, and always gets a user namespace
    if variant == "all capabilities" and not probe.all_capabilities:
        return False
    return variant not in probe.doors and not (rootless() and f"{variant} rootless" in probe.doors)


def complaints(variant: str, names: list[str], verdicts: dict[str, str]) -> list[str]:
    found = []
    for name in names:
        probe, (kind, _, how) = PROBES[name], verdicts[name].partition(" ")
        if kind != "refused":
            found.append(f"{variant}: {name} ({probe.why}): {verdicts[name]}")
        elif how not in probe.refused:
            found.append(f"{variant}: {name}: refused by {how}, not by one of {', '.join(sorted(probe.refused))}")
    return found


@pytest.mark.essential
@pytest.mark.parametrize("name", [name for name, probe in PROBES.items() if belongs("default", probe)])
def test_probe_is_refused(name: str, verdicts: Verdicts) -> None:
    assert complaints("default", [name], verdicts("default")) == []


@pytest.mark.parametrize(
    "variant", [pytest.param(variant, marks=[pytest.mark.essential] if variant in IN_THE_GUEST else []) for variant in VARIANTS if variant != "default"]
)
def test_probes_are_refused_also_with(variant: str, verdicts: Verdicts) -> None:
    names = [name for name, probe in PROBES.items() if belongs(variant, probe)]
    if names:
        assert complaints(variant, names, verdicts(variant)) == []


@pytest.mark.essential
def test_the_probes_notice_an_open_door(verdicts: Verdicts) -> None:
    """Else they would prove nothing."""
    found = verdicts("open doors")
    names = ["call mount", "call umount2", "call setns", "call bpf", "call clone with a new user namespace", "remount read-write"]
    names += ["take a capability back", "reach a port of the host's loopback", "reach an abstract socket of the host"]
    assert [f"{name}: {found[name]}" for name in names if not found[name].startswith("succeeded")] == []


@pytest.fixture
def linked_root(tmp_path: Path) -> Path:
    """A directory whose mount points are links, as a hostile image's could be: out of it, and to one place in it."""
    require(os.path.exists("/bin/busybox"), "busybox-static: apt-get install busybox-static")
    root, outside = tmp_path / "root", tmp_path / "outside"
    outside.mkdir()
    (outside / "keys").write_text("the host's")
    (root / "bin").mkdir(parents=True)
    (root / "inside").mkdir()
    shutil.copy("/bin/busybox", root / "bin" / "sh")
    for name in ("sys", "dev", "workspace", "etc", "tmp"):
        (root / name).symlink_to(outside)
    (root / "proc").symlink_to("inside")
    return root


def test_mount_points_that_are_links_lead_nowhere(linked_root: Path) -> None:
    code = "read x < /proc/keys; echo \"keys=$x\"; read x < /proc/self/status && echo $x; [ -d /sys/kernel ] && [ -c /dev/null ] && echo ok; : > /tmp/made"
    result = nbc.run(code, program=["sh"], root=str(linked_root), mem="64M")
    assert result.stdout == "keys=\nName: sh\nok\n", result.stderr
    assert sorted(os.listdir(linked_root.parent / "outside")) == ["keys"]
    assert os.listdir(linked_root / "inside") == []


def test_mount_points_of_a_writable_root_that_are_links_lead_nowhere(linked_root: Path) -> None:
    try:
        result = nbc.run("read x < /proc/keys; echo \"keys=$x\"", program=["sh"], root=f"{linked_root}:rw", mem="64M")
    except nbc.NbcontainerError as error:
        assert "\n" not in str(error)  # a refusal is right too: there is no such directory in that root
    else:
        assert result.stdout == "keys=\n", result.stderr
    assert sorted(os.listdir(linked_root.parent / "outside")) == ["keys"]
    assert os.listdir(linked_root / "inside") == []
