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
        self._at_address: Counter[Address] = Counter()

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
            self.members.add(operation.member)
        elif isinstance(operation, DeleteMember):
            self.members.discard(operation.member)
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
                self.members.discard(thing)
            else:
                self.vips.discard(thing)

    def discover(self, things: Iterable[Address | SetMember]) -> None:
        """Take note of VIPs and members of ours that were found."""
        for thing in things:
            if isinstance(thing, SetMember):
                self.members.add(thing)
            else:
                self.vips.add(thing)
