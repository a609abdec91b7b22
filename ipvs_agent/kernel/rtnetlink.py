"""Reading links, addresses and routes through rtnetlink."""

from __future__ import annotations

import errno
import struct
import sys
from collections.abc import Iterator

import msgspec

from ipvs_agent.addresses import Address, Family
from ipvs_agent.errors import KernelError
from ipvs_agent.kernel.netlink import Message, NetlinkSocket, attribute, attributes

RTM_NEWLINK = 16
RTM_DELLINK = 17
RTM_GETLINK = 18
RTM_NEWADDR = 20
RTM_DELADDR = 21
RTM_GETADDR = 22
RTM_NEWROUTE = 24
RTM_DELROUTE = 25
RTM_GETROUTE = 26

IFLA_IFNAME = 3
IFLA_LINKINFO = 18
IFLA_IFALIAS = 20
IFLA_AF_SPEC = 26
IFLA_INFO_KIND = 1
IFLA_INET6_ADDR_GEN_MODE = 8
IN6_ADDR_GEN_MODE_NONE = 1
IFF_UP = 0x1
_IFLA_EXT_MASK = 29
# Statistics are most of a link's message and the kernel sums them over all CPUs.
_SKIP_STATISTICS = attribute(_IFLA_EXT_MASK, (0x8).to_bytes(4, sys.byteorder))

IFA_ADDRESS = 1
IFA_LOCAL = 2
_IFA_FLAGS = 8
IFA_F_TENTATIVE = 0x40

RTA_DST = 1
RTA_OIF = 4
RTA_PRIORITY = 6
RTA_PREFSRC = 7
RT_TABLE_UNSPEC = 0
RT_TABLE_LOCAL = 255
RTPROT_UNSPEC = 0
RTPROT_KERNEL = 2
RTN_UNSPEC = 0
RTN_LOCAL = 2
RT_SCOPE_UNIVERSE = 0
RT_SCOPE_HOST = 254
RT_SCOPE_NOWHERE = 255

IFADDRMSG = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index of the link
# family, prefix length of destination and source, tos, table, protocol, scope, type, flags
RTMSG = struct.Struct("=BBBBBBBBI")
IFINFOMSG = struct.Struct("=BxHiII")  # family, type, index, flags, mask of changed flags


class Link(msgspec.Struct, frozen=True, gc=False):
    """A network interface."""

    index: int
    name: str
    kind: str
    """What it was made as, such as "dummy"; empty for hardware and loopback."""
    alias: str
    """A free text that the kernel keeps with it."""
    is_up: bool
    makes_link_local: bool
    """Whether it gets an IPv6 address of its own when it is up."""


class InterfaceAddress(msgspec.Struct, frozen=True, gc=False):
    """An address of a network interface."""

    link: int
    """The index of the interface."""
    address: Address
    flags: int
    """IFA_F_*."""


def find_link(sock: NetlinkSocket, name: str) -> Link | None:
    """Return the network interface of a name, if there is one."""
    payload = IFINFOMSG.pack(0, 0, 0, 0, 0) + attribute(IFLA_IFNAME, name.encode() + b"\0")
    try:
        (answer,) = sock.ask(Message(RTM_GETLINK, 0, payload + _SKIP_STATISTICS))
    except KernelError as error:
        if error.number == errno.ENODEV:
            return None
        raise
    return parse_link(answer)


def links(sock: NetlinkSocket) -> list[Link]:
    """Return all network interfaces."""
    payload = IFINFOMSG.pack(0, 0, 0, 0, 0) + _SKIP_STATISTICS
    return [parse_link(answer) for answer in sock.dump(Message(RTM_GETLINK, 0, payload))]


def addresses(sock: NetlinkSocket, link: int = 0) -> Iterator[InterfaceAddress]:
    """Yield the addresses of one network interface, or of all (0)."""
    for answer in sock.dump(Message(RTM_GETADDR, 0, IFADDRMSG.pack(0, 0, 0, 0, link))):
        yield parse_address(answer)


def is_ipv6_link_local(address: Address) -> bool:
    """Return whether an address is in fe80::/10."""
    return len(address) == 16 and address[0] == 0xFE and address[1] & 0xC0 == 0x80


def parse_address(answer: bytes) -> InterfaceAddress:
    """Return the address that a message tells of."""
    _family, _prefix, flags, _scope, index = IFADDRMSG.unpack_from(answer)
    found = attributes(answer, IFADDRMSG.size)
    # On a point-to-point link IFA_ADDRESS is the other end's; IPv6 sends IFA_LOCAL only there.
    address = Address(found.get(IFA_LOCAL) or found[IFA_ADDRESS])
    if _IFA_FLAGS in found:
        flags = int.from_bytes(found[_IFA_FLAGS], sys.byteorder)
    return InterfaceAddress(index, address, flags)


def parse_link(answer: bytes) -> Link:
    """Return the network interface that a message tells of."""
    _family, _type, index, flags, _change = IFINFOMSG.unpack_from(answer)
    found = attributes(answer, IFINFOMSG.size)
    kind = attributes(found.get(IFLA_LINKINFO, b"")).get(IFLA_INFO_KIND, b"")
    alias = _text(found.get(IFLA_IFALIAS, b""))
    ipv6 = attributes(attributes(found.get(IFLA_AF_SPEC, b"")).get(Family.IPV6, b""))
    is_quiet = ipv6.get(IFLA_INET6_ADDR_GEN_MODE) == bytes([IN6_ADDR_GEN_MODE_NONE])
    return Link(index, _text(found[IFLA_IFNAME]), _text(kind), alias, bool(flags & IFF_UP), not is_quiet)


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode("utf-8", "surrogateescape")
