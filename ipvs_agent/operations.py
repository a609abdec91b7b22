"""The verbs: every change of the kernel is one of these values, and prints as the command that would do it.

The phase of an operation is its place in the order that protects traffic: a set member is there before the
virtual server whose packets it judges, a real server before the VIP that sends clients to it; what goes, goes
in the reverse order.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import ClassVar

import msgspec

from ipvs_agent.addresses import Address, format_address
from ipvs_agent.model import (
    FULL_NETMASK,
    NO_SOURCE,
    ForwardingMethod,
    RealServer,
    ServiceFlags,
    SetMember,
    VipForm,
    VirtualServer,
    VirtualServerKey,
    format_endpoint,
    format_netmask,
)
from ipvs_agent.schedulers import flag_names

LINK = "kube-ipvs0"
"""The dummy interface that holds the VIPs; kube-proxy's name, because other software looks for it."""
ROUTE_PROTOCOL = 81
"""What says of a local route that it is ours (rtm_protocol, `proto` of iproute2)."""
ROUTE_METRIC = 4945
"""Behind the route that the kernel makes for an address, so that both can be there while a VIP moves from one
to the other; and unlike any other, since the kernel takes a second IPv4 route of one metric for the first."""

_TUNNEL_TYPES = ("ipip", "gue", "gre")
_GUE = 1
_TUNNEL_CHECKSUMS = ("--tun-nocsum", "--tun-csum", "--tun-remcsum", "--tun-csum --tun-remcsum")


class Phase(enum.IntEnum):
    """The order in which operations of one burst reach the kernel."""

    ADD_MEMBERS = 10  # first: a flow that finds a virtual server must find its masquerade decision too
    RESTRICT = 15  # once the sets know who is allowed
    ADD_VIRTUAL_SERVERS = 20
    ADD_REAL_SERVERS = 30  # before old ones go: a virtual server is never empty in between
    ADD_VIPS = 40  # last: a bound VIP without a real server refuses its clients
    DELETE_VIPS = 50
    DELETE_REAL_SERVERS = 60
    DELETE_VIRTUAL_SERVERS = 70
    UNRESTRICT = 75  # while the sets still know who was allowed
    DELETE_MEMBERS = 80


class _Value(msgspec.Struct, frozen=True, gc=False):
    pass


class AddVirtualServer(_Value, frozen=True, gc=False):
    """Make a virtual server."""

    phase: ClassVar[Phase] = Phase.ADD_VIRTUAL_SERVERS
    virtual_server: VirtualServer

    def __str__(self) -> str:
        return f"ipvsadm -A {_virtual_server(self.virtual_server)}"


class SetVirtualServer(_Value, frozen=True, gc=False):
    """Change scheduler, flags or persistence of a virtual server."""

    phase: ClassVar[Phase] = Phase.ADD_VIRTUAL_SERVERS
    virtual_server: VirtualServer

    def __str__(self) -> str:
        return f"ipvsadm -E {_virtual_server(self.virtual_server)}"


class DeleteVirtualServer(_Value, frozen=True, gc=False):
    """Remove a virtual server with its real servers."""

    phase: ClassVar[Phase] = Phase.DELETE_VIRTUAL_SERVERS
    key: VirtualServerKey

    def __str__(self) -> str:
        return f"ipvsadm -D {self.key}"


class AddRealServer(_Value, frozen=True, gc=False):
    """Put a real server behind a virtual server."""

    phase: ClassVar[Phase] = Phase.ADD_REAL_SERVERS
    key: VirtualServerKey
    real_server: RealServer

    def __str__(self) -> str:
        return f"ipvsadm -a {self.key} -r {_real_server(self.real_server)}"


class AddRealServers(_Value, frozen=True, gc=False):
    """Put real servers behind a virtual server that has none: one value for all that it begins with."""

    phase: ClassVar[Phase] = Phase.ADD_REAL_SERVERS
    key: VirtualServerKey
    real_servers: tuple[RealServer, ...]

    def __str__(self) -> str:
        return "; ".join(map(str, self.one_by_one()))

    def one_by_one(self) -> list[AddRealServer]:
        """Return the operations that it stands for."""
        return [AddRealServer(self.key, server) for server in self.real_servers]


class SetRealServer(_Value, frozen=True, gc=False):
    """Change weight, thresholds or forwarding of a real server."""

    phase: ClassVar[Phase] = Phase.ADD_REAL_SERVERS
    key: VirtualServerKey
    real_server: RealServer

    def __str__(self) -> str:
        return f"ipvsadm -e {self.key} -r {_real_server(self.real_server)}"


class DeleteRealServer(_Value, frozen=True, gc=False):
    """Take a real server away from a virtual server."""

    phase: ClassVar[Phase] = Phase.DELETE_REAL_SERVERS
    key: VirtualServerKey
    address: Address
    port: int

    def __str__(self) -> str:
        return f"ipvsadm -d {self.key} -r {format_endpoint(self.address, self.port)}"


class AddVip(_Value, frozen=True, gc=False):
    """Bind a VIP to the dummy interface."""

    phase: ClassVar[Phase] = Phase.ADD_VIPS
    address: Address
    form: VipForm = VipForm.ADDRESS
    source: Address = NO_SOURCE
    """VipForm.ROUTE only."""

    def __str__(self) -> str:
        if self.form is VipForm.ROUTE:
            return f"ip route add {_route_to_link(self.address, self.source)}"
        return f"ip addr add {_host(self.address)} dev {LINK}"


class SetVip(_Value, frozen=True, gc=False):
    """Change the source that a local route prefers, in one step: the VIP is served all the while."""

    phase: ClassVar[Phase] = Phase.ADD_VIPS
    address: Address
    source: Address

    def __str__(self) -> str:
        return f"ip route replace {_route_to_link(self.address, self.source)}"


class DeleteVip(_Value, frozen=True, gc=False):
    """Take a VIP off the dummy interface."""

    phase: ClassVar[Phase] = Phase.DELETE_VIPS
    address: Address
    form: VipForm = VipForm.ADDRESS

    def __str__(self) -> str:
        if self.form is VipForm.ROUTE:
            return f"ip route del {_local_route(self.address)}"
        return f"ip addr del {_host(self.address)} dev {LINK}"


class AddMember(_Value, frozen=True, gc=False):
    """Put a member into an ipset."""

    phase: ClassVar[Phase] = Phase.ADD_MEMBERS
    member: SetMember

    def __str__(self) -> str:
        return f"ipset add {self.member.set_name} {self.member}"


class DeleteMember(_Value, frozen=True, gc=False):
    """Take a member out of an ipset."""

    phase: ClassVar[Phase] = Phase.DELETE_MEMBERS
    member: SetMember

    def __str__(self) -> str:
        return f"ipset del {self.member.set_name} {self.member}"


SingleIpvsOperation = (
    AddVirtualServer
    | SetVirtualServer
    | DeleteVirtualServer
    | AddRealServer
    | SetRealServer
    | DeleteRealServer
)
"""Each is one message to the kernel."""
IpvsOperation = SingleIpvsOperation | AddRealServers
VipOperation = AddVip | SetVip | DeleteVip
SetOperation = AddMember | DeleteMember
Operation = IpvsOperation | VipOperation | SetOperation


def count(operations: Iterable[Operation]) -> int:
    """Return how many changes of the kernel operations are."""
    return sum(len(one.real_servers) if isinstance(one, AddRealServers) else 1 for one in operations)


_METHOD_OPTIONS = {
    ForwardingMethod.MASQUERADE: "-m",
    ForwardingMethod.TUNNEL: "-i",
    ForwardingMethod.DIRECT: "-g",
    ForwardingMethod.LOCAL: "-g",
}


def _host(address: Address) -> str:
    return f"{format_address(address)}/{len(address) * 8}"


def _local_route(address: Address) -> str:
    return f"local {_host(address)} table local proto {ROUTE_PROTOCOL}"


def _route_to_link(address: Address, source: Address) -> str:
    words = f"{_local_route(address)} dev {LINK} metric {ROUTE_METRIC}"
    return f"{words} src {format_address(source)}" if source else words


def _virtual_server(virtual_server: VirtualServer) -> str:
    words = [str(virtual_server.key), "-s", virtual_server.scheduler or "none"]
    if virtual_server.flags & ServiceFlags.PERSISTENT:
        words += ["-p", str(virtual_server.timeout)]
        if virtual_server.netmask != FULL_NETMASK:
            words += ["-M", format_netmask(virtual_server)]
        if virtual_server.persistence_engine:
            words += ["--pe", virtual_server.persistence_engine]
    if virtual_server.flags & ServiceFlags.ONE_PACKET:
        words.append("-o")
    names = flag_names(virtual_server.scheduler, virtual_server.flags)
    if names:
        words += ["-b", ",".join(names)]
    return " ".join(words)


def _real_server(real_server: RealServer) -> str:
    words = [
        format_endpoint(real_server.address, real_server.port),
        _METHOD_OPTIONS[ForwardingMethod(real_server.method)],
        f"-w {real_server.weight}",
    ]
    if real_server.upper_threshold or real_server.lower_threshold:
        words.append(f"-x {real_server.upper_threshold} -y {real_server.lower_threshold}")
    if real_server.tunnel_type:
        words.append(_tunnel(real_server))
    return " ".join(words)


def _tunnel(real_server: RealServer) -> str:
    words = ["--tun-type", _TUNNEL_TYPES[real_server.tunnel_type]]
    if real_server.tunnel_type == _GUE:
        words += ["--tun-port", str(real_server.tunnel_port)]
    return " ".join([*words, _TUNNEL_CHECKSUMS[real_server.tunnel_flags & 3]])
