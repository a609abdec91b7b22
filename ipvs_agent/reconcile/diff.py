"""What to do about one object: the difference between what is wanted and what was achieved, as operations.

A real server that goes is drained under TCP and SCTP: its weight becomes 0, so that it takes no new
connection, and the drain removes it when its last one has ended. UDP has no last packet, so its real servers
go at once, and the kernel moves their flows (net/ipv4/vs/expire_nodest_conn). They go at once too under a
scheduler that would send new clients to a real server of weight 0, and so have them refused.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from ipvs_agent.desired import split
from ipvs_agent.model import Frontend, RealServerKey, SetMember, VirtualServer, VirtualServerKey
from ipvs_agent.operations import (
    AddMember,
    AddRealServer,
    AddRealServers,
    AddVirtualServer,
    DeleteMember,
    DeleteRealServer,
    DeleteVip,
    DeleteVirtualServer,
    Operation,
    SetRealServer,
    SetVirtualServer,
)
from ipvs_agent.reconcile.achieved import Achieved, Held
from ipvs_agent.schedulers import SCHEDULERS


def virtual_server(key: VirtualServerKey, wanted: Frontend | None, held: Held | None) -> Iterator[Operation]:
    """Yield what brings a virtual server and its real servers from what is held to what is wanted."""
    if wanted is None:
        if held is not None:
            yield DeleteVirtualServer(key)
        return
    if held is None:
        yield AddVirtualServer(wanted.virtual_server)
        if wanted.real_servers:
            yield AddRealServers(key, wanted.real_servers)
        return
    if held.virtual_server != wanted.virtual_server:
        yield SetVirtualServer(wanted.virtual_server)
    yield from _real_servers(key, wanted, held)


def _real_servers(key: VirtualServerKey, wanted: Frontend, held: Held) -> Iterator[Operation]:
    if wanted.real_servers == tuple(held.in_order):
        return  # as mostly where all is looked at
    staying: set[RealServerKey] = set()
    for real_server in wanted.real_servers:
        staying.add(real_server.endpoint)
        present = held.real_servers.get(real_server.endpoint)
        if present is None:
            yield AddRealServer(key, real_server)
        elif present != real_server:
            yield SetRealServer(key, real_server)
    for endpoint, present in held.real_servers.items():
        if endpoint in staying:
            continue
        if not is_drained(wanted.virtual_server):
            yield DeleteRealServer(key, *endpoint)
        elif present.weight:
            yield SetRealServer(key, msgspec.structs.replace(present, weight=0))


def is_drained(virtual_server: VirtualServer) -> bool:
    """Tell whether real servers of a virtual server are drained before they go."""
    if split.is_udp(virtual_server.key):
        return False
    scheduler = SCHEDULERS.get(virtual_server.scheduler)
    return scheduler is None or scheduler.can_drain(virtual_server.flags)


def member(member: SetMember, *, wanted: bool, achieved: Achieved) -> Iterator[Operation]:
    """Yield what brings a set member from what was achieved to what is wanted."""
    if wanted and member not in achieved.members:
        yield AddMember(member)
    elif not wanted and member in achieved.members:
        yield DeleteMember(member)


def removes(operation: Operation) -> bool:
    """Tell whether an operation takes something from clients."""
    if isinstance(operation, SetRealServer):
        return operation.real_server.weight == 0
    return type(operation) in _REMOVALS


_REMOVALS = frozenset({DeleteMember, DeleteRealServer, DeleteVip, DeleteVirtualServer})
