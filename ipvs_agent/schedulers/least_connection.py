"""Schedulers that compare how many connections real servers have, as far as this node knows.

The kernel takes every UDP connection for an inactive one. sed and nq count active ones only, so that to them
the real servers of a UDP port are idle for ever.
"""

from __future__ import annotations

from ipvs_agent.schedulers.scheduler import Scheduler, Weight

LC = Scheduler(
    name="lc",
    summary="Least connection: the fewest connections.",
    weight=Weight.IGNORED,
    weight_meaning="Nothing, but for 0.",
    poor_choice="Nodes are many: each counts only its own connections.",
)

WLC = Scheduler(
    name="wlc",
    summary="Weighted least connection: the fewest for its weight.",
    weight=Weight.SHARE,
    weight_meaning="Share of the connections that are open at one time.",
    poor_choice="Start-up is slow: a new one gets every new connection.",
)

SED = Scheduler(
    name="sed",
    summary="Shortest expected delay: the fewest active by weight.",
    weight=Weight.SHARE,
    weight_meaning="Share of the active connections.",
    poor_choice="UDP: one gets all. Little load: small ones stay idle.",
)

NQ = Scheduler(
    name="nq",
    summary="Never queue: an idle one if there is one, else as sed.",
    weight=Weight.SHARE,
    weight_meaning="Share of the active connections, once none is idle.",
    poor_choice="UDP: one gets all. Idle ones go first, however slow.",
)
