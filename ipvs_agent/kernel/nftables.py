"""Rules that are nftables' own, which iptables' tools do not show: what they may do to packet marks."""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator, Mapping

import msgspec

from ipvs_agent.addresses import Family
from ipvs_agent.kernel.modules import NodeModules
from ipvs_agent.kernel.netlink import (
    NETLINK_NETFILTER,
    Message,
    NetlinkSocket,
    attribute,
    attributes,
    iterate_attributes,
)
from ipvs_agent.observed import EVERY_BIT, NativeChain

_SUBSYSTEM = 10 << 8  # NFNL_SUBSYS_NFTABLES
_GET_CHAIN = _SUBSYSTEM | 4
_GET_RULE = _SUBSYSTEM | 7
_HEADER = struct.Struct("=BBH")  # struct nfgenmsg: family, version, resource

# NFPROTO_* of linux/netfilter.h: whose packets pass a table, and how nft calls its family.
_INET, _IPV4, _IPV6 = 1, 2, 10
_FAMILIES = {
    _INET: frozenset(Family),
    _IPV4: frozenset({Family.IPV4}),
    _IPV6: frozenset({Family.IPV6}),
}
_NAMES = {_INET: "inet", _IPV4: "ip", _IPV6: "ip6"}
# What iptables' tools make and show.
_TABLES_OF_IPTABLES = {"raw", "mangle", "nat", "filter", "security"}

# NFTA_* of linux/netfilter/nf_tables.h: of a chain,
_CHAIN_TABLE, _CHAIN_NAME, _CHAIN_HOOK = 1, 3, 4
_HOOK_NUMBER, _HOOK_PRIORITY = 1, 2
# of a rule,
_RULE_TABLE, _RULE_CHAIN, _RULE_EXPRESSIONS = 1, 2, 4
# of any of its expressions,
_EXPRESSION_NAME, _EXPRESSION_DATA = 1, 2
# of those that say something about marks,
_META_DESTINATION, _META_KEY, _META_SOURCE = 1, 2, 3
_BITWISE_SOURCE, _BITWISE_DESTINATION, _BITWISE_MASK, _BITWISE_XOR = 1, 2, 4, 5
_META_MARK = 3
# and of those that say which chain is next.
_IMMEDIATE_DATA = 2
_LOOKUP_DESTINATION = 3
_DATA_VALUE, _DATA_VERDICT = 1, 2
_VERDICT_CHAIN = 2
_VERDICT_REGISTER = 0

_ANYWHERE = "*"
"""Stands for all chains of a table: a verdict map may lead to any."""

_Table = tuple[int, str]
"""Family, as NFPROTO, and name."""


class NetlinkNftables:
    """The native chains in the network namespace of the thread that made this object."""

    def __init__(self, modules: NodeModules | None = None) -> None:
        self._modules = modules or NodeModules()
        self._socket: NetlinkSocket | None = None

    def close(self) -> None:
        """Close the netlink socket."""
        if self._socket is not None:
            self._socket.close()

    def chains(self) -> list[NativeChain]:
        """Return the native chains of IPv4, IPv6 and both; none where the kernel has no nftables, or not yet.

        Source: linux/netfilter/nf_tables.h. Raises KernelError.
        """
        if not self._modules.has("nf_tables"):  # to ask would load it
            return []
        if self._socket is None:
            self._socket = NetlinkSocket(NETLINK_NETFILTER)
        chains: dict[_Table, dict[str, NativeChain]] = {}
        for answer in self._socket.dump(Message(_GET_CHAIN, 0, _HEADER.pack(0, 0, 0))):
            family, parts = answer[0], attributes(answer, _HEADER.size)
            table = _text(parts[_CHAIN_TABLE])
            if family in _FAMILIES and not (family != _INET and table in _TABLES_OF_IPTABLES):
                chain = _chain(family, table, parts)
                chains.setdefault((family, table), {})[chain.name] = chain
        return [chain for table, found in chains.items() for chain in self._with_rules(table, found).values()]

    def _with_rules(self, table: _Table, chains: dict[str, NativeChain]) -> Mapping[str, NativeChain]:
        """Return the chains of a table with what their rules do."""
        assert self._socket is not None
        family, name = table
        request = _HEADER.pack(family, 0, 0) + attribute(_RULE_TABLE, name.encode() + b"\0")
        for answer in self._socket.dump(Message(_GET_RULE, 0, request)):
            parts = attributes(answer, _HEADER.size)
            chain = chains.get(_text(parts[_RULE_CHAIN]))
            # A kernel that does not know the filter by table gives all rules; a chain may have come just now.
            if chain is None or (answer[0], _text(parts[_RULE_TABLE])) != table:
                continue
            marks, leads_to = _deeds(parts.get(_RULE_EXPRESSIONS, b""))
            if _ANYWHERE in leads_to:
                leads_to = chains.keys() - {chain.name}
            if marks or leads_to:
                chains[chain.name] = msgspec.structs.replace(
                    chain, marks=chain.marks | marks, leads_to=chain.leads_to | leads_to
                )
        return chains


def _chain(family: int, table: str, parts: Mapping[int, bytes]) -> NativeChain:
    hook = attributes(parts[_CHAIN_HOOK]) if _CHAIN_HOOK in parts else None
    return NativeChain(
        _FAMILIES[family],
        f"{_NAMES[family]} {table}",
        _text(parts[_CHAIN_NAME]),
        hook=None if hook is None else int.from_bytes(hook[_HOOK_NUMBER]),
        priority=0 if hook is None else int.from_bytes(hook[_HOOK_PRIORITY], signed=True),
    )


def _deeds(expressions: bytes) -> tuple[int, set[str]]:
    """Return the bits of the mark that a rule may write, and the chains that it may lead to."""
    marks, leads_to = 0, set[str]()
    changed: dict[int, int] = {}
    """Which bits of the packet's mark are others in a register; all where it is not here."""
    for name, data in _named(expressions):
        if name == "meta" and _number(data, _META_KEY) == _META_MARK:
            if _META_SOURCE in data:
                marks |= changed.get(_number(data, _META_SOURCE), EVERY_BIT)
            else:
                changed[_number(data, _META_DESTINATION)] = 0
        elif name == "bitwise" and _BITWISE_MASK in data:
            before = changed.get(_number(data, _BITWISE_SOURCE), EVERY_BIT)
            now = ~_mark(data[_BITWISE_MASK]) & EVERY_BIT | _mark(data[_BITWISE_XOR])
            changed[_number(data, _BITWISE_DESTINATION)] = before | now
        else:
            changed.clear()  # whatever it writes
            if name == "immediate":
                verdict = attributes(attributes(data[_IMMEDIATE_DATA]).get(_DATA_VERDICT, b""))
                leads_to |= {_text(verdict[_VERDICT_CHAIN])} if _VERDICT_CHAIN in verdict else set()
            elif name == "lookup" and _number(data, _LOOKUP_DESTINATION, -1) == _VERDICT_REGISTER:
                leads_to.add(_ANYWHERE)
    return marks, leads_to


def _named(expressions: bytes) -> Iterator[tuple[str, Mapping[int, bytes]]]:
    for _, expression in iterate_attributes(expressions):
        parts = attributes(expression)
        yield _text(parts[_EXPRESSION_NAME]), attributes(parts.get(_EXPRESSION_DATA, b""))


def _number(data: Mapping[int, bytes], kind: int, default: int = 0) -> int:
    return int.from_bytes(data[kind]) if kind in data else default


def _mark(data: bytes) -> int:
    """Return the first 32 bits of a value, in which marks are: in the order of this machine."""
    return int.from_bytes(attributes(data)[_DATA_VALUE][:4], sys.byteorder)


def _text(data: bytes) -> str:
    return data.rstrip(b"\0").decode("utf-8", "replace")
