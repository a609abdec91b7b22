"""From one Service and its slices to what this node needs in the kernel for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from ipvs_agent.addresses import Address, Family
from ipvs_agent.desired import distribution, endpoints, sets
from ipvs_agent.desired.distribution import Distribution
from ipvs_agent.desired.order import insertion_order
from ipvs_agent.desired.sets import Purpose
from ipvs_agent.desired.wishes import read_wishes
from ipvs_agent.model import (
    Endpoint,
    EndpointSlice,
    Frontend,
    HealthCheck,
    Owner,
    RealServer,
    RealServerKey,
    Service,
    ServiceFlags,
    ServicePlan,
    ServicePort,
    SetMember,
    Skipped,
    TrafficPolicy,
    VirtualServer,
    VirtualServerKey,
    format_endpoint,
    mark_key,
)
from ipvs_agent.schedulers import SCHEDULERS, TABLE_SIZES
from ipvs_agent.schedulers.annotations import Choice


class NodeView(msgspec.Struct, frozen=True):
    """What compiling needs to know of this node."""

    name: str
    scheduler: Choice
    """For Services that ask for no other."""
    missing_schedulers: frozenset[str] = frozenset()
    """Those that the kernel has refused to know."""
    drain_seconds: float | None = None
    """How long drains last at most, for Services that do not say; None: until connections have ended."""
    zone: str = ""
    addresses: tuple[Address, ...] = ()
    """The addresses that the cluster knows the node by."""
    own: frozenset[Address] = frozenset()
    """All addresses of the node that can be dialled."""
    node_port_addresses: tuple[Address, ...] = ()
    """The addresses on which NodePorts are served, of both families."""
    never_bound: frozenset[Address] = frozenset()
    """Addresses that cannot be VIPs: the node's own, and those of the API server, since a node that takes
    them for its own is lost to the cluster (k/k#104679)."""
    api_servers: frozenset[RealServerKey] = frozenset()
    """Where no virtual server may be: it would stand in the agent's own way to the API server."""
    families: frozenset[Family] = frozenset(Family)
    """The families that this node can serve."""
    undivided: frozenset[Family] = frozenset()
    """The families in which clients inside the cluster cannot be told from those outside: there an address
    for endpoints of this node alone serves all of the cluster's where this node has none, as kube-proxy's."""
    undecided: frozenset[VirtualServerKey] = frozenset()
    """Virtual servers of an agent before this one, while not all Services are known: one on an external
    address stays as it is, because it may be that of a Service which is yet to come."""
    unfilled: frozenset[VirtualServerKey] = frozenset()
    """The same, while not all endpoints are known: one of this node may be yet to come."""


_RealServers = tuple[RealServer, ...]

NO_MARKS: Mapping[ServicePort, int] = {}
NO_CROWDS: Mapping[ServicePort, int] = {}
_NOWHERE: frozenset[tuple[TrafficPolicy, Family]] = frozenset()
"""One for nearly all Services: Python makes an empty set of 200 octets each time it is asked for one."""


def compile_service(
    service: Service,
    slices: Collection[EndpointSlice],
    node: NodeView,
    marks: Mapping[ServicePort, int] = NO_MARKS,
    crowds: Mapping[ServicePort, int] = NO_CROWDS,
) -> ServicePlan:
    """Return the plan of a Service; what cannot be served is in its `skipped`.

    marks: the packet mark of each port of a Service with externalTrafficPolicy Local.
    crowds: how many endpoints must have room behind a port, where it is not as many as it has.
    """
    frontends: dict[VirtualServerKey, Frontend] = {}
    counts: dict[ServicePort, int] = {}
    not_local: set[tuple[TrafficPolicy, Family]] = set()
    members: list[SetMember] = []
    skipped: list[Skipped] = []
    wishes, faults = read_wishes(service, node.drain_seconds)
    skipped += distribution.said(service, faults)
    for port in service.ports:
        if port.family not in node.families:
            continue
        behind = endpoints.of_port(port, slices)
        serving = endpoints.in_cluster(behind)
        if len(serving) > TABLE_SIZES[0]:
            counts[port] = len(serving)
        count = max(len(serving), crowds.get(port, 0))
        its_distribution, unusable = distribution.of_port(
            service, port, wishes, count, node.scheduler, node.missing_schedulers
        )
        skipped += unusable
        compiler = _Compiler(service, port, node, its_distribution)
        for frontend in compiler.frontends(behind, serving, marks.get(port, 0)):
            key = frontend.virtual_server.key
            if key in frontends:
                reason = f"port {port.name!r} asks for {key}, which another port of the Service has"
                skipped.append(Skipped(f"Service {service.name}", "spec.ports", reason))
            else:
                frontends[key] = frontend
        skipped += _at_api_server(service, port, node)
        local_policies = {(policy, port.family) for policy in _local_policies(service, port, node)}
        if local_policies and serving and not endpoints.on_node(behind, node.name):
            not_local |= local_policies
        members += (
            sets.hairpin_member(port.family, port.protocol, endpoint.address, endpoint.port)
            for endpoint in endpoints.maybe_on_node(behind, node.name)
        )
    health = _health(service, slices, node)
    if health is not None:
        members.append(sets.health_member(health.port))
    return ServicePlan(
        Owner(service.created, service.name),
        tuple(frontends.values()),
        tuple(dict.fromkeys(members)),
        health,
        tuple(dict.fromkeys(skipped)),
        counts,
        frozenset(not_local) if not_local else _NOWHERE,
    )


def external_keys(port: ServicePort, node: NodeView) -> list[VirtualServerKey]:
    """Return what clients dial from outside the cluster: external and load balancer addresses, NodePorts."""
    asked = [
        (address, port.port)
        for address in dict.fromkeys(port.external_ips + port.load_balancer_ips)
        if address != port.cluster_ip and (address, port.port) not in node.api_servers
    ]
    keys = [VirtualServerKey(port.family, port.protocol, address, number) for address, number in asked]
    if node.undecided:
        keys = [key for key in keys if key not in node.undecided]
    if port.node_port:
        keys += (
            VirtualServerKey(port.family, port.protocol, address, port.node_port)
            for address in node.node_port_addresses
            if len(address) == len(port.cluster_ip)
        )
    # A NodePort may be the port that an external address of the node's own has.
    return list(dict.fromkeys(keys))


def _local_policies(service: Service, port: ServicePort, node: NodeView) -> Iterator[TrafficPolicy]:
    if service.internal_local:
        yield TrafficPolicy.INTERNAL
    if service.external_local and external_keys(port, node):
        yield TrafficPolicy.EXTERNAL


def _at_api_server(service: Service, port: ServicePort, node: NodeView) -> Iterator[Skipped]:
    for field, addresses in (
        ("spec.externalIPs", port.external_ips),
        ("status.loadBalancer.ingress", port.load_balancer_ips),
    ):
        for address in addresses:
            if (address, port.port) in node.api_servers:
                reason = f"{format_endpoint(address, port.port)} is the API server's"
                yield Skipped(f"Service {service.name}", field, reason)


class _Compiler(NamedTuple):
    """Makes the virtual servers of one port of a Service."""

    service: Service
    port: ServicePort
    node: NodeView
    distribution: Distribution

    def frontends(
        self, behind: Sequence[Endpoint], serving: Sequence[Endpoint], mark: int
    ) -> Iterator[Frontend]:
        """Yield all virtual servers of the port.

        serving: those of the endpoints behind it that serve, on any node.
        mark: 0 where it has none.
        """
        service, port, node, how = self
        cluster = serving if how.hints_give_weights else endpoints.near(serving, node.name, node.zone)
        everywhere = self._real_servers(cluster, how.choice)
        local = everywhere
        if service.internal_local or service.external_local:
            local = self._real_servers(endpoints.on_node(behind, node.name), how.choice)

        cluster_key = VirtualServerKey(port.family, port.protocol, port.cluster_ip, port.port)
        internal = local if service.internal_local else everywhere
        yield self._by_address(cluster_key, internal, [sets.port_member(Purpose.CLUSTER, cluster_key)])
        keys = external_keys(port, node)
        if not service.external_local:
            for key in keys:
                yield self._by_address(key, everywhere, [sets.port_member(Purpose.EXTERNAL, key)])
        elif keys:
            yield from self._split(keys, everywhere, local, mark)
            if mark:
                is_same = how.by_mark == how.choice
                yield self._by_mark(mark, everywhere if is_same else self._real_servers(cluster, how.by_mark))

    def _split(
        self, keys: Iterable[VirtualServerKey], everywhere: _RealServers, local: _RealServers, mark: int
    ) -> Iterator[Frontend]:
        """Yield what clients outside the cluster reach, and what those inside do (desired/split.py).

        The address of a client outside is to be seen, so no set says "masquerade".
        """
        is_divided = bool(mark) and self.port.family not in self.node.undivided
        for key in keys:
            is_known = key not in self.node.unfilled
            outside = local if is_divided or not is_known else local or everywhere
            is_silent = bool(everywhere) and not outside and is_known
            members = [sets.port_member(Purpose.NOLOCAL, key)] if is_silent else []
            if mark:
                members.append(sets.mark_member(key, mark))
            yield self._by_address(key, outside, members)

    def _by_address(
        self, key: VirtualServerKey, real_servers: _RealServers, of_kind: Iterable[SetMember]
    ) -> Frontend:
        service, node = self.service, self.node
        members = [sets.port_member(Purpose.SERVICES, key), *of_kind]
        is_balanced = key.address in self.port.load_balancer_ips and key.port == self.port.port
        if service.source_ranges and is_balanced:  # the address may be the node's, with a NodePort
            members += _restriction(service, key, node)
        vips: tuple[Address, ...] = ()
        if key.address not in node.never_bound:
            vips = (key.address,)
            members.append(sets.vip_member(key.family, key.address))
        how = self.distribution
        flags = how.choice.flags | (ServiceFlags.PERSISTENT if how.affinity_seconds else 0)
        virtual_server = VirtualServer(key, how.choice.scheduler, flags, how.affinity_seconds, how.netmask)
        return self._frontend(virtual_server, real_servers, vips, tuple(members))

    def _by_mark(self, mark: int, real_servers: _RealServers) -> Frontend:
        choice = self.distribution.by_mark
        virtual_server = VirtualServer(mark_key(self.port.family, mark), choice.scheduler, choice.flags)
        return self._frontend(virtual_server, real_servers)

    def _frontend(
        self,
        virtual_server: VirtualServer,
        real_servers: _RealServers,
        vips: tuple[Address, ...] = (),
        members: tuple[SetMember, ...] = (),
    ) -> Frontend:
        wishes = self.distribution.wishes
        scheduler = SCHEDULERS[virtual_server.scheduler]
        if scheduler.keeps_places and not all(server.weight for server in real_servers):
            # They drain and go, so that in the end no node has places for them.
            real_servers = tuple([server for server in real_servers if server.weight])
        slow_start_seconds = wishes.slow_start_seconds if scheduler.can_ramp else 0.0
        return Frontend(virtual_server, real_servers, vips, members, wishes.drain_seconds, slow_start_seconds)

    def _real_servers(self, serving: Sequence[Endpoint], choice: Choice) -> _RealServers:
        node = self.node
        unordered = distribution.real_servers(serving, choice, self.distribution.wishes, node.name, node.zone)
        seed = f"{node.name} {self.service.name} {self.port.name}"
        return insertion_order(unordered, SCHEDULERS[choice.scheduler], seed)


def _restriction(service: Service, key: VirtualServerKey, node: NodeView) -> Iterator[SetMember]:
    """Yield the members that shut out clients outside the ranges of a family; no range, no restriction."""
    ranges = [one for one in service.source_ranges if len(one.address) == len(key.address)]
    if not ranges:
        return
    yield from sets.allowed_members(key, ranges)
    if any(address in one for one in ranges for address in node.addresses):
        # The node dials a VIP from the VIP itself, but where that is a route from one of its own, which may
        # be another one at any time.
        yield sets.allowed_host(key, key.address)
        same_family = (address for address in sorted(node.own) if len(address) == len(key.address))
        yield from (sets.allowed_host(key, address) for address in same_family)
    yield sets.port_member(Purpose.RESTRICTED, key)


def _health(service: Service, slices: Iterable[EndpointSlice], node: NodeView) -> HealthCheck | None:
    if not service.health_check_node_port:
        return None
    local = {
        (port.family, endpoint.address)
        for port in service.ports
        for endpoint in endpoints.of_port(port, slices)
        if endpoint.ready and not endpoint.terminating and endpoint.node == node.name
    }
    # A pod has an address in each family, and balancers weigh by this number: it counts once.
    count = max(Counter(family for family, _ in local).values(), default=0)
    return HealthCheck(service.health_check_node_port, service.name, service.uid, count)
