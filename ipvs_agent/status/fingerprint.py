"""A short text that two virtual servers share when they choose alike, on whichever nodes they are."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from ipvs_agent.model import (
    FULL_NETMASK,
    ServiceFlags,
    VirtualServer,
    format_endpoint,
    format_netmask,
)
from ipvs_agent.observed import ObservedRealServer
from ipvs_agent.schedulers import fills_table

_DIGITS = 16


def fingerprint(virtual_server: VirtualServer, table: Iterable[ObservedRealServer]) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of what decides where new connections go.

    table: the real servers in the kernel's order. Those of weight 0 do not count, so that nodes can be
    compared while one of them drains; nor does the address, so that a node port has one on all nodes.
    """
    settled = [observed.real_server for observed in table if observed.real_server.weight]
    lines = [_head(virtual_server)]
    lines += (
        f"{format_endpoint(server.address, server.port)} {server.weight}"
        for server in (settled if fills_table(virtual_server.scheduler) else sorted(settled))
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:_DIGITS]


def _head(virtual_server: VirtualServer) -> str:
    persistence = "0"
    if virtual_server.flags & ServiceFlags.PERSISTENT:
        persistence = str(virtual_server.timeout)
        if virtual_server.netmask != FULL_NETMASK:
            persistence += f" {format_netmask(virtual_server)}"
    return f"{virtual_server.scheduler or 'none'} {virtual_server.flags:#x} {persistence}"
