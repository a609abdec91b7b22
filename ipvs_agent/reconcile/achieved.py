"""What the kernel was last brought to, as far as is known: achieved, not asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import msgspec

from ipvs_agent.addresses import Address
from ipvs_agent.model import (
    RealServer,
    RealServerKey,
    SetMember,
    VirtualServer,
    VirtualServerKey,
)
from ipvs_agent.operations import (
    AddMember,
    AddRealServer,
    AddVip,
    AddVirtualServer,
    DeleteMember,
    DeleteRealServer,
    DeleteVip,
    DeleteVirtualServer,
    Operation,
    SetRealServer,
    SetVirtualServer,
)


class Held(msgspec.Struct):
    """A virtual server that the kernel holds for us."""

    virtual_server: VirtualServer
    real_servers: dict[RealServerKey, RealServer]


class Achieved:
    """Our objects in the kernel; changed by what operations did and by what was read back."""

    def __init__(self) -> None:
        self.virtual_servers: dict[VirtualServerKey, Held] = {}
        self.vips: set[Address] = set()
        self.members: set[SetMember] = set()
        self.sizes: Counter[str] = Counter()
        """How many members each set has."""
        self._at_address: Counter[Address] = Counter()
        self._marked: dict[SetMember, SetMember] = {}
        """Members with a mark by themselves without it, as the kernel knows them."""

    def serves(self, address: Address) -> bool:
        """Tell whether there is a virtual server on an address."""
        return self._at_address[address] > 0

    def record(self, operation: Operation) -> None:
        """Take note of an operation that was done."""
        if isinstance(operation, AddRealServer | SetRealServer):
            held = self.virtual_servers[operation.key]
            held.real_servers[operation.real_server.endpoint] = operation.real_server
        elif isinstance(operation, DeleteRealServer):
            held = self.virtual_servers[operation.key]
            held.real_servers.pop((operation.address, operation.port), None)
        elif isinstance(operation, AddMember):
            self._add(operation.member)
        elif isinstance(operation, DeleteMember):
            self._discard(operation.member)
        elif isinstance(operation, AddVirtualServer):
            self.observe(operation.virtual_server.key, operation.virtual_server, {})
        elif isinstance(operation, SetVirtualServer):
            self.virtual_servers[operation.virtual_server.key].virtual_server = operation.virtual_server
        elif isinstance(operation, DeleteVirtualServer):
            self.observe(operation.key, None, {})
        elif isinstance(operation, AddVip):
            self.vips.add(operation.address)
        elif isinstance(operation, DeleteVip):
            self.vips.discard(operation.address)

    def observe(
        self, key: VirtualServerKey, found: VirtualServer | None, behind: dict[RealServerKey, RealServer]
    ) -> None:
        """Take note of a virtual server as it was read back; None: it is not there."""
        if self.virtual_servers.pop(key, None) is not None:
            self._at_address[key.address] -= 1
        if found is not None:
            self.virtual_servers[key] = Held(found, behind)
            self._at_address[key.address] += 1

    def keys(self) -> Iterator[VirtualServerKey | Address | SetMember]:
        """Yield everything that was achieved."""
        yield from self.virtual_servers
        yield from self.vips
        yield from self.members

    def forget(self, things: Iterable[Address | SetMember]) -> None:
        """Take note of VIPs and members that are gone."""
        for thing in things:
            if isinstance(thing, SetMember):
                self._discard(thing)
            else:
                self.vips.discard(thing)

    def discover(self, things: Iterable[Address | SetMember]) -> None:
        """Take note of VIPs and members of ours that were found."""
        for thing in things:
            if isinstance(thing, SetMember):
                self._add(thing)
            else:
                self.vips.add(thing)

    def _add(self, member: SetMember) -> None:
        if member in self.members:
            return
        if member.mark:
            place = msgspec.structs.replace(member, mark=0)
            if place in self._marked:
                self._discard(self._marked[place])  # the kernel has replaced the mark
            self._marked[place] = member
        self.members.add(member)
        self.sizes[member.set_name] += 1

    def _discard(self, member: SetMember) -> None:
        if member not in self.members:
            return
        if member.mark:
            del self._marked[msgspec.structs.replace(member, mark=0)]
        self.members.remove(member)
        self.sizes[member.set_name] -= 1
