"""Parts of networks that need no privilege: subnets, the resolver's messages, the picture."""

from __future__ import annotations

import asyncio
import socket
import struct
import xml.etree.ElementTree as ElementTree
from ipaddress import IPv4Network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbcontainer.errors import HostError, SpecError
from nbcontainer.network import resolver, subnets
from nbcontainer.network.described import Link, NamespaceDescription, NetworkDescription, NetworkPicture, Route
from nbcontainer.network.picture import packet_path


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> subnets.Subnets:
    monkeypatch.setattr("nbcontainer.state.state_directory", lambda: tmp_path)
    monkeypatch.setenv(subnets.POOL_VARIABLE, "10.99.0.0/20")
    return subnets.Subnets()


def test_subnets_do_not_collide_with_each_other_or_with_routes(pool: subnets.Subnets) -> None:
    first = pool.take([IPv4Network("10.99.4.0/25")])
    assert first.v4 == IPv4Network("10.99.0.0/22") and first.v6.prefixlen == 64 and first.v6.is_private
    second = pool.take([IPv4Network("10.99.4.0/25")])
    assert second.v4 == IPv4Network("10.99.8.0/22") and not second.v6.overlaps(first.v6)
    other_process = subnets.Subnets()
    assert other_process.take([]).v4 == IPv4Network("10.99.4.0/22"), "the others' are locked"
    assert pool.take([]).v4 == IPv4Network("10.99.12.0/22")
    with pytest.raises(HostError, match="no subnet is free"):
        pool.take([])
    pool.give_back(first)
    assert other_process.take([]).v4 == first.v4


def test_a_host_with_routes_everywhere_has_no_subnet_free(pool: subnets.Subnets) -> None:
    with pytest.raises(HostError, match=r"10\.99\.0\.0/20 are in use"):
        pool.take([IPv4Network("10.0.0.0/8")])


def test_given_subnets(pool: subnets.Subnets) -> None:
    given_one = pool.take_given(subnets.parse_subnet("10.99.0.0/24"), [])
    assert pool.take([]).v4 == IPv4Network("10.99.4.0/22")
    with pytest.raises(SpecError, match="collides with"):
        pool.take_given(given_one.v4, [])
    for text in ("10.0.0.1/24", "10.0.0.0/8", "10.0.0.0/30", "127.0.0.0/24", "1.1.1.0/24", "x", "fd00::/64"):
        with pytest.raises(SpecError, match="--subnet"):
            subnets.parse_subnet(text)
    with pytest.raises(HostError, match=subnets.POOL_VARIABLE):
        subnets.parse_pool("10.0.0.0/24")


class OneName(resolver.Names):
    def addresses(self, asker: str, name: str) -> list[str] | None:
        return ["10.0.0.2", "fd00::2"] if name == "web" and asker == "10.0.0.9" else None

    def name(self, asker: str, address: str) -> str | None:
        return "web" if address in ("10.0.0.2", "fd00::2") else None


def query(name: str, kind: int) -> bytes:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".") if label) + b"\0"
    return struct.pack("!HHHHHH", 7, 0x0100, 1, 0, 0, 0) + labels + struct.pack("!HH", kind, 1)


def answered(name: str, kind: int, asker: str = "10.0.0.9") -> bytes | None:
    question = resolver.parse(query(name, kind))
    assert isinstance(question, resolver.Question)
    return resolver.answer_from(OneName(), asker, question)


def test_the_resolver_answers_for_what_it_knows() -> None:
    v4, v6, other = answered("Web.", 1), answered("web", 28), answered("web", 15)
    assert v4 is not None and v4.endswith(bytes([10, 0, 0, 2])) and struct.unpack_from("!HHHH", v4)[3] == 1
    assert v6 is not None and v6.endswith(b"\xfd" + bytes(14) + b"\x02")
    assert other is not None and struct.unpack_from("!HHHH", other)[3] == 0, "there is the name, but no such record"
    assert answered("web", 1, asker="10.0.0.8") is None and answered("nobody", 1) is None
    reverse = answered("2.0.0.10.in-addr.arpa", 12)
    assert reverse is not None and reverse.endswith(b"\x03web\0")
    assert answered("x.in-addr.arpa", 12) is None


@given(st.binary(max_size=80))
def test_any_datagram_is_a_question_an_error_or_nothing(data: bytes) -> None:
    try:
        parsed = resolver.parse(data)
    except ValueError:
        return
    if isinstance(parsed, resolver.Question):
        assert resolver.answer(parsed, 0, [])[:2] == data[:2]
    else:
        assert 0 < parsed < 16


def test_resolvers_of_the_host(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text("# x\nnameserver 192.0.2.1\nnameserver nonsense\nnameserver fe80::1%eth0\nsearch a\nnameserver 1.1.1.1\nnameserver 8.8.8.8\n")
    assert resolver.upstreams(str(path)) == ["192.0.2.1", "fe80::1%eth0", "1.1.1.1"]
    assert resolver.upstreams(str(tmp_path / "none")) == []


def _link(index: int, name: str, **more: object) -> Link:
    plain = dict(kind="veth", peer=None, master=None, mac="02:00:00:00:00:01", up=True, mtu=1500, addresses=("10.0.0.2/24",), received_bytes=1, sent_bytes=2, queues=())
    return Link(index, name, **{**plain, **more})  # type: ignore[arg-type]


def _picture(*names: str, way_out: str = "") -> NetworkPicture:
    network = NetworkDescription("lab", "nbc0", "10.0.0.0/24", None, "10.0.0.1", False, {}, way_out, "" if way_out else "none <here>")
    ports = tuple(_link(20 + number, f"veth{20 + number}", peer=2, master=10) for number in range(len(names)))
    bridge = _link(10, "nbc0", kind="bridge")
    up = _link(3, "uplink", peer=5)
    router = NamespaceDescription("router", 4, (up, bridge, *ports), (Route("default", "10.1.0.1", "uplink"),))
    containers = tuple(
        NamespaceDescription(f"container {name}", 100 + number, (_link(2, "eth0", peer=20 + number),), (Route("default", "10.0.0.1", "eth0"),))
        for number, name in enumerate(names)
    )
    return NetworkPicture(network, NamespaceDescription("host", 1, (_link(5, "nbc-1", peer=3),), ()), router, containers)


@pytest.mark.parametrize("names", [(), ("web",), ("web", "<script>alert(1)</script>"), tuple(f"n{number}" for number in range(40))])
def test_the_picture_is_well_formed_whatever_is_on_it(names: tuple[str, ...]) -> None:
    picture = _picture(*names)
    root = ElementTree.fromstring(picture._repr_svg_())
    assert root.tag.endswith("svg") and not [item for item in root.iter() if item.tag.endswith("script")]
    text = str(picture)
    assert all(f"container {name}" in text for name in names)
    again = NetworkPicture.from_json(_plain(picture))
    assert again == picture


def _plain(picture: NetworkPicture) -> dict[str, object]:
    from dataclasses import asdict

    plain: dict[str, object] = asdict(picture)
    return plain


def test_the_way_of_a_packet() -> None:
    assert "start one with --net lab" in packet_path(_picture())[0]
    two = "\n".join(packet_path(_picture("web", "client")))
    assert "veth20" in two and "veth21" in two and "nbc0" in two and "container client" in two
    assert "none <here>" in packet_path(_picture("web"))[-1]
    out = packet_path(_picture("web", way_out="host"))
    assert "masquerade" in out[-1] and "5: nbc-1@if3" in out[-1]
    assert "pasta" in packet_path(_picture("web", way_out="pasta"))[-1]


def test_one_container_s_questions_do_not_keep_the_others_from_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    class WithAWayOut(OneName):
        def has_way_out(self, asker: str) -> bool:
            return True

    class Sent:
        def __init__(self) -> None:
            self.to: list[str] = []

        def sendto(self, data: bytes, peer: tuple[str, int]) -> None:
            self.to.append(peer[0])

    async def never(family: int, kind: int) -> socket.socket:
        await asyncio.Event().wait()
        raise AssertionError

    async def ask() -> None:
        served = resolver.Resolver(WithAWayOut(), never)
        served._transport = sent = Sent()
        for number in range(1000):
            served.take_datagram(query(f"slow{number}.example", 1), ("10.0.0.66", 5353))
        served.take_datagram(query("web", 1), ("10.0.0.9", 5353))
        for _ in range(5):
            await asyncio.sleep(0)
        assert sent.to == ["10.0.0.9"]
        assert len(served._tasks) == resolver.MOST_OF_ONE
        for task in (waiting := list(served._tasks)):
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await asyncio.sleep(0)
        assert not +served._datagrams and not served._tasks

    monkeypatch.setattr(resolver, "upstreams", lambda: ["192.0.2.1"])
    asyncio.run(ask())
