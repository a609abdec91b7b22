"""Local routes as VIPs: what they are made of, and how they are read.

They have no preferred source. IPv4 would lose all routes of a preferred source with that address of the node
(fib_sync_down_addr); without one the node dials a VIP from the VIP itself, as where it is an address. IPv6
chooses the source among the node's addresses at each connection, and refuses one that is not an address.
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
    Message,
    NetlinkSocket,
    attribute,
    attributes,
)
from ipvs_agent.operations import ROUTE_METRIC, ROUTE_PROTOCOL

# struct rtmsg, then destination, interface and metric.
_NEW = {
    Family.IPV4: struct.Struct("=BBBBBBBBI HH4s HHI HHI"),
    Family.IPV6: struct.Struct("=BBBBBBBBI HH16s HHI HHI"),
}


def add(address: Address, link: int) -> Message:
    """Return the request to make a route."""
    family, size = family_of(address), len(address)
    # A host's own is what IPv4 takes on an interface that is down.
    scope = rtnetlink.RT_SCOPE_HOST if family is Family.IPV4 else rtnetlink.RT_SCOPE_UNIVERSE
    payload = _NEW[family].pack(
        *(family, size * 8, 0, 0, rtnetlink.RT_TABLE_LOCAL, ROUTE_PROTOCOL, scope, rtnetlink.RTN_LOCAL, 0),
        *(size + 4, rtnetlink.RTA_DST, address),
        *(8, rtnetlink.RTA_OIF, link),
        *(8, rtnetlink.RTA_PRIORITY, ROUTE_METRIC),
    )
    return Message(rtnetlink.RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, payload)


def delete(address: Address) -> Message:
    """Return the request to remove a route of ours, by whatever interface it is."""
    header = _header(family_of(address), len(address) * 8, rtnetlink.RT_TABLE_LOCAL, ROUTE_PROTOCOL)
    return Message(rtnetlink.RTM_DELROUTE, 0, header + attribute(rtnetlink.RTA_DST, address))


def read(sock: NetlinkSocket, family: Family) -> set[Address]:
    """Return the addresses of a family that have a route of ours."""
    request = _header(family, 0, rtnetlink.RT_TABLE_LOCAL, ROUTE_PROTOCOL)
    try:
        answers = sock.dump(Message(rtnetlink.RTM_GETROUTE, 0, request))
    except NotFound:  # the table comes with the first address, be it that of lo
        return set()
    return {
        Address(attributes(answer, rtnetlink.RTMSG.size)[rtnetlink.RTA_DST])
        for answer in answers
        if answer[0] == family  # a kernel without IPv6 answers with what it has
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
