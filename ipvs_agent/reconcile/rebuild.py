"""Keeping real servers in order under schedulers that fill a table from the kernel's list.

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
from ipvs_agent.schedulers import fills_table

_QUIET = 2.0
"""Seconds without a change of a virtual server before it is put in order."""
_LONGEST = 30.0
"""Seconds after which it is put in order though its changes do not end."""
_SETTLING = 0.5
"""Seconds from the end of expiry to the burst: a deletion before may have made the kernel walk through its
connections, and that walk must not meet a real server that is away for the moment."""
_BURST = 32
"""Real servers that are moved before the loop looks at other things: each has the table filled twice, which
takes up to a millisecond under mh."""
_PATIENCE = 2.0
"""Seconds until flows expire again though not all is in order: somebody waits for it, the audit for one."""
_RETRY = 30.0
"""Seconds until expiry is tried to be ended again, where the kernel's settings cannot be written."""


class _Spell(msgspec.Struct):
    """Since when a virtual server is out of order, and when it last changed."""

    began: float
    changed: float

    @property
    def due(self) -> float:
        """When to put it in order."""
        return min(self.changed + _QUIET, self.began + _LONGEST)


def misplaced(wanted: Frontend | None, held: Held | None) -> list[RealServer]:
    """Return the real servers to delete and to add again, in this order, as they are held.

    Those that drain have no place of their own, and stay where they are.
    """
    if wanted is None or held is None or not fills_table(wanted.virtual_server.scheduler):
        return []
    return _behind_longest_beginning([server.endpoint for server in wanted.real_servers], held.real_servers)


def _behind_longest_beginning(
    wanted: Iterable[RealServerKey], held: Mapping[RealServerKey, RealServer]
) -> list[RealServer]:
    """Return what remains of the wanted order behind as much of it as is held in that order."""
    present = [endpoint for endpoint in wanted if endpoint in held]
    unseen = iter(held)
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
        self._held_since: float | None = None
        """Since when no flow expires."""
        self._moved = 0
        self._refusals = 0
        self._has_failed = False
        """Whether the last attempt was refused something."""

    @property
    def holds_expiry(self) -> bool:
        """Whether the flows of removed real servers do not expire now, as they do otherwise."""
        return self._held_since is not None

    @property
    def is_pending(self) -> bool:
        """Whether something will be put in order within a moment."""
        return bool(self._spells) and not self._has_failed

    def watch(self, keys: Iterable[Key]) -> None:
        """Take note of virtual servers that have changed."""
        now = self._clock()
        is_any_misplaced = False
        for key in keys:
            if isinstance(key, VirtualServerKey) and self._misplaced(key):
                self._spells.setdefault(key, _Spell(now, now)).changed = now
                is_any_misplaced = True
            elif isinstance(key, VirtualServerKey):
                self._spells.pop(key, None)
        if is_any_misplaced:
            self._timers.add(now + _QUIET, RebuildDue())

    def step(self, *, may_begin: bool) -> dict[VirtualServerKey, None]:
        """Do what is due; return the virtual servers of which the kernel refused something.

        may_begin: nobody else is at work on the kernel's settings.
        """
        now = self._clock()
        refused: dict[VirtualServerKey, None] = {}
        if next(self._due(now), None) is None:
            self.release()
        elif self._held_since is None:
            is_refused = may_begin and not self._let_expire(False)
            if may_begin and not is_refused:
                self._held_since = now
            self._timers.add(now + (_RETRY if is_refused else _SETTLING), RebuildDue())
        elif now - self._held_since >= _PATIENCE:
            self.release()
            self._timers.add(now + _PATIENCE, RebuildDue())
        elif now - self._held_since >= _SETTLING:
            refused = self._move(now)
            self._timers.add(now, RebuildDue())
        return refused

    def release(self) -> None:
        """Let flows expire again."""
        if self._held_since is None:
            return
        if self._let_expire(True):
            self._report.put_in_order(self._moved, self._refusals, self._clock() - self._held_since)
            self._held_since, self._moved, self._refusals = None, 0, 0
        else:
            self._timers.add(self._clock() + _SETTLING, RebuildDue())

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
            else:
                refused[operation.key] = None
                self._refusals += 1
        self._has_failed = bool(refused)
        for key in looked_at:
            if key in refused or not self._misplaced(key):
                del self._spells[key]
        self._moved += len(operations) // 2
        return refused

    def _misplaced(self, key: VirtualServerKey) -> list[RealServer]:
        return misplaced(self._claims.frontend(key), self._achieved.virtual_servers.get(key))

    def _let_expire(self, may_expire: bool) -> bool:
        """Say whether flows of removed real servers expire from now on; return whether the kernel took it."""
        value = SYSCTLS[EXPIRE_NODEST_CONN] if may_expire else "0"
        try:
            self._kernel.sysctls.write(EXPIRE_NODEST_CONN, value)
        except KernelError as error:
            if not self._has_failed:
                self._report.not_in_order(error)
            self._has_failed = True
            return False
        return True
