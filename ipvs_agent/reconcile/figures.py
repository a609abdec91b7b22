"""What is counted over all Services, for whoever watches this node."""

from __future__ import annotations

from collections import Counter

from ipvs_agent.addresses import Family
from ipvs_agent.model import ObjectName, TrafficPolicy
from ipvs_agent.reconcile.outlets import Metrics

_Policies = frozenset[tuple[TrafficPolicy, Family]]


class Figures:
    """Counts what plans say, and tells the metrics what has changed; used by the reconciler alone."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._not_local: dict[ObjectName, _Policies] = {}
        self._services: Counter[tuple[TrafficPolicy, Family]] = Counter()

    def note(self, name: ObjectName, not_local: _Policies) -> None:
        """Take note of the policies of a Service that are Local without an endpoint on this node."""
        before = self._not_local.get(name, frozenset())
        if not_local == before:
            return
        self._services.update(not_local)
        self._services.subtract(before)
        for policy, family in not_local ^ before:
            self._metrics.count_not_local(policy, family, self._services[policy, family])
        if not_local:
            self._not_local[name] = not_local
        else:
            del self._not_local[name]
