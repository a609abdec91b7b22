"""What the reconciler is told by the configuration."""

from __future__ import annotations

import msgspec

from ipvs_agent.addresses import Address, Family, Network
from ipvs_agent.desired.compile import NodeView
from ipvs_agent.model import Node
from ipvs_agent.reconcile.foundation import Needs


class Settings(msgspec.Struct, frozen=True):
    """Settings that last as long as the process."""

    node_name: str
    scheduler: str = "rr"
    scheduler_flags: int = 0
    node_port_networks: tuple[Network, ...] = ()
    """NodePorts are served on the node's addresses in these networks; none: on all."""
    node_port_primary: bool = False
    """NodePorts are served on the addresses of the Node object alone."""
    sync_period: float = 30.0
    """Seconds from one audit to the next."""
    needs: Needs = Needs()


def node_view(
    settings: Settings, families: frozenset[Family], own: frozenset[Address], node: Node | None
) -> NodeView:
    """Return what compiling needs to know of the node as it is now."""
    chosen = own
    if settings.node_port_primary:
        primary = {len(address): address for address in reversed(node.addresses)} if node else {}
        chosen = own & frozenset(primary.values())
    elif settings.node_port_networks:
        networks = settings.node_port_networks
        chosen = frozenset(address for address in own if any(address in network for network in networks))
    return NodeView(
        name=settings.node_name,
        scheduler=settings.scheduler,
        scheduler_flags=settings.scheduler_flags,
        node_port_addresses=tuple(sorted(chosen)),
        own_addresses=own,
        families=families,
    )
