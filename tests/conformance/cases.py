"""Cases: one Service with its slices, through a number of states.

Many cases run at the same time, each in a *slot* that says which of its addresses and node ports are meant.
So a case is written for any slot: "{slot}" in a text is the slot's number, and a node port is one of the
first 20, to which the slot adds its own 20s. A slot is the third octet of addresses (10.96.{slot}.1) and
the last group of IPv6 addresses but for its last digit (fd00:10:96::{slot}1).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from tests.conformance.lan import NODE_ADDRESSES

Object = dict[str, Any]

SLOTS = range(1, 131)
"""The slots that there are; 0 would be left out where IPv6 addresses are written."""
FIRST_NODE_PORT = 30000
NODE_PORTS = 20
"""How many node ports a slot has."""
_NODE_PORT_FIELDS = {"nodePort", "healthCheckNodePort"}
HEADLESS = "None"
"""The cluster IP of a Service that has none."""
CLOSED_PORT = 7
"""A port that no case serves: on a VIP it is to be closed, not somebody else's."""


@dataclass(frozen=True)
class Case:
    """A case: states[0] is created, then each next state replaces the one before."""

    name: str
    states: tuple[tuple[Object, ...], ...]

    def in_slot(self, slot: int) -> Case:
        """Return the case as it is in a slot."""
        states = tuple(tuple(_rendered(thing, slot) for thing in state) for state in self.states)
        return Case(self.name, states)


class Target(NamedTuple):
    """Where a client can dial."""

    protocol: str
    """tcp, udp, sctp, or http for a health check."""
    address: str
    port: int


def service_of(state: Iterable[Object]) -> Object | None:
    """Return the Service of a state, if it is there."""
    return next((thing for thing in state if thing["kind"] == "Service"), None)


def slices_of(state: Iterable[Object]) -> list[Object]:
    """Return the slices of a state."""
    return [thing for thing in state if thing["kind"] == "EndpointSlice"]


def slot_namespace(slot: int) -> str:
    """Return the namespace of the API in which a slot's objects are."""
    return f"slot-{slot}"


def targets(state: Iterable[Object]) -> set[Target]:
    """Return every address and port at which a Service may be asked for, whether it serves there or not."""
    service = service_of(state)
    if service is None:
        return set()
    spec = service["spec"]
    vips = vips_of(service)
    found = {Target("tcp", address, CLOSED_PORT) for address in vips}
    for port in spec["ports"]:
        protocol = port.get("protocol", "TCP").lower()
        found |= {Target(protocol, address, port["port"]) for address in vips}
        if port.get("nodePort"):
            found |= {Target(protocol, address, port["nodePort"]) for address in NODE_ADDRESSES}
    if spec.get("healthCheckNodePort"):
        found |= {Target("http", address, spec["healthCheckNodePort"]) for address in NODE_ADDRESSES}
    return found


def vips_of(service: Object) -> list[str]:
    """Return the addresses that a Service has beside the node's."""
    spec = service["spec"]
    cluster_ips = [one for one in spec.get("clusterIPs", ()) if one != HEADLESS]
    return [*cluster_ips, *spec.get("externalIPs", ()), *ingress_of(service)]


def ingress_of(service: Object) -> list[str]:
    """Return the addresses of a Service's load balancer."""
    ingress = service.get("status", {}).get("loadBalancer", {}).get("ingress", ())
    return [one["ip"] for one in ingress if "ip" in one]


class Edit(NamedTuple):
    """A request to the API server."""

    verb: str
    """create, replace, delete or status."""
    thing: Object


def edits(before: Iterable[Object], after: Iterable[Object]) -> Iterator[Edit]:
    """Yield the requests that make one state out of another."""
    old = {_identity(thing): thing for thing in before}
    new = {_identity(thing): thing for thing in after}
    for name, thing in old.items():
        if name not in new:
            yield Edit("delete", thing)
    for name, thing in new.items():
        was = old.get(name)
        if was is None:
            yield Edit("create", _without_status(thing))
        elif _without_status(was) != _without_status(thing):
            yield Edit("replace", _without_status(thing))
        status = thing.get("status")
        if status != (was or {}).get("status"):
            yield Edit("status", {**thing, "status": status or {"loadBalancer": {"ingress": None}}})


def _identity(thing: Object) -> tuple[str, ...]:
    # What cannot change while an object lives is part of what it is.
    is_slice = thing["kind"] == "EndpointSlice"
    fixed = thing["addressType"] if is_slice else thing["spec"].get("clusterIPs", [""])[0]
    return (thing["kind"], thing["metadata"]["name"], fixed)


def _without_status(thing: Object) -> Object:
    return {name: value for name, value in thing.items() if name != "status"}


def _rendered(value: Any, slot: int, field: str = "") -> Any:
    match value:
        case dict():
            fields = {name: _rendered(one, slot, name) for name, one in value.items()}
            if "metadata" in fields:
                fields["metadata"]["namespace"] = slot_namespace(slot)
            return fields
        case list() | tuple():
            return [_rendered(one, slot) for one in value]
        case str():
            return value.replace("{slot}", str(slot))
        case int() if field in _NODE_PORT_FIELDS and value:
            return FIRST_NODE_PORT + NODE_PORTS * slot + value
        case _:
            return value
