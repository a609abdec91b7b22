"""Schedulers that compare how many connections real servers have, as far as this node knows."""

from __future__ import annotations

from ipvs_agent.schedulers.scheduler import Scheduler

LC = Scheduler(
    name="lc",
    summary="Least connection: the fewest connections, an active one counting as 256 inactive ones.",
    weight="Ignored, but for 0.",
    poor_choice="Real servers differ in size, or each node sees a small part of the connections.",
)

WLC = Scheduler(
    name="wlc",
    summary="Weighted least connection: the fewest connections for its weight.",
    weight="Share of the connections that are open at one time.",
    poor_choice="A new real server would be overrun before it is warm.",
)

SED = Scheduler(
    name="sed",
    summary="Shortest expected delay: the fewest active connections for its weight, the new one included.",
    weight="Share of the active connections.",
    poor_choice="Load is light and weights differ: small real servers stay idle. UDP: it has no active ones.",
)

NQ = Scheduler(
    name="nq",
    summary="Never queue: an idle real server where there is one, else as sed.",
    weight="Share of the active connections, once none is idle.",
    poor_choice="Idle small real servers must not get ahead of busy large ones. UDP: it has no active ones.",
)
