"""Reading the kernel back."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from ipvs_agent.addresses import Address, Family
from ipvs_agent.desired import sets
from ipvs_agent.kernel.api import Kernel
from ipvs_agent.model import (
    RealServer,
    RealServerKey,
    SetMember,
    Vip,
    VipForm,
    VirtualServer,
    VirtualServerKey,
)
from ipvs_agent.observed import ObservedRealServer, Outlined
from ipvs_agent.reconcile.achieved import VIRTUAL_SERVERS, Confirmed, Held

SLICE = 200
"""Virtual servers whose real servers are read in one go."""
CLOSE_LOOKS = 50
"""Objects that the loop looks at again in one go, which takes a few system calls for each."""
IN_FULL = 20
"""Every virtual server has its real servers read in full, and not by the outline, once in so many audits."""


class Left(msgspec.Struct, frozen=True):
    """How the kernel was left when an audit began."""

    virtual_servers: Mapping[VirtualServerKey, VirtualServer]
    vips: frozenset[Vip]
    members: frozenset[SetMember]
    in_use: frozenset[str]
    """Sets that have any of the members."""
    foreign: frozenset[VirtualServerKey]
    """Virtual servers that others have made."""


class Tables(msgspec.Struct, frozen=True):
    """Everything but the real servers."""

    virtual_servers: Mapping[VirtualServerKey, VirtualServer]
    """All of this network namespace, whoever made them; just what was left, without those of others, where
    nothing differs from when that was confirmed."""
    vips: frozenset[Vip]
    """Addresses of the dummy interface, whoever made them, and local routes of ours."""
    members: frozenset[SetMember]
    """Of the sets that are ours; just what was left, where nothing differs."""
    node_addresses: frozenset[Address]
    digests: Mapping[str, int]
    """Those of our sets, by name, and of all virtual servers."""


RealServers = dict[RealServerKey, RealServer]
TableSlice = dict[VirtualServerKey, RealServers]
_NOTHING: Confirmed = {}


def read_tables(kernel: Kernel, left: Left | None = None, confirmed: Confirmed = _NOTHING) -> Tables:
    """Read everything but the real servers; raise KernelError.

    The sets of a family that cannot be served now are read too: they say what is ours.
    confirmed: what still has this digest is as it was left.
    """
    digests: dict[str, int] = {}
    return Tables(
        _read_virtual_servers(kernel, left, confirmed, digests),
        read_vips(kernel),
        _read_members(kernel, left, confirmed, digests),
        read_node_addresses(kernel),
        digests,
    )


def _read_virtual_servers(
    kernel: Kernel, left: Left | None, confirmed: Confirmed, digests: dict[str, int]
) -> Mapping[VirtualServerKey, VirtualServer]:
    reading = kernel.ipvs.reading()
    digests[VIRTUAL_SERVERS] = reading.digest
    if left is not None and confirmed.get(VIRTUAL_SERVERS) == reading.digest:
        return left.virtual_servers
    return {observed.virtual_server.key: observed.virtual_server for observed in reading.content()}


def _read_members(
    kernel: Kernel, left: Left | None, confirmed: Confirmed, digests: dict[str, int]
) -> frozenset[SetMember]:
    members: set[SetMember] = set()
    unchanged: set[str] = set()
    present = {ip_set.name for family in Family for ip_set in sets.sets_of(family)}
    present &= kernel.ipsets.sets().keys()
    for name in present:
        reading = kernel.ipsets.reading(name)
        digests[name] = reading.digest
        if left is not None and confirmed.get(name) == reading.digest:
            unchanged.add(name)
        else:
            members |= reading.content()
    if left is not None:
        if unchanged == present | left.in_use:
            return left.members
        members.update(member for member in left.members if member.set_name in unchanged)
    return frozenset(members)


def read_vips(kernel: Kernel) -> frozenset[Vip]:
    """Read the addresses of the dummy interface, and local routes of ours; raise KernelError."""
    addresses = (Vip(address, VipForm.ADDRESS) for address in kernel.vips.addresses())
    routes = (Vip(address, VipForm.ROUTE, source) for address, source in kernel.vips.routes().items())
    return frozenset((*addresses, *routes))


def read_node_addresses(kernel: Kernel) -> frozenset[Address]:
    """Read the node's own addresses; raise KernelError."""
    by_interface = kernel.node_addresses.addresses()
    return frozenset(address for addresses in by_interface.values() for address in addresses)


def read_real_servers(kernel: Kernel, key: VirtualServerKey) -> RealServers:
    """Read the real servers of a virtual server, in the order in which they were added; raise KernelError."""
    return read_slice(kernel, [key])[key]


def read_outline(
    outline: Iterator[Outlined], confirmed: Confirmed
) -> tuple[TableSlice, dict[VirtualServerKey, int]]:
    """Read the next slice of an outline, as `read_slice` does; the last one is a short one.

    Returns those that are not confirmed, and the digests of all of them.
    """
    table: TableSlice = {}
    digests: dict[VirtualServerKey, int] = {}
    for outlined in itertools.islice(outline, SLICE):
        digests[outlined.key] = digest = outlined.digest
        if confirmed.get(outlined.key) != digest:
            table[outlined.key] = _oldest_first(outlined.real_servers())
    return table, digests


def outlined(held: Held) -> Held:
    """Return what an outline says of a virtual server that is as it was left."""
    servers = {
        server.endpoint: RealServer(server.address, server.port, server.weight, server.method)
        for server in held.in_order
    }
    return Held(held.virtual_server, servers)


def read_slice(kernel: Kernel, keys: Sequence[VirtualServerKey]) -> TableSlice:
    """Read the real servers of some virtual servers, as `read_real_servers` does."""
    newest_first = kernel.ipvs.real_servers_of(keys)
    return {key: _oldest_first(behind) for key, behind in zip(keys, newest_first, strict=True)}


def _oldest_first(newest_first: Sequence[ObservedRealServer]) -> RealServers:
    return {observed.real_server.endpoint: observed.real_server for observed in reversed(newest_first)}
