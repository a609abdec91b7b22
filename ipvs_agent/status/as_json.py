"""The listing as JSON: all that the kernel says of each virtual server, and what lets nodes be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from ipvs_agent.addresses import FAMILY_NAMES, format_address
from ipvs_agent.model import (
    FULL_NETMASK,
    ForwardingMethod,
    Protocol,
    ServiceFlags,
    VirtualServer,
    format_endpoint,
    format_netmask,
)
from ipvs_agent.observed import Counters, ObservedRealServer, ObservedVirtualServer
from ipvs_agent.schedulers import flag_names
from ipvs_agent.status.fingerprint import fingerprint
from ipvs_agent.status.listing import Listing


class _Object(msgspec.Struct, rename="camel"):
    pass


class _Counters(_Object):
    connections: int
    packets_in: int
    packets_out: int
    bytes_in: int
    bytes_out: int
    connections_rate: int
    packets_in_rate: int
    packets_out_rate: int
    bytes_in_rate: int
    bytes_out_rate: int


class _RealServer(_Object):
    address: str
    port: int
    method: str
    weight: int
    upper_threshold: int
    lower_threshold: int
    active_connections: int
    inactive_connections: int
    persistent_connections: int
    counters: _Counters


class _Persistence(_Object):
    seconds: int
    netmask: str | None
    engine: str | None


class _VirtualServer(_Object):
    family: str
    protocol: str | None
    address: str | None
    port: int | None
    mark: int | None
    scheduler: str
    flags: Sequence[str]
    one_packet: bool
    persistence: _Persistence | None
    fingerprint: str
    draining: Sequence[str]
    counters: _Counters
    real_servers: Sequence[_RealServer]


class _Ipvs(_Object):
    version: str
    connection_table_size: int


class _Document(_Object):
    ipvs: _Ipvs | None
    virtual_servers: Sequence[_VirtualServer]
    not_served_as_asked: Mapping[str, Sequence[str]] | None


def render(listing: Listing) -> str:
    """Render a listing, whose real servers are in the kernel's order, as a JSON object.

    Virtual servers are sorted by family, protocol, address, port and mark.
    """
    ipvs = None
    if listing.info is not None:
        version = ".".join(map(str, listing.info.version))
        ipvs = _Ipvs(version, listing.info.connection_table_size)
    notes = None
    if listing.notes is not None:
        notes = {str(name): listing.notes[name] for name in sorted(listing.notes)}
    entries = sorted(listing.entries, key=lambda entry: entry[0].virtual_server.key)
    document = _Document(ipvs, [_virtual_server(*entry) for entry in entries], notes)
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n"


def _virtual_server(observed: ObservedVirtualServer, table: Sequence[ObservedRealServer]) -> _VirtualServer:
    virtual_server = observed.virtual_server
    key = virtual_server.key
    servers = [each.real_server for each in table]
    return _VirtualServer(
        family=FAMILY_NAMES[key.family],
        protocol=None if key.mark else Protocol(key.protocol).name,
        address=None if key.mark else format_address(key.address),
        port=None if key.mark else key.port,
        mark=key.mark or None,
        scheduler=virtual_server.scheduler or "none",
        flags=flag_names(virtual_server.scheduler, virtual_server.flags),
        one_packet=bool(virtual_server.flags & ServiceFlags.ONE_PACKET),
        persistence=_persistence(virtual_server),
        fingerprint=fingerprint(virtual_server, table),
        draining=[format_endpoint(server.address, server.port) for server in servers if not server.weight],
        counters=_counters(observed.counters),
        real_servers=[_real_server(each) for each in table],
    )


def _persistence(virtual_server: VirtualServer) -> _Persistence | None:
    if not virtual_server.flags & ServiceFlags.PERSISTENT:
        return None
    netmask = None if virtual_server.netmask == FULL_NETMASK else format_netmask(virtual_server)
    return _Persistence(virtual_server.timeout, netmask, virtual_server.persistence_engine or None)


def _real_server(observed: ObservedRealServer) -> _RealServer:
    real_server = observed.real_server
    return _RealServer(
        address=format_address(real_server.address),
        port=real_server.port,
        method=ForwardingMethod(real_server.method).name.lower(),
        weight=real_server.weight,
        upper_threshold=real_server.upper_threshold,
        lower_threshold=real_server.lower_threshold,
        active_connections=observed.active,
        inactive_connections=observed.inactive,
        persistent_connections=observed.persistent,
        counters=_counters(observed.counters),
    )


def _counters(counters: Counters) -> _Counters:
    return _Counters(*(getattr(counters, field) for field in Counters.__struct_fields__))
