"""EndpointSlices from their wire form."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Iterable
from typing import cast

from ipvs_agent.addresses import Address, Family
from ipvs_agent.model import Endpoint, EndpointSlice, ObjectName
from ipvs_agent.sources import checks, identity, wire
from ipvs_agent.sources.changes import Kind, Put, Removed
from ipvs_agent.sources.checks import Fault, UnusableError

SERVICE_NAME_LABEL = "kubernetes.io/service-name"

_ADDRESS_TYPES = {"IPv4": Family.IPV4, "IPv6": Family.IPV6}


def from_wire(endpoint_slice: wire.EndpointSlice) -> Put | Removed:
    """Convert an EndpointSlice; UnusableError where no part of it can be used."""
    name = identity.name_of(Kind.ENDPOINT_SLICE, endpoint_slice.metadata)
    metadata = endpoint_slice.metadata or wire.Metadata()
    service = metadata.labels and metadata.labels.get(SERVICE_NAME_LABEL)
    if not service or endpoint_slice.address_type == "FQDN" or identity.is_not_ours(metadata):
        return Removed(Kind.ENDPOINT_SLICE, name)
    if not checks.is_label(service):
        reason = f"{checks.quoted(service)} in {SERVICE_NAME_LABEL} is not the name of a Service"
        raise UnusableError("metadata.labels", reason)
    family = _ADDRESS_TYPES.get(endpoint_slice.address_type or "")
    if family is None:
        text = checks.quoted(endpoint_slice.address_type)
        raise UnusableError("addressType", f"{text} is not IPv4, IPv6 or FQDN")
    faults: list[Fault] = []
    ports = _slice_ports(endpoint_slice.ports or (), faults)
    facts = _endpoint_facts(endpoint_slice.endpoints or (), family, faults)
    endpoints = {
        port_name: tuple(
            [
                Endpoint(address, port, ready, serving, terminating, node, zone, zone_hints, node_hints)
                for address, ready, serving, terminating, node, zone, zone_hints, node_hints in facts
            ]
        )
        for port_name, port in ports.items()
    }
    skipped = identity.skipped(Kind.ENDPOINT_SLICE, name, faults)
    return Put(
        Kind.ENDPOINT_SLICE,
        EndpointSlice(name, ObjectName(name.namespace, service), family, endpoints, skipped),
    )


def _slice_ports(entries: Iterable[wire.EndpointPort], faults: list[Fault]) -> dict[str, int]:
    ports: dict[str, int] = {}
    for index, entry in enumerate(entries):
        try:
            name, number = checks.port_name(entry.name), checks.port_number("port", entry.port)
            if name in ports:
                raise UnusableError("name", f"{checks.quoted(name)} is the name of an earlier port too")
        except UnusableError as error:
            faults.append((f"ports[{index}].{error.field}", error.reason))
        else:
            ports[name] = number
    return ports


_EndpointFacts = tuple[Address, bool, bool, bool, str, str, tuple[str, ...], tuple[str, ...]]
"""The fields of an Endpoint without its port."""


def _endpoint_facts(
    entries: Iterable[wire.Endpoint], family: Family, faults: list[Fault]
) -> list[_EndpointFacts]:
    # This loop runs for every endpoint of the cluster, so what is usual is done here without a call.
    facts: list[_EndpointFacts] = []
    for index, entry in enumerate(entries):
        # The first address alone counts: the API deprecates the others as what they mean was never settled.
        text = entry.addresses[0] if entry.addresses else ""
        try:
            address = _pack(family, text)
            if address[0] in checks.SUSPECT_OCTETS:
                checks.fit_address(text)
        except (OSError, ValueError):
            faults.append((f"endpoints[{index}].addresses", _address_fault(text, family)))
            continue
        conditions = entry.conditions or _NO_CONDITIONS
        node = entry.node_name or ""
        if node and not (node := checks.known_node(node)):
            reason = f"{checks.quoted(entry.node_name)} is not a name of the API, so it is on no known node"
            faults.append((f"endpoints[{index}].nodeName", reason))
        hints = entry.hints
        facts.append(
            (
                address,
                conditions.ready is not False,
                conditions.serving is not False,
                conditions.terminating is True,
                node,
                sys.intern(entry.zone) if entry.zone else "",
                _hinted(hints.for_zones) if hints else (),
                _hinted(hints.for_nodes) if hints else (),
            )
        )
    return facts


_NO_CONDITIONS = wire.Conditions()
_pack = cast(Callable[[int, str], Address], socket.inet_pton)


def _hinted(hints: Iterable[wire.Hint] | None) -> tuple[str, ...]:
    return tuple(sys.intern(hint.name) for hint in hints or () if hint.name)


def _address_fault(text: str, family: Family) -> str:
    try:
        checks.fit_address(text)
    except ValueError as error:
        return str(error)
    return f"{text} is not an {'IPv4' if family is Family.IPV4 else 'IPv6'} address"
