"""What the kernel says of its objects: virtual and real servers with their traffic, and chains of others."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from ipvs_agent.addresses import Family
from ipvs_agent.model import RealServer, VirtualServer, VirtualServerKey

EVERY_BIT = 0xFFFFFFFF
"""Of a packet's mark."""


class Counters(msgspec.Struct, frozen=True, gc=False):
    """Traffic of a virtual or real server: totals, then rates by second."""

    connections: int = 0
    packets_in: int = 0
    packets_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    connections_rate: int = 0
    packets_in_rate: int = 0
    packets_out_rate: int = 0
    bytes_in_rate: int = 0
    bytes_out_rate: int = 0


class IpvsInfo(msgspec.Struct, frozen=True, gc=False):
    """What IPVS says of itself."""

    version: tuple[int, int, int]
    connection_table_size: int


class ObservedVirtualServer(msgspec.Struct, frozen=True, gc=False):
    """A virtual server as the kernel has it."""

    virtual_server: VirtualServer
    counters: Counters = Counters()


class ObservedRealServer(msgspec.Struct, frozen=True, gc=False):
    """A real server as the kernel has it."""

    real_server: RealServer
    active: int = 0
    """Connections in an established state."""
    inactive: int = 0
    """Connections in any other state."""
    persistent: int = 0
    """Persistence templates."""
    counters: Counters = Counters()


class Outlined(NamedTuple):
    """What the kernel's own listing says of a virtual server by address, in /proc/net/ip_vs."""

    key: VirtualServerKey
    lines: list[str]
    """Those of its real servers, newest first: `  -> 0AF4010B:1F90      Masq    1      0          0`."""
    digest: int
    """Another number for other real servers, for comparisons within this process; numbers of connections do
    not matter."""
    real_servers: Callable[[], list[ObservedRealServer]]
    """Take the lines apart; what they do not say is 0."""


class Hook(enum.IntEnum):
    """Where packets pass, by the kernel's numbers (linux/netfilter.h)."""

    INPUT = 1
    OUTPUT = 3
    POSTROUTING = 4


class NativeChain(msgspec.Struct, frozen=True):
    """A chain of nftables that iptables' tools do not show."""

    families: frozenset[Family]
    """Whose packets pass it."""
    table: str
    """As nft calls it: "inet firewall"."""
    name: str
    hook: int | None = None
    """One of Hook or another of the kernel's; None: it is only where other chains lead."""
    priority: int = 0
    """Chains of lower ones are passed first at its hook."""
    marks: int = 0
    """The bits of a packet's mark that its rules may write."""
    leads_to: frozenset[str] = frozenset()
    """The chains of its table to which its rules may lead."""
    leads_anywhere: bool = False
    """Whether a verdict map of its rules may lead to any chain of its table that is at no hook itself."""
