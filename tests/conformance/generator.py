"""Random cases: the same seed gives the same cases."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.conformance import objects
from tests.conformance.cases import Case, Object
from tests.conformance.lan import NODES, PODS, TARGET_PORTS

_FAMILIES = ((objects.V4,), (objects.V6,), (objects.V4, objects.V6), (objects.V6, objects.V4))
_PORTS = ((80, "TCP"), (443, "TCP"), (53, "UDP"), (53, "TCP"), (123, "UDP"), (99, "SCTP"))
_RANGES = (
    "192.0.2.0/24",
    "192.0.2.100/32",
    "192.0.2.1/32",
    "10.244.0.0/16",
    "203.0.113.0/24",
    "0.0.0.0/0",
    "2001:db8::/64",
    "2001:db8::100/128",
    "fd00:10:244::/48",
    "2001:db8:99::/48",
    "::/0",
)
_ZONES = ("zone-1", "zone-2")
_HEALTH_PORT = 19
_CONDITIONS: Sequence[tuple[int, Object]] = (
    (12, {"ready": True}),
    (2, {}),
    (3, objects.LEAVING),
    (2, objects.LEFT),
    (2, {"ready": False}),
    (1, {"ready": True, "serving": True, "terminating": False}),
    (1, {"ready": False, "serving": False, "terminating": False}),
)
_LEFT_BEHIND: Sequence[Object] = (objects.LEAVING, objects.LEAVING, {"ready": True}, {"ready": False})


@dataclass
class Wish:
    """What a Service and its slices are to be; drawn part by part, and an edit draws some parts again."""

    families: tuple[int, ...] = (objects.V4,)
    kind: str = "ClusterIP"
    ports: list[tuple[int, str]] = field(default_factory=list)
    names: dict[tuple[int, str], str] = field(default_factory=dict)
    target_ports: dict[tuple[int, str], int] = field(default_factory=dict)
    node_ports: dict[tuple[int, str], int] = field(default_factory=dict)
    affinity: int = 0
    internal: str = "Cluster"
    external: str = "Cluster"
    external_ips: list[str] = field(default_factory=list)
    ingress: list[Object] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)
    has_node_ports: bool = True
    labels: Mapping[str, str] = field(default_factory=dict)
    endpoints: dict[int, list[Object]] = field(default_factory=dict)
    parts: int = 1
    has_overlap: bool = False
    left_behind: Object = field(default_factory=dict)
    is_there: bool = True


def cases(seed: int, count: int) -> list[Case]:
    """Return the first cases of a seed."""
    return [_case(random.Random(f"{seed}/{number}"), f"{seed}/{number}") for number in range(count)]


def _case(numbers: random.Random, name: str) -> Case:
    wish = Wish()
    for draw in _DRAWS:
        draw(numbers, wish)
    states = [_state(wish)]
    for _ in range(numbers.randrange(2)):
        wish = copy.deepcopy(wish)
        for draw in numbers.sample(_EDITS, numbers.choice((1, 1, 2))):
            draw(numbers, wish)
        states.append(_state(wish))
    return Case(name, tuple(states))


# --- Parts of a wish ----------------------------------------------------------------------------------------


def _draw_families(numbers: random.Random, wish: Wish) -> None:
    wish.families = numbers.choice(_FAMILIES)


def _draw_kind(numbers: random.Random, wish: Wish) -> None:
    wish.kind = numbers.choice(("ClusterIP", "NodePort", "LoadBalancer"))
    wish.has_node_ports = wish.kind != "LoadBalancer" or numbers.random() < 0.7


def _draw_ports(numbers: random.Random, wish: Wish) -> None:
    wish.ports = numbers.sample(_PORTS, numbers.choice((1, 1, 2, 3)))
    # Fifteen is never the same for two ports: NodePorts of one Service may only meet in different protocols.
    chosen = numbers.sample(range(1, 16), len(wish.ports))
    wish.node_ports = dict(zip(wish.ports, chosen, strict=True))


def _draw_names(numbers: random.Random, wish: Wish) -> None:
    """Rename ports; now and then the slices do not follow."""
    wish.names = {
        port: numbers.choice(("", "", "", "-new", "-lost")) for port in wish.ports if numbers.random() < 0.5
    }


def _draw_target_ports(numbers: random.Random, wish: Wish) -> None:
    wish.target_ports = {port: numbers.choice(TARGET_PORTS) for port in _PORTS}


def _draw_affinity(numbers: random.Random, wish: Wish) -> None:
    wish.affinity = numbers.choice((0, 0, 0, 0, 10800, 100))


def _draw_policies(numbers: random.Random, wish: Wish) -> None:
    wish.internal = numbers.choice(("Cluster", "Cluster", "Cluster", "Local"))
    wish.external = numbers.choice(("Cluster", "Local"))


def _draw_external_ips(numbers: random.Random, wish: Wish) -> None:
    wish.external_ips = [one for one in objects.EXTERNAL if numbers.random() < 0.3]


def _draw_balancer(numbers: random.Random, wish: Wish) -> None:
    wish.ingress = [
        numbers.choice(
            ({"ip": one}, {"ip": one, "ipMode": "VIP"}, {"ip": one}, {"ip": one, "ipMode": "Proxy"})
        )
        for one in objects.BALANCER
        if numbers.random() < 0.8
    ]
    if numbers.random() < 0.1:
        wish.ingress.append({"hostname": "balancer.example"})


def _draw_ranges(numbers: random.Random, wish: Wish) -> None:
    wish.ranges = numbers.sample(_RANGES, numbers.choice((0, 0, 1, 2, 3)))


def _draw_labels(numbers: random.Random, wish: Wish) -> None:
    wish.labels = {"service.kubernetes.io/service-proxy-name": "other"} if numbers.random() < 0.04 else {}


def _draw_endpoints(numbers: random.Random, wish: Wish) -> None:
    hints = numbers.choice(("none", "none", "none", "zones", "nodes", "both", "some"))
    wish.endpoints = {family: _endpoints(numbers, hints) for family in (objects.V4, objects.V6)}


def _draw_slices(numbers: random.Random, wish: Wish) -> None:
    wish.parts = numbers.choice((1, 1, 2, 3))
    wish.has_overlap = numbers.random() < 0.3
    wish.left_behind = numbers.choice(_LEFT_BEHIND)


def _draw_presence(numbers: random.Random, wish: Wish) -> None:
    wish.is_there = not wish.is_there


def _endpoints(numbers: random.Random, hints: str) -> list[Object]:
    found = []
    weights = [weight for weight, _ in _CONDITIONS]
    for name in numbers.sample(list(PODS), numbers.choice((0, 1, 2, 2, 3, 3, 4))):
        conditions = numbers.choices([one for _, one in _CONDITIONS], weights)[0]
        endpoint: Object = {"pod": name, "nodeName": NODES[name], "conditions": dict(conditions)}
        # c calls, and where a pod of another node calls itself is not a matter of one Service.
        if name != "c" and numbers.random() < 0.05:
            del endpoint["nodeName"]
        given: Object = {}
        if hints in ("zones", "both") or (hints == "some" and numbers.random() < 0.7):
            given["forZones"] = [{"name": numbers.choice(_ZONES)}]
        if hints in ("nodes", "both"):
            given["forNodes"] = [{"name": NODES[name]}]
        if given:
            endpoint["hints"] = given
        found.append(endpoint)
    return found


Draw = Callable[[random.Random, Wish], None]
_DRAWS: Sequence[Draw] = (
    *(_draw_families, _draw_kind, _draw_ports, _draw_target_ports, _draw_affinity, _draw_policies),
    *(_draw_external_ips, _draw_balancer, _draw_ranges, _draw_labels, _draw_endpoints, _draw_slices),
)
_EDITS: Sequence[Draw] = (*_DRAWS, _draw_endpoints, _draw_endpoints, _draw_names, _draw_presence)


# --- Objects of a wish --------------------------------------------------------------------------------------


def _state(wish: Wish) -> tuple[Object, ...]:
    state = [one for family in (objects.V4, objects.V6) for one in _slices(wish, family)]
    return (_service(wish), *state) if wish.is_there else tuple(state)


def _service(wish: Wish) -> Object:
    spec: dict[str, Any] = {"type": wish.kind, "internalTrafficPolicy": wish.internal}
    if wish.kind != "ClusterIP" or wish.external_ips:
        spec["externalTrafficPolicy"] = wish.external
    if wish.external_ips:
        spec["externalIPs"] = wish.external_ips
    if wish.affinity:
        spec["sessionAffinity"] = "ClientIP"
        spec["sessionAffinityConfig"] = {"clientIP": {"timeoutSeconds": wish.affinity}}
    is_balanced = wish.kind == "LoadBalancer"
    if is_balanced:
        spec["allocateLoadBalancerNodePorts"] = wish.has_node_ports
        if wish.ranges:
            spec["loadBalancerSourceRanges"] = wish.ranges
        if wish.external == "Local":
            spec["healthCheckNodePort"] = _HEALTH_PORT
    has_node_ports = wish.kind == "NodePort" or (is_balanced and wish.has_node_ports)
    ports = [
        objects.port(*port, wish.node_ports[port] if has_node_ports else 0, name=_name(wish, port, "-lost"))
        for port in wish.ports
    ]
    return objects.service(
        ports,
        families=wish.families,
        ingress=wish.ingress if is_balanced else (),
        labels=dict(wish.labels),
        **spec,
    )


def _name(wish: Wish, port: tuple[int, str], unknown: str) -> str:
    """Return the name of a port; the slices do not know the lost ones."""
    suffix = wish.names.get(port, "")
    return f"{port[1].lower()}-{port[0]}" + (suffix if suffix != "-lost" else unknown)


def _slices(wish: Wish, family: int) -> list[Object]:
    ports = [(_name(wish, port, ""), wish.target_ports[port]) for port in wish.ports]
    endpoints = wish.endpoints[family]
    shares = [endpoints[part :: wish.parts] for part in range(wish.parts)]
    if wish.has_overlap and endpoints:
        # As while a pod moves from one slice to the other: the copy that is left behind is older, or ends.
        shares[-1] = [*shares[-1], *_copies(endpoints[0], wish.left_behind, is_same=wish.parts > 1)]
    return [
        objects.endpoint_slice(share, ports, family=family, suffix=f"-{number}")
        for number, share in enumerate(shares)
        if share
    ]


def _copies(endpoint: Object, conditions: Object, *, is_same: bool) -> list[Object]:
    if not is_same:
        return []
    if endpoint["conditions"].get("terminating"):
        return [endpoint]
    return [{**endpoint, "conditions": dict(conditions)}]
