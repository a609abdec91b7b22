"""The power of two choices."""

from __future__ import annotations

from ipvs_agent.schedulers.scheduler import Scheduler, Weight

TWOS = Scheduler(
    name="twos",
    summary="Two choices: of two at random, the less loaded.",
    weight=Weight.SHARE,
    weight_meaning="Chance to be drawn, and share of the connections.",
    poor_choice="Many kernels lack it.",
    since="5.12",
)
