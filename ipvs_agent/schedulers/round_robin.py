"""Schedulers that take turns."""

from __future__ import annotations

from ipvs_agent.schedulers.scheduler import Scheduler, Weight

RR = Scheduler(
    name="rr",
    summary="Round robin: each in turn.",
    weight=Weight.IGNORED,
    weight_meaning="Nothing, but for 0.",
    poor_choice="Real servers differ in size, or connections in length.",
)

WRR = Scheduler(
    name="wrr",
    summary="Weighted round robin: turns by weight.",
    weight=Weight.SHARE,
    weight_meaning="Share of the turns.",
    poor_choice="Connections differ in length: turns say little of load.",
)
