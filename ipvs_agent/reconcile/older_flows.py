"""Flows that are older than the virtual server which is there for them now.

The kernel lets a tracked UDP flow go on as it began: past IPVS, to nobody, or to an endpoint that an iptables
mode has led it to and that may be gone. The table of flows has no index by address, so it is walked for many
new virtual servers at once, by the worker. What a walk that failed has looked for is looked for again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ipvs_agent.addresses import Address
from ipvs_agent.errors import KernelError
from ipvs_agent.kernel.api import FlowMatch, Kernel
from ipvs_agent.model import VirtualServerKey, mark_key
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
        self._again: dict[VirtualServerKey, None] = {}
        """The virtual servers whose flows a walk has looked for in vain."""
        self._is_planned = False
        self._walks = 0
        """Those that the worker has not finished."""
        self.failures = 0
        """Walks that have failed since the last one that did not."""

    @property
    def are_being_forgotten(self) -> bool:
        """Whether the worker has a walk to finish."""
        return self._walks > 0

    def watch(self, timers: Timers, now: float) -> None:
        """Plan a walk where virtual servers have come that may have older flows, or a walk has failed."""
        if not self._is_planned and (self._again or self._keeper.may_have_older_flows):
            self._is_planned = True
            backoff = self._keeper.retries.backoff(self.failures) if self.failures else 0.0
            timers.add(now + max(_DELAY, backoff), FlowsDue())

    def forget(self) -> None:
        """Have the flows removed that have never passed the virtual servers which are there for them now."""
        self._is_planned = False
        keys = tuple(dict.fromkeys((*self._again, *self._keeper.take_new_datagram_servers())))
        self._again.clear()
        matches = [
            FlowMatch(key.family, key.protocol, key.address, key.port, spared=frozenset(self._behind(key)))
            for key in keys
            if key in self._keeper.achieved.virtual_servers
        ]
        if not matches:
            self.failures = 0
            return
        self._walks += 1

        def walk() -> None:
            try:
                self._tell(FlowsForgotten(keys, self._background.conntrack.delete(matches)))
            except KernelError as error:
                self._tell(FlowsForgotten(keys, 0, error))

        self._worker.submit(walk)

    def note(self, walk: FlowsForgotten) -> None:
        """Take note of what became of a walk."""
        self._walks -= 1
        if walk.error is None:
            self.failures = 0
        else:
            self.failures += 1
            self._again.update(dict.fromkeys(walk.keys))

    def _behind(self, key: VirtualServerKey) -> Iterator[Address]:
        """Yield who answers on an address by now, be it behind a mark."""
        achieved = self._keeper.achieved
        marking = achieved.marking(key)
        by_mark = () if marking is None else (mark_key(key.family, marking.mark),)
        for one in (key, *by_mark):
            if (held := achieved.virtual_servers.get(one)) is not None:
                yield from (address for address, _ in held.real_servers)
