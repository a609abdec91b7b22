"""The ways by which clients reach a Service port, and which endpoints are behind each."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import msgspec

from ipvs_agent.desired import endpoints
from ipvs_agent.desired.compile import NodeView, external_keys
from ipvs_agent.desired.wishes import read_wishes
from ipvs_agent.model import (
    Endpoint,
    EndpointSlice,
    Frontend,
    RealServerKey,
    Service,
    ServicePort,
    VirtualServerKey,
    mark_key,
)
from ipvs_agent.schedulers import SCHEDULERS

_WEIGHT_0 = "weight 0: keeps its connections and gets no new ones"


class Way(msgspec.Struct, frozen=True):
    """Virtual servers of a port that have the same real servers."""

    name: str
    """Whose way it is, in a word or two: a column's title."""
    frontends: tuple[Frontend, ...]

    @property
    def weights(self) -> Mapping[RealServerKey, int]:
        """The weight of each real server."""
        return {server.endpoint: server.weight for server in self.frontends[0].real_servers}


class Behind(msgspec.Struct, frozen=True):
    """An endpoint of a port, and why it is where it is."""

    endpoint: Endpoint
    reasons: tuple[str, ...]
    """Why some or all clients do not reach it; none where all do."""


def ways_in(
    service: Service,
    port: ServicePort,
    mark: int,
    node: NodeView,
    frontends: Mapping[VirtualServerKey, Frontend],
) -> list[Way]:
    """Return the ways to a port; frontends: the Service's, by key."""
    cluster = VirtualServerKey(port.family, port.protocol, port.cluster_ip, port.port)
    outside = external_keys(port, node)
    inside = [mark_key(port.family, mark)] if mark else []
    if service.external_local:
        named = [("cluster IP", [cluster]), ("from outside", outside), ("pods and node", inside)]
    elif service.internal_local:
        named = [("cluster IP", [cluster]), ("other addresses", outside)]
    else:
        named = [("all addresses", [cluster, *outside])]
    found = [(name, tuple(frontends[key] for key in keys if key in frontends)) for name, keys in named]
    return [Way(name, there) for name, there in found if there]


def behind(
    service: Service,
    port: ServicePort,
    slices: Collection[EndpointSlice],
    ways: Sequence[Way],
    node: NodeView,
) -> list[Behind]:
    """Return the endpoints behind a port, by address, each with the reasons why it is not behind all ways."""
    known = endpoints.of_port(port, slices)
    serving = endpoints.in_cluster(known)
    found = []
    for endpoint in sorted(known, key=lambda one: (one.address, one.port)):
        reasons: list[str] = []
        if endpoint not in serving:
            reasons.append(_why_not_serving(endpoint))
        else:
            missing = [way for way in ways if (endpoint.address, endpoint.port) not in way.weights]
            reasons += _why_not_behind(endpoint, service, missing, node)
        if any(way.weights.get((endpoint.address, endpoint.port)) == 0 for way in ways):
            reasons.append(_WEIGHT_0)
        found.append(Behind(endpoint, tuple(dict.fromkeys(reasons))))
    return found


def _why_not_serving(endpoint: Endpoint) -> str:
    if endpoint.terminating:
        return "terminating, and others are ready" if endpoint.serving else "terminating, and serves no more"
    return "not ready"


def _why_not_behind(
    endpoint: Endpoint, service: Service, missing: Sequence[Way], node: NodeView
) -> Iterator[str]:
    if not missing:
        return
    is_remote = endpoint.node != node.name
    for way in missing:
        local = service.internal_local if way.name == "cluster IP" else service.external_local
        if local and is_remote and way.name != "pods and node":
            field = "internalTrafficPolicy" if way.name == "cluster IP" else "externalTrafficPolicy"
            yield f"not on this node ({field}: Local)"
        elif _has_weight_0(endpoint, service, way, node):
            yield _WEIGHT_0
        else:
            yield "its topology hints are for other nodes or zones"


def _has_weight_0(endpoint: Endpoint, service: Service, way: Way, node: NodeView) -> bool:
    """Tell whether an endpoint is not behind a way because the scheduler wants none of weight 0 there."""
    weights = read_wishes(service, None)[0].weights
    scheduler = SCHEDULERS[way.frontends[0].virtual_server.scheduler]
    return scheduler.keeps_places and weights is not None and not weights.of(endpoint, node.name, node.zone)
