"""What the reconciler is told by the configuration."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Set

import msgspec

from ipvs_agent.addresses import Address, Family, Network, family_of
from ipvs_agent.desired.compile import NodeView
from ipvs_agent.desired.shim import Masquerade
from ipvs_agent.model import Node, RealServerKey, Service, VipMode, VirtualServerKey
from ipvs_agent.reconcile.foundation import Ground, Needs
from ipvs_agent.schedulers.annotations import Choice
from ipvs_agent.sources.changes import Kind


class Settings(msgspec.Struct, frozen=True):
    """Settings that last as long as the process."""

    node_name: str
    scheduler: Choice = Choice("rr", 0)
    """For Services that ask for no other."""
    node_port_networks: tuple[Network, ...] = ()
    """NodePorts are served on the node's addresses in these networks; none of a family: on all of it."""
    node_port_primary: bool = False
    """NodePorts are served on the addresses of the Node object alone."""
    sync_period: float = 30.0
    """Seconds from one audit to the next."""
    min_sync_period: float = 0.1
    """Seconds for which a Service that has just changed may wait, so that its changes are made together."""
    drain_seconds: float | None = None
    """A draining real server goes after so long at the latest; None: once its connections have ended."""
    vip_mode: VipMode = VipMode.AUTO
    detects_by_node: bool = False
    """Clients inside the cluster are known by the pod networks of the Node object (NodeCIDR)."""
    needs: Needs = Needs()

    @property
    def chooses_node_ports(self) -> bool:
        """Whether not all of the node's addresses serve NodePorts."""
        return self.node_port_primary or bool(self.node_port_networks)


def needs_now(settings: Settings, node: Node | None) -> Needs | None:
    """Return what the foundation is to be with the Node as it is; None while the Node must say more."""
    if not settings.detects_by_node:
        return settings.needs
    if node is None or not node.pod_networks:
        return None
    base = settings.needs.masquerade or Masquerade()
    masquerade = msgspec.structs.replace(base, cluster_networks=node.pod_networks)
    return msgspec.structs.replace(settings.needs, masquerade=masquerade)


def node_view(
    settings: Settings,
    ground: Ground,
    own: frozenset[Address],
    node: Node | None,
    api_servers: frozenset[RealServerKey],
    missing_schedulers: frozenset[str],
) -> NodeView:
    """Return what compiling needs to know of the node as it is now."""
    chosen = own
    if settings.node_port_primary:
        primary = {len(address): address for address in reversed(node.addresses)} if node else {}
        chosen = own & frozenset(primary.values())
    elif settings.node_port_networks:
        chosen = _chosen(settings.node_port_networks, own)
    return NodeView(
        name=settings.node_name,
        scheduler=settings.scheduler,
        missing_schedulers=missing_schedulers,
        drain_seconds=settings.drain_seconds,
        zone=node.zone if node else "",
        addresses=node.addresses if node else tuple(sorted(own)),
        own=own,
        node_port_addresses=tuple(sorted(chosen)),
        never_bound=own | {address for address, _ in api_servers},
        api_servers=api_servers,
        families=ground.families,
        undivided=ground.undivided,
    )


def sources(candidates: Iterable[Address], own: frozenset[Address]) -> dict[Family, Address]:
    """Return from which address the node is to dial VIPs of each family: the first that is its own."""
    found: dict[Family, Address] = {}
    for address in candidates:
        if address in own:
            found.setdefault(family_of(address), address)
    return found


def _chosen(networks: Collection[Network], own: frozenset[Address]) -> frozenset[Address]:
    """Return the addresses in some networks, and those of a family that none of them names."""
    named = {len(network.address) for network in networks}
    return frozenset(
        address
        for address in own
        if len(address) not in named or any(address in network for network in networks)
    )


def with_left(view: NodeView, left: frozenset[VirtualServerKey], listed: Set[Kind]) -> NodeView:
    """Return a view that spares what an agent before this one left, as long as not all is known of it.

    listed: what has been listed whole.
    """
    knows_services = Kind.SERVICE in listed
    knows_endpoints = knows_services and Kind.ENDPOINT_SLICE in listed
    nothing: frozenset[VirtualServerKey] = frozenset()
    return msgspec.structs.replace(
        view, undecided=nothing if knows_services else left, unfilled=nothing if knows_endpoints else left
    )


_EXTERNAL = {
    *("addresses", "own", "node_port_addresses", "never_bound", "api_servers"),
    *("undecided", "unfilled"),
}


def differing(old: NodeView, new: NodeView) -> set[str]:
    """Return the fields in which two views of a node differ."""
    fields = {field for field in NodeView.__struct_fields__ if getattr(old, field) != getattr(new, field)}
    if new.scheduler.scheduler in old.missing_schedulers ^ new.missing_schedulers:
        fields.add("scheduler")  # that which it stands for is another one
    return fields


def is_touched(service: Service, differing: Set[str]) -> bool:
    """Tell whether a Service may be another one on a node that has changed in some fields."""
    if differing == {"missing_schedulers"}:
        return bool(service.annotations or service.affinity_seconds)
    if not differing <= _EXTERNAL:
        return True
    # Cluster IPs depend on none of that.
    return any(port.node_port or port.external_ips or port.load_balancer_ips for port in service.ports)
