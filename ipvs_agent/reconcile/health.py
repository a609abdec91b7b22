"""What load balancers hear of this node: how many endpoints a Service has, and whether the agent works."""

from __future__ import annotations

from collections.abc import Callable

from ipvs_agent.model import HealthCheck, ObjectName
from ipvs_agent.reconcile.outlets import HealthBoard

_PERIODS = 2
"""For so many sync periods something may be undone before the agent calls itself unhealthy, as kube-proxy."""


class Health:
    """Tells the board what has changed; `is_healthy` may be asked in any thread."""

    def __init__(self, board: HealthBoard, sync_period: float, clock: Callable[[], float]) -> None:
        self._board = board
        self._patience = _PERIODS * sync_period
        self._clock = clock
        self._checks: dict[ObjectName, HealthCheck] = {}
        self._behind_since: float | None = clock()

    def is_healthy(self) -> bool:
        """Tell whether the kernel is as it should be, or has not been otherwise for long."""
        since = self._behind_since
        return since is None or self._clock() - since < self._patience

    def note(self, *, is_behind: bool) -> None:
        """Take note whether something is not where it should be."""
        if not is_behind:
            self._behind_since = None
        elif self._behind_since is None:
            self._behind_since = self._clock()

    def publish(self, name: ObjectName, check: HealthCheck | None) -> None:
        """Have load balancers hear of a Service, where it differs from what they heard; None: no longer."""
        if self._checks.get(name) == check:
            return
        self._board.publish(name, check)
        if check is not None:
            self._checks[name] = check
        else:
            del self._checks[name]
