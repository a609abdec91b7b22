"""Which packet mark each port of a Service with externalTrafficPolicy Local has.

A mark is given once and never to another port while anything in the kernel goes by it: connections would end
up behind the wrong Service. What an agent before this one gave is read back from the set of marks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from ipvs_agent.addresses import Family
from ipvs_agent.desired import sets, split
from ipvs_agent.desired.compile import NO_MARKS, NodeView, external_keys
from ipvs_agent.model import (
    ObjectName,
    Owner,
    Protocol,
    Service,
    ServicePort,
    SetMember,
    VirtualServerKey,
    mark_key,
)

_PortId = tuple[Family, Protocol, str]


class Marks:
    """Gives packet marks to ports, and remembers whose they are."""

    def __init__(
        self,
        is_in_kernel: Callable[[VirtualServerKey], bool],
        owner: Callable[[VirtualServerKey], Owner | None],
    ) -> None:
        self._is_in_kernel = is_in_kernel
        self._owner = owner
        self._given: dict[ObjectName, dict[_PortId, int]] = {}
        self._taken: set[VirtualServerKey] = set()
        self._found: Mapping[VirtualServerKey, int] = {}
        """By what clients dial: the marks of an agent before this one."""
        self._next = dict.fromkeys(((family, is_udp) for family in Family for is_udp in (False, True)), 0)

    def adopt(self, members: Iterable[SetMember]) -> None:
        """Take note of the marks that are in the sets; those that others wrote there count for nothing."""
        self._found = {
            dialled: mark
            for dialled, mark in sets.marks(members).items()
            if split.is_for(mark_key(dialled.family, mark), dialled.protocol)
        }

    def of(self, service: Service, node: NodeView) -> Mapping[ServicePort, int]:
        """Return the marks of those ports of a Service that need one; none is left for a port without."""
        if not service.external_local:
            self.release(service.name)
            return NO_MARKS
        before = self._given.pop(service.name, {})
        after: dict[_PortId, int] = {}
        marks: dict[ServicePort, int] = {}
        for port in service.ports:
            port_id = (port.family, port.protocol, port.name)
            if node.undecided and not external_keys(port, node):
                continue  # what it had under an agent before this one is not to be asked yet
            mark = before.pop(port_id, 0) or self._earlier(service, port, node) or self._fresh(port)
            if mark:
                after[port_id] = marks[port] = mark
                self._taken.add(mark_key(port.family, mark))
        self._free(before)
        self._given[service.name] = after
        return marks

    def release(self, name: ObjectName) -> None:
        """Take back the marks of a Service; they are given again when nothing in the kernel goes by them."""
        self._free(self._given.pop(name, {}))

    def _free(self, marks: Mapping[_PortId, int]) -> None:
        self._taken -= {mark_key(family, mark) for (family, _, _), mark in marks.items()}

    def _earlier(self, service: Service, port: ServicePort, node: NodeView) -> int:
        """Return the mark that a port had under an agent before this one; 0: none.

        Its NodePort, which comes last, is asked first: an address may have been another Service's then.
        """
        for key in reversed(external_keys(port, node)) if self._found else ():
            mark = self._found.get(key, 0)
            owner = self._owner(key)
            is_its_own = owner is None or owner.name == service.name
            if mark and is_its_own and mark_key(port.family, mark) not in self._taken:
                return mark
        return 0

    def _fresh(self, port: ServicePort) -> int:
        kind = (port.family, port.protocol is Protocol.UDP)
        found = set(self._found.values())
        for step in range(len(split.INDICES)):
            index = split.INDICES[(self._next[kind] + step) % len(split.INDICES)]
            mark = split.mark_of(index, port.protocol)
            key = mark_key(port.family, mark)
            if key not in self._taken and mark not in found and not self._is_in_kernel(key):
                self._next[kind] = index  # the position behind it, as indices begin at 1
                return mark
        return 0
