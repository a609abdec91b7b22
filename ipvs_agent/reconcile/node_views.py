"""The node as Services are compiled for it: made of its Node object, its addresses and what was laid."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from ipvs_agent.addresses import Address
from ipvs_agent.desired.compile import NodeView
from ipvs_agent.model import VirtualServerKey
from ipvs_agent.reconcile.foundation import Ground, Needs
from ipvs_agent.reconcile.keeper import Keeper
from ipvs_agent.reconcile.messages import Laid
from ipvs_agent.reconcile.outlets import HealthBoard
from ipvs_agent.reconcile.report import Report
from ipvs_agent.reconcile.settings import (
    Settings,
    differing,
    is_touched,
    needs_now,
    node_view,
    sources,
    with_left,
)
from ipvs_agent.sources.changes import Kind, Listed, Put, Rejected, Removed
from ipvs_agent.sources.store import Store


class NodeViews:
    """Makes one view after the other; used by the reconciler alone."""

    def __init__(
        self, store: Store, keeper: Keeper, settings: Settings, report: Report, board: HealthBoard
    ) -> None:
        self._store = store
        self._keeper = keeper
        self._settings = settings
        self._report = report
        self._board = board
        self._laid_needs: Needs | None = None
        self.view: NodeView | None = None
        """The last one; None: too little is known yet."""
        self.ground: Ground | None = None
        """What was laid last."""
        self.own_addresses: frozenset[Address] = frozenset()
        self._gone: set[Address] = set()
        """Addresses that the node has lost since all were last read."""
        self.left: frozenset[VirtualServerKey] = frozenset()
        """The virtual servers of an agent before this one, until all that is asked for is known."""

    @property
    def needs(self) -> Needs | None:
        """What the foundation is to be; None while the Node must say more."""
        return needs_now(self._settings, self._store.node)

    @property
    def needs_to_lay(self) -> Needs:
        """What to lay now: until the Node says what the rules depend on, those of an earlier agent stay."""
        without_rules = msgspec.structs.replace(self._settings.needs, masquerade=None)
        return self.needs or self._laid_needs or without_rules

    @property
    def lags_behind(self) -> bool:
        """Whether the Node asks for other rules than were laid."""
        return self.needs not in (None, self._laid_needs)

    @property
    def has_other_schedulers(self) -> bool:
        """Whether the kernel knows other schedulers than the view says."""
        return self.view is not None and self._keeper.missing_schedulers != self.view.missing_schedulers

    def is_told_of(self, change: Put | Removed | Rejected | Listed) -> bool:
        """Tell whether a change that the store has is one of the view."""
        if change.kind is Kind.NODE:
            return True
        if self.view is None:
            return False
        is_said_of_left = isinstance(change, Listed) and bool(self.left)
        return is_said_of_left or self.view.api_servers != self._store.api_servers

    def note_laid(self, laid: Laid) -> None:
        """Take what was laid, and what was read of the node then."""
        self.ground, self._laid_needs = laid.ground, laid.needs
        # The worker may have read it before addresses went of which the loop has heard meanwhile.
        self.own_addresses = laid.tables.node_addresses - self._gone

    def note_addresses(self, addresses: frozenset[Address]) -> None:
        """Take the node's own addresses as they were read."""
        new, self.own_addresses = addresses - self.own_addresses, addresses
        self._gone.clear()
        self._keeper.try_sources_again(new)

    def note_gone(self, address: Address) -> None:
        """Take note that the node has just lost an address, before all are read again."""
        self._gone.add(address)
        self.own_addresses -= self._gone
        self._keeper.lose_source(address)

    def refresh(self) -> None:
        """Make a view, as soon as enough is known; what depends on what is different is dirty then."""
        if self.ground is None:
            return
        if self.view is None and self.needs is None:
            self._report.waits_for_node()
            return
        if self.view is None and self._settings.detects_by_node and self.lags_behind:
            return  # the rules come before what they are for
        self._keeper.prefer_sources(sources(self._known_as(), self.own_addresses))
        before, self.view = self.view, self._made(self.ground)
        default = self.view.scheduler.scheduler
        if default in self.view.missing_schedulers and not (before and default in before.missing_schedulers):
            self._report.lacks_default_scheduler(default)
        if before is not None and (fields := differing(before, self.view)):
            touched = (one for one in self._store.services.values() if is_touched(one, fields))
            self._store.dirty.update(dict.fromkeys(service.name for service in touched))
        chosen = self.view.node_port_addresses if self._settings.chooses_node_ports else None
        self._board.listen_on(chosen)

    def _known_as(self) -> Iterable[Address]:
        """Return the addresses that the cluster knows the node by; until they are known, what they were."""
        if self._store.node is not None:
            return self._store.node.addresses
        return () if Kind.NODE in self._store.listed else self._keeper.preferred_sources

    def _made(self, ground: Ground) -> NodeView:
        view = node_view(
            self._settings,
            ground,
            self.own_addresses,
            self._store.node,
            self._store.api_servers,
            frozenset(self._keeper.missing_schedulers),
        )
        return with_left(view, self.left, self._store.listed)
