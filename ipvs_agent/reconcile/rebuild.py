"""Keeping real servers in order: all under schedulers that fill a table from the kernel's list, the first one
under those that begin at it.

The list has the last added at its head, so what stands in the wrong place must be deleted and added again,
and all that belongs before it too. The connections of a real server outlive that, for to the kernel it is the
same one when it returns, as long as net/ipv4/vs/expire_nodest_conn is 0 meanwhile. So changes are waited for
to end, and then one burst moves what must be moved.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import msgspec

from ipvs_agent.errors import KernelError
from ipvs_agent.kernel.api import Kernel
from ipvs_agent.model import Frontend, RealServer, RealServerKey, VirtualServerKey
from ipvs_agent.operations import AddRealServer, DeleteRealServer
from ipvs_agent.reconcile.achieved import Achieved, Held
from ipvs_agent.reconcile.claims import Claims, Key
from ipvs_agent.reconcile.foundation import EXPIRE_NODEST_CONN, SYSCTLS
from ipvs_agent.reconcile.report import Report
from ipvs_agent.reconcile.timers import RebuildDue, Timers
from ipvs_agent.schedulers import SCHEDULERS, Order, fills_table

_QUIET = 2.0
"""Seconds without a change of a virtual server before it is put in order."""
_LONGEST = 30.0
"""Seconds after which it is put in order though its changes do not end."""
_MANY = 1000
"""Real servers of one virtual server that take seconds to move: it is waited for longer, so that one new
endpoint after the other does not have all of them moved each time."""
_LONG_QUIET = 30.0
"""So long, too, where it is only for who comes first: under most schedulers each new endpoint would else have
one moved, and nobody waits for that."""
_LONGEST_OF_LONG = 300.0
_SETTLING = 0.5
"""Seconds from the end of expiry to the burst: a deletion before may have made the kernel walk through its
connections, and that walk must not meet a real server that is away for the moment."""
_BURST = 32
"""Real servers that are moved before the loop looks at other things: each has the table filled twice, which
takes up to a millisecond under mh."""
_PATIENCE = 2.0
"""Seconds until flows expire again though not all is in order, if anything has been moved: somebody waits for
it, the audit for one."""
_REST = 5.0
"""Seconds for which flows expire at least before they do not again, so that what becomes due meanwhile shares
one time, and audits, drain timeouts and UDP have theirs."""
_LONG_REST = 30.0
"""The same where it is only for who comes first."""
_AWAY = 5.0
"""Seconds that flows do not expire at most for the sake of real servers that were deleted and could not be
added again: their connections live until then."""
_LOOK = 0.1
"""Seconds until it is looked again whether they are back."""
_RETRY = 30.0
"""Seconds until expiry is tried to be ended again, where the kernel's settings cannot be written."""


class _Spell(msgspec.Struct):
    """Since when a virtual server is out of order, and when it last changed."""

    began: float
    changed: float
    moves: int
    """How many real servers must be moved, at least."""
    fills_table: bool
    """Whether more than who comes first depends on it."""
    was_refused: bool = False
    """Whether the kernel refused something when it was last tried."""

    @property
    def due(self) -> float:
        """When to put it in order."""
        if self.moves > _MANY or not self.fills_table:
            return min(self.changed + _LONG_QUIET, self.began + _LONGEST_OF_LONG)
        return min(self.changed + _QUIET, self.began + _LONGEST)

    @property
    def rest(self) -> float:
        """For how long flows must have expired before."""
        return _REST if self.fills_table else _LONG_REST


def misplaced(wanted: Frontend | None, held: Held | None) -> list[RealServer]:
    """Return the real servers to delete and to add again, in this order, as they are held.

    Those that drain have no place of their own, and stay where they are; where the table has no room for all
    beside them, the others are added after them, for it is filled from the last added on. It is the wanted
    scheduler that counts: one that is waited for then fills its table once, from a list in order.
    """
    if wanted is None or held is None:
        return []
    scheduler = SCHEDULERS.get(wanted.virtual_server.scheduler)
    if scheduler is None:
        return []
    if scheduler.order is not Order.CANONICAL:
        return _head_elsewhere(wanted, held.real_servers, is_ranked=scheduler.order is Order.RANKED)
    endpoints = {server.endpoint: None for server in wanted.real_servers}
    draining = {endpoint for endpoint in held.real_servers if endpoint not in endpoints}
    unmoved = iter(held.real_servers)
    if draining and _is_crowded(wanted, len(draining)):
        while draining:
            draining.discard(next(unmoved))
    return _behind_longest_beginning(endpoints, held.real_servers, unmoved)


def _head_elsewhere(
    wanted: Frontend, held: dict[RealServerKey, RealServer], *, is_ranked: bool
) -> list[RealServer]:
    """Return the one that comes first, if another one does; those of weight 0 do not count.

    is_ranked: only those of the highest weight do.
    """
    head = held.get(wanted.real_servers[-1].endpoint) if wanted.real_servers else None
    if head is None or not head.weight:
        return []
    least = max(server.weight for server in held.values()) if is_ranked else 1
    first = next(server for server in reversed(held.values()) if server.weight >= least)
    return [head] if first is not head and head.weight >= least else []


def _is_crowded(wanted: Frontend, draining: int) -> bool:
    """Tell whether real servers may be left without a place because of so many that drain."""
    scheduler = SCHEDULERS[wanted.virtual_server.scheduler]
    weights = [server.weight for server in wanted.real_servers]
    # What the weight of a draining one was before is not remembered.
    most_of_each = max(weights, default=0) if scheduler.keeps_places else 1
    taken = sum(max(1, weight) for weight in weights) + draining * most_of_each
    return bool(scheduler.weight_sum) and taken > scheduler.weight_sum


def _behind_longest_beginning(
    wanted: Iterable[RealServerKey],
    held: Mapping[RealServerKey, RealServer],
    unseen: Iterator[RealServerKey],
) -> list[RealServer]:
    """Return what remains of the wanted order behind as much of it as is held in that order.

    unseen: those held that may stay where they are.
    """
    present = [endpoint for endpoint in wanted if endpoint in held]
    for number, endpoint in enumerate(present):
        if endpoint not in unseen:  # which takes all up to it
            return [held[each] for each in present[number:]]
    return []


class Rebuilds:
    """Puts real servers in order; used by the keeper alone."""

    def __init__(
        self,
        kernel: Kernel,
        claims: Claims,
        achieved: Achieved,
        timers: Timers,
        report: Report,
        clock: Callable[[], float],
    ) -> None:
        self._kernel = kernel
        self._claims = claims
        self._achieved = achieved
        self._timers = timers
        self._report = report
        self._clock = clock
        self._spells: dict[VirtualServerKey, _Spell] = {}
        self.is_kept_waiting = False
        """Whether something was to begin, and somebody else was at work on the kernel's settings then."""
        self._held_since: float | None = None
        """Since when no flow expires."""
        self._released = 0.0
        """Since when flows expire again."""
        self._planned: float | None = None
        """When the next RebuildDue is due; others that are on their way count for nothing."""
        self._next_attempt = 0.0
        """When the kernel's settings are tried again that could not be written."""
        self._away: dict[VirtualServerKey, set[RealServerKey]] = {}
        """Real servers that were deleted and could not be added again."""
        self._moved = 0
        self._refusals = 0
        self._is_barred = False
        """Whether the kernel's settings could not be written at the last attempt."""

    @property
    def holds_expiry(self) -> bool:
        """Whether the flows of removed real servers do not expire now, as they do otherwise."""
        return self._held_since is not None

    @property
    def is_pending(self) -> bool:
        """Whether something will be put in order within a moment."""
        is_any_new = any(spell.fills_table and not spell.was_refused for spell in self._spells.values())
        return not self._is_barred and (is_any_new or self._are_any_away())

    @property
    def is_complete(self) -> bool:
        """Whether all is in order, but for who comes first."""
        return not any(spell.fills_table for spell in self._spells.values())

    def watch(self, keys: Iterable[Key], now: float) -> None:
        """Take note of virtual servers that have changed."""
        for key in keys:
            if not isinstance(key, VirtualServerKey):
                continue
            moves = len(self._misplaced(key))
            if moves:
                spell = self._spells.setdefault(key, _Spell(now, now, moves, fills_table=False))
                spell.changed, spell.moves, spell.fills_table = now, moves, self._fills_table(key)
                self._plan(spell.due)
            else:
                self._spells.pop(key, None)

    def step(self, *, may_begin: bool) -> dict[VirtualServerKey, None]:
        """Do what is due; return the virtual servers of which the kernel refused something.

        They must be brought to where they should be at once, and again until they are there.

        may_begin: nobody else is at work on the kernel's settings.
        """
        now = self._clock()
        if self._planned is None or now < self._planned:
            return {}
        self._planned = None
        if self._held_since is None:
            self._begin(now, may_begin=may_begin)
        elif self._are_any_away() and now < self._held_since + _AWAY:
            self._plan(now + _LOOK)
        elif next(self._due(now), None) is None or (self._moved and now >= self._held_since + _PATIENCE):
            self.release()
        elif now < self._held_since + _SETTLING:
            self._plan(self._held_since + _SETTLING)
        else:
            self._plan(now)
            return self._move(now)
        return {}

    def release(self) -> None:
        """Let flows expire again."""
        if self._held_since is None:
            return
        now = self._clock()
        if not self._let_expire(True):
            self._plan(now + _SETTLING)
            return
        self._report.put_in_order(self._moved, self._refusals, now - self._held_since)
        self._held_since, self._moved, self._refusals = None, 0, 0
        self._away.clear()
        self._released = now
        if self._spells:
            self._plan(self._next_due())

    def _begin(self, now: float, *, may_begin: bool) -> None:
        """Have flows not expire, if something is due and they have done so for long enough."""
        self.is_kept_waiting = False
        if not self._spells:
            return
        if now < self._next_due():
            self._plan(self._next_due())
        elif not may_begin:
            self.is_kept_waiting = True
            self._plan(now + _SETTLING)
        elif self._let_expire(False):
            self._held_since = now
            self._plan(now + _SETTLING)
        else:
            self._next_attempt = now + _RETRY
            self._plan(self._next_attempt)

    def _plan(self, due: float) -> None:
        if self._planned is None or due < self._planned:
            self._planned = due
            self._timers.add(due, RebuildDue())

    def _next_due(self) -> float:
        due = min(max(spell.due, self._released + spell.rest) for spell in self._spells.values())
        return max(due, self._next_attempt)

    def _are_any_away(self) -> bool:
        """Tell whether real servers that are asked for wait to be added again."""
        for key, endpoints in list(self._away.items()):
            wanted, held = self._claims.frontend(key), self._achieved.virtual_servers.get(key)
            there = held.real_servers if held is not None else {}
            asked_for = () if wanted is None else (server.endpoint for server in wanted.real_servers)
            endpoints.intersection_update(endpoint for endpoint in asked_for if endpoint not in there)
            if not endpoints:
                del self._away[key]
        return bool(self._away)

    def _due(self, now: float) -> Iterator[VirtualServerKey]:
        return (key for key, spell in self._spells.items() if spell.due <= now)

    def _move(self, now: float) -> dict[VirtualServerKey, None]:
        operations: list[DeleteRealServer | AddRealServer] = []
        looked_at: list[VirtualServerKey] = []
        for key in self._due(now):
            looked_at.append(key)
            for server in self._misplaced(key)[: _BURST - len(operations) // 2]:
                operations += [DeleteRealServer(key, *server.endpoint), AddRealServer(key, server)]
            if len(operations) >= 2 * _BURST:
                break
        refused: dict[VirtualServerKey, None] = {}
        for operation, error in zip(operations, self._kernel.ipvs.apply(operations), strict=True):
            if error is None:
                self._achieved.record(operation)
                continue
            refused[operation.key] = None
            self._refusals += 1
            if isinstance(operation, AddRealServer):
                self._away.setdefault(operation.key, set()).add(operation.real_server.endpoint)
        for key in looked_at:
            moves = len(self._misplaced(key))
            if key in refused:
                del self._spells[key]  # it goes behind the others
                self._spells[key] = _Spell(now, now, moves, self._fills_table(key), was_refused=True)
            elif not moves:
                del self._spells[key]
        self._moved += len(operations) // 2
        return refused

    def _misplaced(self, key: VirtualServerKey) -> list[RealServer]:
        return misplaced(self._claims.frontend(key), self._achieved.virtual_servers.get(key))

    def _fills_table(self, key: VirtualServerKey) -> bool:
        wanted = self._claims.frontend(key)
        return wanted is not None and fills_table(wanted.virtual_server.scheduler)

    def _let_expire(self, may_expire: bool) -> bool:
        """Say whether flows of removed real servers expire from now on; return whether the kernel took it."""
        value = SYSCTLS[EXPIRE_NODEST_CONN] if may_expire else "0"
        try:
            self._kernel.sysctls.write(EXPIRE_NODEST_CONN, value)
        except KernelError as error:
            if not self._is_barred:
                self._report.not_in_order(error)
            self._is_barred = True
        else:
            self._is_barred = False
        return not self._is_barred
