"""Nothing leads out of a container: every probe of tests/escape_probes.py is refused, in the way it should be.

All probes of a variant run in one container. Where a variant opens a door, the probe's table says why it is left out.
"""

from __future__ import annotations

import json
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import escape_probes
import footprint
import pytest
from escape_probes import PROBES, Probe
from facilities import rootless

import nbcontainer as nbc
from nbcontainer.engine import local

VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "init": {"init": True},
    "root host": {"root": "host"},
    "root none": {"root": "none"},
    "share user": {"share": "user"},
    "share pid": {"share": "pid"},
    "share net": {"share": "net"},
    "user nobody": {"user": "nobody"},
    "all capabilities": {"cap_add": ["ALL"]},
}
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
    with listener, abstract, tempfile.NamedTemporaryFile(dir=Path.home(), prefix=".nbcontainer-test-") as secret:
        secret.write(b"secret")
        secret.flush()
        yield {
            "kernel": os.getpid(),
            "zygote": local.open_local()._client.pid,
            "port": listener.getsockname()[1],
            "abstract": name,
            "secret": secret.name,
        }


@pytest.fixture(scope="module")
def verdicts(host_facts: dict[str, Any]) -> Verdicts:
    """(variant) → probe's name → its verdict; the container runs when the first test asks."""
    source = Path(escape_probes.__file__).read_text(encoding="utf-8")
    known: dict[str, dict[str, str]] = {}

    def look(variant: str) -> dict[str, str]:
        if variant not in known:
            facts = {**host_facts, "zygote": local.open_local()._client.pid}
            names = [probe.name for probe in PROBES.values() if belongs(variant, probe)]
            result = nbc.run(f"{source}\nmain({facts!r}, {names!r})", mem="256M", **VARIANTS[variant])
            assert result.ok, result.describe() + result.stderr
            known[variant] = dict(json.loads(line) for line in result.stdout.splitlines())
        return known[variant]

    return look


def belongs(variant: str, probe: Probe) -> bool:
    if rootless() and variant in ("user nobody", "share user"):
        return False  # an ordinary user has one id, and always gets a user namespace
    if variant == "all capabilities" and not probe.all_capabilities:
        return False
    return variant not in probe.doors and not (rootless() and f"{variant} rootless" in probe.doors)


CASES = [(variant, probe.name) for variant in VARIANTS for probe in PROBES.values() if belongs(variant, probe)]


@pytest.mark.parametrize(("variant", "name"), CASES, ids=[f"{variant}: {name}" for variant, name in CASES])
def test_probe_is_refused(variant: str, name: str, verdicts: Verdicts) -> None:
    probe, verdict = PROBES[name], verdicts(variant)[name]
    kind, _, how = verdict.partition(" ")
    assert kind == "refused", f"{name} ({probe.why}): {verdict}"
    assert how in probe.refused, f"{name} was refused by {how}, not by one of {', '.join(sorted(probe.refused))}"


def test_there_are_many_probes() -> None:
    assert len(PROBES) > 100
