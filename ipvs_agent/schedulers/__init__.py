"""The kernel's schedulers: which there are, and what the agent must know of each."""

from __future__ import annotations

from collections.abc import Mapping

from ipvs_agent.schedulers import (
    failover,
    hashing,
    least_connection,
    locality,
    maglev,
    round_robin,
    two_choices,
)
from ipvs_agent.schedulers.guess import closest
from ipvs_agent.schedulers.scheduler import FLAG_BITS, PLAIN_FLAGS, Order, Scheduler, Weight

__all__ = [
    "SAFE",
    "SCHEDULERS",
    "TABLE_SIZES",
    "Order",
    "Scheduler",
    "Weight",
    "configured",
    "fills_table",
    "flag_names",
    "nearest",
]

SCHEDULERS: Mapping[str, Scheduler] = {
    scheduler.name: scheduler
    for scheduler in (
        round_robin.RR,
        round_robin.WRR,
        least_connection.LC,
        least_connection.WLC,
        least_connection.SED,
        least_connection.NQ,
        hashing.SH,
        hashing.DH,
        locality.LBLC,
        locality.LBLCR,
        maglev.MH,
        failover.FO,
        failover.OVF,
        two_choices.TWOS,
    )
}
"""All schedulers of the kernel, by name."""

SAFE = "rr"
"""The one for what can have no other: every kernel has it, and it takes any number of real servers."""
TABLE_SIZES = tuple(sorted({scheduler.table_size for scheduler in SCHEDULERS.values()} - {0}))
"""For how many real servers their tables have room, from small to large."""


def flag_names(scheduler: str, flags: int) -> list[str]:
    """Return the names of a scheduler's flags among the flags of a virtual server."""
    own = SCHEDULERS[scheduler].flags if scheduler in SCHEDULERS else ()
    names = own + PLAIN_FLAGS[len(own) :]
    return [name for name, bit in zip(names, FLAG_BITS, strict=True) if flags & bit]


def fills_table(scheduler: str) -> bool:
    """Tell whether the order of the real servers decides which client gets which, by a scheduler's name."""
    return scheduler in SCHEDULERS and SCHEDULERS[scheduler].order is Order.CANONICAL


def nearest(name: str) -> str:
    """Return the scheduler whose name is most like a given one, empty where none is like it."""
    return closest(name, tuple(SCHEDULERS))


def configured(name: str) -> Scheduler:
    """Return the scheduler that a configuration names; ValueError where there is no such."""
    scheduler = SCHEDULERS.get(name)
    if scheduler is None:
        guess = nearest(name)
        advice = f"did you mean {guess}?" if guess else f"use one of {', '.join(SCHEDULERS)}"
        raise ValueError(f"there is no scheduler {name!r}; {advice}")
    return scheduler
