"""What the kernel was last brought to, as far as is known: achieved, not asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Set

import msgspec

from ipvs_agent.addresses import Address
from ipvs_agent.desired import sets
from ipvs_agent.desired.sets import Purpose
from ipvs_agent.model import (
    RealServer,
    RealServerKey,
    SetMember,
    Vip,
    VipForm,
    VirtualServer,
    VirtualServerKey,
    mark_key,
)
from ipvs_agent.operations import (
    AddMember,
    AddRealServer,
    AddRealServers,
    AddVip,
    AddVirtualServer,
    DeleteMember,
    DeleteRealServer,
    DeleteVip,
    DeleteVirtualServer,
    Operation,
    SetRealServer,
    SetVip,
    SetVirtualServer,
)
from ipvs_agent.schedulers import fills_table


class Held(msgspec.Struct, eq=False):
    """A virtual server that the kernel holds for us, with its real servers in the order of their coming."""

    virtual_server: VirtualServer
    _real_servers: dict[RealServerKey, RealServer] | tuple[RealServer, ...]
    """A tuple, shared with what is wanted, until one of them is asked for; of most nobody ever does."""

    @property
    def real_servers(self) -> dict[RealServerKey, RealServer]:
        """Return the real servers by address and port, in order; to be changed too."""
        if isinstance(self._real_servers, tuple):
            self._real_servers = {server.endpoint: server for server in self._real_servers}
        return self._real_servers

    @property
    def in_order(self) -> Collection[RealServer]:
        """Return the real servers in order, to be looked at."""
        held = self._real_servers
        return held if isinstance(held, tuple) else held.values()


def are_alike(one: Held | None, other: Held | None) -> bool:
    """Tell whether two virtual servers are the same, in the order of real servers too where that counts."""
    if one is None or other is None:
        return one is other
    if one.virtual_server != other.virtual_server:
        return False
    if [*one.in_order] == [*other.in_order]:
        return True
    return not fills_table(one.virtual_server.scheduler) and one.real_servers == other.real_servers


VIRTUAL_SERVERS = "virtual servers"
"""All virtual servers, without their real servers."""
Confirmable = VirtualServerKey | str
"""The real servers of a virtual server, the members of a set by its name, or VIRTUAL_SERVERS."""
Confirmed = Mapping[Confirmable, int]
"""Digests of what the kernel said of things when that was found to be as it had been left."""


class Achieved:
    """Our objects in the kernel; changed by what operations did and by what was read back."""

    def __init__(self) -> None:
        self.virtual_servers: dict[VirtualServerKey, Held] = {}
        self._vips: dict[tuple[Address, VipForm], Vip] = {}
        self.members: set[SetMember] = set()
        self.sizes: Counter[str] = Counter()
        """How many members each set has."""
        self._at_address: Counter[Address] = Counter()
        self._marked: dict[VirtualServerKey, SetMember] = {}
        """Members of the sets with marks by what clients dial: the kernel holds one for each."""
        self._of_mark: Counter[VirtualServerKey] = Counter()
        """How many of them lead to each virtual server by mark."""
        self._changes: set[VirtualServerKey | Vip | SetMember] | None = None
        self._confirmed: dict[Confirmable, int] = {}

    def note_changes(self) -> None:
        """Begin to take note of what changes, for `take_changes`."""
        self._changes = set()

    def take_changes(self) -> Set[VirtualServerKey | Vip | SetMember]:
        """Return what has changed since `note_changes`, real servers apart, and take note no more."""
        changes, self._changes = self._changes, None
        return changes or frozenset()

    def serves(self, address: Address) -> bool:
        """Tell whether there is a virtual server on an address."""
        return self._at_address[address] > 0

    @property
    def vips(self) -> Collection[Vip]:
        """All VIPs; one address may be there in each form."""
        return self._vips.values()

    def vip(self, address: Address, form: VipForm) -> Vip | None:
        """Return what an address is in some form, if it is there."""
        return self._vips.get((address, form))

    def has_vip(self, address: Address) -> bool:
        """Tell whether an address is a VIP in some form."""
        return any((address, form) in self._vips for form in VipForm)

    def has(self, thing: VirtualServerKey | Address | SetMember) -> bool:
        """Tell whether an object is there."""
        if isinstance(thing, VirtualServerKey):
            return thing in self.virtual_servers
        return thing in self.members if isinstance(thing, SetMember) else self.has_vip(thing)

    @property
    def confirmed(self) -> Confirmed:
        """Return the digests of what the kernel said of things as they are held now; also for other threads.

        That of VIRTUAL_SERVERS has with it what is known of those that others have made.
        """
        return self._confirmed

    def confirm(self, digests: Mapping[Confirmable, int]) -> None:
        """Take note that this is what the kernel says of some things as they are held now."""
        self._confirmed.update(digests)

    def doubt(self, thing: Confirmable) -> None:
        """Take note that something is to be compared again, whatever the kernel says of it."""
        if self._confirmed:  # a cold start comes by here for every real server
            self._confirmed.pop(thing, None)

    def touch(self, key: VirtualServerKey) -> None:
        """Take note that something else is known of a virtual server: whether it is there, or whose it is."""
        self._note(key)
        self.doubt(key)
        self.doubt(VIRTUAL_SERVERS)

    def marking(self, key: VirtualServerKey) -> SetMember | None:
        """Return the member that gives a mark to what is dialled at a virtual server."""
        return self._marked.get(key)

    def goes_by(self, by_mark: VirtualServerKey) -> bool:
        """Tell whether anything goes by a mark: a virtual server, or what clients dial."""
        return by_mark in self.virtual_servers or self._of_mark[by_mark] > 0

    def record(self, operation: Operation) -> None:
        """Take note of an operation that was done."""
        match operation:
            case AddRealServer() | SetRealServer():
                server = operation.real_server
                behind = self.virtual_servers[operation.key].real_servers
                behind[server.address, server.port] = server
                self.doubt(operation.key)
            case AddRealServers():
                new = self.virtual_servers[operation.key].virtual_server
                self.virtual_servers[operation.key] = Held(new, operation.real_servers)
                self.doubt(operation.key)
            case DeleteRealServer():
                held = self.virtual_servers[operation.key]
                held.real_servers.pop((operation.address, operation.port), None)
                self.doubt(operation.key)
            case AddMember():
                self._add(operation.member)
            case DeleteMember():
                self._discard(operation.member)
            case AddVirtualServer():
                self.observe(operation.virtual_server.key, operation.virtual_server, {})
            case SetVirtualServer():
                self.virtual_servers[operation.virtual_server.key].virtual_server = operation.virtual_server
                self.touch(operation.virtual_server.key)  # its real servers too: their order may count now
            case DeleteVirtualServer():
                self.observe(operation.key, None, {})
            case AddVip():
                self._add(Vip(operation.address, operation.form, operation.source))
            case SetVip():
                self._add(Vip(operation.address, VipForm.ROUTE, operation.source))
            case DeleteVip():
                if vip := self.vip(operation.address, operation.form):
                    self._discard(vip)

    def observe(
        self, key: VirtualServerKey, found: VirtualServer | None, behind: dict[RealServerKey, RealServer]
    ) -> None:
        """Take note of a virtual server as it was read back; None: it is not there."""
        if self.virtual_servers.pop(key, None) is not None:
            self._at_address[key.address] -= 1
        if found is not None:
            self.virtual_servers[key] = Held(found, behind)
            self._at_address[key.address] += 1
        self.touch(key)

    def keys(self) -> Iterator[VirtualServerKey | Address | SetMember]:
        """Yield everything that was achieved."""
        yield from self.virtual_servers
        yield from (address for address, _ in self._vips)
        yield from self.members

    def forget(self, things: Iterable[Vip | SetMember]) -> None:
        """Take note of VIPs and members that are gone."""
        for thing in things:
            self._discard(thing)

    def discover(self, things: Iterable[Vip | SetMember]) -> None:
        """Take note of VIPs and members of ours that were found."""
        for thing in things:
            self._add(thing)

    def _note(self, thing: VirtualServerKey | Vip | SetMember) -> None:
        if self._changes is not None:
            self._changes.add(thing)

    def _add(self, thing: Vip | SetMember) -> None:
        self._note(thing)
        if isinstance(thing, Vip):
            if before := self.vip(thing.address, thing.form):
                self._note(before)
            self._vips[thing.address, thing.form] = thing
        elif thing not in self.members:
            self._add_member(thing)

    def _discard(self, thing: Vip | SetMember) -> None:
        self._note(thing)
        if isinstance(thing, Vip):
            self._vips.pop((thing.address, thing.form), None)
        elif thing in self.members:
            self._discard_member(thing)

    def _add_member(self, member: SetMember) -> None:
        if sets.purpose_of(member) == Purpose.MARKS:
            dialled = sets.dialled(member)
            if dialled in self._marked:
                self._discard(self._marked[dialled])  # the kernel has replaced the mark
            self._marked[dialled] = member
            self._of_mark[mark_key(dialled.family, member.mark)] += 1
        self.members.add(member)
        self.sizes[member.set_name] += 1
        self.doubt(member.set_name)

    def _discard_member(self, member: SetMember) -> None:
        if sets.purpose_of(member) == Purpose.MARKS:
            dialled = sets.dialled(member)
            del self._marked[dialled]
            self._of_mark[mark_key(dialled.family, member.mark)] -= 1
        self.members.remove(member)
        self.sizes[member.set_name] -= 1
        self.doubt(member.set_name)
