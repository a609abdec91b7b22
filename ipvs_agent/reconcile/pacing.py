"""One scheduler at a time.

For a virtual server that gets another scheduler the kernel waits until no CPU uses the old one, 10 ms and
more, under a lock that all requests for IPVS need (ip_vs_edit_service, synchronize_rcu). So each such change
is a burst of its own, and then everybody else has as long as it took. Flags and persistence are changed
without that wait, and so is a virtual server that has no scheduler yet.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from ipvs_agent.model import Frontend, VirtualServerKey
from ipvs_agent.reconcile.achieved import Held
from ipvs_agent.reconcile.put_off import with_held_scheduler
from ipvs_agent.reconcile.timers import SchedulerTurn, Timers


class Pacing:
    """Lets virtual servers have their new schedulers in turn; used by the keeper alone."""

    def __init__(self, timers: Timers, clock: Callable[[], float]) -> None:
        self._timers = timers
        self._clock = clock
        self._waiting: dict[VirtualServerKey, None] = {}
        self._turn: VirtualServerKey | None = None
        self._is_planned = False
        self._rest_ends = 0.0

    def __contains__(self, key: object) -> bool:
        """Tell whether a virtual server waits for its turn."""
        return key in self._waiting

    def __len__(self) -> int:
        """Return how many virtual servers wait."""
        return len(self._waiting)

    def attainable(
        self, key: VirtualServerKey, wanted: Frontend | None, held: Held | None
    ) -> Frontend | None:
        """Return what a virtual server can be now: what is wanted, or that with the scheduler it has."""
        if wanted is None or held is None or not _is_slow(wanted, held):
            self._waiting.pop(key, None)
            return wanted
        if key == self._turn:
            return wanted
        self._waiting[key] = None
        self._plan()
        return with_held_scheduler(wanted, held)

    @contextlib.contextmanager
    def turn(self) -> Iterator[VirtualServerKey | None]:
        """Give the one that has waited longest its turn, for the length of a with block."""
        self._is_planned = False
        started = self._clock()
        self._turn = next(iter(self._waiting), None)
        if self._turn is not None:
            del self._waiting[self._turn]
        try:
            yield self._turn
        finally:
            self._turn = None
            now = self._clock()
            self._rest_ends = now + (now - started)
            if self._waiting:
                self._plan()

    def _plan(self) -> None:
        if not self._is_planned:
            self._is_planned = True
            self._timers.add(max(self._clock(), self._rest_ends), SchedulerTurn())


def _is_slow(wanted: Frontend, held: Held) -> bool:
    return held.virtual_server.scheduler not in ("", wanted.virtual_server.scheduler)
