"""Schedulers that keep a dialled address with its real server until that is overloaded."""

from __future__ import annotations

from ipvs_agent.schedulers.scheduler import Scheduler

LBLC = Scheduler(
    name="lblc",
    summary="Locality-based least connection: one real server for a dialled address until it is overloaded.",
    weight="Number of active connections from which it counts as overloaded; share of the addresses.",
    poor_choice="Any Service: it has one address, so one real server gets most connections.",
)

LBLCR = Scheduler(
    name="lblcr",
    summary="As lblc, with a set of real servers for a dialled address that grows and shrinks with load.",
    weight="Number of active connections from which it counts as overloaded; share of the addresses.",
    poor_choice="Any Service: it has one address, so a few real servers get most connections.",
)
