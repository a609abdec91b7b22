"""Services from their wire form."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from ipvs_agent.addresses import Address, Family, Network, family_of, parse_network
from ipvs_agent.model import Protocol, Service, ServicePort
from ipvs_agent.sources import checks, identity, wire
from ipvs_agent.sources.changes import Kind, Put, Removed
from ipvs_agent.sources.checks import Fault, UnusableError

ANNOTATION_PREFIXES = ("ipvs-agent.io/", "kube-router.io/service.")
"""All other annotations are dropped, so that a change of theirs is no change to the agent."""

DEFAULT_AFFINITY_SECONDS = 10800
MAX_AFFINITY_SECONDS = 86400

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)
_PROTOCOLS: Mapping[str, Protocol] = {"": Protocol.TCP, **Protocol.__members__}


def from_wire(service: wire.Service) -> Put | Removed:
    """Convert a Service; UnusableError where no part of it can be served."""
    name = identity.name_of(Kind.SERVICE, service.metadata)
    metadata = service.metadata or wire.Metadata()
    spec = service.spec
    if spec is None:
        raise UnusableError("spec", "is missing")
    if spec.type == "ExternalName" or _is_headless(spec) or identity.is_not_ours(metadata):
        return Removed(Kind.SERVICE, name)
    faults: list[Fault] = []
    cluster_ips = _cluster_ips(spec, faults)
    external_ips = _by_family(_external_ips(spec), cluster_ips, faults)
    ingress_ips = _by_family(_ingress_ips(service.status), cluster_ips, faults)
    source_ranges = _source_ranges(spec, faults)
    if source_ranges is None:
        ingress_ips = {}  # without its ranges a load balancer's address would be open to everyone
    service_ports = _service_ports(spec, faults)
    external_local = _is_local("spec.externalTrafficPolicy", spec.external_traffic_policy, faults)
    ports = tuple(
        [
            ServicePort(
                family,
                port.protocol,
                port.name,
                port.number,
                port.node_port,
                cluster_ip,
                external_ips.get(family, ()),
                ingress_ips.get(family, ()),
            )
            for port in service_ports
            for family, cluster_ip in cluster_ips.items()
        ]
    )
    return Put(
        Kind.SERVICE,
        Service(
            name,
            uid=metadata.uid or "",
            created=_created(metadata.creation_timestamp or "", faults),
            ports=ports,
            affinity_seconds=_affinity_seconds(spec, faults),
            internal_local=_is_local("spec.internalTrafficPolicy", spec.internal_traffic_policy, faults),
            external_local=external_local,
            source_ranges=source_ranges or (),
            health_check_node_port=(
                _health_check_node_port(spec.health_check_node_port, service_ports, faults)
                if external_local and spec.type == "LoadBalancer"
                else 0
            ),
            annotations=_annotations(metadata),
            skipped=identity.skipped(Kind.SERVICE, name, faults),
        ),
    )


def _created(text: str, faults: list[Fault]) -> str:
    """Return when a Service was made, in the form in which the API has it; the later, the larger."""
    if not text or _TIME.fullmatch(text):
        return text
    try:
        moment = datetime.datetime.fromisoformat(text)
        if moment.tzinfo is None:
            raise ValueError(text)
        moment = moment.astimezone(datetime.UTC)
    except (ValueError, OverflowError):
        faults.append(("metadata.creationTimestamp", f"{checks.quoted(text)} is not a time"))
        return ""
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


_NO_ANNOTATIONS: Mapping[str, str] = {}
"""Shared by all Services that have none of ours, which are most."""


def _annotations(metadata: wire.Metadata) -> Mapping[str, str]:
    ours = {
        key: value or ""
        for key, value in (metadata.annotations or {}).items()
        if key.startswith(ANNOTATION_PREFIXES)
    }
    return ours or _NO_ANNOTATIONS


_NO_CLUSTER_IP = frozenset({"", "None"})


def _is_headless(spec: wire.ServiceSpec) -> bool:
    return spec.cluster_ip == "None" or _NO_CLUSTER_IP.issuperset(_all_cluster_ips(spec))


def _all_cluster_ips(spec: wire.ServiceSpec) -> list[str]:
    return spec.cluster_ips or [spec.cluster_ip or ""]


def _cluster_ips(spec: wire.ServiceSpec, faults: list[Fault]) -> dict[Family, Address]:
    cluster_ips: dict[Family, Address] = {}
    for index, text in enumerate(_all_cluster_ips(spec)):
        field = f"spec.clusterIPs[{index}]" if spec.cluster_ips else "spec.clusterIP"
        try:
            address = checks.fit_address(text)
        except ValueError as error:
            faults.append((field, str(error)))
            continue
        if cluster_ips.setdefault(family_of(address), address) != address:
            faults.append((field, f"{text} is a second address of its family"))
    if spec.cluster_ip and spec.cluster_ips and spec.cluster_ip not in spec.cluster_ips:
        faults.append(("spec.clusterIP", f"{checks.quoted(spec.cluster_ip)} is not among spec.clusterIPs"))
    return cluster_ips


def _external_ips(spec: wire.ServiceSpec) -> Iterator[tuple[str, str]]:
    for index, text in enumerate(spec.external_ips or ()):
        yield f"spec.externalIPs[{index}]", text


def _ingress_ips(status: wire.ServiceStatus | None) -> Iterator[tuple[str, str]]:
    if status is None or status.load_balancer is None:
        return
    for index, ingress in enumerate(status.load_balancer.ingress or ()):
        # A load balancer in mode Proxy wants to see its traffic itself; one with a hostname has no address.
        if ingress.ip and ingress.ip_mode in (None, "", "VIP"):
            yield f"status.loadBalancer.ingress[{index}].ip", ingress.ip


_NO_ADDRESSES: Mapping[Family, tuple[Address, ...]] = {}


def _by_family(
    texts: Iterable[tuple[str, str]], cluster_ips: Mapping[Family, Address], faults: list[Fault]
) -> Mapping[Family, tuple[Address, ...]]:
    """Parse addresses, told with their fields, in the families that the Service has."""
    texts = list(texts)
    if not texts:
        return _NO_ADDRESSES
    addresses: dict[Family, dict[Address, None]] = {family: {} for family in cluster_ips}
    for field, text in texts:
        try:
            address = checks.fit_address(text)
        except ValueError as error:
            faults.append((field, str(error)))
            continue
        if family_of(address) in addresses:
            addresses[family_of(address)][address] = None
        elif cluster_ips:
            faults.append((field, f"{text} is of a family in which the Service has no cluster IP"))
    return {family: tuple(found) for family, found in addresses.items()}


def _source_ranges(spec: wire.ServiceSpec, faults: list[Fault]) -> tuple[Network, ...] | None:
    """Parse the ranges that may reach the load balancer; None where one of them cannot be read."""
    ranges: dict[Network, None] = {}
    all_readable = True
    for index, text in enumerate(spec.load_balancer_source_ranges or ()):
        try:
            ranges[parse_network(text)] = None
        except ValueError:
            all_readable = False
            reason = f"{checks.quoted(text)} is not a CIDR, so the load balancer's addresses are not served"
            faults.append((f"spec.loadBalancerSourceRanges[{index}]", reason))
    return tuple(ranges) if all_readable else None


class _Port(NamedTuple):
    protocol: Protocol
    name: str
    number: int
    node_port: int = 0


def _service_ports(spec: wire.ServiceSpec, faults: list[Fault]) -> list[_Port]:
    if not spec.ports:
        faults.append(("spec.ports", "is missing"))
    ports: list[_Port] = []
    for index, entry in enumerate(spec.ports or ()):
        try:
            ports.append(_service_port(entry, ports))
            # Where the node port is at fault, the port stays without it.
            ports[-1] = _with_node_port(ports[-1], entry.node_port, ports)
        except UnusableError as error:
            faults.append((f"spec.ports[{index}].{error.field}", error.reason))
    return ports


def _service_port(entry: wire.ServicePort, earlier: Iterable[_Port]) -> _Port:
    protocol = _PROTOCOLS.get(entry.protocol or "")
    if protocol is None:
        raise UnusableError("protocol", f"{checks.quoted(entry.protocol)} is not TCP, UDP or SCTP")
    port = _Port(protocol, checks.port_name(entry.name), checks.port_number("port", entry.port))
    for other in earlier:
        if (other.protocol, other.number) == (port.protocol, port.number):
            raise UnusableError("port", f"{port.number}/{protocol.name} is an earlier port too")
        if other.name == port.name:
            raise UnusableError("name", f"{checks.quoted(port.name)} is the name of an earlier port too")
    return port


def _with_node_port(port: _Port, number: int | None, ports: Iterable[_Port]) -> _Port:
    if not number:
        return port
    number = checks.port_number("nodePort", number)
    if any((other.protocol, other.node_port) == (port.protocol, number) for other in ports):
        raise UnusableError("nodePort", f"{number}/{port.protocol.name} is an earlier node port too")
    return port._replace(node_port=number)


def _health_check_node_port(number: int | None, ports: Iterable[_Port], faults: list[Fault]) -> int:
    if not number:
        return 0
    field = "spec.healthCheckNodePort"
    try:
        checks.port_number(field, number)
    except UnusableError as error:
        faults.append((error.field, error.reason))
        return 0
    if any((port.protocol, port.node_port) == (Protocol.TCP, number) for port in ports):
        faults.append((field, f"{number} is a node port of this Service too"))
        return 0
    return number


def _affinity_seconds(spec: wire.ServiceSpec, faults: list[Fault]) -> int:
    if spec.session_affinity in (None, "", "None"):
        return 0
    if spec.session_affinity != "ClientIP":
        reason = f"{checks.quoted(spec.session_affinity)} is not None or ClientIP"
        faults.append(("spec.sessionAffinity", reason))
        return 0
    config = spec.session_affinity_config
    seconds = config.client_ip.timeout_seconds if config and config.client_ip else None
    if seconds is None:
        return DEFAULT_AFFINITY_SECONDS
    served = min(max(seconds, 1), MAX_AFFINITY_SECONDS)
    if served != seconds:
        reason = f"{checks.quoted(seconds)} is not within 1 to {MAX_AFFINITY_SECONDS}, so {served} is used"
        faults.append(("spec.sessionAffinityConfig.clientIP.timeoutSeconds", reason))
    return served


def _is_local(field: str, policy: str | None, faults: list[Fault]) -> bool:
    if policy not in (None, "", "Cluster", "Local"):
        faults.append((field, f"{checks.quoted(policy)} is not Cluster or Local, so Cluster is used"))
    return policy == "Local"
