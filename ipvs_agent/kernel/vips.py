"""The VIPs on the dummy interface, through rtnetlink.

The link stays down, as kube-proxy leaves it: the kernel delivers to the addresses of a dummy link all the
same, in both families, and a link that is down gets no link-local address of its own. Only for IPv6 routes it
is set up, told to make no such address; IPv4 routes do without.

The kernel forgets all IPv4 routes by an interface that loses its last IPv4 address (fib_inetaddr_event). So
while there are any, the interface has one that is no VIP and never goes: a loopback address, which is the
node's own anyway and no source of what leaves it.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Mapping, Sequence

from ipvs_agent.addresses import Address, Family
from ipvs_agent.errors import (
    AlreadyExists,
    InvalidRequest,
    KernelError,
    MissingModule,
    NotAnAddress,
    NotFound,
)
from ipvs_agent.kernel import rtnetlink, vip_routes
from ipvs_agent.kernel.api import Outcomes
from ipvs_agent.kernel.netlink import (
    NETLINK_ROUTE,
    NLM_F_CREATE,
    NLM_F_EXCL,
    Message,
    NetlinkSocket,
    Refusal,
    attribute,
    kernel_error,
)
from ipvs_agent.model import VipForm
from ipvs_agent.operations import LINK, AddVip, DeleteVip, SetVip, VipOperation

_KIND = "dummy"
_ALIAS = "ipvs-agent"
_NAMED = rtnetlink.IFINFOMSG.pack(0, 0, 0, 0, 0) + attribute(rtnetlink.IFLA_IFNAME, LINK.encode() + b"\0")

_IFA_CACHEINFO = 6
_IFA_F_NODAD = 0x2
_FOREVER = 0xFFFFFFFF

# The kernel must not take a VIP as source of the node's other traffic. IPv4: an address of host scope never
# is one for what leaves the node (inet_select_addr). IPv6 has no such scope, but a preferred lifetime of 0
# makes an address deprecated, which loses to every other global address of the node, whatever its interface
# (ipv6_dev_get_saddr; RFC 6724, section 5, rule 3). Only on a node without any other global address a VIP is
# still preferred to a link-local one for destinations beyond the link (rule 2).
_SCOPE_HOST = 254
KEEPER = Address(b"\x7f\0\0\x51")
"""127.0.0.81: the address that keeps the IPv4 routes."""
_IPV4 = struct.Struct("=BBBBI HH4s HH4s")
_DEPRECATED_IPV6 = struct.Struct("=BBBBI HH16s HHII8x")

# By request and errno: the error, and what to say of it beside the kernel's words.
_ERRORS: Mapping[tuple[int, int], tuple[type[KernelError], str]] = {
    (rtnetlink.RTM_NEWADDR, errno.EEXIST): (AlreadyExists, ""),
    (rtnetlink.RTM_NEWADDR, errno.ENODEV): (NotFound, ""),
    (rtnetlink.RTM_NEWADDR, errno.EACCES): (InvalidRequest, f": set net.ipv6.conf.{LINK}.disable_ipv6 to 0"),
    (rtnetlink.RTM_NEWADDR, errno.EOPNOTSUPP): (InvalidRequest, ": this kernel has no IPv6"),
    (rtnetlink.RTM_DELADDR, errno.EADDRNOTAVAIL): (NotFound, ""),
    (rtnetlink.RTM_DELADDR, errno.ENODEV): (NotFound, ""),
    (rtnetlink.RTM_NEWROUTE, errno.EEXIST): (AlreadyExists, ""),
    (rtnetlink.RTM_NEWROUTE, errno.ENODEV): (NotFound, ""),
    (rtnetlink.RTM_NEWROUTE, errno.EACCES): (InvalidRequest, f": set net.ipv6.conf.{LINK}.disable_ipv6 to 0"),
    (rtnetlink.RTM_NEWROUTE, errno.EOPNOTSUPP): (InvalidRequest, ": this kernel has no IPv6"),
    (rtnetlink.RTM_DELROUTE, errno.ESRCH): (NotFound, ""),
    (rtnetlink.RTM_NEWLINK, errno.EEXIST): (AlreadyExists, ""),
    (rtnetlink.RTM_NEWLINK, errno.EOPNOTSUPP): (MissingModule, ": `modprobe dummy` must work (CONFIG_DUMMY)"),
    (rtnetlink.RTM_DELLINK, errno.ENODEV): (NotFound, ""),
}


class NetlinkVips:
    """The VIPs on kube-ipvs0 in the network namespace of the thread that made this object."""

    def __init__(self) -> None:
        self._socket = NetlinkSocket(NETLINK_ROUTE)

    def close(self) -> None:
        """Close the netlink socket."""
        self._socket.close()

    def ensure_link(self) -> None:
        """Make the interface where it is missing; one that exists is left as it is."""
        link = rtnetlink.find_link(self._socket, LINK)
        if link is None:
            kind = attribute(rtnetlink.IFLA_INFO_KIND, _KIND.encode())
            made = _NAMED + attribute(rtnetlink.IFLA_LINKINFO, kind)
            # The kernel heeds an alias only for an interface that is there (rtnl_create_link).
            marked = _NAMED + attribute(rtnetlink.IFLA_IFALIAS, _ALIAS.encode())
            self._request(
                f"ip link add {LINK} type {_KIND}",
                Message(rtnetlink.RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, made),
                Message(rtnetlink.RTM_NEWLINK, 0, marked),
            )
        elif link.kind != _KIND:
            raise InvalidRequest(
                f"the network interface {LINK} exists and is not a {_KIND} interface but"
                f" {link.kind or 'a device'}: rename or remove it"
            )

    def link_is_ours(self) -> bool:
        """Tell whether the interface is there and was made by `ensure_link`, of this process or another."""
        link = rtnetlink.find_link(self._socket, LINK)
        return link is not None and link.alias == _ALIAS

    def remove_link(self) -> None:
        """Remove the interface with its addresses; NotFound where there is none."""
        self._request(f"ip link delete {LINK}", Message(rtnetlink.RTM_DELLINK, 0, _NAMED))

    def addresses(self) -> set[Address]:
        """Return the interface's addresses but IPv6 link-local ones; empty where there is no interface.

        The address that keeps the routes is not among them.
        """
        link = rtnetlink.find_link(self._socket, LINK)
        if link is None:
            return set()
        return {
            found.address
            for found in rtnetlink.addresses(self._socket, link.index)
            if not rtnetlink.is_ipv6_link_local(found.address) and found.address != KEEPER
        }

    def routes(self) -> dict[Address, Address]:
        """Return the addresses that have a local route of ours, with the source that it prefers."""
        ipv4, ipv6 = (vip_routes.read(self._socket, family) for family in Family)
        return ipv4 | ipv6

    def has_other_routes(self) -> bool:
        """Tell whether somebody else has made routes by the interface, which would go with it."""
        link = rtnetlink.find_link(self._socket, LINK)
        return link is not None and vip_routes.has_others(self._socket, link.index)

    def apply(self, operations: Sequence[VipOperation]) -> Outcomes:
        """Run a batch; without the interface every operation is NotFound.

        The interface is set up where an IPv6 route needs that. No routes are lost with its last address.
        """
        link = rtnetlink.find_link(self._socket, LINK)
        if link is None:
            return [
                NotFound(f"{operation}: there is no interface {LINK}", errno.ENODEV)
                for operation in operations
            ]
        if any(_needs_link_up(operation) for operation in operations):
            self._set_up(link)
        messages = [_message(operation, link.index) for operation in operations]
        first = [_address_message(KEEPER, link.index)] if any(map(_needs_keeper, operations)) else []
        refusals = self._socket.send([*first, *messages])[len(first) :]
        return [
            refusal and _refused(operation, message.type, refusal)
            for operation, message, refusal in zip(operations, messages, refusals, strict=True)
        ]

    def tidy(self) -> None:
        """Remove from the interface what was there for IPv4 routes only, where there is none left."""
        link = rtnetlink.find_link(self._socket, LINK)
        if link is None or vip_routes.read(self._socket, Family.IPV4):
            return
        if any(found.address == KEEPER for found in rtnetlink.addresses(self._socket, link.index)):
            self._socket.send([_address_message(KEEPER, link.index, is_new=False)])

    def _set_up(self, link: rtnetlink.Link) -> None:
        """Set the interface up; what is refused is refused to the routes then, in better words."""
        messages = []
        if link.makes_link_local:
            mode = attribute(rtnetlink.IFLA_INET6_ADDR_GEN_MODE, bytes([rtnetlink.IN6_ADDR_GEN_MODE_NONE]))
            specific = attribute(rtnetlink.IFLA_AF_SPEC, attribute(Family.IPV6, mode))
            messages.append(rtnetlink.IFINFOMSG.pack(0, 0, link.index, 0, 0) + specific)
        if not link.is_up:
            up = rtnetlink.IFF_UP
            messages.append(rtnetlink.IFINFOMSG.pack(0, 0, link.index, up, up))
        self._socket.send([Message(rtnetlink.RTM_NEWLINK, 0, payload) for payload in messages])

    def _request(self, what: str, *messages: Message) -> None:
        for refusal in self._socket.send(messages):
            if refusal is not None:
                raise _error(what, messages[0].type, refusal)


def _needs_link_up(operation: VipOperation) -> bool:
    return _makes_route(operation) and len(operation.address) == 16


def _needs_keeper(operation: VipOperation) -> bool:
    return _makes_route(operation) and len(operation.address) == 4


def _makes_route(operation: VipOperation) -> bool:
    return isinstance(operation, SetVip) or (
        isinstance(operation, AddVip) and operation.form is VipForm.ROUTE
    )


def _message(operation: VipOperation, link: int) -> Message:
    match operation:
        case SetVip(address, source):
            return vip_routes.change(address, source, link)
        case AddVip(address, VipForm.ROUTE, source):
            return vip_routes.add(address, source, link)
        case DeleteVip(address, VipForm.ROUTE):
            return vip_routes.delete(address)
        case _:
            return _address_message(operation.address, link, is_new=isinstance(operation, AddVip))


def _address_message(address: Address, link: int, *, is_new: bool = True) -> Message:
    if len(address) == 4:
        payload = _IPV4.pack(
            *(Family.IPV4, 32, 0, _SCOPE_HOST, link),
            *(8, rtnetlink.IFA_LOCAL, address),
            *(8, rtnetlink.IFA_ADDRESS, address),
        )
    else:
        payload = _DEPRECATED_IPV6.pack(
            *(Family.IPV6, 128, _IFA_F_NODAD, 0, link),
            *(20, rtnetlink.IFA_ADDRESS, address),
            *(20, _IFA_CACHEINFO, 0, _FOREVER),
        )
    if is_new:
        return Message(rtnetlink.RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, payload)
    return Message(rtnetlink.RTM_DELADDR, 0, payload)


def _refused(operation: VipOperation, request: int, refusal: Refusal) -> KernelError:
    has_source = not isinstance(operation, DeleteVip) and bool(operation.source)
    if has_source and refusal.number == errno.EINVAL:
        # Without a source nothing of such a request is ever refused so.
        return NotAnAddress(f"{operation}: the source is to be an address of the node", refusal.number)
    return _error(str(operation), request, refusal)


def _error(what: str, request: int, refusal: Refusal) -> KernelError:
    if (request, refusal.number) not in _ERRORS:
        return kernel_error(what, refusal)
    kind, mend = _ERRORS[request, refusal.number]
    return kind(f"{what}: {refusal}{mend}", refusal.number)
