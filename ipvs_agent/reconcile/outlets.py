"""Whom the reconciler tells: load balancers, users through Events, and people on this node."""

from __future__ import annotations

from typing import Protocol

import msgspec

from ipvs_agent.addresses import Address, Family
from ipvs_agent.model import HealthCheck, ObjectName, Service, TrafficPolicy


class HealthBoard(Protocol):
    """Where load balancers ask for the endpoints of this node."""

    def publish(self, service: ObjectName, check: HealthCheck | None) -> None:
        """Have a Service's answer changed; None: there is none any more."""

    def listen_on(self, addresses: tuple[Address, ...] | None) -> None:
        """Have these addresses answer; None: all that the node has."""


class Events(Protocol):
    """Where users of a Service learn what is not served."""

    def warn(self, service: Service, reason: str, note: str, *, near: bool) -> None:
        """Have a Warning sent; near: whether the Service has an endpoint on this node."""


class Notes(Protocol):
    """What people find on this node beside the status."""

    def replace(self, service: ObjectName, lines: tuple[str, ...]) -> None:
        """Have lines noted for a Service in place of those before."""

    def flush(self) -> None:
        """Make what was noted readable."""


class Metrics(Protocol):
    """What those find who watch many nodes."""

    def count_not_local(self, policy: TrafficPolicy, family: Family, count: int) -> None:
        """Say how many Services have a policy Local, and all of their endpoints on other nodes."""


class _NoHealthBoard:
    def publish(self, service: ObjectName, check: HealthCheck | None) -> None:
        pass

    def listen_on(self, addresses: tuple[Address, ...] | None) -> None:
        pass


class _NoEvents:
    def warn(self, service: Service, reason: str, note: str, *, near: bool) -> None:
        pass


class _NoNotes:
    def replace(self, service: ObjectName, lines: tuple[str, ...]) -> None:
        pass

    def flush(self) -> None:
        pass


class _NoMetrics:
    def count_not_local(self, policy: TrafficPolicy, family: Family, count: int) -> None:
        pass


class Outlets(msgspec.Struct, frozen=True):
    """All of them; by default nobody is told."""

    health: HealthBoard = _NoHealthBoard()
    events: Events = _NoEvents()
    notes: Notes = _NoNotes()
    metrics: Metrics = _NoMetrics()
