"""Ports that have, or had a moment ago, more endpoints than a scheduler's table has room for.

Such a port is given another scheduler at once, for not all would be served. Each change of a scheduler
refuses clients for a moment, so a number that goes up and down at the edge must not bring one each time:
there is room again when there has been for a while.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ipvs_agent.desired.compile import NO_CROWDS
from ipvs_agent.model import ObjectName, ServicePort
from ipvs_agent.reconcile.timers import RoomDue, Timers
from ipvs_agent.schedulers import TABLE_SIZES

_PATIENCE = 60.0


class Crowds:
    """Remembers which ports were crowded; used by the reconciler alone."""

    def __init__(self, timers: Timers, clock: Callable[[], float]) -> None:
        self._timers = timers
        self._clock = clock
        self._ended: dict[ObjectName, dict[tuple[ServicePort, int], float | None]] = {}
        """When there was room in a table of some size again; None: there is none yet."""

    def of(self, name: ObjectName) -> Mapping[ServicePort, int]:
        """Return how many endpoints must have room behind ports of a Service, though they may have fewer."""
        ports = self._ended.get(name)
        if ports is None:
            return NO_CROWDS
        now = self._clock()
        crowded = [
            (port, room + 1)
            for (port, room), ended in ports.items()
            if ended is None or now - ended < _PATIENCE
        ]
        return dict(sorted(crowded, key=lambda one: one[1]))

    def note(self, name: ObjectName, counts: Mapping[ServicePort, int]) -> None:
        """Take note of how many endpoints the ports of a Service have now; those with few may be left out."""
        if not counts and name not in self._ended:
            return  # as nearly always
        now = self._clock()
        is_over = {(port, room) for port, count in counts.items() for room in TABLE_SIZES if count > room}
        before = self._ended.pop(name, {})
        after = dict.fromkeys(is_over) | {
            each: now if ended is None else ended
            for each, ended in before.items()
            if each not in is_over and (ended is None or now - ended < _PATIENCE)
        }
        if after:
            self._ended[name] = after
        if now in after.values():
            self._timers.add(now + _PATIENCE, RoomDue(name))

    def forget(self, name: ObjectName) -> None:
        """Take note that a Service is gone."""
        self._ended.pop(name, None)
