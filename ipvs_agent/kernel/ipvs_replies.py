"""The replies of the generic netlink family IPVS (linux/ip_vs.h), read into the model's nouns.

An audit reads one for every real server; numbers are in native order, addresses and ports in network order.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable

from ipvs_agent.addresses import Address, Family
from ipvs_agent.kernel import ip_vs_h
from ipvs_agent.kernel.api import SyncDaemon, SyncRole, Timeouts
from ipvs_agent.kernel.replies import ReplyReader, native, number, octets
from ipvs_agent.model import FULL_NETMASK, RealServer, ServiceFlags, VirtualServer, address_key, mark_key
from ipvs_agent.observed import Counters, IpvsInfo, ObservedRealServer, ObservedVirtualServer

_METHOD_MASK = 7
_GENERIC_HEADER_LENGTH = 4
_COUNTERS = range(1, 11)
"""The attributes of IPVS_STATS_ATTR_*, in the order of the fields of Counters."""

_CONFIGURATION = (
    number((ip_vs_h.SERVICE, ip_vs_h.SVC_FAMILY)),
    number((ip_vs_h.SERVICE, ip_vs_h.SVC_PROTOCOL)),
    octets((ip_vs_h.SERVICE, ip_vs_h.SVC_ADDRESS)),
    number((ip_vs_h.SERVICE, ip_vs_h.SVC_PORT)),
    number((ip_vs_h.SERVICE, ip_vs_h.SVC_MARK)),
    octets((ip_vs_h.SERVICE, ip_vs_h.SVC_SCHEDULER)),
    octets((ip_vs_h.SERVICE, ip_vs_h.SVC_FLAGS)),
    number((ip_vs_h.SERVICE, ip_vs_h.SVC_TIMEOUT)),
    octets((ip_vs_h.SERVICE, ip_vs_h.SVC_NETMASK)),
    octets((ip_vs_h.SERVICE, ip_vs_h.SVC_PE_NAME)),
)
_configuration_reader = ReplyReader(_GENERIC_HEADER_LENGTH, *_CONFIGURATION)
_service_reader = ReplyReader(
    _GENERIC_HEADER_LENGTH,
    *_CONFIGURATION,
    # Kernels before 4.1 have no 64-bit statistics.
    *(
        number((ip_vs_h.SERVICE, ip_vs_h.SVC_STATS64, counter), (ip_vs_h.SERVICE, ip_vs_h.SVC_STATS, counter))
        for counter in _COUNTERS
    ),
)

_dest_reader = ReplyReader(
    _GENERIC_HEADER_LENGTH,
    octets((ip_vs_h.DEST, ip_vs_h.DEST_ADDRESS)),
    number((ip_vs_h.DEST, ip_vs_h.DEST_FAMILY)),
    number((ip_vs_h.DEST, ip_vs_h.DEST_PORT)),
    number((ip_vs_h.DEST, ip_vs_h.DEST_WEIGHT)),
    number((ip_vs_h.DEST, ip_vs_h.DEST_METHOD)),
    number((ip_vs_h.DEST, ip_vs_h.DEST_UPPER)),
    number((ip_vs_h.DEST, ip_vs_h.DEST_LOWER)),
    number((ip_vs_h.DEST, ip_vs_h.DEST_TUNNEL_TYPE)),
    number((ip_vs_h.DEST, ip_vs_h.DEST_TUNNEL_PORT)),
    number((ip_vs_h.DEST, ip_vs_h.DEST_TUNNEL_FLAGS)),
    number((ip_vs_h.DEST, ip_vs_h.DEST_ACTIVE)),
    number((ip_vs_h.DEST, ip_vs_h.DEST_INACTIVE)),
    number((ip_vs_h.DEST, ip_vs_h.DEST_PERSISTENT)),
    *(
        number((ip_vs_h.DEST, ip_vs_h.DEST_STATS64, counter), (ip_vs_h.DEST, ip_vs_h.DEST_STATS, counter))
        for counter in _COUNTERS
    ),
)

_daemon_reader = ReplyReader(
    _GENERIC_HEADER_LENGTH,
    number((ip_vs_h.DAEMON, ip_vs_h.DAEMON_STATE)),
    octets((ip_vs_h.DAEMON, ip_vs_h.DAEMON_INTERFACE)),
    number((ip_vs_h.DAEMON, ip_vs_h.DAEMON_SYNC_ID)),
    number((ip_vs_h.DAEMON, ip_vs_h.DAEMON_MAX_LENGTH)),
    octets((ip_vs_h.DAEMON, ip_vs_h.DAEMON_GROUP), (ip_vs_h.DAEMON, ip_vs_h.DAEMON_GROUP6)),
    number((ip_vs_h.DAEMON, ip_vs_h.DAEMON_PORT)),
    number((ip_vs_h.DAEMON, ip_vs_h.DAEMON_TTL)),
)

_info_reader = ReplyReader(
    _GENERIC_HEADER_LENGTH, number((ip_vs_h.INFO_VERSION,)), number((ip_vs_h.INFO_TABLE_SIZE,))
)

_timeouts_reader = ReplyReader(
    _GENERIC_HEADER_LENGTH,
    number((ip_vs_h.TIMEOUT_TCP,)),
    number((ip_vs_h.TIMEOUT_TCP_FIN,)),
    number((ip_vs_h.TIMEOUT_UDP,)),
)


def digest(replies: Iterable[bytes]) -> int:
    """Return another number for other virtual servers, or another order of them; counters do not matter."""
    number = 0
    for reply in replies:
        number = hash((number, _configuration_reader.read(reply)))
    return number


def virtual_server(reply: bytes) -> ObservedVirtualServer:
    """Read a virtual server."""
    family, protocol, address, port, mark, scheduler, flags, timeout, netmask, engine, *counters = (
        _service_reader.read(reply)
    )
    if mark:
        key = mark_key(Family(family), mark)
    else:
        octets_of_address = address[:4] if family == Family.IPV4 else address
        key = address_key(protocol, Address(octets_of_address), socket.ntohs(port))
    name = _name(scheduler)
    return ObservedVirtualServer(
        VirtualServer(
            key,
            "" if name == ip_vs_h.NO_SCHEDULER else name,
            native(flags[:4]) & ~ServiceFlags.HASHED,
            timeout,
            _configured_netmask(family, netmask),
            _name(engine),
        ),
        Counters(*counters),
    )


def _configured_netmask(family: int, netmask: bytes) -> int:
    if family == Family.IPV6:
        length = native(netmask)
        return FULL_NETMASK if length == 128 else length
    return FULL_NETMASK if netmask == b"\xff\xff\xff\xff" else int.from_bytes(netmask, "big")


def real_server(reply: bytes, service_family: Family) -> ObservedRealServer:
    """Read a real server of a virtual server of some family."""
    (
        address, family, port, weight, method, upper, lower, tunnel_type, tunnel_port, tunnel_flags,
        active, inactive, persistent, *counters,
    ) = _dest_reader.read(reply)  # fmt: skip
    # Kernels before 3.18 report no family of a real server, since it was always its virtual server's.
    if (family or service_family) == Family.IPV4:
        address = address[:4]
    return ObservedRealServer(
        RealServer(
            address,
            socket.ntohs(port),
            weight,
            method & _METHOD_MASK,
            upper,
            lower,
            tunnel_type,
            socket.ntohs(tunnel_port),
            tunnel_flags,
        ),
        active,
        inactive,
        persistent,
        Counters(*counters),
    )


def daemon(reply: bytes) -> SyncDaemon:
    """Read a synchronisation daemon."""
    state, interface, sync_id, max_length, group, port, ttl = _daemon_reader.read(reply)
    return SyncDaemon(
        SyncRole(state), _name(interface), sync_id, max_length, Address(group) if group else None, port, ttl
    )


def info(reply: bytes) -> IpvsInfo:
    """Read what IPVS says of itself."""
    version, size = _info_reader.read(reply)
    return IpvsInfo((version >> 16 & 0xFF, version >> 8 & 0xFF, version & 0xFF), size)


def timeouts(reply: bytes) -> Timeouts:
    """Read the idle timeouts."""
    return Timeouts(*_timeouts_reader.read(reply))


def _name(value: bytes) -> str:
    return value.rstrip(b"\0").decode("ascii", "replace")
