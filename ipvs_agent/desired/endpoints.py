"""Which endpoints serve a Service port on this node."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ipvs_agent.model import Endpoint, EndpointSlice, ObjectName, RealServerKey, ServicePort


def of_port(port: ServicePort, slices: Iterable[EndpointSlice]) -> list[Endpoint]:
    """Return the endpoints behind a Service port, each address and port once.

    Slices may repeat an endpoint while it moves from one to the other. Of copies that contradict each other,
    one that is not terminating wins, then one that is ready, then one that serves; else that of the first
    slice by name, so that all nodes believe the same.
    """
    found: dict[RealServerKey, Endpoint] = {}
    for endpoint_slice in sorted(slices, key=_by_name):
        if endpoint_slice.family != port.family:
            continue
        for endpoint in endpoint_slice.endpoints.get(port.name, ()):
            key = (endpoint.address, endpoint.port)
            if key not in found or _credit(endpoint) > _credit(found[key]):
                found[key] = endpoint
    return list(found.values())


def _by_name(endpoint_slice: EndpointSlice) -> ObjectName:
    return endpoint_slice.name


def _credit(endpoint: Endpoint) -> tuple[bool, bool, bool]:
    return not endpoint.terminating, endpoint.ready, endpoint.serving


def in_cluster(endpoints: Sequence[Endpoint]) -> Sequence[Endpoint]:
    """Return the ready endpoints; where there is none, those that still serve while they terminate."""
    return [endpoint for endpoint in endpoints if endpoint.ready] or [
        endpoint for endpoint in endpoints if endpoint.serving and endpoint.terminating
    ]


def near(serving: Sequence[Endpoint], node: str, zone: str) -> Sequence[Endpoint]:
    """Return those of the endpoints which serve that are meant for this node, else for its zone, else all.

    Hints count only where every ready endpoint has one: while controllers write them, those without would get
    no traffic at all.
    """
    if not serving or not serving[0].ready:
        return serving
    if all(endpoint.node_hints for endpoint in serving):
        near = [endpoint for endpoint in serving if node in endpoint.node_hints]
        if near:
            return near
    if zone and all(endpoint.zone_hints for endpoint in serving):
        near = [endpoint for endpoint in serving if zone in endpoint.zone_hints]
        if near:
            return near
    return serving


def on_node(endpoints: Iterable[Endpoint], node: str) -> Sequence[Endpoint]:
    """Return the endpoints of a node that serve; hints do not count there."""
    return in_cluster([endpoint for endpoint in endpoints if endpoint.node == node])


def maybe_on_node(endpoints: Iterable[Endpoint], node: str) -> list[Endpoint]:
    """Return the endpoints that run on a node, or of which nobody said where they run."""
    return [endpoint for endpoint in endpoints if endpoint.node in ("", node)]
