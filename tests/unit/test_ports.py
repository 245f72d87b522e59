"""What ``-p`` and ``--net`` take, and what they refuse."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbcontainer.errors import SpecError
from nbcontainer.ports import Port, parse_ports
from nbcontainer.validate import make_spec


@pytest.mark.parametrize(
    ("text", "ports"),
    [
        ("8080:80", [Port("127.0.0.1", 8080, 80, "tcp")]),
        ("127.0.0.1:8080:80/udp", [Port("127.0.0.1", 8080, 80, "udp")]),
        ("0.0.0.0:8080:80/TCP", [Port("0.0.0.0", 8080, 80, "tcp")]),
        ("[::1]:8080:80", [Port("::1", 8080, 80, "tcp")]),
        ("80", [Port("127.0.0.1", 0, 80, "tcp")]),
        ("127.0.0.1::80", [Port("127.0.0.1", 0, 80, "tcp")]),
        ("8000-8001:80-81", [Port("127.0.0.1", 8000, 80, "tcp"), Port("127.0.0.1", 8001, 81, "tcp")]),
    ],
)
def test_what_can_be_written(text: str, ports: list[Port]) -> None:
    assert list(parse_ports([text])) == ports


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "is not"),
        ("web", "is not"),
        ("8080:80/sctp", "not tcp or udp"),
        ("8080:0", "ports are 1 to 65535"),
        ("70000:80", "1 to 65535"),
        ("8080:800000", "above 65535"),
        ("8080-8082:80-81", "3 ports of the host for 2"),
        ("8082-8080:80-82", "first of a range"),
        ("1-2000:1-2000", "more than 1000"),
        ("999.1.1.1:80:80", "not an address"),
        ("localhost:80:80", "is not"),
    ],
)
def test_what_cannot(text: str, complaint: str) -> None:
    with pytest.raises(SpecError, match=complaint) as refused:
        parse_ports([text])
    assert str(refused.value).startswith("--publish: ") and "\n" not in str(refused.value)


def test_twice_is_refused_but_not_for_another_protocol() -> None:
    with pytest.raises(SpecError, match="given twice"):
        parse_ports(["8080:80", "8080:81"])
    assert len(parse_ports(["8080:80", "8080:80/udp", "80", "80"])) == 4


@given(st.text())
def test_anything_is_ports_or_a_line(text: str) -> None:
    try:
        found = parse_ports([text])
    except SpecError as error:
        assert "\n" not in str(error)
    else:
        assert all(1 <= port.container_port <= 65535 and 0 <= port.host_port <= 65535 for port in found)


@pytest.mark.parametrize(
    ("options", "network", "networks"),
    [
        ({}, "none", ()),
        ({"net": "none"}, "none", ()),
        ({"net": "host"}, "host", ()),
        ({"share": "net"}, "host", ()),
        ({"net": "bridge"}, "bridge", ("bridge",)),
        ({"net": "a,b"}, "bridge", ("a", "b")),
        ({"net": ["a", "b"]}, "bridge", ("a", "b")),
        ({"publish": "8080:80"}, "bridge", ("bridge",)),
        ({"publish": ["8080:80"], "net": "lab"}, "bridge", ("lab",)),
    ],
)
def test_networks(options: dict[str, object], network: str, networks: tuple[str, ...]) -> None:
    spec = make_spec(options)
    assert (spec.network, spec.networks) == (network, networks)
    assert ("net" in spec.namespaces) == (network != "host")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"net": "a b"}, "--net: 'a b' is not none, host, bridge or the name"),
        ({"net": "a,a"}, "twice"),
        ({"net": "none,bridge"}, "cannot be had together"),
        ({"net": ["host", "bridge"]}, "cannot be had together"),
        ({"net": "bridge", "share": "net"}, "needs a network namespace"),
        ({"net": "none", "publish": "80"}, "--publish: not with --net none"),
        ({"net": "host", "publish": "80"}, "--publish: not with --net host"),
        ({"share": "net", "publish": "80"}, "needs a network namespace"),
        ({"net_rate": "1M"}, "--net-rate: with --net none"),
        ({"net_rate": "1M", "net": "host"}, "--net-rate: with --net host"),
        ({"net_rate": "8G", "net": "bridge"}, "--net-rate: '8G' is not from"),
        ({"net_rate": "fast", "net": "bridge"}, "--net-rate: 'fast'"),
        ({"net_delay": "50 days", "net": "bridge"}, "--net-delay: '50 days' is not a time"),
        ({"net_delay": "50ms"}, "--net-delay: with --net none"),
        ({"net_rate": "1M", "net": "bridge", "cap_add": ["NET_ADMIN"]}, "could take the limit away"),
        ({"net_rate": "1M", "net": "bridge", "cap_add": ["ALL"]}, "could take the limit away"),
    ],
)
def test_networks_that_make_no_sense(options: dict[str, object], complaint: str) -> None:
    with pytest.raises(SpecError, match=complaint):
        make_spec(options)


def test_without_pyroute2_an_error_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    from nbcontainer.errors import HostError
    from nbcontainer.network.client import RouterClient

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(HostError, match="need the Python package pyroute2") as refused:
        RouterClient("nbc-test", False)
    assert "pip install pyroute2" in refused.value.remedy


def test_rates_and_delays() -> None:
    limits = make_spec(net="bridge", net_rate="1M/s", net_delay="50ms").limits
    assert (limits.net_bytes_per_second, limits.net_delay_seconds) == (1 << 20, 0.05)
    assert make_spec(net="bridge", net_delay=0.25).limits.net_delay_seconds == 0.25
