"""Flows that are older than the virtual server which is there for them now.

The kernel lets a tracked UDP flow go on as it began: past IPVS, to nobody or to an endpoint that is gone. The
table of flows has no index by address, so it is walked for many new virtual servers at once, by the worker.
"""

from __future__ import annotations

from collections.abc import Callable

from ipvs_agent.errors import KernelError
from ipvs_agent.kernel.api import Kernel
from ipvs_agent.reconcile.keeper import Keeper
from ipvs_agent.reconcile.messages import FlowsForgotten
from ipvs_agent.reconcile.timers import FlowsDue, Timers
from ipvs_agent.reconcile.worker import Worker

_DELAY = 0.2
"""Seconds for which new virtual servers are collected."""


class OlderFlows:
    """Has them removed, so that their next packet finds the virtual server."""

    def __init__(
        self, keeper: Keeper, background: Kernel, worker: Worker, tell: Callable[[FlowsForgotten], None]
    ) -> None:
        self._keeper = keeper
        self._background = background
        self._worker = worker
        self._tell = tell
        self._is_waiting = False

    def watch(self, timers: Timers, now: float) -> None:
        """Plan a walk where virtual servers have come that may have older flows."""
        if self._keeper.may_have_older_flows and not self._is_waiting:
            self._is_waiting = True
            timers.add(now + _DELAY, FlowsDue())

    def forget(self) -> None:
        """Have the flows removed that have never passed the virtual servers which are there for them now."""
        self._is_waiting = False
        matches = self._keeper.take_older_flows()

        def walk() -> None:
            try:
                self._tell(FlowsForgotten(self._background.conntrack.delete(matches)))
            except KernelError as error:
                self._tell(FlowsForgotten(0, error))

        self._worker.submit(walk)
