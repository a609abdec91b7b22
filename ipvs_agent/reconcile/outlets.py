"""Whom the reconciler tells: load balancers, users through Events, and people on this node."""

from __future__ import annotations

from typing import Protocol

import msgspec

from ipvs_agent.addresses import Address
from ipvs_agent.model import HealthCheck, ObjectName


class HealthBoard(Protocol):
    """Where load balancers ask for the endpoints of this node."""

    def publish(self, service: ObjectName, check: HealthCheck | None) -> None:
        """Have a Service's answer changed; None: there is none any more."""

    def listen_on(self, addresses: tuple[Address, ...] | None) -> None:
        """Have these addresses answer; None: all that the node has."""


class _NoHealthBoard:
    def publish(self, service: ObjectName, check: HealthCheck | None) -> None:
        pass

    def listen_on(self, addresses: tuple[Address, ...] | None) -> None:
        pass


class Outlets(msgspec.Struct, frozen=True):
    """All of them; by default nobody is told."""

    health: HealthBoard = _NoHealthBoard()
