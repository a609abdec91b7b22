"""In which form the VIPs are on the node, and how they move from one form or source to the other.

A VIP first gets the new form and only then loses the old one, and many of them do so a slice at a time: the
kernel walks a list for every address that comes or goes, and other changes must not wait for all of them. A
slice is as long as can be done in some milliseconds, and then everybody else has as long as it took.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Set

from ipvs_agent.addresses import Address, Family, family_of
from ipvs_agent.model import NO_SOURCE, Vip, VipForm, VipMode
from ipvs_agent.operations import AddVip, DeleteVip, SetVip, VipOperation
from ipvs_agent.reconcile.achieved import Achieved
from ipvs_agent.reconcile.claims import Claims, Key
from ipvs_agent.reconcile.report import Report
from ipvs_agent.reconcile.timers import Timers, VipsMove

MOST_ADDRESSES = 1000
"""With more VIPs than that, VipMode.AUTO makes them local routes (docs/vips.md has the measurement)."""
_SLICE = 200
"""VIPs that move at once, at most."""
_LEAST = 8
"""And at least, or a move would hardly get on where the machine is so busy that all takes long."""
_SECONDS = 0.005
"""What a slice is to take."""


class VipForms:
    """Decides on the form; used by the keeper."""

    def __init__(
        self,
        mode: VipMode,
        claims: Claims,
        achieved: Achieved,
        timers: Timers,
        report: Report,
        clock: Callable[[], float],
    ) -> None:
        self._form = VipForm.ROUTE if mode is VipMode.ROUTES else VipForm.ADDRESS
        self._may_change = mode is VipMode.AUTO
        self._claims = claims
        self._achieved = achieved
        self._timers = timers
        self._report = report
        self._clock = clock
        self._queue: dict[Address, None] = {}
        """VIPs that may have another form than theirs."""
        self._slice: frozenset[Address] = frozenset()
        """Those of them that may lose it now."""
        self._size = _LEAST
        """How many VIPs the next slice is to have."""
        self._is_planned = False
        self._rest_ends = 0.0
        self._found: set[Address] = set()
        """Addresses that others have left: those that become VIPs are moved as this agent's own."""
        self._preferred: Mapping[Family, Address] = {}
        """From where the node is to dial VIPs that are routes, if the kernel takes it."""
        self._refused: set[Address] = set()
        """What it has not taken, since the node has it."""

    @property
    def are_addresses(self) -> bool:
        """Whether VIPs are to be addresses."""
        return self._form is VipForm.ADDRESS

    @property
    def are_moving(self) -> bool:
        """Whether some VIPs have yet to be moved."""
        return bool(self._queue)

    def adopt(self, found: Iterable[Vip]) -> None:
        """Go on with routes where an agent before this one made any: VipMode.AUTO never goes back.

        found: what is on the interface, whoever put it there.
        """
        addresses = (vip.address for vip in found if vip.form is VipForm.ADDRESS)
        self._found = {one for one in addresses if self._achieved.vip(one, VipForm.ADDRESS) is None}
        if self._may_change and any(vip.form is VipForm.ROUTE for vip in self._achieved.vips):
            self._form = VipForm.ROUTE
        self._preferred = {family_of(vip.source): vip.source for vip in self._achieved.vips if vip.source}

    def choose(self) -> None:
        """Go over to routes where there are to be too many VIPs for addresses."""
        if not self._may_change or self._form is VipForm.ROUTE:
            return
        if self._claims.vips > MOST_ADDRESSES:
            self._form = VipForm.ROUTE
            self._report.vips_become_routes(self._claims.vips)
            for vip in self._achieved.vips:
                self._enqueue(vip.address)

    @property
    def preferred(self) -> Collection[Address]:
        """From where the node is to dial VIPs; at first what an agent before this one preferred."""
        return self._preferred.values()

    def prefer(self, sources: Mapping[Family, Address]) -> None:
        """Have the node dial VIPs that are routes from these addresses of its own."""
        if sources != self._preferred:
            self._preferred = sources
            self._move_sources()

    def lose(self, source: Address) -> None:
        """Have the node dial nothing from an address that it has just lost, until that is preferred anew."""
        self.prefer({family: one for family, one in self._preferred.items() if one != source})

    def forgo(self, refused: Iterable[AddVip | SetVip]) -> set[Address]:
        """Leave it to the kernel from where the node dials VIPs; return which sources it now refuses.

        refused: for their sources. An address of a VRF is the node's, and none by the table of the routes;
        another one may have gone, of which the agent has yet to hear.
        """
        new = set()
        for operation in refused:
            self._enqueue(operation.address)
            if operation.source not in self._refused:
                new.add(operation.source)
        if new:
            self._refused |= new
            self._move_sources()
        return new

    def try_again(self, new: Set[Address]) -> None:
        """Prefer again what was refused, where the node has just got the address."""
        if self._refused & new:
            self._refused -= new
            self._move_sources()

    def _move_sources(self) -> None:
        for vip in self._achieved.vips:
            if vip.source != self._source(vip.address, vip.form):
                self._enqueue(vip.address)

    def _source(self, address: Address, form: VipForm) -> Address:
        source = self._preferred.get(family_of(address), NO_SOURCE)
        return source if form is VipForm.ROUTE and source not in self._refused else NO_SOURCE

    def difference(self, address: Address) -> Iterator[VipOperation]:
        """Yield what brings a VIP from what was achieved towards what is wanted.

        One that is wanted first gets its form. Another form or source that it has goes later, with its slice.
        """
        held = {form: vip for form in VipForm if (vip := self._achieved.vip(address, form))}
        if not self._claims.wanted(address):
            yield from (DeleteVip(address, form) for form in held)
            return
        source = self._source(address, self._form)
        if (vip := held.pop(self._form, None)) is None:
            yield AddVip(address, self._form, source)
        elif address not in self._slice:
            if held or vip.source != source:
                self._enqueue(address)
        else:
            if vip.source != source:
                yield SetVip(address, source)
            yield from (DeleteVip(address, form) for form in held)

    def take_over(self, keys: Iterable[Key]) -> None:
        """Have those addresses go, as the agent's own, that others left and that have become routes."""
        for address in self._found.intersection(keys) if self._found else ():
            if self._achieved.vip(address, VipForm.ROUTE):
                self._found.remove(address)
                self._achieved.discover([Vip(address, VipForm.ADDRESS)])
                self._enqueue(address)

    @contextlib.contextmanager
    def letting_move(self, address: Address) -> Iterator[None]:
        """Let a VIP move for the length of a with block, be it its turn or not: that was refused before."""
        before, self._slice = self._slice, frozenset([address])
        try:
            yield
        finally:
            self._slice = before

    def look_again(self, keys: Iterable[Key]) -> None:
        """Have those of some objects moved on that are VIPs and have got their form only now."""
        for key in keys:
            if isinstance(key, bytes):
                self._enqueue(key)

    @contextlib.contextmanager
    def turn(self) -> Iterator[list[Address]]:
        """Give some VIPs their turn, for the length of a with block; from then on they may lose a form."""
        self._is_planned = False
        started = self._clock()
        addresses = list(itertools.islice(self._queue, self._size))
        for address in addresses:
            del self._queue[address]
        self._slice = frozenset(addresses)
        try:
            yield addresses
        finally:
            took = self._clock() - started
            self._rest_ends = started + 2 * took
            self._size = _next_size(len(addresses), took)
            if self._queue:
                self._plan()

    def _enqueue(self, address: Address) -> None:
        self._queue[address] = None
        self._plan()

    def _plan(self) -> None:
        if not self._is_planned:
            self._is_planned = True
            self._timers.add(max(self._clock(), self._rest_ends), VipsMove())


def _next_size(size: int, took: float) -> int:
    """Return how many VIPs the next slice is to have, when so many took so many seconds."""
    fitting = size * _SECONDS / took if took else _SLICE
    return min(_SLICE, max(_LEAST, min(2 * size, int(fitting))))
