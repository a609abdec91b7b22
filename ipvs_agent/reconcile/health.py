"""What load balancers hear of this node: how many endpoints a Service has, and whether the agent works."""

from __future__ import annotations

from collections.abc import Callable

from ipvs_agent.addresses import Family
from ipvs_agent.model import HealthCheck, Node, NodeHealth, ObjectName
from ipvs_agent.reconcile.outlets import HealthBoard

_PERIODS = 2
"""For so many sync periods the agent may be kept from its work before it is unhealthy, as kube-proxy."""
_LEAST_PATIENCE = 60.0
"""Seconds; a busy machine is not unhealthy because its sync period is short."""
_HANGING = 2
"""The loop turns at each audit at the latest; one that has not turned for so many patiences hangs."""


class Health:
    """Tells the board what has changed; `now` may be asked in any thread."""

    def __init__(self, board: HealthBoard, sync_period: float, clock: Callable[[], float]) -> None:
        self._board = board
        self._patience = max(_PERIODS * sync_period, _LEAST_PATIENCE)
        self._clock = clock
        self._families: frozenset[Family] = frozenset()
        self._was_node_there = False
        self._is_eligible = False
        """Nobody has said so yet."""
        self._checks: dict[ObjectName, HealthCheck] = {}
        self._planned: dict[ObjectName, HealthCheck | None] = {}
        """What they are to hear instead."""
        self._noted = clock()
        self._good = self._noted
        """When it was last not behind."""
        self._behind_since: float | None = self._noted

    def now(self) -> NodeHealth:
        """Tell whether the loop turns and has not been kept from its work for long, and of the node."""
        now, noted, since = self._clock(), self._noted, self._behind_since
        is_late = since is not None and now - since >= self._patience
        is_healthy = not is_late and now - noted < _HANGING * self._patience
        return NodeHealth(is_healthy, self._is_eligible, now - self._good, self._families)

    def note_node(self, node: Node | None) -> None:
        """Take note of the Node object once it is known whether there is one.

        None: it has gone, or there never was one, as among most manifests; then nobody wants to hear of it.
        """
        self._was_node_there |= node is not None
        self._is_eligible = not node.is_leaving if node is not None else not self._was_node_there

    def note_families(self, families: frozenset[Family]) -> None:
        """Take note of the families that are served."""
        self._families = families

    def note(self, *, is_behind: bool) -> None:
        """Take note, at each turn of the loop, whether something keeps it from its work."""
        self._noted = self._clock()
        if not is_behind:
            self._good, self._behind_since = self._noted, None
        elif self._behind_since is None:
            self._behind_since = self._noted

    def plan(self, name: ObjectName, check: HealthCheck | None) -> None:
        """Take note of what load balancers are to hear of a Service; None: nothing."""
        if self._checks.get(name) != check:
            self._planned[name] = check

    def publish_losses(self) -> None:
        """Have load balancers hear where nobody is to be sent any more, before nobody is served there."""
        for name, check in list(self._planned.items()):
            if check is None or check.local_endpoints == 0:
                self._publish(name, check)

    def publish(self) -> None:
        """Have load balancers hear all that was planned, once the kernel has been brought to it."""
        for name, check in list(self._planned.items()):
            self._publish(name, check)

    def _publish(self, name: ObjectName, check: HealthCheck | None) -> None:
        del self._planned[name]
        self._board.publish(name, check)
        if check is not None:
            self._checks[name] = check
        else:
            del self._checks[name]
