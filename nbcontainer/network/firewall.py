"""Which packets the router forwards, and masquerading, as nftables rules.

A table that its owner's socket holds (NFT_TABLE_F_OWNER, Linux 5.12) goes when that socket is closed, however its process ends:
so nothing of ours ever stays on the host.
"""

from __future__ import annotations

import ipaddress
import struct
from typing import Any

from pyroute2.netlink.nfnetlink.nftsocket import nft_chain_msg, nft_rule_msg, nft_table_msg

from nbcontainer.network.netlink import APPEND, CREATE, NETFILTER, Netlink, rule_request

_NEW_TABLE, _DELETE_TABLE, _NEW_CHAIN, _NEW_RULE, _DELETE_RULE = 0, 2, 3, 6, 8
_INET, _IPV4, _IPV6 = 1, 2, 10
_OWNER = 2
_DROP, _ACCEPT = 0, 1
_INPUT, _FORWARD, _POSTROUTING = 1, 2, 4
_SOURCE_NAT_PRIORITY = 100
_ESTABLISHED_OR_RELATED = 2 | 4
_ICMPV6 = 58
_LINK_LOCAL = "169.254.0.0/16"
_SECRETS = (
    "fd00:ec2::/112",  # AWS: metadata (::254), credentials of pods (::23)
    "fd20:ce::254",  # Google Cloud
    "fd00:c1::a9fe:a9fe",  # Oracle Cloud
    "fd00:42::42",  # Scaleway
    "100.100.100.200",  # Alibaba Cloud
    "168.63.129.16",  # Azure's host agent
)
"""Where clouds answer whoever asks from a machine with that machine's credentials; see also link-local addresses."""
Expression = tuple[str, dict[str, Any]]


def _expression(name: str, *attrs: tuple[str, Any]) -> Expression:
    data = {"attrs": [("NFTA_EXPR_NAME", name), ("NFTA_EXPR_DATA", {"attrs": list(attrs)})]}
    return ("NFTA_LIST_ELEM", data)


def _equals(value: bytes, *, differs: bool = False) -> Expression:
    return _expression(
        "cmp", ("NFTA_CMP_SREG", 1), ("NFTA_CMP_OP", int(differs)), ("NFTA_CMP_DATA", {"attrs": [("NFTA_DATA_VALUE", value)]})
    )


def _interface(key: int, index: int, *, differs: bool = False) -> list[Expression]:
    return [_expression("meta", ("NFTA_META_DREG", 1), ("NFTA_META_KEY", key)), _equals(struct.pack("=I", index), differs=differs)]


def comes_from(index: int) -> list[Expression]:
    return _interface(4, index)


def goes_to(index: int) -> list[Expression]:
    return _interface(5, index)


def is_answer() -> list[Expression]:
    """It belongs to a connection that was allowed."""
    mask = struct.pack("=I", _ESTABLISHED_OR_RELATED)
    return [
        _expression("ct", ("NFTA_CT_KEY", 0), ("NFTA_CT_DREG", 1)),
        _expression(
            "bitwise", ("NFTA_BITWISE_SREG", 1), ("NFTA_BITWISE_DREG", 1), ("NFTA_BITWISE_LEN", 4),
            ("NFTA_BITWISE_MASK", {"attrs": [("NFTA_DATA_VALUE", mask)]}),
            ("NFTA_BITWISE_XOR", {"attrs": [("NFTA_DATA_VALUE", bytes(4))]}),
        ),
        _equals(bytes(4), differs=True),
    ]  # fmt: skip


def _address(text: str, offsets: tuple[int, int]) -> list[Expression]:
    network = ipaddress.ip_network(text)
    family, offset = (_IPV4, offsets[0]) if network.version == 4 else (_IPV6, offsets[1])
    length = network.max_prefixlen // 8
    found = [
        _expression("meta", ("NFTA_META_DREG", 1), ("NFTA_META_KEY", 15)),
        _equals(bytes([family])),
        _expression("payload", ("NFTA_PAYLOAD_DREG", 1), ("NFTA_PAYLOAD_BASE", 1), ("NFTA_PAYLOAD_OFFSET", offset), ("NFTA_PAYLOAD_LEN", length)),
    ]
    if network.prefixlen < network.max_prefixlen:
        mask = network.netmask.packed
        found.append(
            _expression(
                "bitwise", ("NFTA_BITWISE_SREG", 1), ("NFTA_BITWISE_DREG", 1), ("NFTA_BITWISE_LEN", length),
                ("NFTA_BITWISE_MASK", {"attrs": [("NFTA_DATA_VALUE", mask)]}),
                ("NFTA_BITWISE_XOR", {"attrs": [("NFTA_DATA_VALUE", bytes(length))]}),
            )
        )  # fmt: skip
    return [*found, _equals(network.network_address.packed)]


def _protocol(number: int) -> list[Expression]:
    return [_expression("meta", ("NFTA_META_DREG", 1), ("NFTA_META_KEY", 16)), _equals(bytes([number]))]


def source(text: str) -> list[Expression]:
    """``text``: an address or a network, of IPv4 or IPv6."""
    return _address(text, (12, 8))


def destination(text: str) -> list[Expression]:
    return _address(text, (16, 24))


def _verdict(code: int) -> list[Expression]:
    verdict = {"attrs": [("NFTA_DATA_VERDICT", {"attrs": [("NFTA_VERDICT_CODE", code)]})]}
    return [_expression("immediate", ("NFTA_IMMEDIATE_DREG", 0), ("NFTA_IMMEDIATE_DATA", verdict))]


MASQUERADE: list[Expression] = [("NFTA_LIST_ELEM", {"attrs": [("NFTA_EXPR_NAME", "masq"), ("NFTA_EXPR_DATA", {"attrs": []})]})]


class Table:
    """One table of rules, in the network namespace that the calling thread is in; it goes when this is closed, or its process ends."""

    def __init__(self, name: str) -> None:
        """Raises OSError where there is no nftables."""
        self.name = name
        self._netlink = Netlink(NETFILTER)
        try:
            self._netlink.transact(
                rule_request(nft_table_msg, _NEW_TABLE, _INET, ("NFTA_TABLE_NAME", name), ("NFTA_TABLE_FLAGS", _OWNER))
            )
        except OSError:
            self._netlink.close()
            raise

    def close(self) -> None:
        self._netlink.close()

    def transact(self, *requests: bytes) -> None:
        self._netlink.transact(*requests)

    def chain(self, name: str, kind: str, hook: int, priority: int, policy: int) -> bytes:
        where = {"attrs": [("NFTA_HOOK_HOOKNUM", hook), ("NFTA_HOOK_PRIORITY", priority)]}
        return rule_request(
            nft_chain_msg, _NEW_CHAIN, _INET, ("NFTA_CHAIN_TABLE", self.name), ("NFTA_CHAIN_NAME", name), ("NFTA_CHAIN_HOOK", where),
            ("NFTA_CHAIN_POLICY", policy), ("NFTA_CHAIN_TYPE", kind),
        )  # fmt: skip

    def rule(self, chain: str, expressions: list[Expression]) -> bytes:
        return rule_request(
            nft_rule_msg, _NEW_RULE, _INET, ("NFTA_RULE_TABLE", self.name), ("NFTA_RULE_CHAIN", chain),
            ("NFTA_RULE_EXPRESSIONS", [item[1] for item in expressions]), flags=CREATE | APPEND,
        )  # fmt: skip

    def empty(self, chain: str) -> bytes:
        """All rules of the chain go."""
        return rule_request(nft_rule_msg, _DELETE_RULE, _INET, ("NFTA_RULE_TABLE", self.name), ("NFTA_RULE_CHAIN", chain), flags=0)


class RouterRules:
    """Of the router: between its networks nothing is forwarded; to the outside what containers begin, and the answers."""

    def __init__(self) -> None:
        self._table = Table("nbcontainer")
        self._table.transact(
            self._table.chain("forward", "filter", _FORWARD, 0, _DROP),
            self._table.chain("postrouting", "nat", _POSTROUTING, _SOURCE_NAT_PRIORITY, _ACCEPT),
        )

    def renew(self, out: int | None, host_link: int | None, host_addresses: list[str], bridges: list[int], refused: list[str]) -> None:
        """``out``: interface index of the way out; ``host_addresses``: of the host on ``host_link``, who may begin connections;
        ``bridges``: interface indexes of the networks that have a way out; ``refused``: addresses that nobody is led to."""
        table = self._table
        # No router forwards link-local addresses (RFC 3927); in clouds, secrets are to be had there.
        rules = [is_answer() + _verdict(_ACCEPT), *(destination(text) + _verdict(_DROP) for text in (_LINK_LOCAL, *_SECRETS, *refused))]
        if host_link is not None:
            rules += [comes_from(host_link) + source(host) + _verdict(_ACCEPT) for host in host_addresses]
        if out is not None:
            rules += [comes_from(index) + goes_to(out) + _verdict(_ACCEPT) for index in bridges]
        requests = [table.empty("forward"), table.empty("postrouting"), *(table.rule("forward", rule) for rule in rules)]
        if out is not None:
            requests.append(table.rule("postrouting", goes_to(out) + MASQUERADE))
        table.transact(*requests)


class HostRules:
    """Of the host, on the uplink only: what comes from containers is masqueraded, and does not begin connections to the host itself."""

    def __init__(self, name: str, uplink: int, transit: list[str]) -> None:
        """``transit``: the router's addresses on the uplink."""
        self._table = table = Table(name)
        try:
            table.transact(
                table.chain("postrouting", "nat", _POSTROUTING, _SOURCE_NAT_PRIORITY, _ACCEPT),
                table.chain("input", "filter", _INPUT, 0, _ACCEPT),
                *(table.rule("postrouting", source(router) + _interface(5, uplink, differs=True) + MASQUERADE) for router in transit),
                table.rule("input", comes_from(uplink) + is_answer() + _verdict(_ACCEPT)),
                # Without neighbour discovery there is no IPv6.
                table.rule("input", comes_from(uplink) + _protocol(_ICMPV6) + _verdict(_ACCEPT)),
                table.rule("input", comes_from(uplink) + _verdict(_DROP)),
            )
        except OSError:
            table.close()
            raise

    def close(self) -> None:
        self._table.close()
