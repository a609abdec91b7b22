"""Nodes from their wire form."""

from __future__ import annotations

from ipvs_agent.addresses import Address, Network, parse_network
from ipvs_agent.model import Node
from ipvs_agent.sources import checks, identity, wire
from ipvs_agent.sources.changes import Kind, Put
from ipvs_agent.sources.checks import Fault

LEAVING_TAINT = "ToBeDeletedByClusterAutoscaler"
"""What the cluster autoscaler puts on a node before it removes it."""
ZONE_LABEL = "topology.kubernetes.io/zone"


def from_wire(node: wire.Node) -> Put:
    """Convert a Node; UnusableError where it has no name."""
    name = identity.name_of(Kind.NODE, node.metadata)
    labels = (node.metadata and node.metadata.labels) or {}
    spec = node.spec or wire.NodeSpec()
    faults: list[Fault] = []
    return Put(
        Kind.NODE,
        Node(
            name.name,
            zone=labels.get(ZONE_LABEL) or "",
            is_leaving=_is_leaving(node.metadata, spec),
            pod_networks=_pod_networks(spec, faults),
            addresses=_node_addresses(node.status or wire.NodeStatus(), faults),
            skipped=identity.skipped(Kind.NODE, name, faults),
        ),
    )


def _is_leaving(metadata: wire.Metadata | None, spec: wire.NodeSpec) -> bool:
    is_deleted = bool(metadata and metadata.deletion_timestamp)
    return is_deleted or any(taint.key == LEAVING_TAINT for taint in spec.taints or ())


def _pod_networks(spec: wire.NodeSpec, faults: list[Fault]) -> tuple[Network, ...]:
    networks = []
    for index, text in enumerate(spec.pod_cidrs or ([spec.pod_cidr] if spec.pod_cidr else ())):
        try:
            networks.append(parse_network(text))
        except ValueError:
            field = f"spec.podCIDRs[{index}]" if spec.pod_cidrs else "spec.podCIDR"
            faults.append((field, f"{checks.quoted(text)} is not a CIDR"))
    return tuple(networks)


def _node_addresses(status: wire.NodeStatus, faults: list[Fault]) -> tuple[Address, ...]:
    """Return the node's addresses, those first by which the cluster knows it."""
    found: dict[str, dict[Address, None]] = {"InternalIP": {}, "ExternalIP": {}}
    for index, entry in enumerate(status.addresses or ()):
        if entry.type in found:
            try:
                found[entry.type][checks.fit_address(entry.address or "")] = None
            except ValueError as error:
                faults.append((f"status.addresses[{index}].address", str(error)))
    return tuple({**found["InternalIP"], **found["ExternalIP"]})
