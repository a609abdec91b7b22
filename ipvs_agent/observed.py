"""What the kernel says of virtual servers and real servers: as they are, with their traffic."""

from __future__ import annotations

import msgspec

from ipvs_agent.model import RealServer, VirtualServer


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
