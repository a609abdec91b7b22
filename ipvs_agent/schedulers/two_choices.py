"""The power of two choices."""

from __future__ import annotations

from ipvs_agent.schedulers.scheduler import Scheduler, Weight

TWOS = Scheduler(
    name="twos",
    summary="Two choices: of two at random, the one with fewer connections for its weight.",
    weight=Weight.SHARE,
    weight_meaning="Chance to be drawn, and share of the connections.",
    poor_choice="The kernels of many distributions do not have it.",
    since="5.12",
)
