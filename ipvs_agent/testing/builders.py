"""Short ways to make the model's values in tests; addresses and names are given as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from ipvs_agent.addresses import Address, Family, family_of, parse_address, split_endpoint
from ipvs_agent.model import (
    Endpoint,
    EndpointSlice,
    ObjectName,
    Protocol,
    RealServer,
    Service,
    ServicePort,
    VirtualServerKey,
    address_key,
)

CREATED = "2026-01-01T00:00:00Z"


def address(text: str) -> Address:
    """Parse an address."""
    return parse_address(text)


def name(text: str) -> ObjectName:
    """Make a name from NAMESPACE/NAME."""
    namespace, _, own = text.partition("/")
    return ObjectName(namespace, own)


def key(text: str, protocol: Protocol = Protocol.TCP) -> VirtualServerKey:
    """Make a virtual server's key from ADDRESS:PORT."""
    host, port = split_endpoint(text)
    return address_key(protocol, parse_address(host), int(port))


def real_server(text: str, **fields: Any) -> RealServer:
    """Make a real server from ADDRESS:PORT."""
    host, port = split_endpoint(text)
    return RealServer(parse_address(host), int(port), **fields)


def port(cluster_ip: str = "10.96.0.80", number: int = 80, **fields: Any) -> ServicePort:
    """Make a TCP port of a Service; external_ips and load_balancer_ips are given as text."""
    for field in ("external_ips", "load_balancer_ips"):
        if field in fields:
            fields[field] = tuple(parse_address(text) for text in fields[field])
    base = ServicePort(
        family=family_of(parse_address(cluster_ip)),
        protocol=Protocol.TCP,
        name="http",
        port=number,
        node_port=0,
        cluster_ip=parse_address(cluster_ip),
    )
    return msgspec.structs.replace(base, **fields)


def service(text: str = "shop/web", *ports: ServicePort, **fields: Any) -> Service:
    """Make a Service; without ports it has one TCP port 80."""
    fields.setdefault("created", CREATED)
    return Service(name=name(text), uid=f"uid-of-{text}", ports=ports or (port(),), **fields)


def endpoint(text: str, number: int = 8080, **fields: Any) -> Endpoint:
    """Make an endpoint; it is ready and nobody says on which node."""
    return Endpoint(parse_address(text), number, **fields)


def endpoint_slice(
    of: str = "shop/web",
    endpoints: Sequence[Endpoint] | Mapping[str, Sequence[Endpoint]] = (),
    *,
    family: Family = Family.IPV4,
    suffix: str = "1",
) -> EndpointSlice:
    """Make a slice; endpoints without a port's name are behind "http"."""
    by_port = endpoints if isinstance(endpoints, Mapping) else {"http": endpoints}
    return EndpointSlice(
        name=name(f"{of}-{suffix}"),
        service=name(of),
        family=family,
        endpoints={port_name: tuple(behind) for port_name, behind in by_port.items()},
    )
