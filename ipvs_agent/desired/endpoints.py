"""Which endpoints serve a Service port on this node."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ipvs_agent.model import Endpoint, EndpointSlice, RealServerKey, ServicePort


def of_port(port: ServicePort, slices: Iterable[EndpointSlice]) -> list[Endpoint]:
    """Return the endpoints behind a Service port, each address and port once.

    Slices may repeat an endpoint while it moves from one to the other; a copy that is not terminating wins.
    """
    found: dict[RealServerKey, Endpoint] = {}
    for endpoint_slice in slices:
        if endpoint_slice.family != port.family:
            continue
        for endpoint in endpoint_slice.endpoints.get(port.name, ()):
            key = (endpoint.address, endpoint.port)
            if key not in found or found[key].terminating:
                found[key] = endpoint
    return list(found.values())


def usable(endpoints: Sequence[Endpoint]) -> Sequence[Endpoint]:
    """Return the ready endpoints; where there is none, those that still serve while they terminate."""
    ready = [endpoint for endpoint in endpoints if endpoint.ready]
    if ready:
        return ready
    return [endpoint for endpoint in endpoints if endpoint.serving and endpoint.terminating]


def on_node(endpoints: Iterable[Endpoint], node: str) -> list[Endpoint]:
    """Return the endpoints that run on a node."""
    return [endpoint for endpoint in endpoints if endpoint.node == node]


def maybe_on_node(endpoints: Iterable[Endpoint], node: str) -> list[Endpoint]:
    """Return the endpoints that run on a node, or of which nobody said where they run."""
    return [endpoint for endpoint in endpoints if endpoint.node in ("", node)]
