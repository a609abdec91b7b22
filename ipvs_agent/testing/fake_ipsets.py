"""The ipsets, in memory."""

from __future__ import annotations

import errno
from collections.abc import Sequence

import msgspec

from ipvs_agent.addresses import Family, family_of, masked
from ipvs_agent.errors import AlreadyExists, Busy, InvalidRequest, KernelError, NotFound, SetFull
from ipvs_agent.kernel.api import Outcomes, Reading
from ipvs_agent.model import IpSet, Protocol, SetMember, SetType
from ipvs_agent.operations import AddMember, SetOperation

_WITH_PORT = {SetType.HASH_IP_PORT, SetType.HASH_IP_PORT_IP, SetType.HASH_IP_PORT_NET}
_WITH_SOURCE = {SetType.HASH_IP_PORT_IP, SetType.HASH_IP_PORT_NET}
_WRONG_FIELDS = 4097
_BUSY = 4100
_NO_SECOND_SET = 4101
_TYPES_DIFFER = 4102
_BAD_PREFIX = 4104
_NO_MARKS = 4114
_FULL = 4352
_ALL_ZEROS = 4353


class FakeIpSets:
    """The ipsets of one network namespace.

    A set takes its capacity and no more; the kernel's, once it has grown, up to some hundredths more, since
    mtype_add in ip_set_hash_gen.h counts by parts of the table.
    """

    def __init__(self) -> None:
        self.referrers: dict[str, frozenset[str]] = {}
        """Names of sets that rules refer to, by who holds the rules."""
        self.listed: set[str] = set()
        """Names of sets that somebody is listing: those are neither destroyed nor swapped."""
        self.batches: list[list[SetOperation]] = []
        """What apply was called with."""
        self._sets: dict[str, IpSet | None] = {}
        self._members: dict[str, dict[SetMember, int]] = {}
        """Marks by member; a member has no set_name here, so that sets can be swapped."""

    def add_foreign(self, name: str) -> None:
        """Make a set of a type that the agent does not use."""
        self._sets[name] = None

    def sets(self) -> dict[str, IpSet | None]:
        """Return all sets by name; None for one of a type that is not ours."""
        return dict(self._sets)

    def create(self, ip_set: IpSet) -> None:
        """Make an empty set; AlreadyExists where the name is taken."""
        if len(ip_set.name) > 31:
            raise InvalidRequest(f"ipset create {ip_set.name}: the name is too long", errno.EINVAL)
        if ip_set.name in self._sets:
            raise AlreadyExists(f"ipset create {ip_set.name}: a set of that name exists", errno.EEXIST)
        if ip_set.type is SetType.BITMAP_PORT and ip_set != IpSet(ip_set.name, ip_set.type, None):
            raise NotImplementedError("FakeIpSets: a bitmap:port has no family, no marks and every port")
        self._sets[ip_set.name] = ip_set
        self._members[ip_set.name] = {}

    def destroy(self, name: str) -> None:
        """Remove a set; NotFound where there is none, Busy where a rule refers to it."""
        self._must_exist("destroy", name)
        self._must_not_be_listed("destroy", name)
        if any(name in names for names in self.referrers.values()):
            raise Busy(f"ipset destroy {name}: the set is in use", _BUSY)
        del self._sets[name]
        self._members.pop(name, None)

    def flush(self, name: str) -> None:
        """Remove all members of a set; NotFound where there is no such set."""
        self._must_exist("flush", name)
        self._ours("flush", name)
        self._members[name].clear()

    def swap(self, one: str, other: str) -> None:
        """Exchange the names of two sets of one type and family: members, marks and capacity go along."""
        self._must_exist("swap", one)
        self._must_exist("swap", other, _NO_SECOND_SET)
        first, second = self._ours("swap", one), self._ours("swap", other)
        if (first.type, first.family) != (second.type, second.family):
            raise InvalidRequest(f"ipset swap {one} {other}: the sets differ in type", _TYPES_DIFFER)
        self._must_not_be_listed("swap", one, other)
        self._sets[one] = msgspec.structs.replace(second, name=one)
        self._sets[other] = msgspec.structs.replace(first, name=other)
        self._members[one], self._members[other] = self._members[other], self._members[one]

    def members(self, name: str) -> set[SetMember]:
        """Return the members of a set; NotFound where there is no such set."""
        self._must_exist("list", name)
        if self._sets[name] is None:
            raise InvalidRequest(f"ipset list {name}: the set is of another type")
        return {
            msgspec.structs.replace(member, set_name=name, mark=mark)
            for member, mark in self._members[name].items()
        }

    def reading(self, name: str) -> Reading[set[SetMember]]:
        """Read the members of a set as `members` does."""
        members = self.members(name)
        return Reading(hash(frozenset(members)), lambda: members)

    def apply(self, operations: Sequence[SetOperation]) -> Outcomes:
        """Run a batch. Adding what is there and deleting what is not there are done, not failures."""
        self.batches.append(list(operations))
        outcomes: Outcomes = []
        for operation in operations:
            try:
                self._apply(operation)
            except KernelError as error:
                outcomes.append(error)
            else:
                outcomes.append(None)
        return outcomes

    def _apply(self, operation: SetOperation) -> None:
        name = operation.member.set_name
        if name not in self._sets:
            raise NotFound(f"{operation}: there is no such set", errno.ENOENT)
        ip_set = self._ours("add to", name)
        member, mark = _stored(operation, ip_set), operation.member.mark
        if mark and not ip_set.has_marks:
            raise InvalidRequest(f"{operation}: the set's members have no marks", _NO_MARKS)
        members = self._members[name]
        if not isinstance(operation, AddMember):
            members.pop(member, None)
        elif member in members or len(members) < ip_set.capacity:
            members[member] = mark
        else:
            raise SetFull(f"{operation}: the set is full", _FULL)

    def _must_exist(self, verb: str, name: str, number: int = errno.ENOENT) -> None:
        if name not in self._sets:
            raise NotFound(f"ipset {verb} {name}: there is no such set", number)

    def _must_not_be_listed(self, verb: str, *names: str) -> None:
        if not self.listed.isdisjoint(names):
            raise Busy(f"ipset {verb} {' '.join(names)}: somebody is listing the set", errno.EBUSY)

    def _ours(self, verb: str, name: str) -> IpSet:
        ip_set = self._sets[name]
        if ip_set is None:
            raise NotImplementedError(f"FakeIpSets does not {verb} sets of types that the agent does not use")
        return ip_set


def _stored(operation: SetOperation, ip_set: IpSet) -> SetMember:
    """Return the member as the kernel stores it."""
    member = operation.member
    if not _has_fields_of(ip_set, member):
        raise InvalidRequest(f"{operation}: the member has not the fields of the set's type", _WRONG_FIELDS)
    if ip_set.type is SetType.BITMAP_PORT:
        # What the type does not need, the kernel does not read.
        return SetMember("", port=member.port)
    if member.protocol and member.protocol not in list(Protocol):
        raise NotImplementedError(f"FakeIpSets does not model protocol {member.protocol}")
    if ip_set.type is SetType.HASH_IP and ip_set.family is Family.IPV4 and not any(member.address):
        raise InvalidRequest(f"{operation}: the address is all zeros", _ALL_ZEROS)
    source = member.source
    if ip_set.type is SetType.HASH_IP_PORT_NET:
        if not member.source_prefix:
            raise NotImplementedError("FakeIpSets: the kernel takes a range without prefix for one address")
        if member.source_prefix > len(source) * 8:
            raise InvalidRequest(f"{operation}: the prefix is longer than the address", _BAD_PREFIX)
        source = masked(source, member.source_prefix)
    return msgspec.structs.replace(member, set_name="", source=source, mark=0)


def _has_fields_of(ip_set: IpSet, member: SetMember) -> bool:
    has_fields = (
        bool(member.protocol) == (ip_set.type in _WITH_PORT)
        and bool(member.source) == (ip_set.type in _WITH_SOURCE)
        and (not member.source_prefix or ip_set.type is SetType.HASH_IP_PORT_NET)
    )
    if ip_set.type is SetType.BITMAP_PORT:
        return has_fields and not member.address
    return (
        has_fields
        and bool(member.address)
        and family_of(member.address) is ip_set.family
        and (not member.source or family_of(member.source) is ip_set.family)
    )
