"""The nouns: what Kubernetes asks for, and what the kernel holds.

All are frozen values whose equality means "nothing to do". They are msgspec structs because those hash and
compare in C and stay out of the garbage collector's sight, of which there are hundreds of thousands here.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping

import msgspec

from ipvs_agent.addresses import Address, Family, Network, family_of, format_address


class Protocol(enum.IntEnum):
    """A transport protocol, by its number on the wire."""

    TCP = 6
    UDP = 17
    SCTP = 132


class VipForm(enum.IntEnum):
    """What makes an address one that this node takes packets for."""

    ADDRESS = 1
    """An address of the dummy interface, as kube-proxy's."""
    ROUTE = 2
    """A local route by the dummy interface."""


class VipMode(enum.StrEnum):
    """What the agent makes of VIPs."""

    ADDRESSES = "addresses"
    ROUTES = "routes"
    AUTO = "auto"
    """Addresses while they are few, and routes from the first time on that they are many."""


NO_SOURCE = Address(b"")
"""None is preferred: the kernel decides."""


class Vip(msgspec.Struct, frozen=True, order=True, gc=False):
    """An address that clients dial, on the dummy interface."""

    address: Address
    form: VipForm
    source: Address = NO_SOURCE
    """From which address the node itself dials it; VipForm.ROUTE only."""


# --- What Kubernetes asks for -------------------------------------------------------------------------------


class Skipped(msgspec.Struct, frozen=True, gc=False):
    """A part of an object that cannot be served, and why; the rest of the object is served."""

    subject: str
    """The object, as "Service default/web"."""
    field: str
    """The path of the field, as "spec.ports[0].port"."""
    reason: str

    def __str__(self) -> str:
        return f"{self.subject}: {self.field}: {self.reason}"


class ObjectName(msgspec.Struct, frozen=True, order=True, gc=False, cache_hash=True):
    """The namespace and name of an object of the API."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class ServicePort(msgspec.Struct, frozen=True, gc=False):
    """One port of a Service in one family, with all addresses on which that family serves it."""

    family: Family
    protocol: Protocol
    name: str
    """The port's name, which pairs it with the ports of slices; empty where the only port has none."""
    port: int
    node_port: int
    """0: none."""
    cluster_ip: Address
    external_ips: tuple[Address, ...] = ()
    load_balancer_ips: tuple[Address, ...] = ()


class Service(msgspec.Struct, frozen=True):
    """A Service that asks something of this node."""

    name: ObjectName
    uid: str
    created: str
    """metadata.creationTimestamp, RFC 3339 in UTC, so that text order is time order."""
    ports: tuple[ServicePort, ...]
    affinity_seconds: int = 0
    """Session affinity by client address lasts this long after the last connection; 0: no affinity."""
    internal_local: bool = False
    """internalTrafficPolicy: Local."""
    external_local: bool = False
    """externalTrafficPolicy: Local."""
    source_ranges: tuple[Network, ...] = ()
    """Who may reach the load balancer's addresses; none: everyone."""
    health_check_node_port: int = 0
    """Where load balancers ask whether this node has endpoints of its own; 0: nowhere."""
    is_dns: bool = False
    """Whether it says that it is the DNS of the cluster, whatever its name."""
    annotations: Mapping[str, str] = {}
    skipped: tuple[Skipped, ...] = ()


class Endpoint(msgspec.Struct, frozen=True, gc=False):
    """An address and port behind a Service port, with its conditions."""

    address: Address
    port: int
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    node: str = ""
    """The node it runs on; empty where the slice does not say."""
    zone: str = ""
    zone_hints: tuple[str, ...] = ()
    node_hints: tuple[str, ...] = ()


class EndpointSlice(msgspec.Struct, frozen=True):
    """Endpoints of one Service in one family, by the name of the port that they are behind."""

    name: ObjectName
    service: ObjectName
    family: Family
    endpoints: Mapping[str, tuple[Endpoint, ...]]
    skipped: tuple[Skipped, ...] = ()


class Node(msgspec.Struct, frozen=True):
    """What the agent needs of its own Node object."""

    name: str
    zone: str = ""
    is_leaving: bool = False
    """Whether it is about to go, so that load balancers are to send new connections elsewhere (KEP-3836)."""
    pod_networks: tuple[Network, ...] = ()
    addresses: tuple[Address, ...] = ()
    skipped: tuple[Skipped, ...] = ()


# --- What the kernel holds ----------------------------------------------------------------------------------


class VirtualServerKey(msgspec.Struct, frozen=True, order=True, gc=False, cache_hash=True):
    """What makes a virtual server unique: protocol, address and port, or a firewall mark and a family."""

    family: Family
    protocol: int
    """A Protocol; 0 for a virtual server by mark."""
    address: Address
    """Zero octets for a virtual server by mark."""
    port: int
    mark: int = 0
    """0: by address."""

    def __str__(self) -> str:
        if self.mark:
            return f"-f {self.mark}" + (" -6" if self.family == Family.IPV6 else "")
        return f"{PROTOCOL_OPTIONS[self.protocol]} {format_endpoint(self.address, self.port)}"


PROTOCOL_OPTIONS: Mapping[int, str] = {
    Protocol.TCP: "-t",
    Protocol.UDP: "-u",
    Protocol.SCTP: "--sctp-service",
}
"""How ipvsadm spells a protocol."""


def address_key(protocol: Protocol, address: Address, port: int) -> VirtualServerKey:
    """Return the key of a virtual server by address."""
    return VirtualServerKey(family_of(address), protocol, address, port)


def mark_key(family: Family, mark: int) -> VirtualServerKey:
    """Return the key of a virtual server by firewall mark."""
    return VirtualServerKey(family, 0, Address(b""), 0, mark)


class ServiceFlags:
    """Bits of a virtual server's flags (IP_VS_SVC_F_* in linux/ip_vs.h)."""

    PERSISTENT = 0x1
    HASHED = 0x2
    """Set by the kernel on every virtual server that it holds, so never part of a configuration."""
    ONE_PACKET = 0x4
    SCHEDULER_1 = 0x8
    """sh-fallback, mh-fallback."""
    SCHEDULER_2 = 0x10
    """sh-port, mh-port."""
    SCHEDULER_3 = 0x20


class ForwardingMethod(enum.IntEnum):
    """How packets reach a real server (IP_VS_CONN_F_* & 7)."""

    MASQUERADE = 0
    LOCAL = 1
    TUNNEL = 2
    DIRECT = 3


METHOD_NAMES: Mapping[int, str] = {
    ForwardingMethod.MASQUERADE: "Masq",
    ForwardingMethod.LOCAL: "Local",
    ForwardingMethod.TUNNEL: "Tunnel",
    ForwardingMethod.DIRECT: "Route",
}
"""What the kernel's own listing and ipvsadm's call them."""


FULL_NETMASK = -1
"""The netmask of a virtual server whose persistence tells single clients apart, in either family."""
LONGEST_DRAIN = 7 * 86400.0
"""Seconds; what a Service or the configuration may ask for."""


class VirtualServer(msgspec.Struct, frozen=True, gc=False):
    """The configuration of a virtual server."""

    key: VirtualServerKey
    scheduler: str
    flags: int = 0
    """ServiceFlags, without HASHED."""
    timeout: int = 0
    """Persistence in seconds; meaningful with PERSISTENT."""
    netmask: int = FULL_NETMASK
    """Clients that persistence takes as one. IPv4: the mask as a number, 0xFFFFFF00 for /24; IPv6: the prefix
    length. What the kernel reports as /32 or /128 is FULL_NETMASK here."""
    persistence_engine: str = ""


class RealServer(msgspec.Struct, frozen=True, order=True, gc=False):
    """The configuration of a real server of some virtual server."""

    address: Address
    port: int
    weight: int = 1
    method: int = ForwardingMethod.MASQUERADE
    upper_threshold: int = 0
    """No new connection while it has this many; 0: no cap."""
    lower_threshold: int = 0
    tunnel_type: int = 0
    tunnel_port: int = 0
    tunnel_flags: int = 0

    @property
    def endpoint(self) -> RealServerKey:
        """Return what makes it unique within its virtual server."""
        return (self.address, self.port)


RealServerKey = tuple[Address, int]
"""Address and port: what makes a real server unique within its virtual server."""


class SetType(enum.Enum):
    """The types of ipsets in use, by their names in the kernel."""

    HASH_IP = "hash:ip"
    HASH_IP_PORT = "hash:ip,port"
    HASH_IP_PORT_IP = "hash:ip,port,ip"
    HASH_IP_PORT_NET = "hash:ip,port,net"
    BITMAP_PORT = "bitmap:port"


class IpSet(msgspec.Struct, frozen=True, gc=False):
    """An ipset, without its members."""

    name: str
    """At most 31 characters."""
    type: SetType
    family: Family | None
    """None for a bitmap:port, which knows no addresses."""
    has_marks: bool = False
    """Whether its members carry packet marks (skbinfo)."""
    capacity: int = 65536
    """How many members it takes."""


class SetMember(msgspec.Struct, frozen=True, order=True, gc=False, cache_hash=True):
    """A member of an ipset; the set's type says which fields count."""

    set_name: str
    address: Address = Address(b"")
    """No octets in a bitmap:port."""
    protocol: int = 0
    port: int = 0
    source: Address = Address(b"")
    """The second address (hash:ip,port,ip) or the range's base (hash:ip,port,net)."""
    source_prefix: int = 0
    """hash:ip,port,net only."""
    mark: int = 0
    """The packet mark that the rules give to what matches; only in a set with marks. The kernel knows a
    member without it, so adding one that is there with another mark replaces the mark."""

    def __str__(self) -> str:
        if not self.address:
            return str(self.port)
        text = format_address(self.address)
        if self.protocol:
            # Others may have put a protocol there that has no name here.
            text += f",{_PROTOCOL_NAMES.get(self.protocol, self.protocol)}:{self.port}"
        if self.source:
            text += f",{format_address(self.source)}"
        if self.source_prefix:
            text += f"/{self.source_prefix}"
        if self.mark:
            text += f" skbmark {self.mark:#x}"
        return text


_PROTOCOL_NAMES: Mapping[int, str] = {protocol: protocol.name.lower() for protocol in Protocol}


# --- What this node is to do for one Service ----------------------------------------------------------------


class Owner(msgspec.Struct, frozen=True, order=True, gc=False, cache_hash=True):
    """Who claims a kernel object. The order is who wins: the oldest, then by namespace and name."""

    created: str
    name: ObjectName


class Frontend(msgspec.Struct, frozen=True):
    """A virtual server with all that makes it reachable."""

    virtual_server: VirtualServer
    real_servers: tuple[RealServer, ...]
    """In the order in which to add them; shared by all frontends of a Service port that have the same."""
    vips: tuple[Address, ...]
    """Its address, where the dummy interface is to hold it (a node's own address is never so held)."""
    members: tuple[SetMember, ...]
    """What the sets must know of it."""
    drain_seconds: float | None = None
    """Draining real servers go after so long at the latest; None: when their connections have ended."""
    slow_start_seconds: float = 0.0
    """The weight of a real server that comes later than the first ones grows for so long; 0: it is there at
    once."""


class HealthCheck(msgspec.Struct, frozen=True):
    """What a load balancer is to hear of a Service from this node."""

    port: int
    service: ObjectName
    uid: str
    local_endpoints: int
    """Addresses of ready endpoints on this node."""


class NodeHealth(msgspec.Struct, frozen=True):
    """What load balancers and the kubelet are to hear of this node as a whole."""

    is_healthy: bool
    """Whether the agent works."""
    is_eligible: bool = True
    """Whether the node is one for new connections: not one that is about to go or gone."""
    age: float = 0.0
    """Seconds since the kernel was last known to be as it should be."""
    families: frozenset[Family] = frozenset()
    """Those that the node serves."""


class TrafficPolicy(enum.StrEnum):
    """Whose policy: that of clients inside the cluster, or outside."""

    INTERNAL = "internal"
    EXTERNAL = "external"


class ServicePlan(msgspec.Struct, frozen=True):
    """What this node needs for one Service: in the kernel, and as a server for its load balancer."""

    owner: Owner
    frontends: tuple[Frontend, ...] = ()
    members: tuple[SetMember, ...] = ()
    """What the sets must know of its endpoints."""
    health: HealthCheck | None = None
    skipped: tuple[Skipped, ...] = ()
    counts: Mapping[ServicePort, int] = {}
    """How many endpoints each port has on all nodes, where not every scheduler has room for as many."""
    not_local: frozenset[tuple[TrafficPolicy, Family]] = frozenset()
    """The policies that are Local while there are endpoints, but none on this node."""


def format_netmask(virtual_server: VirtualServer) -> str:
    """Render the netmask of a virtual server: as an address, or as a prefix length for IPv6."""
    if virtual_server.key.family == Family.IPV6:
        return str(virtual_server.netmask)
    return format_address(Address(virtual_server.netmask.to_bytes(4)))


def format_endpoint(address: Address, port: int) -> str:
    """Render ADDRESS:PORT, with brackets around an IPv6 address."""
    text = format_address(address)
    return f"[{text}]:{port}" if len(address) == 16 else f"{text}:{port}"
