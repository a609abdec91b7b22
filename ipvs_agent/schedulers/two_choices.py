"""The power of two choices."""

from __future__ import annotations

from ipvs_agent.schedulers.scheduler import Scheduler

TWOS = Scheduler(
    name="twos",
    summary="Two choices: two real servers at random, and of these the one with fewer connections.",
    weight="Chance to be drawn, and share of the connections.",
    poor_choice="Kernels before 5.12 and many distributions, which do not have it.",
)
