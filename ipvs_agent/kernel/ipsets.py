"""The kernel's ipsets, through nfnetlink.

A message takes thousands of members. The kernel works through them in order and stops at the first that it
refuses, whose line number it reports (call_ad in net/netfilter/ipset/ip_set_core.c).
"""

from __future__ import annotations

import enum
import errno
import os
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

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
from ipvs_agent.kernel import ipset_codec
from ipvs_agent.kernel.api import Outcomes, Reading
from ipvs_agent.kernel.netlink import (
    NETLINK_NETFILTER,
    NLM_F_CREATE,
    NLM_F_EXCL,
    Message,
    NetlinkSocket,
)
from ipvs_agent.model import IpSet, SetMember
from ipvs_agent.operations import AddMember, SetOperation

_SUBSYSTEM = 6 << 8  # NFNL_SUBSYS_IPSET


class _Command(enum.IntEnum):
    """IPSET_CMD_* of linux/netfilter/ipset/ip_set.h."""

    CREATE = 2
    DESTROY = 3
    FLUSH = 4
    SWAP = 6
    LIST = 7
    ADD = 9
    DEL = 10


class _Reason(NamedTuple):
    kind: type[KernelError]
    text: str


# IPSET_ERR_* of linux/netfilter/ipset/ip_set.h and ip_set_hash.h, and errnos that ipset shares with others.
_REASONS = {
    errno.ENOENT: _Reason(NotFound, "there is no such set"),
    errno.EEXIST: _Reason(AlreadyExists, "a set of that name exists"),
    errno.EINVAL: _Reason(InvalidRequest, "a value is malformed; a name has at most 31 characters"),
    errno.EBUSY: _Reason(Busy, "somebody is listing the set"),
    errno.EPERM: _Reason(PermissionDenied, "CAP_NET_ADMIN is needed in this network namespace"),
    4097: _Reason(InvalidRequest, "the member has not the fields that the set's type needs"),
    4098: _Reason(MissingModule, "this kernel lacks the set's type (CONFIG_IP_SET_HASH_*)"),
    4099: _Reason(KernelError, "the kernel has as many sets as it can have (max_sets of the module ip_set)"),
    4100: _Reason(Busy, "the set is in use"),
    4101: _Reason(NotFound, "there is no such second set"),
    4102: _Reason(InvalidRequest, "the sets differ in type"),
    4104: _Reason(InvalidRequest, "the prefix length is 0 or longer than the address"),
    4106: _Reason(InvalidRequest, "the set's type does not have that family"),
    4108: _Reason(Busy, "the set is in use"),
    4109: _Reason(InvalidRequest, "the set takes IPv4 addresses"),
    4110: _Reason(InvalidRequest, "the set takes IPv6 addresses"),
    4114: _Reason(InvalidRequest, "the set's members have no marks"),
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
        try:
            answers = self._socket.dump(Message(_SUBSYSTEM | _Command.LIST, 0, ipset_codec.every_set()))
        except KernelError as error:
            if error.number == errno.EINVAL:  # what nfnetlink answers for a subsystem that it cannot load
                raise MissingModule(
                    "ipset list: this kernel has no ipset: `modprobe ip_set` must work (CONFIG_IP_SET)",
                    error.number,
                ) from error
            raise _error("ipset list", error.number) from error
        return dict(ipset_codec.listed_set(answer) for answer in answers)

    def create(self, ip_set: IpSet) -> None:
        """Make an empty set; AlreadyExists where the name is taken."""
        self._request(
            f"ipset create {ip_set.name} {ip_set.type.value}", _Command.CREATE, ipset_codec.new_set(ip_set)
        )

    def destroy(self, name: str) -> None:
        """Remove a set; NotFound where there is none, Busy where a rule refers to it."""
        self._request(f"ipset destroy {name}", _Command.DESTROY, ipset_codec.name_of(name))

    def flush(self, name: str) -> None:
        """Remove all members of a set; NotFound where there is no such set."""
        self._request(f"ipset flush {name}", _Command.FLUSH, ipset_codec.name_of(name))

    def swap(self, one: str, other: str) -> None:
        """Exchange the names of two sets of one type and family: members, marks and capacity go along."""
        self._request(f"ipset swap {one} {other}", _Command.SWAP, ipset_codec.names_of(one, other))

    def members(self, name: str) -> set[SetMember]:
        """Return the members of a set; NotFound where there is no such set."""
        return self.reading(name).content()

    def reading(self, name: str) -> Reading[set[SetMember]]:
        """Read the members of a set as `members` does."""
        # The dump is read to its end come what may: an open one blocks swap and destroy.
        try:
            answers = self._socket.dump(Message(_SUBSYSTEM | _Command.LIST, 0, ipset_codec.name_of(name)))
        except KernelError as error:
            raise _error(f"ipset list {name}", error.number) from error
        for answer in answers:
            if foreign := ipset_codec.unknown_type(answer):
                raise InvalidRequest(f"ipset list {name}: the set is of type {foreign}")
        listed = [ipset_codec.members_part(answer) for answer in answers]
        return Reading(hash(b"".join(listed)), lambda: ipset_codec.listed_members(listed, name))

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
            Message(
                _SUBSYSTEM | command,
                0,
                ipset_codec.members_of_one_set([operations[index].member for index in pack]),
            )
            for pack in packs
        ]
        for pack, refusal in zip(packs, self._socket.send(messages), strict=True):
            if refusal is not None:
                yield pack, refusal.number, ipset_codec.refused_line(refusal)

    def _request(self, what: str, command: _Command, payload: bytes) -> None:
        # Without NLM_F_EXCL, making what is there and removing what is not there would be no errors.
        flags = NLM_F_CREATE | NLM_F_EXCL if command is _Command.CREATE else NLM_F_EXCL
        (refusal,) = self._socket.send([Message(_SUBSYSTEM | command, flags, payload)])
        if refusal is not None:
            raise _error(what, refusal.number)


def _error(what: str, number: int) -> KernelError:
    reason = _REASONS.get(number) or _Reason(KernelError, os.strerror(number))
    return reason.kind(f"{what}: {reason.text}", number)


def _packs(operations: Sequence[SetOperation], run: Sequence[int]) -> Iterator[list[int]]:
    """Yield indices of operations whose members fit into one message."""
    by_set: dict[str, list[int]] = {}
    for index in run:
        by_set.setdefault(operations[index].member.set_name, []).append(index)
    for indices in by_set.values():
        for start in range(0, len(indices), ipset_codec.MEMBERS_IN_A_MESSAGE):
            yield indices[start : start + ipset_codec.MEMBERS_IN_A_MESSAGE]
