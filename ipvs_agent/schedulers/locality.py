"""Schedulers that keep a dialled address with its real server until that is overloaded."""

from __future__ import annotations

from ipvs_agent.schedulers.scheduler import Scheduler, Weight

_WEIGHT = "Number of active connections above which it counts as overloaded; share of the addresses."

LBLC = Scheduler(
    name="lblc",
    summary="Locality: by dialled address, until overloaded.",
    weight=Weight.CAPACITY,
    weight_meaning=_WEIGHT,
    poor_choice="Any Service: one real server gets most. Made for caches.",
)

LBLCR = Scheduler(
    name="lblcr",
    summary="As lblc, with a set that grows and shrinks with load.",
    weight=Weight.CAPACITY,
    weight_meaning=_WEIGHT,
    poor_choice="Any Service: a few get most. Made for caches.",
)
