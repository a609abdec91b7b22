"""Reading the kernel back."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from ipvs_agent.addresses import Address, Family
from ipvs_agent.desired import sets
from ipvs_agent.kernel.api import Kernel, Outlined
from ipvs_agent.model import (
    RealServer,
    RealServerKey,
    SetMember,
    Vip,
    VipForm,
    VirtualServer,
    VirtualServerKey,
)
from ipvs_agent.observed import ObservedRealServer
from ipvs_agent.reconcile.achieved import Held

SLICE = 200
"""Virtual servers whose real servers are read in one go."""
CLOSE_LOOKS = 50
"""Objects that the loop looks at again in one go, which takes a few system calls for each."""
IN_FULL = 20
"""Every virtual server has its real servers read in full, and not by the outline, once in so many audits."""


class Tables(msgspec.Struct, frozen=True):
    """Everything but the real servers."""

    virtual_servers: dict[VirtualServerKey, VirtualServer]
    """All of this network namespace, whoever made them."""
    vips: frozenset[Vip]
    """Addresses of the dummy interface, whoever made them, and local routes of ours."""
    members: frozenset[SetMember]
    """Of the sets that are ours."""
    node_addresses: frozenset[Address]
    digests: Mapping[str, int]
    """Those of our sets, by name."""


RealServers = dict[RealServerKey, RealServer]
TableSlice = dict[VirtualServerKey, RealServers]
Confirmed = Mapping[VirtualServerKey | str, int]
"""Digests of what the kernel said of virtual servers, and of sets by name, that were as we left them."""


def read_tables(kernel: Kernel, confirmed: Confirmed, left: Iterable[SetMember]) -> Tables:
    """Read everything but the real servers; raise KernelError.

    The sets of a family that cannot be served now are read too: they say what is ours.
    confirmed: sets that still have this digest have the members that were left there.
    """
    virtual_servers = {
        observed.virtual_server.key: observed.virtual_server for observed in kernel.ipvs.virtual_servers()
    }
    digests: dict[str, int] = {}
    members: set[SetMember] = set()
    unchanged: set[str] = set()
    ours = {ip_set.name for family in Family for ip_set in sets.sets_of(family)}
    for name in ours & kernel.ipsets.sets().keys():
        reading = kernel.ipsets.reading(name)
        digests[name] = reading.digest
        if confirmed.get(name) == reading.digest:
            unchanged.add(name)
        else:
            members |= reading.content()
    members.update(member for member in left if member.set_name in unchanged)
    return Tables(
        virtual_servers, read_vips(kernel), frozenset(members), read_node_addresses(kernel), digests
    )


def read_vips(kernel: Kernel) -> frozenset[Vip]:
    """Read the addresses of the dummy interface, and local routes of ours; raise KernelError."""
    by_form = {VipForm.ADDRESS: kernel.vips.addresses(), VipForm.ROUTE: kernel.vips.routes()}
    return frozenset(Vip(address, form) for form, addresses in by_form.items() for address in addresses)


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
    for key, reading in itertools.islice(outline, SLICE):
        digests[key] = reading.digest
        if confirmed.get(key) != reading.digest:
            table[key] = _oldest_first(reading.content())
    return table, digests


def outlined(held: Held) -> Held:
    """Return what an outline says of a virtual server that is as it was left."""
    servers = {
        endpoint: RealServer(server.address, server.port, server.weight, server.method)
        for endpoint, server in held.real_servers.items()
    }
    return Held(held.virtual_server, servers)


def read_slice(kernel: Kernel, keys: Sequence[VirtualServerKey]) -> TableSlice:
    """Read the real servers of some virtual servers, as `read_real_servers` does."""
    newest_first = kernel.ipvs.real_servers_of(keys)
    return {key: _oldest_first(behind) for key, behind in zip(keys, newest_first, strict=True)}


def _oldest_first(newest_first: Sequence[ObservedRealServer]) -> RealServers:
    return {observed.real_server.endpoint: observed.real_server for observed in reversed(newest_first)}
