"""Local routes as VIPs: what they are made of, and how they are read.

The source that one prefers must be an address of the node when the route is made. When the node loses that
address, IPv4 keeps the route and what it prefers (fib_sync_down_addr looks at the main table alone), and so
does IPv6 in older kernels, while newer ones take the source from it (tried: 6.1 and 6.18). Where it is kept,
the node itself can dial nobody by that route; what comes from elsewhere is delivered all the same. Without a
preferred source IPv4 dials a VIP from the VIP itself, as where it is an address, and IPv6 from what it likes
best.
"""

from __future__ import annotations

import struct
import sys

from ipvs_agent.addresses import Address, Family, family_of
from ipvs_agent.errors import NotFound
from ipvs_agent.kernel import rtnetlink
from ipvs_agent.kernel.netlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Message,
    NetlinkSocket,
    attribute,
    attributes,
)
from ipvs_agent.model import NO_SOURCE
from ipvs_agent.operations import ROUTE_METRIC, ROUTE_PROTOCOL

# struct rtmsg, then destination, interface and metric.
_NEW = {
    Family.IPV4: struct.Struct("=BBBBBBBBI HH4s HHI HHI"),
    Family.IPV6: struct.Struct("=BBBBBBBBI HH16s HHI HHI"),
}


def add(address: Address, source: Address, link: int) -> Message:
    """Return the request to make a route."""
    return _new(address, source, link, NLM_F_CREATE | NLM_F_EXCL)


def change(address: Address, source: Address, link: int) -> Message:
    """Return the request to put a route in the place of one of ours; a look-up finds the one or the other."""
    return _new(address, source, link, NLM_F_CREATE | NLM_F_REPLACE)


def _new(address: Address, source: Address, link: int, flags: int) -> Message:
    family, size = family_of(address), len(address)
    # A host's own is what IPv4 takes on an interface that is down.
    scope = rtnetlink.RT_SCOPE_HOST if family is Family.IPV4 else rtnetlink.RT_SCOPE_UNIVERSE
    payload = _NEW[family].pack(
        *(family, size * 8, 0, 0, rtnetlink.RT_TABLE_LOCAL, ROUTE_PROTOCOL, scope, rtnetlink.RTN_LOCAL, 0),
        *(size + 4, rtnetlink.RTA_DST, address),
        *(8, rtnetlink.RTA_OIF, link),
        *(8, rtnetlink.RTA_PRIORITY, ROUTE_METRIC),
    )
    if source:
        payload += attribute(rtnetlink.RTA_PREFSRC, source)
    return Message(rtnetlink.RTM_NEWROUTE, flags, payload)


def delete(address: Address) -> Message:
    """Return the request to remove a route of ours, by whatever interface it is."""
    header = _header(family_of(address), len(address) * 8, rtnetlink.RT_TABLE_LOCAL, ROUTE_PROTOCOL)
    return Message(rtnetlink.RTM_DELROUTE, 0, header + attribute(rtnetlink.RTA_DST, address))


def read(sock: NetlinkSocket, family: Family) -> dict[Address, Address]:
    """Return the addresses of a family that have a route of ours, with the source that it prefers."""
    request = _header(family, 0, rtnetlink.RT_TABLE_LOCAL, ROUTE_PROTOCOL)
    try:
        answers = sock.dump(Message(rtnetlink.RTM_GETROUTE, 0, request))
    except NotFound:  # the table comes with the first address, be it that of lo
        return {}
    routes = (
        attributes(answer, rtnetlink.RTMSG.size)
        for answer in answers
        if answer[0] == family  # a kernel without IPv6 answers with what it has
    )
    return {
        Address(route[rtnetlink.RTA_DST]): Address(route.get(rtnetlink.RTA_PREFSRC, NO_SOURCE))
        for route in routes
    }


def has_others(sock: NetlinkSocket, link: int) -> bool:
    """Tell whether routes by an interface were made by others, the kernel apart."""
    for family in Family:
        request = _header(family, 0, rtnetlink.RT_TABLE_UNSPEC, rtnetlink.RTPROT_UNSPEC)
        request += attribute(rtnetlink.RTA_OIF, link.to_bytes(4, sys.byteorder))
        for answer in sock.dump(Message(rtnetlink.RTM_GETROUTE, 0, request)):
            protocol = rtnetlink.RTMSG.unpack_from(answer)[5]
            if protocol not in (rtnetlink.RTPROT_KERNEL, ROUTE_PROTOCOL):
                return True
    return False


def _header(family: Family, prefix: int, table: int, protocol: int) -> bytes:
    kind = rtnetlink.RTN_LOCAL if table == rtnetlink.RT_TABLE_LOCAL else rtnetlink.RTN_UNSPEC
    # A removal that says no scope is for any (RT_SCOPE_NOWHERE); a dump must say none at all.
    scope = rtnetlink.RT_SCOPE_NOWHERE if prefix else rtnetlink.RT_SCOPE_UNIVERSE
    return rtnetlink.RTMSG.pack(family, prefix, 0, 0, table, protocol, scope, kind, 0)
