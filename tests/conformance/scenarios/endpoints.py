"""Slices: what is in them, several of them, hints."""

from __future__ import annotations

from tests.conformance.cases import Case, Object
from tests.conformance.lan import NODES
from tests.conformance.objects import LEAVING, V4, V6, endpoint_slice, pod, port, service, slices, state_of


def _zones(**zones: str) -> list[Object]:
    return [pod(name, hints={"forZones": [{"name": zone}]} if zone else {}) for name, zone in zones.items()]


def _at_home(*names: str) -> list[Object]:
    return [pod(name, hints={"forNodes": [{"name": NODES[name]}]}) for name in names]


def _in_parts(*parts: tuple[object, ...], ports: object = (("tcp-80", 8080),)) -> list[Object]:
    return [
        one
        for number, pods in enumerate(parts)
        for family in (V4, V6)
        for one in [endpoint_slice(pods, ports, family=family, suffix=f"-{number}")]  # type: ignore[arg-type]
    ]


SCENARIOS = (
    Case("slice-comes-and-goes", ((service(),), (service(), *slices("abc")), (service(),))),
    Case(
        "several-slices",
        ((service(), *_in_parts(("a", "b"), ("c", "d"))), (service(), *_in_parts(("a",), ("d",)))),
    ),
    Case(
        "several-target-ports",
        ((service(), *_in_parts(("a", "c")), *slices("bd", [("tcp-80", 9090)], suffix="-more")),),
    ),
    Case(
        "the-same-endpoint-twice",
        ((service(), *_in_parts(("a", "b"), ("b", "c"))), (service(), *_in_parts(("a",), ("b", "c")))),
    ),
    # kube-proxy takes any copy: of many it takes a wrong one in one of the states.
    Case(
        "the-same-endpoint-leaving",
        tuple(
            (service(), *_in_parts((*ready, "b"), *[(state_of("b", **LEAVING),)] * 7))
            for ready in ("a", "ac", "acd")
        ),
    ),
    Case(
        "endpoints-without-a-node",
        (
            (
                service([port(80, "TCP", 1)], type="NodePort", externalTrafficPolicy="Local"),
                *slices([{"pod": "a", "conditions": {}}, "b", "c"]),
            ),
        ),
    ),
    # Nobody calls from d: the way of pods back to themselves is the node's, not a Service's.
    Case("conditions-not-said", ((service(), *slices([{"pod": "a"}, {"pod": "d", "conditions": {}}])),)),
    Case(
        "not-ready",
        ((service(), *slices([state_of("a", ready=False), "b", state_of("c", ready=False, serving=True)])),),
    ),
    Case(
        "zone-hints",
        (
            (service(), *slices(_zones(a="zone-2", b="zone-1", c="zone-1", d="zone-2"))),
            (service(), *slices(_zones(a="zone-2", b="zone-1", c="", d="zone-2"))),
            (service(), *slices(_zones(a="zone-2", c="zone-3"))),
        ),
    ),
    Case(
        "node-hints",
        (
            (service(), *slices(_at_home("a", "b", "c", "d"))),
            (service(), *slices(_at_home("c", "d"))),
            (service(), *slices([*_at_home("a", "c"), "b"])),
        ),
    ),
    Case(
        "hints-and-local-policies",
        (
            (
                service(
                    [port(80, "TCP", 1)],
                    type="NodePort",
                    externalTrafficPolicy="Local",
                    internalTrafficPolicy="Local",
                ),
                *slices(_zones(a="zone-2", b="zone-1", c="zone-1", d="zone-2")),
            ),
        ),
    ),
    Case(
        "hints-of-endpoints-that-leave",
        (
            (service(), *slices([*_zones(a="zone-1", c="zone-2"), state_of("b", **LEAVING)])),
            (
                service(),
                *slices([{**one, "conditions": dict(LEAVING)} for one in _zones(a="zone-1", c="zone-2")]),
            ),
        ),
    ),
)
