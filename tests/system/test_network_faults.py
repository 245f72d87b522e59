"""Networks when Linux refuses: each request fails once, or what was made has been taken away. One typed error, nothing left, and
what comes next works."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import faulty_router
import hostnet
import pytest
from facilities import only_as_root, rootless

import nbcontainer as nbc
from nbcontainer.engine import local
from nbcontainer.linux import syscalls

pytest.importorskip("pyroute2", reason="pyroute2 is missing: pip install pyroute2")
SECONDS = 20.0
ERRNOS = (errno.EPERM, errno.ENOSPC, errno.ENOMEM, errno.EINTR)
_fault = itertools.count()


@pytest.fixture(autouse=True)
def networks_of_our_own() -> Iterator[None]:
    """A fresh engine; at the end the host is as it was."""
    local.shutdown()
    before = hostnet.state()
    yield
    local.shutdown()
    _assert_settled(hostnet.state, before)


@pytest.fixture
def faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """See :mod:`faulty_router`, which the next router is. No containers are made in advance: that their requests fail is nobody's news."""
    found = tmp_path / "faults"
    monkeypatch.setattr(local.open_local(), "make_spares", lambda shape, count: None)
    networks()._start_router = faulty_router.starter(found)
    return found


def networks() -> Any:
    return local.open_local().networks


def _assert_settled(look: Callable[[], hostnet.State], wanted: hostnet.State) -> None:
    deadline = time.monotonic() + SECONDS
    while (now := look()) != wanted and time.monotonic() < deadline:
        time.sleep(0.02)  # Linux takes links down when it gets round to it
    assert now == wanted


@contextlib.contextmanager
def in_router() -> Iterator[None]:
    """This thread is in the router's network namespace."""
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    inner = os.open(f"/proc/{networks()._router.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        syscalls.setns(inner, syscalls.CLONE_NEWNET)
        yield
    finally:
        syscalls.setns(own, syscalls.CLONE_NEWNET)
        os.close(own)
        os.close(inner)


def everything() -> hostnet.State:
    """Of the host and, for root, of the router, but for what comes and goes there with the containers: what is link-local, and flags."""
    found = hostnet.state()
    for kind in ("addresses", "routes"):
        found[kind] = _without_link_local(found[kind])
    if not rootless():
        with in_router():
            inner = hostnet.state()
        found["router's links"] = [line.rpartition(" ")[0] for line in inner["links"]]
        for kind in ("addresses", "routes"):
            found[f"router's {kind}"] = _without_link_local(inner[kind])
        found["how many of the router's nft rules"] = [str(len(inner["nft rules"]))]
    return found


def _without_link_local(lines: list[str]) -> list[str]:
    """Those come a second after their link."""
    return [line for line in lines if "fe80:" not in line and "ff00:" not in line]


def without_containers() -> hostnet.State:
    """:func:`everything`, when those that were made in advance have gone."""
    deadline = time.monotonic() + SECONDS
    while True:
        local.open_local().drop_spares()  # one may have been in the making
        found = everything()
        if not any(" veth" in line for line in found.get("router's links", ())):
            return found
        assert time.monotonic() < deadline
        time.sleep(0.02)


def each_fails_once(faults: Path, attempt: Callable[[], object], *, at_least: int) -> None:
    """``attempt`` with each of its requests refused in turn, and at last with none; it undoes what it did."""
    assert nbc.run("pass", net="bridge").ok
    attempt()
    before = without_containers()
    for number in ERRNOS:
        for index in itertools.count():
            local.open_local().drop_spares()
            faults.write_text(f"{index} {number} {next(_fault)}")
            try:
                attempt()
            except (nbc.SetupError, nbc.HostError) as error:
                assert not faults.exists(), error
                assert "\n" not in str(error) and errno.errorcode[number] in str(error), error
            else:
                assert faults.exists(), f"request {index} was refused, and nobody said so"
                faults.unlink()
                assert index >= at_least
                break
            _assert_settled(without_containers, before)
            attempt()
            _assert_settled(without_containers, before)
    assert nbc.run("print('next')", net="bridge").stdout == "next\n"


def test_each_request_for_a_network_fails_once(faults: Path) -> None:
    def attempt() -> None:
        networks().create("faulty", subnet="10.77.0.0/24")  # the same one again: nothing was kept of it
        with_it.append(networks()._router)
        _quietly(lambda: networks().remove("faulty"), faults)

    with_it: list[object] = []
    each_fails_once(faults, attempt, at_least=6 if rootless() else 8)
    assert len(set(map(id, with_it))) == 1, "it is the same router all the time"


def _quietly(undo: Callable[[], object], faults: Path) -> None:
    """Without the fault that is to come."""
    kept = faults.read_text() if faults.exists() else None
    faults.unlink(missing_ok=True)
    undo()
    if kept is not None:
        faults.write_text(kept)


def test_each_request_for_the_end_of_a_network_fails_once(faults: Path) -> None:
    def attempt() -> None:
        if "faulty" not in networks().names():
            _quietly(lambda: networks().create("faulty", subnet="10.77.0.0/24"), faults)
        try:
            networks().remove("faulty")
        except nbc.SetupError as error:
            assert "it is as it was" in str(error)
            assert nbc.run("pass", net="faulty").ok
            if not rootless():
                assert sum("'10.77.0.0'" in line for line in hostnet.state()["routes"]) == 1, "the host still reaches it"
            networks().remove("faulty")
            raise

    each_fails_once(faults, attempt, at_least=2 if rootless() else 4)


def test_each_request_for_a_container_fails_once(faults: Path) -> None:
    def attempt() -> None:
        assert nbc.run("print(1)", net=["bridge", "second"], name="asked", publish=["18197:80"], net_rate="10M").stdout == "1\n"

    nbc.run("pass", net="bridge")
    networks().create("second")
    each_fails_once(faults, attempt, at_least=10)
    networks().remove("second")


def test_each_request_for_a_picture_fails_once(faults: Path) -> None:
    each_fails_once(faults, lambda: networks().inspect("bridge"), at_least=6)


def test_each_request_of_a_router_s_start_fails_once(faults: Path) -> None:
    before = hostnet.state()
    for index in itertools.count():
        networks().close()
        _assert_settled(hostnet.state, before)
        faults.write_text(f"{index} {errno.EPERM} {next(_fault)}")
        try:
            (made,) = networks().list()
        except (nbc.SetupError, nbc.HostError) as error:
            assert "EPERM" in str(error)
            _assert_settled(hostnet.state, before)
            (made,) = networks().list()
        else:
            if faults.exists():
                break
            # It goes on without a link to the host, of which nothing is left; or without rules, and then forwards nothing.
            assert "Operation not permitted" in made.why_no_way_out, index
            assert hostnet.state()["links"] == before["links"]
        assert made.name == "bridge"
    faults.unlink()
    assert index >= 10
    assert nbc.run("print('next')", net="bridge").stdout == "next\n"


def test_a_network_that_cannot_be_made_leaves_no_route() -> None:
    only_as_root("it changes the link between the router and the host")
    nbc.run("pass", net="bridge")
    before = without_containers()
    with _without_ipv6(before):
        before = without_containers()
        for _ in range(3):
            with pytest.raises(nbc.SetupError, match=r"step 'make network' at network late .*; nothing of it is there"):
                networks().create("late")
            _assert_settled(everything, before)
        assert [item.name for item in networks().list()] == ["bridge"]


@contextlib.contextmanager
def _without_ipv6(state: hostnet.State) -> Iterator[None]:
    """The router's link to the host has none."""
    (link,) = [line.split()[1] for line in state["links"] if line.split()[1].startswith("nbc")]
    path = Path(f"/proc/sys/net/ipv6/conf/{link}/disable_ipv6")
    path.write_text("1")
    try:
        yield
    finally:
        path.write_text("0")


def test_a_network_whose_route_is_gone_is_removed_all_the_same() -> None:
    only_as_root("it removes a route of the host")
    from pyroute2 import IPRoute

    nbc.run("pass", net="bridge")
    before = without_containers()
    for _ in range(2):
        networks().create("mine", subnet="10.77.0.0/24")
        with IPRoute() as route:
            route.route("del", dst="10.77.0.0/24")
        networks().remove("mine")
        _assert_settled(everything, before)
