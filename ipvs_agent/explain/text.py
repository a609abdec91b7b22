"""A Service as this node serves it, for people."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence

from ipvs_agent.addresses import FAMILY_NAMES, Family
from ipvs_agent.desired.compile import NodeView
from ipvs_agent.explain.ways import Way, behind, ways_in
from ipvs_agent.model import (
    FULL_NETMASK,
    EndpointSlice,
    Frontend,
    RealServer,
    Service,
    ServiceFlags,
    ServicePlan,
    ServicePort,
    format_endpoint,
)
from ipvs_agent.schedulers import flag_names


def render(
    service: Service,
    slices: Collection[EndpointSlice],
    plan: ServicePlan,
    marks: Mapping[ServicePort, int],
    node: NodeView,
    *,
    port_name: str | None = None,
    notes: Sequence[str] = (),
) -> str:
    """Return how a node serves a Service and why.

    plan, marks: what was compiled of it for the node, and with which packet marks.
    port_name: the only port that is asked for; None: all.
    notes: what the running agent says of it beside.
    """
    lines = [f"Service {service.name} on node {node.name}"]
    frontends = {frontend.virtual_server.key: frontend for frontend in plan.frontends}
    for port in service.ports:
        if port_name is None or port.name == port_name:
            ways = ways_in(service, port, marks.get(port, 0), node, frontends)
            lines += ["", *_port(service, port, slices, ways, node)]
    faults = [f"{each.field}: {each.reason}" for each in (*service.skipped, *plan.skipped)]
    said = [line for line in dict.fromkeys((*faults, *notes)) if line]
    if said:
        lines += ["", "Not served as asked:", *(f"  {_printable(line)}" for line in said)]
    return "\n".join(lines) + "\n"


def _port(
    service: Service,
    port: ServicePort,
    slices: Collection[EndpointSlice],
    ways: Sequence[Way],
    node: NodeView,
) -> Iterator[str]:
    yield f"port {port.name or port.port} ({port.protocol.name}, {FAMILY_NAMES[port.family]})"
    if port.family not in node.families:
        yield "  not served: this node does not have the family"
        return
    said: list[str] = []
    for way in ways:
        keys = [frontend.virtual_server.key for frontend in way.frontends]
        dialled = ", ".join(format_endpoint(key.address, key.port) for key in keys if not key.mark)
        yield f"  {way.name}: {dialled or 'the same, by a packet mark'}"
        manner = [f"    {word:<12}{what}" for word, what in _manner(way.frontends[0])]
        yield from manner if manner != said else ["    as above"]
        said = manner
    found = behind(service, port, slices, ways, node)
    if not found:
        yield "  no endpoint: clients are refused"
        return
    titles = ("endpoint", "node", "zone", *(f"weight, {way.name}" for way in ways), "")
    rows = [
        (
            format_endpoint(each.endpoint.address, each.endpoint.port),
            each.endpoint.node or "-",
            each.endpoint.zone or "-",
            *(str(way.weights.get((each.endpoint.address, each.endpoint.port), "-")) for way in ways),
            "; ".join(each.reasons),
        )
        for each in found
    ]
    yield from _table([titles, *rows])


def _manner(frontend: Frontend) -> Iterator[tuple[str, str]]:
    """Yield what holds of a virtual server, each with a word for it."""
    virtual_server = frontend.virtual_server
    names = flag_names(virtual_server.scheduler, virtual_server.flags)
    yield "scheduler", " ".join([virtual_server.scheduler, *names])
    if virtual_server.flags & ServiceFlags.PERSISTENT:
        clients = "by client address"
        if virtual_server.netmask != FULL_NETMASK:
            clients = f"by client network (/{_prefix(virtual_server.netmask, virtual_server.key.family)})"
        yield "affinity", f"{clients}, for {virtual_server.timeout} s"
    for server in frontend.real_servers[:1]:
        if server.upper_threshold:
            yield "cap", _cap(server)
    if frontend.slow_start_seconds:
        yield "slow start", f"{frontend.slow_start_seconds:g} s"
    if frontend.drain_seconds is not None:
        yield "drain", f"for {frontend.drain_seconds:g} s at the latest"


def _cap(server: RealServer) -> str:
    again = f", again below {server.lower_threshold}" if server.lower_threshold else ""
    return (
        f"{server.upper_threshold} connections by endpoint and address, counted on this node alone{again};"
        " a closed one counts for up to two minutes"
    )


def _prefix(netmask: int, family: Family) -> int:
    return netmask if family is Family.IPV6 else netmask.bit_count()


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in itertools.zip_longest(*rows, fillvalue="")]
    for row in rows:
        cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        yield f"  {_printable('  '.join(cells).rstrip())}"


def _printable(line: str) -> str:
    # What a user wrote into an object must not act on the terminal of who looks at it.
    return line if line.isprintable() else line.encode("unicode_escape").decode()
