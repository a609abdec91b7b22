"""The kernel's ipsets, through nfnetlink.

A message takes thousands of members. The kernel works through them in order and stops at the first that it
refuses, whose line number it reports (call_ad in net/netfilter/ipset/ip_set_core.c).
"""

from __future__ import annotations

import enum
import errno
import os
import struct
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

from ipvs_agent.addresses import Address, Family
from ipvs_agent.errors import (
    AlreadyExists,
    Busy,
    InvalidRequest,
    KernelError,
    MissingModule,
    NotFound,
    PermissionDenied,
    SetFull,
)
from ipvs_agent.kernel.api import Outcomes
from ipvs_agent.kernel.netlink import (
    NETLINK_NETFILTER,
    NLA_F_NESTED,
    NLA_F_NET_BYTEORDER,
    NLM_F_CREATE,
    NLM_F_EXCL,
    Message,
    NetlinkSocket,
    Refusal,
    attribute,
    attributes,
    iterate_attributes,
)
from ipvs_agent.model import IpSet, SetMember, SetType
from ipvs_agent.operations import AddMember, SetOperation

_SUBSYSTEM = 6 << 8  # NFNL_SUBSYS_IPSET
_PROTOCOL_VERSION = 6  # spoken by every kernel since 2.6.39


class _Command(enum.IntEnum):
    """IPSET_CMD_* of linux/netfilter/ipset/ip_set.h."""

    CREATE = 2
    DESTROY = 3
    FLUSH = 4
    SWAP = 6
    LIST = 7
    ADD = 9
    DEL = 10


# IPSET_ATTR_* of a command,
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
# of its data,
_IP = 1
_PORT = 4
_PORT_PROTOCOL = 7
_MEMBER_LINENO = 9
_HASHSIZE = 18
_MAXELEM = 19
_IP2 = 20
_CIDR2 = 21
# and of an address within it.
_IPADDR_IPV4 = 1
_IPADDR_IPV6 = 2

_LIST_HEADER = 1 << 2  # IPSET_FLAG_LIST_HEADER: no members

_INITIAL_HASHSIZE = 1024
_MAXIMUM_MEMBERS = 1 << 20  # the kernel's default of 65536 is less than what a large cluster needs
_MEMBERS_IN_A_MESSAGE = 600  # of at most 92 octets each, in an attribute whose length has 16 bits

# The lowest revision of each type that knows SCTP and, in its range, /32; a kernel takes any up to its own.
_REVISIONS = {
    SetType.HASH_IP: 0,
    SetType.HASH_IP_PORT: 1,
    SetType.HASH_IP_PORT_IP: 1,
    SetType.HASH_IP_PORT_NET: 1,
    SetType.BITMAP_PORT: 0,
}


class _Reason(NamedTuple):
    kind: type[KernelError]
    text: str


# IPSET_ERR_* of linux/netfilter/ipset/ip_set.h and ip_set_hash.h, and errnos that ipset shares with others.
_REASONS = {
    errno.ENOENT: _Reason(NotFound, "there is no such set"),
    errno.EEXIST: _Reason(AlreadyExists, "a set of that name exists"),
    errno.EINVAL: _Reason(InvalidRequest, "a value is malformed; a name has at most 31 characters"),
    errno.EPERM: _Reason(PermissionDenied, "CAP_NET_ADMIN is needed in this network namespace"),
    4097: _Reason(InvalidRequest, "the member has not the fields that the set's type needs"),
    4098: _Reason(MissingModule, "this kernel lacks the set's type (CONFIG_IP_SET_HASH_*)"),
    4099: _Reason(KernelError, "the kernel has as many sets as it can have (max_sets of the module ip_set)"),
    4100: _Reason(Busy, "the set is in use"),
    4101: _Reason(NotFound, "there is no such second set"),
    4102: _Reason(InvalidRequest, "the sets differ in type"),
    4104: _Reason(InvalidRequest, "the prefix length is 0 or longer than the address"),
    4106: _Reason(InvalidRequest, "the set's type does not have that family"),
    4109: _Reason(Busy, "the set is in use"),
    4110: _Reason(InvalidRequest, "the set takes IPv4 addresses"),
    4111: _Reason(InvalidRequest, "the set takes IPv6 addresses"),
    4352: _Reason(SetFull, "the set is full"),
    4353: _Reason(InvalidRequest, "the address is all zeros"),
    4354: _Reason(InvalidRequest, "the set does not take that protocol"),
    4355: _Reason(InvalidRequest, "the protocol is missing"),
}


class NetlinkIpSets:
    """The ipsets of the network namespace of the thread that made this object."""

    def __init__(self) -> None:
        self._socket = NetlinkSocket(NETLINK_NETFILTER)

    def close(self) -> None:
        """Close the netlink socket."""
        self._socket.close()

    def sets(self) -> dict[str, IpSet | None]:
        """Return all sets of this network namespace by name; None for one of a type that is not ours."""
        flags = attribute(_FLAGS | NLA_F_NET_BYTEORDER, _LIST_HEADER.to_bytes(4))
        try:
            answers = self._socket.dump(Message(_SUBSYSTEM | _Command.LIST, 0, _header() + flags))
        except KernelError as error:
            if error.number == errno.EINVAL:  # what nfnetlink answers for a subsystem that it cannot load
                raise MissingModule(
                    "ipset list: this kernel has no ipset: `modprobe ip_set` must work (CONFIG_IP_SET)",
                    error.number,
                ) from error
            raise _error("ipset list", error.number) from error
        return dict(_parse_set(attributes(answer, 4)) for answer in answers)

    def create(self, ip_set: IpSet) -> None:
        """Make an empty set; AlreadyExists where the name is taken."""
        options = attribute(_HASHSIZE | NLA_F_NET_BYTEORDER, _INITIAL_HASHSIZE.to_bytes(4)) + attribute(
            _MAXELEM | NLA_F_NET_BYTEORDER, _MAXIMUM_MEMBERS.to_bytes(4)
        )
        payload = (
            _header(ip_set.name)
            + attribute(_TYPENAME, ip_set.type.value.encode() + b"\0")
            + attribute(_REVISION, bytes([_REVISIONS[ip_set.type]]))
            + attribute(_FAMILY, bytes([ip_set.family or 0]))
            + attribute(_DATA | NLA_F_NESTED, options)
        )
        self._request(f"ipset create {ip_set.name} {ip_set.type.value}", _Command.CREATE, payload)

    def destroy(self, name: str) -> None:
        """Remove a set; NotFound where there is none, Busy where a rule refers to it."""
        self._request(f"ipset destroy {name}", _Command.DESTROY, _header(name))

    def flush(self, name: str) -> None:
        """Remove all members of a set; NotFound where there is no such set."""
        self._request(f"ipset flush {name}", _Command.FLUSH, _header(name))

    def swap(self, one: str, other: str) -> None:
        """Exchange the members of two sets of one type."""
        second = attribute(_SETNAME2, other.encode() + b"\0")
        self._request(f"ipset swap {one} {other}", _Command.SWAP, _header(one) + second)

    def members(self, name: str) -> set[SetMember]:
        """Return the members of a set; NotFound where there is no such set."""
        # The dump is read to its end come what may: an open one blocks swap and destroy.
        try:
            answers = self._socket.dump(Message(_SUBSYSTEM | _Command.LIST, 0, _header(name)))
        except KernelError as error:
            raise _error(f"ipset list {name}", error.number) from error
        found: set[SetMember] = set()
        for answer in answers:
            parts = attributes(answer, 4)
            if _TYPENAME in parts and _parse_set(parts)[1] is None:
                raise InvalidRequest(f"ipset list {name}: the set is of type {_text(parts[_TYPENAME])}")
            found.update(_parse_member(name, data) for _, data in iterate_attributes(parts.get(_ADT, b"")))
        return found

    def apply(self, operations: Sequence[SetOperation]) -> Outcomes:
        """Run a batch. Adding what is there and deleting what is not there are done, not failures."""
        outcomes: Outcomes = [None] * len(operations)
        for adds, run in groupby(
            range(len(operations)), key=lambda index: isinstance(operations[index], AddMember)
        ):
            self._apply_run(_Command.ADD if adds else _Command.DEL, operations, list(run), outcomes)
        return outcomes

    def _apply_run(
        self, command: _Command, operations: Sequence[SetOperation], run: list[int], outcomes: Outcomes
    ) -> None:
        """Run operations of one verb: their order does not matter, so those of one set share messages."""
        packs = list(_packs(operations, run))
        unreached: list[list[int]] = []
        for pack, number, line in self._refused(command, operations, packs):
            failed = pack[line - 1 : line] if line else pack
            for index in failed:
                outcomes[index] = _error(str(operations[index]), number)
            # One by one, so that many failures cost no more than as many messages.
            unreached += [[index] for index in pack[line:]] if line else []
        for pack, number, _ in self._refused(command, operations, unreached):
            outcomes[pack[0]] = _error(str(operations[pack[0]]), number)

    def _refused(
        self, command: _Command, operations: Sequence[SetOperation], packs: list[list[int]]
    ) -> Iterator[tuple[list[int], int, int]]:
        """Send packs of members; yield each that failed with its errno and line, 0 where all of it did."""
        messages = [
            Message(_SUBSYSTEM | command, 0, _pack([operations[index].member for index in pack]))
            for pack in packs
        ]
        for pack, refusal in zip(packs, self._socket.send(messages), strict=True):
            if refusal is not None:
                yield pack, refusal.number, _line(refusal)

    def _request(self, what: str, command: _Command, payload: bytes) -> None:
        # Without NLM_F_EXCL, making what is there and removing what is not there would be no errors.
        flags = NLM_F_CREATE | NLM_F_EXCL if command is _Command.CREATE else NLM_F_EXCL
        (refusal,) = self._socket.send([Message(_SUBSYSTEM | command, flags, payload)])
        if refusal is not None:
            raise _error(what, refusal.number)


def _error(what: str, number: int) -> KernelError:
    reason = _REASONS.get(number) or _Reason(KernelError, os.strerror(number))
    return reason.kind(f"{what}: {reason.text}", number)


# --- Packing ------------------------------------------------------------------------------------------------

_PREAMBLE = struct.pack("=BBH", 0, 0, 0) + attribute(_PROTOCOL, bytes([_PROTOCOL_VERSION]))
_ATTRIBUTE = struct.Struct("=HH")
_NUMBER = struct.Struct("=I")


def _address_head(kind: int, width: int) -> bytes:
    inner = _IPADDR_IPV4 if width == 4 else _IPADDR_IPV6
    return _ATTRIBUTE.pack(8 + width, kind | NLA_F_NESTED) + _ATTRIBUTE.pack(
        4 + width, inner | NLA_F_NET_BYTEORDER
    )


# Members are packed from these by the ten thousand, so what never varies is packed once.
_IP_HEADS = {width: _address_head(_IP, width) for width in (4, 16)}
_IP2_HEADS = {width: _address_head(_IP2, width) for width in (4, 16)}
_PORT_HEAD = _ATTRIBUTE.pack(6, _PORT | NLA_F_NET_BYTEORDER)
_PORT_PROTOCOL_HEAD = b"\0\0" + _ATTRIBUTE.pack(5, _PORT_PROTOCOL)
_CIDR2_HEAD = _ATTRIBUTE.pack(5, _CIDR2)
_LINENO_HEAD = _ATTRIBUTE.pack(8, _MEMBER_LINENO)
_BYTE = [bytes([value, 0, 0, 0]) for value in range(256)]


def _header(name: str | None = None) -> bytes:
    return _PREAMBLE if name is None else _PREAMBLE + attribute(_SETNAME, name.encode() + b"\0")


def _packs(operations: Sequence[SetOperation], run: Sequence[int]) -> Iterator[list[int]]:
    """Yield indices of operations whose members fit into one message."""
    by_set: dict[str, list[int]] = {}
    for index in run:
        by_set.setdefault(operations[index].member.set_name, []).append(index)
    for indices in by_set.values():
        for start in range(0, len(indices), _MEMBERS_IN_A_MESSAGE):
            yield indices[start : start + _MEMBERS_IN_A_MESSAGE]


def _pack(members: Sequence[SetMember]) -> bytes:
    """Pack members of one set, each with its line: its place in the message, from 1."""
    parts: list[bytes] = []
    for line, member in enumerate(members, start=1):
        address, source = member.address, member.source
        data = _IP_HEADS[len(address)] + address
        if member.protocol:
            data += _PORT_HEAD + member.port.to_bytes(2) + _PORT_PROTOCOL_HEAD + _BYTE[member.protocol]
        if source:
            data += _IP2_HEADS[len(source)] + source
        if member.source_prefix:
            data += _CIDR2_HEAD + _BYTE[member.source_prefix]
        data += _LINENO_HEAD + _NUMBER.pack(line)
        parts += (_ATTRIBUTE.pack(4 + len(data), _DATA | NLA_F_NESTED), data)
    # The message has a line of its own, which the kernel overwrites to report where it stopped.
    return (
        _header(members[0].set_name)
        + attribute(_LINENO, bytes(4))
        + attribute(_ADT | NLA_F_NESTED, b"".join(parts))
    )


# --- Parsing ------------------------------------------------------------------------------------------------


def _line(refusal: Refusal) -> int:
    """Return the line that the kernel refused; 0 where it refused the message as a whole."""
    is_whole_message = len(refusal.echo) >= 16 and len(refusal.echo) >= _NUMBER.unpack_from(refusal.echo)[0]
    if not is_whole_message:
        return 0
    line = attributes(refusal.echo, 16 + 4).get(_LINENO, b"")
    return int.from_bytes(line, sys.byteorder)


def _parse_set(parts: Mapping[int, bytes]) -> tuple[str, IpSet | None]:
    name = _text(parts[_SETNAME])
    try:
        return name, IpSet(name, SetType(_text(parts[_TYPENAME])), Family(parts[_FAMILY][0]))
    except ValueError:
        return name, None


def _parse_member(set_name: str, data: bytes) -> SetMember:
    parts = attributes(data)
    # The address is nested in its attribute, behind a header of 4 octets.
    return SetMember(
        set_name,
        Address(parts[_IP][4:]),
        parts[_PORT_PROTOCOL][0] if _PORT_PROTOCOL in parts else 0,
        int.from_bytes(parts.get(_PORT, b"")),
        Address(parts[_IP2][4:] if _IP2 in parts else b""),
        parts[_CIDR2][0] if _CIDR2 in parts else 0,
    )


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode("utf-8", "surrogateescape")
