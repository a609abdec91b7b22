"""What each Service is to be on this node: from what the sources say of it, and from what is remembered."""

from __future__ import annotations

from ipvs_agent.desired.compile import NodeView, compile_service
from ipvs_agent.model import ObjectName, ServicePlan
from ipvs_agent.reconcile.crowds import Crowds
from ipvs_agent.reconcile.figures import Figures
from ipvs_agent.reconcile.health import Health
from ipvs_agent.reconcile.keeper import Keeper
from ipvs_agent.reconcile.marks import Marks
from ipvs_agent.reconcile.unserved import Unserved
from ipvs_agent.sources.store import Store


class Planner:
    """Compiles Services, and says what of them is not served; used by the reconciler alone."""

    def __init__(
        self,
        store: Store,
        keeper: Keeper,
        marks: Marks,
        crowds: Crowds,
        unserved: Unserved,
        *,
        health: Health,
        figures: Figures,
    ) -> None:
        self._store = store
        self._keeper = keeper
        self._marks = marks
        self._crowds = crowds
        self._unserved = unserved
        self._health = health
        self._figures = figures

    def plan(self, name: ObjectName, view: NodeView | None) -> ServicePlan | None:
        """Return what a Service is to be on a node; None where it is gone."""
        service = self._store.services.get(name)
        slices = self._store.slices(name)
        if service is None or view is None:
            # The slices of a Service that goes follow it within a moment, and are not worth a word.
            orphans = () if self._keeper.claims.has_plan(name) else slices
            self._unserved.orphaned(name, orphans)
            self._marks.release(name)
            self._crowds.forget(name)
            self._health.plan(name, None)
            self._figures.note(name, frozenset())
            return None
        plan = compile_service(service, slices, view, self._marks.of(service, view), self._crowds.of(name))
        self._crowds.note(name, plan.counts)
        self._unserved.planned(name, plan.skipped)
        self._health.plan(name, plan.health)
        self._figures.note(name, plan.not_local)
        return plan
