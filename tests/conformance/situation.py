"""What a rule may know of the state that a case is in: which address is what, and who would serve it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from tests.conformance import cases
from tests.conformance.cases import Object, Target
from tests.conformance.dialling import HTTP
from tests.conformance.lan import API, NODE_ADDRESSES

CLUSTER, EXTERNAL, LOAD_BALANCER, NODE_PORT, HEALTH, CLOSED, GONE = (
    "cluster IP",
    "external IP",
    "load balancer",
    "node port",
    "health check",
    "closed",
    "gone",
)
"""What a target is. The last two: a port that nothing serves on a VIP, and what the state does not have."""


class Endpoint(NamedTuple):
    """An endpoint of a Service port."""

    address: str
    port: int
    is_local: bool
    is_ready: bool
    is_leaving: bool
    """Whether it still serves while it terminates."""


@dataclass(frozen=True)
class Situation:
    """A state of a case."""

    state: tuple[Object, ...]

    @property
    def spec(self) -> Object:
        """The Service's spec; empty when there is none."""
        service = cases.service_of(self.state)
        spec: Object = service["spec"] if service else {}
        return spec

    @property
    def vips(self) -> list[str]:
        """The Service's addresses beside the node's."""
        service = cases.service_of(self.state)
        return cases.vips_of(service) if service else []

    @property
    def external_local(self) -> bool:
        """Whether externalTrafficPolicy is Local."""
        return self.spec.get("externalTrafficPolicy") == "Local"

    @property
    def internal_local(self) -> bool:
        """Whether internalTrafficPolicy is Local."""
        return self.spec.get("internalTrafficPolicy") == "Local"

    def kind(self, target: Target) -> str:
        """Return what a target is."""
        service = cases.service_of(self.state)
        if target.address == API:
            target = target._replace(address=NODE_ADDRESSES[0])
        if service is None or target not in cases.targets(self.state):
            return GONE
        if target.protocol == HTTP:
            return HEALTH
        if self._port(target) is None:
            return CLOSED
        kinds = {
            CLUSTER: service["spec"].get("clusterIPs", ()),
            LOAD_BALANCER: cases.ingress_of(service),
            EXTERNAL: service["spec"].get("externalIPs", ()),
        }
        return next((kind for kind, addresses in kinds.items() if target.address in addresses), NODE_PORT)

    def endpoints(self, target: Target) -> list[Endpoint]:
        """Return the endpoints behind a target, each address and port once."""
        port = self._port(target)
        if port is None:
            return []
        family = "IPv6" if ":" in target.address else "IPv4"
        found: dict[tuple[str, int], Endpoint] = {}
        for one in cases.slices_of(self.state):
            numbers = [
                entry["port"] for entry in one["ports"] if entry.get("name", "") == port.get("name", "")
            ]
            if one["addressType"] == family:
                for number in numbers:
                    for endpoint in map(_endpoint, one["endpoints"], [number] * len(one["endpoints"])):
                        key = (endpoint.address, endpoint.port)
                        if key not in found or not found[key].is_ready:
                            found[key] = endpoint
        return list(found.values())

    def serving(self, target: Target) -> list[Endpoint]:
        """Return who serves a target in the cluster: the ready ones, or those that leave; no hints."""
        return _serving(self.endpoints(target))

    def local(self, target: Target) -> list[Endpoint]:
        """Return who serves a target on node-a."""
        return _serving(one for one in self.endpoints(target) if one.is_local)

    def _port(self, target: Target) -> Object | None:
        service = cases.service_of(self.state)
        if service is None:
            return None
        for port in service["spec"]["ports"]:
            if port.get("protocol", "TCP").lower() != target.protocol:
                continue
            if target.address in cases.vips_of(service) and target.port == port["port"]:
                found: Object = port
                return found
            if target.address in (*NODE_ADDRESSES, API) and target.port == port.get("nodePort"):
                return dict(port)
        return None


def _serving(endpoints: Iterable[Endpoint]) -> list[Endpoint]:
    known = list(endpoints)
    ready = [one for one in known if one.is_ready]
    return ready or [one for one in known if one.is_leaving]


def _endpoint(thing: Object, port: int) -> Endpoint:
    conditions = thing.get("conditions", {})
    is_terminating = conditions.get("terminating", False)
    return Endpoint(
        thing["addresses"][0],
        port,
        thing.get("nodeName") == "node-a",
        conditions.get("ready", True),
        is_terminating and conditions.get("serving", True),
    )
