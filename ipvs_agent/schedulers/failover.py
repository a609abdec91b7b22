"""Schedulers that fill one real server before the next."""

from __future__ import annotations

from ipvs_agent.schedulers.scheduler import Scheduler

FO = Scheduler(
    name="fo",
    summary="Weighted failover: the real server with the highest weight, while it is there.",
    weight="Rank.",
    poor_choice="Load is to be spread: of equal weights, too, one gets everything.",
)

OVF = Scheduler(
    name="ovf",
    summary="Weighted overflow: the real server with the highest weight, until it has as many connections.",
    weight="Rank, and the number of active connections from which the next one is used.",
    poor_choice="UDP: it has no active connections, so nothing ever overflows.",
)
