"""What the sources have said so far: the newest form of every object, and which Services it touches."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping

from ipvs_agent.model import EndpointSlice, Node, ObjectName, RealServerKey, Service
from ipvs_agent.sources.changes import Kind, Listed, Put, Rejected, Removed

API_SERVER = ObjectName("default", "kubernetes")
"""The Service through which pods reach the API server."""
FIRST = (API_SERVER, ObjectName("kube-system", "kube-dns"))
"""What comes before all else, for nearly all else needs it: the API server, and the names of the cluster.

What is labelled as the DNS of the cluster comes behind them.
"""
_MOST_DNS = 16
"""So many by label, at most: a label can be put on anything."""


class Store:
    """Objects by name, the slices of each Service beside it; `dirty` collects what has to be compiled."""

    def __init__(self, node_name: str) -> None:
        self.node: Node | None = None
        """The node that the agent runs on; a folder of manifests may know others too."""
        self._node_name = node_name
        self.listed: set[Kind] = set()
        self.dirty: dict[ObjectName, None] = {}
        """Services touched since the last `take_dirty`, in the order in which they were."""
        self._services: dict[ObjectName, Service] = {}
        self._dns: dict[ObjectName, None] = {}
        """Services that are labelled as the DNS of the cluster."""
        self._slices: dict[ObjectName, EndpointSlice] = {}
        self._slices_of: dict[ObjectName, tuple[EndpointSlice, ...]] = {}
        self.api_servers: frozenset[RealServerKey] = frozenset()
        """Where the API server is, as its own Service's slices say."""

    @property
    def complete(self) -> bool:
        """Whether every kind has been listed whole, so that what is not here is known to be gone."""
        return len(self.listed) == len(Kind)

    @property
    def services(self) -> Mapping[ObjectName, Service]:
        """The Services by name."""
        return self._services

    def slices(self, service: ObjectName) -> Collection[EndpointSlice]:
        """Return the slices of a Service."""
        return self._slices_of.get(service, ())

    def service_nearby(self, name: ObjectName) -> tuple[Service, bool] | None:
        """Return a Service, and whether it has an endpoint on this node."""
        service = self._services.get(name)
        if service is None:
            return None
        behind = (
            endpoint
            for one in self.slices(name)
            for endpoints in one.endpoints.values()
            for endpoint in endpoints
        )
        return service, any(endpoint.node == self._node_name for endpoint in behind)

    def precedence(self, name: ObjectName) -> tuple[int, str, ObjectName]:
        """Return what puts older Services before younger ones, and first those that others need."""
        service = self._services.get(name)
        return (self.rank(name), service.created if service is not None else "", name)

    def apply(self, change: Put | Removed | Rejected | Listed) -> None:
        """Take in one change; what is as it was touches nothing."""
        if isinstance(change, Put):
            self._put(change)
        elif isinstance(change, Listed):
            self._prune(change)
        elif change.name is not None:
            self._remove(change.kind, change.name)

    def take_dirty(self, limit: int) -> list[ObjectName]:
        """Return and forget so many dirty Services: what others need, then those touched first and last.

        Half of each, so that a lone change does not wait for the crowd before it, nor anyone for ever.
        """
        needed = [name for name in (*FIRST, *self._dns) if name in self.dirty]
        first = itertools.islice(self.dirty, limit - limit // 2)
        last = itertools.islice(reversed(self.dirty), limit // 2)
        taken = list(dict.fromkeys((*needed, *first, *last)))
        for name in taken:
            del self.dirty[name]
        return taken

    def rank(self, name: ObjectName) -> int:
        """Return what puts Services first that others need."""
        if name in FIRST:
            return FIRST.index(name)
        return len(FIRST) + (name not in self._dns)

    def _put(self, change: Put) -> None:
        new = change.object
        if isinstance(new, Service):
            if self._services.get(new.name) != new:
                self._services[new.name] = new
                self.dirty[new.name] = None
                if new.is_dns and len(self._dns) < _MOST_DNS:
                    self._dns[new.name] = None
                elif not new.is_dns:
                    self._dns.pop(new.name, None)
        elif isinstance(new, EndpointSlice):
            self._put_slice(new)
        elif new.name == self._node_name:
            self.node = new

    def _put_slice(self, new: EndpointSlice) -> None:
        old = self._slices.get(new.name)
        if old == new:
            return
        if old is not None and old.service != new.service:
            self._remove(Kind.ENDPOINT_SLICE, old.name)
        self._slices[new.name] = new
        self._slices_of[new.service] = (*self._siblings(new), new)
        self._touch_slices(new.service)

    def _siblings(self, one: EndpointSlice) -> list[EndpointSlice]:
        return [other for other in self._slices_of.get(one.service, ()) if other.name != one.name]

    def _touch_slices(self, service: ObjectName) -> None:
        self.dirty[service] = None
        if service == API_SERVER:
            self.api_servers = frozenset(
                (endpoint.address, endpoint.port)
                for one in self.slices(service)
                for endpoints in one.endpoints.values()
                for endpoint in endpoints
            )

    def _remove(self, kind: Kind, name: ObjectName) -> None:
        if kind is Kind.SERVICE:
            if self._services.pop(name, None) is not None:
                self.dirty[name] = None
                self._dns.pop(name, None)
        elif kind is Kind.ENDPOINT_SLICE:
            old = self._slices.pop(name, None)
            if old is not None:
                if siblings := self._siblings(old):
                    self._slices_of[old.service] = tuple(siblings)
                else:
                    del self._slices_of[old.service]
                self._touch_slices(old.service)
        elif self.node is not None and self.node.name == name.name:
            self.node = None

    def _prune(self, change: Listed) -> None:
        known: Collection[ObjectName] = ()
        if change.kind is Kind.SERVICE:
            known = self._services
        elif change.kind is Kind.ENDPOINT_SLICE:
            known = self._slices
        elif self.node is not None:
            known = (ObjectName("", self.node.name),)
        for name in [name for name in known if name not in change.names]:
            self._remove(change.kind, name)
        self.listed.add(change.kind)
