"""Schedulers that fill one real server before the next."""

from __future__ import annotations

from ipvs_agent.schedulers.scheduler import Order, Scheduler, Weight

FO = Scheduler(
    name="fo",
    summary="Failover: the highest weight gets everything.",
    weight=Weight.PRIORITY,
    weight_meaning="Rank.",
    poor_choice="Load is to be spread: of equal weights, one gets all.",
    order=Order.RANKED,
    since="3.18",
)

OVF = Scheduler(
    name="ovf",
    summary="Overflow: the highest weight until full, then the next.",
    weight=Weight.CAPACITY,
    weight_meaning="Rank, and the number of active connections above which the next one is used.",
    poor_choice="Weights too low: clients are refused. UDP: never full.",
    order=Order.RANKED,
    since="4.3",
)
