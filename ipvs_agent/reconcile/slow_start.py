"""Slow start: a real server that comes to others gets its weight step by step.

It is for what must warm up. So neither the first real servers of a virtual server have one, nor those that an
agent finds at its start, nor one that returns while it drains.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from ipvs_agent.model import Frontend, RealServer, RealServerKey, VirtualServerKey
from ipvs_agent.reconcile.achieved import Held
from ipvs_agent.reconcile.timers import RampStep, Timers
from ipvs_agent.schedulers.scheduler import RAMP_STEPS

_HAIR = 1e-6
"""Of a step: a timer that is due to the moment must find its step taken, whatever was lost in division."""


class _Ramps(msgspec.Struct):
    """The real servers of a virtual server, as they were last wanted."""

    known: frozenset[RealServerKey]
    came: dict[RealServerKey, float]
    """When those came that are not at their full weight yet."""
    due: float | None = None
    """When the next step is planned."""


class SlowStart:
    """Lets real servers have their weights in time; used by the keeper alone."""

    def __init__(self, timers: Timers, clock: Callable[[], float]) -> None:
        self._timers = timers
        self._clock = clock
        self._ramps: dict[VirtualServerKey, _Ramps] = {}

    def attainable(
        self, key: VirtualServerKey, wanted: Frontend | None, held: Held | None, *, is_starting: bool
    ) -> Frontend | None:
        """Return what a virtual server can be now: what is wanted, with the weights that are due.

        is_starting: what comes now was there before the agent was.
        """
        if wanted is None or not wanted.slow_start_seconds:
            self._ramps.pop(key, None)
            return wanted
        ramps = self._ramps.get(key)
        endpoints = frozenset(server.endpoint for server in wanted.real_servers)
        if ramps is None:
            ramps = self._ramps[key] = _Ramps(endpoints, {})
        now = self._clock()
        if not is_starting and endpoints & ramps.known:
            draining = held.real_servers if held is not None else {}
            ramps.came.update(dict.fromkeys(endpoints - ramps.known - draining.keys(), now))
        ramps.known = endpoints
        steps = {
            endpoint: _step(now - since, wanted.slow_start_seconds)
            for endpoint, since in ramps.came.items()
            if endpoint in endpoints
        }
        ramps.came = {endpoint: ramps.came[endpoint] for endpoint, step in steps.items() if step < RAMP_STEPS}
        if not ramps.came:
            return wanted
        self._plan(key, ramps, steps, wanted.slow_start_seconds)
        weighed = tuple([_weighed(server, steps.get(server.endpoint)) for server in wanted.real_servers])
        return msgspec.structs.replace(wanted, real_servers=weighed)

    def take_step(self, key: VirtualServerKey) -> None:
        """Take note that a planned step is taken."""
        ramps = self._ramps.get(key)
        if ramps is not None:
            ramps.due = None

    def _plan(
        self, key: VirtualServerKey, ramps: _Ramps, steps: dict[RealServerKey, int], seconds: float
    ) -> None:
        due = min(since + steps[endpoint] * _interval(seconds) for endpoint, since in ramps.came.items())
        if ramps.due is None or due < ramps.due:
            ramps.due = due
            self._timers.add(due, RampStep(key))


def _interval(seconds: float) -> float:
    """Return how long a step lasts: the first one is there at once, the last one at the end."""
    return seconds / (RAMP_STEPS - 1)


def _step(elapsed: float, seconds: float) -> int:
    return min(RAMP_STEPS, 1 + int(elapsed / _interval(seconds) + _HAIR))


def _weighed(server: RealServer, step: int | None) -> RealServer:
    if step is None:
        return server
    return msgspec.structs.replace(server, weight=server.weight * step // RAMP_STEPS)
