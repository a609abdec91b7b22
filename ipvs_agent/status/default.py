"""The default listing of `ipvsadm -Ln`: print_service and print_dest of ipvsadm.c, 1.31, byte for byte."""

from __future__ import annotations

import socket

from ipvs_agent.addresses import Family
from ipvs_agent.model import (
    FULL_NETMASK,
    METHOD_NAMES,
    Protocol,
    ServiceFlags,
    VirtualServerKey,
    format_endpoint,
    format_netmask,
)
from ipvs_agent.observed import ObservedRealServer, ObservedVirtualServer
from ipvs_agent.schedulers import flag_names
from ipvs_agent.status.text import Format

_TITLES = """\
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn
"""
_WITHOUT_THIRD_FLAG = ("sh", "mh")
"""Schedulers whose third flag is shown by empty brackets only."""


def _virtual_server(observed: ObservedVirtualServer) -> str:
    virtual_server = observed.virtual_server
    words = [_name(virtual_server.key), virtual_server.scheduler or "none"]
    names = flag_names(virtual_server.scheduler, virtual_server.flags)
    if names:
        if virtual_server.scheduler in _WITHOUT_THIRD_FLAG:
            names = [name for name in names if name != "flag-3"]
        words.append(f"({','.join(names)})")
    if virtual_server.flags & ServiceFlags.PERSISTENT:
        words += ["persistent", str(virtual_server.timeout)]
        if virtual_server.netmask != FULL_NETMASK:
            words += ["mask", format_netmask(virtual_server)]
        if virtual_server.persistence_engine:
            words += ["pe", virtual_server.persistence_engine]
    if virtual_server.flags & ServiceFlags.ONE_PACKET:
        words.append("ops")
    return " ".join(words) + "\n"


def _name(key: VirtualServerKey) -> str:
    if key.mark:
        # ipvsadm prints the mark as a signed number.
        mark = key.mark - (1 << 32 if key.mark >= 1 << 31 else 0)
        return f"FWM  {mark}" + (" IPv6" if key.family == Family.IPV6 else "")
    return f"{Protocol(key.protocol).name:<4} {format_endpoint(key.address, key.port)}"


def _real_server(observed: ObservedRealServer) -> str:
    real_server = observed.real_server
    # A table may have 100,000 of these lines, and this takes two thirds of an f-string's time.
    return "  -> %-28s %-7s %-6d %-10d %-10d\n" % (  # noqa: UP031
        format_endpoint(real_server.address, real_server.port),
        METHOD_NAMES[real_server.method],
        real_server.weight,
        observed.active,
        observed.inactive,
    )


def _outlined(line: str) -> str:
    # From the forwarding method on both listings are the same.
    endpoint = f"{socket.inet_ntoa(bytes.fromhex(line[5:13]))}:{int(line[14:18], 16)}"
    return f"  -> {endpoint:<28} {line[24:]}"


FORMAT = Format(_TITLES, _virtual_server, _real_server, _outlined)
