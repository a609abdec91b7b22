"""The objects of the API as JSON has them: only the fields that are used, none of them checked.

Every field may be null, since Kubernetes takes null for absent; what is absent is said once, in decode.py.
"""

from __future__ import annotations

import msgspec


class _Wire(msgspec.Struct, gc=False, rename="camel"):
    """JSON has no cycles, so none of these ever needs the garbage collector."""


class Name(_Wire):
    """What of metadata says which object it is."""

    name: str | None = None
    namespace: str | None = None


class Identity(_Wire):
    """Any object of which nothing else can be read."""

    metadata: Name | None = None


class Metadata(Name):
    """metadata of any object."""

    uid: str | None = None
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    labels: dict[str, str | None] | None = None
    annotations: dict[str, str | None] | None = None


# --- Service ------------------------------------------------------------------------------------------------


class ServicePort(_Wire):
    """spec.ports[]."""

    name: str | None = None
    protocol: str | None = None
    port: int | None = None
    node_port: int | None = None


class ClientIpConfig(_Wire):
    """spec.sessionAffinityConfig.clientIP."""

    timeout_seconds: int | None = None


class AffinityConfig(_Wire):
    """spec.sessionAffinityConfig."""

    client_ip: ClientIpConfig | None = msgspec.field(default=None, name="clientIP")


class ServiceSpec(_Wire):
    """spec of a Service."""

    type: str | None = None
    cluster_ip: str | None = msgspec.field(default=None, name="clusterIP")
    cluster_ips: list[str] | None = msgspec.field(default=None, name="clusterIPs")
    ports: list[ServicePort] | None = None
    external_ips: list[str] | None = msgspec.field(default=None, name="externalIPs")
    load_balancer_source_ranges: list[str] | None = None
    session_affinity: str | None = None
    session_affinity_config: AffinityConfig | None = None
    internal_traffic_policy: str | None = None
    external_traffic_policy: str | None = None
    health_check_node_port: int | None = None


class Ingress(_Wire):
    """status.loadBalancer.ingress[]."""

    ip: str | None = None
    ip_mode: str | None = None


class LoadBalancerStatus(_Wire):
    """status.loadBalancer."""

    ingress: list[Ingress] | None = None


class ServiceStatus(_Wire):
    """status of a Service."""

    load_balancer: LoadBalancerStatus | None = None


class Service(_Wire):
    """A Service."""

    metadata: Metadata | None = None
    spec: ServiceSpec | None = None
    status: ServiceStatus | None = None


# --- EndpointSlice ------------------------------------------------------------------------------------------


class Conditions(_Wire):
    """endpoints[].conditions."""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class Hint(_Wire):
    """endpoints[].hints.forZones[] and forNodes[]."""

    name: str | None = None


class Hints(_Wire):
    """endpoints[].hints."""

    for_zones: list[Hint] | None = None
    for_nodes: list[Hint] | None = None


class Endpoint(_Wire):
    """endpoints[]."""

    addresses: list[str] | None = None
    conditions: Conditions | None = None
    node_name: str | None = None
    zone: str | None = None
    hints: Hints | None = None


class EndpointPort(_Wire):
    """ports[] of a slice."""

    name: str | None = None
    port: int | None = None


class EndpointSlice(_Wire):
    """An EndpointSlice."""

    metadata: Metadata | None = None
    address_type: str | None = None
    endpoints: list[Endpoint] | None = None
    ports: list[EndpointPort] | None = None


# --- Node ---------------------------------------------------------------------------------------------------


class Taint(_Wire):
    """spec.taints[] of a Node."""

    key: str | None = None


class NodeSpec(_Wire):
    """spec of a Node."""

    pod_cidr: str | None = msgspec.field(default=None, name="podCIDR")
    pod_cidrs: list[str] | None = msgspec.field(default=None, name="podCIDRs")
    taints: list[Taint] | None = None


class NodeAddress(_Wire):
    """status.addresses[]."""

    type: str | None = None
    address: str | None = None


class NodeStatus(_Wire):
    """status of a Node."""

    addresses: list[NodeAddress] | None = None


class Node(_Wire):
    """A Node."""

    metadata: Metadata | None = None
    spec: NodeSpec | None = None
    status: NodeStatus | None = None
