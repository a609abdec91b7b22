"""Sets and their members as octets of nfnetlink messages."""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterable, Mapping, Sequence

from ipvs_agent.addresses import Address, Family
from ipvs_agent.kernel.netlink import (
    NFGENMSG,
    NLA_F_NESTED,
    NLA_F_NET_BYTEORDER,
    Refusal,
    attribute,
    attributes,
    iterate_attributes,
)
from ipvs_agent.model import IpSet, SetMember, SetType
from ipvs_agent.observed import EVERY_BIT

MEMBERS_IN_A_MESSAGE = 600  # of at most 104 octets each, in an attribute whose length has 16 bits

_PROTOCOL_VERSION = 6  # spoken by every kernel since 2.6.39

# IPSET_ATTR_* of linux/netfilter/ipset/ip_set.h: of a command,
_PROTOCOL = 1
_SETNAME = 2
_TYPENAME = 3
_SETNAME2 = 3
_REVISION = 4
_FAMILY = 5
_FLAGS = 6
_DATA = 7
_ADT = 8
_LINENO = 9
# of a set's or a member's data,
_PORT = 4
_CADT_FLAGS = 8
# of a set's data,
_PORT_TO = 5
_HASHSIZE = 18
_MAXELEM = 19
# of a member's data,
_IP = 1
_PORT_PROTOCOL = 7
_MEMBER_LINENO = 9
_IP2 = 20
_CIDR2 = 21
_SKBMARK = 27
# and of an address within it.
_IPADDR_IPV4 = 1
_IPADDR_IPV6 = 2

_LIST_HEADER = 1 << 2  # IPSET_FLAG_LIST_HEADER: no members
_WITH_SKBINFO = 1 << 6  # IPSET_FLAG_WITH_SKBINFO: members carry marks

_INITIAL_HASHSIZE = 1024
_LAST_PORT = 65535
_NO_FAMILY = 0

# The lowest revision of each type that knows SCTP and, in its range, /32; a kernel takes any up to its own.
_REVISIONS = {
    SetType.HASH_IP: 0,
    SetType.HASH_IP_PORT: 1,
    SetType.HASH_IP_PORT_IP: 1,
    SetType.HASH_IP_PORT_NET: 1,
    SetType.BITMAP_PORT: 0,
}
# The lowest that knows marks too, where members have addresses.
_REVISIONS_WITH_MARKS = {
    SetType.HASH_IP: 4,
    SetType.HASH_IP_PORT: 5,
    SetType.HASH_IP_PORT_IP: 5,
    SetType.HASH_IP_PORT_NET: 7,
}

# --- Packing ------------------------------------------------------------------------------------------------

_PREAMBLE = NFGENMSG.pack(0, 0, 0) + attribute(_PROTOCOL, bytes([_PROTOCOL_VERSION]))
_ATTRIBUTE = struct.Struct("=HH")
_NUMBER = struct.Struct("=I")
_MARK_AND_MASK = struct.Struct("!II")


def _address_head(kind: int, width: int) -> bytes:
    inner = _IPADDR_IPV4 if width == 4 else _IPADDR_IPV6
    return _ATTRIBUTE.pack(8 + width, kind | NLA_F_NESTED) + _ATTRIBUTE.pack(
        4 + width, inner | NLA_F_NET_BYTEORDER
    )


# Members are packed from these by the ten thousand, so what never varies is packed once.
_IP_HEADS = {width: _address_head(_IP, width) for width in (4, 16)}
_IP2_HEADS = {width: _address_head(_IP2, width) for width in (4, 16)}
_PORT_HEAD = _ATTRIBUTE.pack(6, _PORT | NLA_F_NET_BYTEORDER)
_PORT_PROTOCOL_HEAD = _ATTRIBUTE.pack(5, _PORT_PROTOCOL)
_CIDR2_HEAD = _ATTRIBUTE.pack(5, _CIDR2)
_SKBMARK_HEAD = _ATTRIBUTE.pack(12, _SKBMARK | NLA_F_NET_BYTEORDER)
_LINENO_HEAD = _ATTRIBUTE.pack(8, _MEMBER_LINENO)
_BYTE = [bytes([value, 0, 0, 0]) for value in range(256)]


def name_of(name: str) -> bytes:
    """Pack the beginning of a request for one set."""
    return _PREAMBLE + attribute(_SETNAME, name.encode() + b"\0")


def names_of(one: str, other: str) -> bytes:
    """Pack a request for two sets."""
    return name_of(one) + attribute(_SETNAME2, other.encode() + b"\0")


def every_set() -> bytes:
    """Pack a request for all sets without their members."""
    return _PREAMBLE + attribute(_FLAGS | NLA_F_NET_BYTEORDER, _LIST_HEADER.to_bytes(4))


def new_set(ip_set: IpSet) -> bytes:
    """Pack a request for a set that is not there yet."""
    if ip_set.type is SetType.BITMAP_PORT:
        options = attribute(_PORT | NLA_F_NET_BYTEORDER, bytes(2)) + attribute(
            _PORT_TO | NLA_F_NET_BYTEORDER, _LAST_PORT.to_bytes(2)
        )
    else:
        options = _number(_HASHSIZE, _INITIAL_HASHSIZE) + _number(_MAXELEM, ip_set.capacity)
    if ip_set.has_marks:
        options += _number(_CADT_FLAGS, _WITH_SKBINFO)
    revisions = _REVISIONS_WITH_MARKS if ip_set.has_marks else _REVISIONS
    return (
        name_of(ip_set.name)
        + attribute(_TYPENAME, ip_set.type.value.encode() + b"\0")
        + attribute(_REVISION, bytes([revisions[ip_set.type]]))
        + attribute(_FAMILY, bytes([_NO_FAMILY if ip_set.family is None else ip_set.family]))
        + attribute(_DATA | NLA_F_NESTED, options)
    )


def members_of_one_set(members: Sequence[SetMember]) -> bytes:
    """Pack members of one set, each with its line: its place in the message, from 1."""
    parts: list[bytes] = []
    for line, member in enumerate(members, start=1):
        address, source = member.address, member.source
        data = _IP_HEADS[len(address)] + address if address else b""
        if member.protocol or not address:
            data += _PORT_HEAD + member.port.to_bytes(2) + b"\0\0"
        if member.protocol:
            data += _PORT_PROTOCOL_HEAD + _BYTE[member.protocol]
        if source:
            data += _IP2_HEADS[len(source)] + source
        if member.source_prefix:
            data += _CIDR2_HEAD + _BYTE[member.source_prefix]
        if member.mark:
            data += _SKBMARK_HEAD + _MARK_AND_MASK.pack(member.mark, EVERY_BIT)
        data += _LINENO_HEAD + _NUMBER.pack(line)
        parts += (_ATTRIBUTE.pack(4 + len(data), _DATA | NLA_F_NESTED), data)
    # The message has a line of its own, which the kernel overwrites to report where it stopped.
    return (
        name_of(members[0].set_name)
        + attribute(_LINENO, bytes(4))
        + attribute(_ADT | NLA_F_NESTED, b"".join(parts))
    )


def _number(kind: int, value: int) -> bytes:
    return attribute(kind | NLA_F_NET_BYTEORDER, value.to_bytes(4))


# --- Parsing ------------------------------------------------------------------------------------------------


def refused_line(refusal: Refusal) -> int:
    """Return the line that the kernel refused; 0 where it refused the message as a whole."""
    is_whole_message = len(refusal.echo) >= 16 and len(refusal.echo) >= _NUMBER.unpack_from(refusal.echo)[0]
    if not is_whole_message:
        return 0
    line = attributes(refusal.echo, 16 + 4).get(_LINENO, b"")
    return int.from_bytes(line, sys.byteorder)


def listed_set(answer: bytes) -> tuple[str, IpSet | None]:
    """Return a set by its name; None for one that is not of our types, or not as we make them."""
    parts = attributes(answer, 4)
    name = _text(parts[_SETNAME])
    return name, _set(name, parts)


def members_part(answer: bytes) -> bytes:
    """Return what one part of a set's listing says of members."""
    return attributes(answer, 4).get(_ADT, b"")


def listed_members(parts: Iterable[bytes], name: str) -> set[SetMember]:
    """Return the members of a set of which all parts of its listing are given."""
    return {_member(name, attributes(data)) for part in parts for _, data in iterate_attributes(part)}


def unknown_type(answer: bytes) -> str:
    """Return the type of a set in the first part of its listing, where it is none of ours; else nothing."""
    parts = attributes(answer, 4)
    is_unknown = _TYPENAME in parts and _set("", parts) is None
    return _text(parts[_TYPENAME]) if is_unknown else ""


def _set(name: str, parts: Mapping[int, bytes]) -> IpSet | None:
    try:
        kind = SetType(_text(parts[_TYPENAME]))
        family = None if kind is SetType.BITMAP_PORT else Family(parts[_FAMILY][0])
    except ValueError:
        return None
    data = attributes(parts.get(_DATA, b""))
    has_marks = bool(_value(data, _CADT_FLAGS) & _WITH_SKBINFO)
    if kind is not SetType.BITMAP_PORT:
        return IpSet(name, kind, family, has_marks, _value(data, _MAXELEM))
    has_every_port = (_value(data, _PORT), _value(data, _PORT_TO)) == (0, _LAST_PORT)
    return IpSet(name, kind, family, has_marks) if has_every_port else None


def _member(set_name: str, parts: Mapping[int, bytes]) -> SetMember:
    mark = 0
    if _SKBMARK in parts:
        mark, mask = _MARK_AND_MASK.unpack(parts[_SKBMARK])
        if mask != EVERY_BIT:
            mark = 0  # it leaves something of the packet's own mark, which is none of the marks we give
    # An address is nested in its attribute, behind a header of 4 octets.
    return SetMember(
        set_name,
        Address(parts[_IP][4:] if _IP in parts else b""),
        parts[_PORT_PROTOCOL][0] if _PORT_PROTOCOL in parts else 0,
        _value(parts, _PORT),
        Address(parts[_IP2][4:] if _IP2 in parts else b""),
        parts[_CIDR2][0] if _CIDR2 in parts else 0,
        mark,
    )


def _value(parts: Mapping[int, bytes], kind: int) -> int:
    return int.from_bytes(parts.get(kind, b""))


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode("utf-8", "surrogateescape")
