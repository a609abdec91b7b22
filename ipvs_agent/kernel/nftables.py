"""Rules that are nftables' own, which iptables' tools do not show: what they may do to packet marks.

Not seen is what programs outside the kernel do to a mark (`queue`), nor that a table may be dormant.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import msgspec

from ipvs_agent.addresses import Family
from ipvs_agent.kernel.modules import NodeModules
from ipvs_agent.kernel.netlink import (
    NETLINK_NETFILTER,
    NFGENMSG,
    Message,
    NetlinkSocket,
    attribute,
    attributes,
    iterate_attributes,
)
from ipvs_agent.observed import EVERY_BIT, Hook, NativeChain

_SUBSYSTEM = 10 << 8  # NFNL_SUBSYS_NFTABLES
_GET_CHAIN = _SUBSYSTEM | 4
_GET_RULE = _SUBSYSTEM | 7

# NFPROTO_* of linux/netfilter.h: whose packets pass a table, and how nft calls its family.
_INET, _IPV4, _IPV6 = 1, 2, 10
_FAMILIES = {
    _INET: frozenset(Family),
    _IPV4: frozenset({Family.IPV4}),
    _IPV6: frozenset({Family.IPV6}),
}
_NAMES = {_INET: "inet", _IPV4: "ip", _IPV6: "ip6"}
# What iptables' tools make and show; in their tables others may have chains of their own, too.
_TABLES_OF_IPTABLES = {"raw", "mangle", "nat", "filter", "security"}
_CHAINS_OF_IPTABLES = {"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"}

# NFTA_* of linux/netfilter/nf_tables.h: of a chain,
_CHAIN_TABLE, _CHAIN_NAME, _CHAIN_HOOK = 1, 3, 4
_HOOK_NUMBER, _HOOK_PRIORITY = 1, 2
# of a rule,
_RULE_TABLE, _RULE_CHAIN, _RULE_EXPRESSIONS = 1, 2, 4
# of any of its expressions,
_EXPRESSION_NAME, _EXPRESSION_DATA = 1, 2
# of those that say something about marks,
_META_DESTINATION, _META_KEY, _META_SOURCE = 1, 2, 3
_BITWISE_SOURCE, _BITWISE_DESTINATION, _BITWISE_LENGTH, _BITWISE_MASK, _BITWISE_XOR = 1, 2, 3, 4, 5
_TARGET_NAME = 1
# and of those that say which chain is next.
_IMMEDIATE_DATA = 2
_LOOKUP_DESTINATION = 3
_DATA_VALUE, _DATA_VERDICT = 1, 2
_VERDICT_CHAIN = 2
_VERDICT_REGISTER = 0

_META_MARK = 3
_MARK_LENGTH = 4
_TARGETS = {"MARK", "CONNMARK", "HMARK", "SET"}
"""Of iptables, in a rule of nftables: they are not taken apart."""

_HOOKS = frozenset(Hook)

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

        Of a table none of whose chains is at a hook that matters there is none. Source:
        linux/netfilter/nf_tables.h. Raises KernelError.
        """
        if not self._modules.has("nf_tables"):  # to ask would load it
            return []
        if self._socket is None:
            self._socket = NetlinkSocket(NETLINK_NETFILTER)
        tables: dict[_Table, dict[str, NativeChain]] = {}
        for answer in self._socket.dump(Message(_GET_CHAIN, 0, NFGENMSG.pack(0, 0, 0))):
            family, parts = answer[0], attributes(answer, NFGENMSG.size)
            if family in _FAMILIES:
                chain = _chain(family, parts)
                if chain is not None:
                    tables.setdefault((family, _text(parts[_CHAIN_TABLE])), {})[chain.name] = chain
        found: list[NativeChain] = []
        for table, chains in tables.items():
            if any(chain.hook in _HOOKS for chain in chains.values()):
                self._read_rules(self._socket, table, chains)
                found += chains.values()
        return found

    def _read_rules(self, sock: NetlinkSocket, table: _Table, chains: dict[str, NativeChain]) -> None:
        """Have the chains of a table say what their rules do."""
        family, name = table
        request = NFGENMSG.pack(family, 0, 0) + attribute(_RULE_TABLE, name.encode() + b"\0")
        for answer in sock.dump(Message(_GET_RULE, 0, request)):
            parts = attributes(answer, NFGENMSG.size)
            chain = chains.get(_text(parts[_RULE_CHAIN]))
            # A kernel that does not know the filter by table gives all rules; a chain may have come just now.
            if chain is not None and (answer[0], _text(parts[_RULE_TABLE])) == table:
                deeds = _deeds(parts.get(_RULE_EXPRESSIONS, b""))
                if deeds != _NOTHING:
                    chains[chain.name] = msgspec.structs.replace(
                        chain,
                        marks=chain.marks | deeds.marks,
                        leads_to=chain.leads_to | deeds.leads_to,
                        leads_anywhere=chain.leads_anywhere or deeds.leads_anywhere,
                    )


def _chain(family: int, parts: Mapping[int, bytes]) -> NativeChain | None:
    """Return a chain as it is without rules; None for one that iptables' tools show."""
    table, name = _text(parts[_CHAIN_TABLE]), _text(parts[_CHAIN_NAME])
    if family != _INET and table in _TABLES_OF_IPTABLES and name in _CHAINS_OF_IPTABLES:
        return None
    hook = attributes(parts[_CHAIN_HOOK]) if _CHAIN_HOOK in parts else None
    return NativeChain(
        _FAMILIES[family],
        f"{_NAMES[family]} {table}",
        name,
        hook=None if hook is None else int.from_bytes(hook[_HOOK_NUMBER]),
        priority=0 if hook is None else int.from_bytes(hook[_HOOK_PRIORITY], signed=True),
    )


class _Deeds(NamedTuple):
    """What a rule may do."""

    marks: int = 0
    """The bits of the mark that it may write."""
    leads_to: frozenset[str] = frozenset()
    leads_anywhere: bool = False


_NOTHING = _Deeds()


def _deeds(expressions: bytes) -> _Deeds:
    """Return what a rule may do, by its expressions."""
    marks, leads_to, leads_anywhere = 0, frozenset[str](), False
    changed: dict[int, int] = {}
    """Which bits of the packet's mark are others in a register; all where it is not here."""
    for name, data in _named(expressions):
        if name == "meta" and _number(data, _META_KEY) == _META_MARK:
            if _META_SOURCE in data:
                marks |= changed.get(_number(data, _META_SOURCE), EVERY_BIT)
            else:
                changed[_number(data, _META_DESTINATION)] = 0
        elif name == "bitwise" and _BITWISE_MASK in data and _number(data, _BITWISE_LENGTH) == _MARK_LENGTH:
            before = changed.get(_number(data, _BITWISE_SOURCE), EVERY_BIT)
            now = ~_mark(data[_BITWISE_MASK]) & EVERY_BIT | _mark(data[_BITWISE_XOR])
            changed[_number(data, _BITWISE_DESTINATION)] = before | now
        else:
            changed.clear()  # whatever it writes
            if name == "immediate":
                verdict = attributes(attributes(data[_IMMEDIATE_DATA]).get(_DATA_VERDICT, b""))
                leads_to |= {_text(verdict[_VERDICT_CHAIN])} if _VERDICT_CHAIN in verdict else set()
            elif name == "lookup" and _number(data, _LOOKUP_DESTINATION, -1) == _VERDICT_REGISTER:
                leads_anywhere = True
            elif name == "target" and _text(data[_TARGET_NAME]) in _TARGETS:
                marks = EVERY_BIT
    return _Deeds(marks, leads_to, leads_anywhere)


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
