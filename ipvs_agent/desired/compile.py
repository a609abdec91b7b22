"""From one Service and its slices to what this node needs in the kernel for it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

import msgspec

from ipvs_agent.addresses import Address, Family
from ipvs_agent.desired import endpoints, sets
from ipvs_agent.desired.sets import Purpose
from ipvs_agent.model import (
    Endpoint,
    EndpointSlice,
    Frontend,
    Owner,
    RealServer,
    Service,
    ServiceFlags,
    ServicePlan,
    ServicePort,
    SetMember,
    Skipped,
    VirtualServer,
    VirtualServerKey,
)


class NodeView(msgspec.Struct, frozen=True):
    """What compiling needs to know of this node."""

    name: str
    scheduler: str
    scheduler_flags: int = 0
    node_port_addresses: tuple[Address, ...] = ()
    """The addresses on which NodePorts are served, of both families."""
    own_addresses: frozenset[Address] = frozenset()
    """All addresses of the node's interfaces: never to be bound as VIPs."""
    families: frozenset[Family] = frozenset(Family)
    """The families that this node can serve."""


def compile_service(service: Service, slices: Collection[EndpointSlice], node: NodeView) -> ServicePlan:
    """Return the plan of a Service; what cannot be served is in its `skipped`."""
    frontends: dict[VirtualServerKey, Frontend] = {}
    members: list[SetMember] = []
    skipped: list[Skipped] = []
    if service.source_ranges and any(port.load_balancer_ips for port in service.ports):
        reason = "is not supported yet, so the load balancer addresses are not served at all"
        skipped.append(Skipped(f"Service {service.name}", "spec.loadBalancerSourceRanges", reason))
    for port in service.ports:
        if port.family not in node.families:
            continue
        behind = endpoints.of_port(port, slices)
        for frontend in _frontends(service, port, behind, node):
            key = frontend.virtual_server.key
            if key in frontends:
                reason = f"port {port.name!r} asks for {key}, which another port of the Service has"
                skipped.append(Skipped(f"Service {service.name}", "spec.ports", reason))
            else:
                frontends[key] = frontend
        members += (
            sets.hairpin_member(port.family, port.protocol, endpoint.address, endpoint.port)
            for endpoint in endpoints.maybe_on_node(behind, node.name)
        )
    owner = Owner(service.created, service.name)
    return ServicePlan(
        owner, tuple(frontends.values()), tuple(dict.fromkeys(members)), skipped=tuple(skipped)
    )


def _frontends(
    service: Service, port: ServicePort, behind: Sequence[Endpoint], node: NodeView
) -> Iterator[Frontend]:
    everywhere = _real_servers(endpoints.usable(behind))
    local = everywhere
    if service.internal_local or service.external_local:
        local = _real_servers(endpoints.usable(endpoints.on_node(behind, node.name)))
    internal = local if service.internal_local else everywhere
    external = local if service.external_local else everywhere
    # With externalTrafficPolicy Local the client's address is to be seen, so no set says "masquerade".
    external_purposes = () if service.external_local else (Purpose.EXTERNAL,)

    asked: list[tuple[Address, int, tuple[RealServer, ...], tuple[str, ...]]]
    asked = [(port.cluster_ip, port.port, internal, (Purpose.CLUSTER,))]
    asked += (
        (address, port.port, external, external_purposes)
        for address in dict.fromkeys(port.external_ips + _load_balancer_ips(service, port))
        if address != port.cluster_ip
    )
    if port.node_port:
        asked += (
            (address, port.node_port, external, external_purposes)
            for address in node.node_port_addresses
            if len(address) == len(port.cluster_ip)
        )
    flags = node.scheduler_flags | (ServiceFlags.PERSISTENT if service.affinity_seconds else 0)
    for address, number, real_servers, purposes in asked:
        key = VirtualServerKey(port.family, port.protocol, address, number)
        members = [sets.port_member(purpose, key) for purpose in (Purpose.SERVICES, *purposes)]
        bound = address not in node.own_addresses
        if bound:
            members.append(sets.vip_member(port.family, address))
        virtual_server = VirtualServer(key, node.scheduler, flags, service.affinity_seconds)
        yield Frontend(virtual_server, real_servers, bound, tuple(members))


def _load_balancer_ips(service: Service, port: ServicePort) -> tuple[Address, ...]:
    """Return the addresses that are served: a restricted one must never be open, so it is not."""
    return () if service.source_ranges else port.load_balancer_ips


def _real_servers(serving: Iterable[Endpoint]) -> tuple[RealServer, ...]:
    return tuple([RealServer(endpoint.address, endpoint.port) for endpoint in serving])
