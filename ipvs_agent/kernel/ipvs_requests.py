"""The requests of the generic netlink family IPVS (linux/ip_vs.h): packed, nothing sent.

A cold start packs a message for every real server of the cluster on this node's behalf: so whole messages are
packed by one precompiled Struct, and what neighbours in a batch share is packed once. Numbers are in native
order, addresses and ports in network order.
"""

from __future__ import annotations

import functools
import operator
import socket
import struct
from collections.abc import Iterable

from ipvs_agent.addresses import Address, Family
from ipvs_agent.kernel import ip_vs_h
from ipvs_agent.kernel.api import SyncDaemon, SyncRole, Timeouts
from ipvs_agent.kernel.netlink import attribute, generic_header
from ipvs_agent.model import FULL_NETMASK, RealServer, VirtualServer, VirtualServerKey
from ipvs_agent.operations import (
    AddRealServer,
    AddRealServers,
    AddVirtualServer,
    DeleteRealServer,
    DeleteVirtualServer,
    IpvsOperation,
    SetRealServer,
    SetVirtualServer,
)

FAMILY = "IPVS"
_VERSION = 1

_NEW_SERVICE, _SET_SERVICE, _DEL_SERVICE, _GET_SERVICE = 1, 2, 3, 4
_NEW_DEST, _SET_DEST, _DEL_DEST, _GET_DEST = 5, 6, 7, 8
_NEW_DAEMON, _DEL_DAEMON, _GET_DAEMON = 9, 10, 11
_SET_CONFIG, _GET_CONFIG, _GET_INFO, _ZERO, _FLUSH = 12, 13, 15, 16, 17

_ALL_FLAGS = 0xFFFFFFFF

# --- Changes of virtual and real servers --------------------------------------------------------------------

_COMMANDS: dict[type[IpvsOperation], bytes] = {
    kind: generic_header(command, _VERSION)
    for kind, command in (
        (AddVirtualServer, _NEW_SERVICE),
        (SetVirtualServer, _SET_SERVICE),
        (DeleteVirtualServer, _DEL_SERVICE),
        (AddRealServer, _NEW_DEST),
        (AddRealServers, _NEW_DEST),
        (SetRealServer, _SET_DEST),
        (DeleteRealServer, _DEL_DEST),
    )
}


# Tuples, as to make a union at every question would take longer than the answer.
_ON_VIRTUAL_SERVERS = (AddVirtualServer, SetVirtualServer)
_ON_REAL_SERVERS = (AddRealServer, SetRealServer)


def pack(operations: Iterable[IpvsOperation]) -> list[bytes]:
    """Pack operations, each into one payload; AddRealServers into one for each real server.

    Raises struct.error or OverflowError where a number does not fit its attribute.
    """
    payloads: list[bytes] = []
    last_kind: type[IpvsOperation] | None = None
    last_key: VirtualServerKey | None = None
    prefix = b""
    for operation in operations:
        kind = type(operation)
        if isinstance(operation, _ON_VIRTUAL_SERVERS):
            payloads.append(_COMMANDS[kind] + _service(operation.virtual_server))
            continue
        if operation.key is not last_key or kind is not last_kind:
            last_key, last_kind = operation.key, kind
            prefix = _COMMANDS[kind] + _service_key(last_key)
        if isinstance(operation, _ON_REAL_SERVERS):
            payloads.append(prefix + _dest(operation.real_server))
        elif isinstance(operation, AddRealServers):
            payloads += [prefix + _dest(server) for server in operation.real_servers]
        elif isinstance(operation, DeleteRealServer):
            payloads.append(prefix + _dest_key(operation.address, operation.port))
        else:
            payloads.append(prefix)
    return payloads


def _nla(size: int, kind: int) -> bytes:
    """Pack the header of an attribute whose value has a known size."""
    return struct.pack("=HH", 4 + size, kind)


_KEY_BY_ADDRESS = {length: struct.Struct(f"=4s4sH2x4sH2x4s{length}s4sH2x") for length in (4, 16)}
_KEY_BY_MARK = struct.Struct("=4s4sH2x4sI")
_NLA_SVC_FAMILY = _nla(2, ip_vs_h.SVC_FAMILY)
_NLA_SVC_PROTOCOL = _nla(2, ip_vs_h.SVC_PROTOCOL)
_NLA_SVC_ADDRESS = {length: _nla(length, ip_vs_h.SVC_ADDRESS) for length in (4, 16)}
_NLA_SVC_PORT = _nla(2, ip_vs_h.SVC_PORT)
_NLA_SVC_MARK = _nla(4, ip_vs_h.SVC_MARK)


def _service_key(key: VirtualServerKey, more: bytes = b"") -> bytes:
    """Pack a service attribute: what identifies it, then more of its attributes."""
    if key.mark:
        nla = _nla(_KEY_BY_MARK.size - 4 + len(more), ip_vs_h.SERVICE)
        return _KEY_BY_MARK.pack(nla, _NLA_SVC_FAMILY, key.family, _NLA_SVC_MARK, key.mark) + more
    length = len(key.address)
    layout = _KEY_BY_ADDRESS[length]
    return (
        layout.pack(
            _nla(layout.size - 4 + len(more), ip_vs_h.SERVICE),
            *(_NLA_SVC_FAMILY, key.family),
            *(_NLA_SVC_PROTOCOL, key.protocol),
            *(_NLA_SVC_ADDRESS[length], key.address),
            *(_NLA_SVC_PORT, socket.htons(key.port)),
        )
        + more
    )


_CONFIGURATION = struct.Struct("=4sII4sI4s4s")
_NLA_SVC_FLAGS = _nla(8, ip_vs_h.SVC_FLAGS)
_NLA_SVC_TIMEOUT = _nla(4, ip_vs_h.SVC_TIMEOUT)
_NLA_SVC_NETMASK = _nla(4, ip_vs_h.SVC_NETMASK)


def _service(virtual_server: VirtualServer) -> bytes:
    more = _CONFIGURATION.pack(
        # SET_SERVICE keeps the flags outside the mask, so all are in it: what is not set is cleared.
        *(_NLA_SVC_FLAGS, virtual_server.flags, _ALL_FLAGS),
        *(_NLA_SVC_TIMEOUT, virtual_server.timeout),
        *(_NLA_SVC_NETMASK, _netmask(virtual_server)),
    ) + attribute(ip_vs_h.SVC_SCHEDULER, _text(virtual_server.scheduler or ip_vs_h.NO_SCHEDULER))
    if virtual_server.persistence_engine:
        more += attribute(ip_vs_h.SVC_PE_NAME, _text(virtual_server.persistence_engine))
    return _service_key(virtual_server.key, more)


def _netmask(virtual_server: VirtualServer) -> bytes:
    full = virtual_server.netmask == FULL_NETMASK
    if virtual_server.key.family == Family.IPV6:
        return struct.pack("=I", 128 if full else virtual_server.netmask)
    return struct.pack("!I", 0xFFFFFFFF if full else virtual_server.netmask)


_DEST_TAIL = struct.Struct("=4sH2x4sI4si4sI4sI4sH2x4sB3x4sH2x4sH2x")
_DEST_KEY_LAYOUT = {length: struct.Struct(f"=4s4s{length}s4sH2x4sH2x") for length in (4, 16)}
_NLA_DEST_KEY = {length: _nla(layout.size - 4, ip_vs_h.DEST) for length, layout in _DEST_KEY_LAYOUT.items()}
_NLA_DEST_ADDRESS = {length: _nla(length, ip_vs_h.DEST_ADDRESS) for length in (4, 16)}
_DEST_HEAD = {
    length: _nla(4 + length + _DEST_TAIL.size, ip_vs_h.DEST) + _NLA_DEST_ADDRESS[length] for length in (4, 16)
}
_NLA_DEST_PORT = _nla(2, ip_vs_h.DEST_PORT)
_NLA_DEST_METHOD = _nla(4, ip_vs_h.DEST_METHOD)
_NLA_DEST_WEIGHT = _nla(4, ip_vs_h.DEST_WEIGHT)
_NLA_DEST_UPPER = _nla(4, ip_vs_h.DEST_UPPER)
_NLA_DEST_LOWER = _nla(4, ip_vs_h.DEST_LOWER)
_NLA_DEST_FAMILY = _nla(2, ip_vs_h.DEST_FAMILY)
_NLA_DEST_TUNNEL_TYPE = _nla(1, ip_vs_h.DEST_TUNNEL_TYPE)
_NLA_DEST_TUNNEL_PORT = _nla(2, ip_vs_h.DEST_TUNNEL_PORT)
_NLA_DEST_TUNNEL_FLAGS = _nla(2, ip_vs_h.DEST_TUNNEL_FLAGS)
_FAMILIES = {4: Family.IPV4.value, 16: Family.IPV6.value}


def _dest(real_server: RealServer) -> bytes:
    address = real_server.address
    length = len(address)
    return _DEST_HEAD[length] + address + _dest_tail(length, _behind_address(real_server))


_behind_address = operator.attrgetter(*RealServer.__struct_fields__[1:])


@functools.lru_cache(maxsize=4096)  # most real servers differ by their address alone
def _dest_tail(length: int, fields: tuple[int, ...]) -> bytes:
    """Pack what follows an address of some length; fields: those of a RealServer."""
    port, weight, method, upper, lower, tunnel_type, tunnel_port, tunnel_flags = fields
    return _DEST_TAIL.pack(
        *(_NLA_DEST_PORT, socket.htons(port)),
        *(_NLA_DEST_METHOD, method),
        *(_NLA_DEST_WEIGHT, weight),
        *(_NLA_DEST_UPPER, upper),
        *(_NLA_DEST_LOWER, lower),
        *(_NLA_DEST_FAMILY, _FAMILIES[length]),
        *(_NLA_DEST_TUNNEL_TYPE, tunnel_type),
        *(_NLA_DEST_TUNNEL_PORT, socket.htons(tunnel_port)),
        *(_NLA_DEST_TUNNEL_FLAGS, tunnel_flags),
    )


def _dest_key(address: Address, port: int) -> bytes:
    length = len(address)
    return _DEST_KEY_LAYOUT[length].pack(
        *(_NLA_DEST_KEY[length], _NLA_DEST_ADDRESS[length], address),
        *(_NLA_DEST_PORT, socket.htons(port)),
        *(_NLA_DEST_FAMILY, _FAMILIES[length]),
    )


def _text(text: str) -> bytes:
    return text.encode() + b"\0"


# --- Other requests -----------------------------------------------------------------------------------------

GET_SERVICES = generic_header(_GET_SERVICE, _VERSION)
GET_DAEMONS = generic_header(_GET_DAEMON, _VERSION)
GET_INFO = generic_header(_GET_INFO, _VERSION)
GET_TIMEOUTS = generic_header(_GET_CONFIG, _VERSION)
FLUSH = generic_header(_FLUSH, _VERSION)


def get_service(key: VirtualServerKey) -> bytes:
    """Pack the request for one virtual server."""
    return GET_SERVICES + _service_key(key)


def get_dests(key: VirtualServerKey) -> bytes:
    """Pack the dump request for the real servers of one virtual server."""
    return generic_header(_GET_DEST, _VERSION) + _service_key(key)


def zero(key: VirtualServerKey | None) -> bytes:
    """Pack the request to zero the counters of one virtual server, or of all."""
    return generic_header(_ZERO, _VERSION) + (_service_key(key) if key else b"")


def set_timeouts(timeouts: Timeouts) -> bytes:
    """Pack new idle timeouts; the kernel keeps the present one where it reads 0."""
    return b"".join(
        (
            generic_header(_SET_CONFIG, _VERSION),
            attribute(ip_vs_h.TIMEOUT_TCP, struct.pack("=I", timeouts.tcp)),
            attribute(ip_vs_h.TIMEOUT_TCP_FIN, struct.pack("=I", timeouts.tcp_fin)),
            attribute(ip_vs_h.TIMEOUT_UDP, struct.pack("=I", timeouts.udp)),
        )
    )


def start_daemon(daemon: SyncDaemon) -> bytes:
    """Pack the request to start a synchronisation daemon; what is 0 or None is left to the kernel."""
    parts = [
        attribute(ip_vs_h.DAEMON_STATE, struct.pack("=I", daemon.role)),
        attribute(ip_vs_h.DAEMON_INTERFACE, _text(daemon.interface)),
        attribute(ip_vs_h.DAEMON_SYNC_ID, struct.pack("=I", daemon.sync_id)),
    ]
    if daemon.max_length:
        parts.append(attribute(ip_vs_h.DAEMON_MAX_LENGTH, struct.pack("=H", daemon.max_length)))
    if daemon.group:
        parts.append(
            attribute(ip_vs_h.DAEMON_GROUP if len(daemon.group) == 4 else ip_vs_h.DAEMON_GROUP6, daemon.group)
        )
    if daemon.port:
        parts.append(attribute(ip_vs_h.DAEMON_PORT, struct.pack("=H", daemon.port)))
    if daemon.ttl:
        parts.append(attribute(ip_vs_h.DAEMON_TTL, struct.pack("=B", daemon.ttl)))
    return generic_header(_NEW_DAEMON, _VERSION) + attribute(ip_vs_h.DAEMON, b"".join(parts))


def stop_daemon(role: SyncRole) -> bytes:
    """Pack the request to stop a synchronisation daemon."""
    state = attribute(ip_vs_h.DAEMON_STATE, struct.pack("=I", role))
    return generic_header(_DEL_DAEMON, _VERSION) + attribute(ip_vs_h.DAEMON, state)
