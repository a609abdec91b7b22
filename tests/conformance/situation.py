"""What a rule may know of the state that a case is in: which address is what, and who would serve it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import NamedTuple

from tests.conformance import cases
from tests.conformance.cases import Object, Target
from tests.conformance.dialling import HTTP
from tests.conformance.lan import API, HERE, NODE_ADDRESSES, ZONE

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
OUTSIDE = (EXTERNAL, LOAD_BALANCER, NODE_PORT)
"""What clients outside the cluster dial."""
_OTHERS = "service.kubernetes.io/service-proxy-name"


class Endpoint(NamedTuple):
    """An endpoint of a Service port."""

    address: str
    port: int
    node: str
    is_ready: bool
    is_serving: bool
    is_terminating: bool
    zones: frozenset[str]
    nodes: frozenset[str]

    @property
    def server(self) -> str:
        """How tables call it."""
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


Reading = Sequence[Endpoint]
"""The endpoints behind a target, each address and port once."""
Servers = frozenset[str]


@dataclass(frozen=True)
class Situation:
    """A state of a case, and those that it was in before."""

    state: tuple[Object, ...]
    earlier: tuple[tuple[Object, ...], ...] = ()
    configuration: Mapping[str, object] = field(default_factory=dict)
    """What both sides are told otherwise than usual."""

    @property
    def service(self) -> Object | None:
        """The Service, where there is one that a node serves."""
        service = cases.service_of(self.state)
        if service is None or _OTHERS in service["metadata"].get("labels", {}):
            return None
        is_served = service["spec"].get("clusterIPs", [cases.HEADLESS])[0] != cases.HEADLESS
        return service if is_served else None

    @property
    def spec(self) -> Object:
        """The Service's spec; empty when there is none."""
        spec: Object = self.service["spec"] if self.service else {}
        return spec

    @property
    def vips(self) -> list[str]:
        """The Service's addresses beside the node's, of the families that it has: those that nodes serve."""
        vips = cases.vips_of(self.service) if self.service else []
        return [vip for vip in vips if self._has_family(vip) and vip not in self._left_to_the_balancer]

    def is_local(self, target: Target) -> bool:
        """Whether the policy of clients that dial a target is Local."""
        kind = self.kind(target)
        field = "internalTrafficPolicy" if kind == CLUSTER else "externalTrafficPolicy"
        return kind in (CLUSTER, *OUTSIDE) and self.spec.get(field) == "Local"

    def is_for_clients_inside_alone(self, target: Target) -> bool:
        """Whether the port of a target has no address of its family but cluster IPs."""
        if "nodePort" in (self._port(_anywhere(target)) or {}):
            return False
        others = set(self.vips) - set(self.spec.get("clusterIPs", ()))
        return all(_family(one) != _family(target.address) for one in others)

    def kind(self, target: Target) -> str:
        """Return what a target is."""
        target = _anywhere(target)
        if self.service is None or target not in cases.targets(self.state):
            return GONE
        if target.protocol == HTTP:
            return HEALTH
        if not self._has_family(target.address) or target.address in self._left_to_the_balancer:
            return GONE
        if self._port(target) is None:
            return CLOSED
        kinds = {
            CLUSTER: self.spec.get("clusterIPs", ()),
            LOAD_BALANCER: cases.ingress_of(self.service),
            EXTERNAL: self.spec.get("externalIPs", ()),
        }
        return next((kind for kind, addresses in kinds.items() if target.address in addresses), NODE_PORT)

    def has_left_a_family(self, target: Target) -> bool:
        """Whether a health check was there before, and of a family that the Service does not have now."""
        for state in self.earlier:
            before = Situation(state)
            is_fewer = set(before.spec.get("ipFamilies", ())) - set(self.spec.get("ipFamilies", ()))
            if is_fewer and before.kind(target) == HEALTH:
                return True
        return False

    def is_off_range(self, target: Target, addresses: Iterable[str]) -> bool:
        """Whether a target has source ranges, and none of a client's addresses is in one of them."""
        if self.kind(target) != LOAD_BALANCER:
            return False
        family = ip_address(target.address).version
        networks = [ip_network(one) for one in self.spec.get("loadBalancerSourceRanges", ())]
        ranges = [one for one in networks if one.version == family]
        mine = [one for one in map(ip_address, addresses) if one.version == family]
        return bool(ranges) and not any(one in known for one in mine for known in ranges)

    def readings(self, target: Target) -> list[Reading]:
        """Return what the slices may say of the endpoints behind a target; the first is how they are meant.

        There are more where slices have copies of an endpoint that contradict each other.
        """
        copies: dict[str, list[Endpoint]] = {}
        for endpoint in self._copies(target):
            known = copies.setdefault(endpoint.server, [])
            if endpoint not in known:
                known.append(endpoint)
        for known in copies.values():
            known.sort(key=lambda one: (one.is_terminating, not one.is_ready, not one.is_serving))
        return list(itertools.product(*copies.values()))

    def health(self) -> list[range]:
        """Return how many pods of node-a a balancer may count in each family; a range if slices disagree."""
        return [self._health(family) for family in self.spec["ipFamilies"]]

    def _health(self, family: str) -> range:
        counted: dict[str, list[bool]] = {}
        for port in self.spec["ports"]:
            for one in self._endpoints(port.get("name", ""), family):
                if one.node == HERE:
                    is_counted = one.is_ready and not one.is_terminating
                    counted.setdefault(one.address, []).append(is_counted)
        return range(sum(map(all, counted.values())), sum(map(any, counted.values())) + 1)

    @property
    def _left_to_the_balancer(self) -> set[str]:
        ingress = (self.service or {}).get("status", {}).get("loadBalancer", {}).get("ingress", ())
        modes = {(one["ip"], one.get("ipMode") == "Proxy") for one in ingress if "ip" in one}
        served = {ip for ip, is_left in modes if not is_left} | set(self.spec.get("externalIPs", ()))
        return {ip for ip, _ in modes} - served

    def _has_family(self, address: str) -> bool:
        return _family(address) in self.spec.get("ipFamilies", ())

    def _copies(self, target: Target) -> Iterator[Endpoint]:
        port = self._port(_anywhere(target))
        if port is not None:
            yield from self._endpoints(port.get("name", ""), _family(target.address))

    def _endpoints(self, port_name: str, family: str) -> Iterator[Endpoint]:
        for one in sorted(cases.slices_of(self.state), key=lambda one: str(one["metadata"]["name"])):
            if one["addressType"] == family and _OTHERS not in one["metadata"]["labels"]:
                for port in one["ports"]:
                    if port.get("name", "") == port_name:
                        yield from (_endpoint(endpoint, port["port"]) for endpoint in one["endpoints"])

    def _port(self, target: Target) -> Object | None:
        for port in self.spec.get("ports", ()):
            if port.get("protocol", "TCP").lower() != target.protocol:
                continue
            is_on_vip = target.address in self.vips and target.port == port["port"]
            if is_on_vip or (target.address in NODE_ADDRESSES and target.port == port.get("nodePort")):
                found: Object = port
                return found
        return None


def in_cluster(reading: Reading) -> Servers:
    """Return who serves in the cluster: the ready ones, as hints say, else those that leave."""
    return frozenset(one.server for one in _near(_serving(reading)))


def on_node(reading: Reading) -> Servers:
    """Return who serves on node-a."""
    return frozenset(one.server for one in _serving([one for one in reading if one.node == HERE]))


def _serving(endpoints: Reading) -> Reading:
    ready = [one for one in endpoints if one.is_ready]
    return ready or [one for one in endpoints if one.is_serving and one.is_terminating]


def _near(serving: Reading) -> Reading:
    if not all(one.is_ready for one in serving):
        return serving
    if all(one.nodes for one in serving) and any(HERE in one.nodes for one in serving):
        return [one for one in serving if HERE in one.nodes]
    if all(one.zones for one in serving) and any(ZONE in one.zones for one in serving):
        return [one for one in serving if ZONE in one.zones]
    return serving


def _family(address: str) -> str:
    return "IPv6" if ":" in address else "IPv4"


def _anywhere(target: Target) -> Target:
    return target._replace(address=NODE_ADDRESSES[0]) if target.address == API else target


def _endpoint(thing: Object, port: int) -> Endpoint:
    conditions, hints = thing.get("conditions", {}), thing.get("hints", {})
    is_ready = conditions.get("ready", True)
    return Endpoint(
        thing["addresses"][0],
        port,
        thing.get("nodeName", ""),
        is_ready,
        conditions.get("serving", is_ready),
        conditions.get("terminating", False),
        frozenset(one["name"] for one in hints.get("forZones", ())),
        frozenset(one["name"] for one in hints.get("forNodes", ())),
    )
