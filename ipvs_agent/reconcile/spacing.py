"""How often one Service is served: one that changes all the time waits a little, and nobody waits for it.

A lone change never waits, nor do two in a row: most of what is new comes as a Service and then its endpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ipvs_agent.model import ObjectName
from ipvs_agent.reconcile.timers import ServiceDue, Timers


class Spacing:
    """Lets each Service have its turns a period apart, but for the first two; used by the loop alone.

    What a Service is to be is looked at when it has its turn, so it lags behind for a period at most.
    """

    def __init__(self, period: float, timers: Timers, clock: Callable[[], float]) -> None:
        self._period = period
        self._timers = timers
        self._clock = clock
        self._waiting: dict[ObjectName, None] = {}
        # For each Service the time up to which it has had its turns, at most two periods ahead. Those of two
        # stretches of that length are kept, and the older ones dropped at once: nothing walks over them.
        self._used: dict[ObjectName, float] = {}
        self._used_before: dict[ObjectName, float] = {}
        self._stretch_ends = 0.0

    def __len__(self) -> int:
        """Return how many Services wait for their turn."""
        return len(self._waiting)

    def admit(self, names: Iterable[ObjectName]) -> list[ObjectName]:
        """Return those of some Services whose turn it is; for each other one there is a ServiceDue."""
        now = self._clock()
        self._forget(now)
        return [name for name in names if self._may_go(name, now)]

    def end_wait(self, name: ObjectName) -> bool:
        """Tell whether a Service has waited until now."""
        was_waiting = name in self._waiting
        self._waiting.pop(name, None)
        return was_waiting

    def end_all(self) -> list[ObjectName]:
        """Return all that wait, which then do so no more."""
        names = list(self._waiting)
        self._waiting.clear()
        return names

    def _may_go(self, name: ObjectName, now: float) -> bool:
        used = max(now, self._used.get(name) or self._used_before.get(name, now))
        due = used - self._period
        if due > now:
            if name not in self._waiting:
                self._waiting[name] = None
                self._timers.add(due, ServiceDue(name))
            return False
        self._used[name] = used + self._period
        self._waiting.pop(name, None)
        return True

    def _forget(self, now: float) -> None:
        if now >= self._stretch_ends:
            self._used_before, self._used = self._used, {}
            self._stretch_ends = now + 2 * self._period
