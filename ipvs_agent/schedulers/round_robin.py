"""Schedulers that take turns."""

from __future__ import annotations

from ipvs_agent.schedulers.scheduler import Scheduler

RR = Scheduler(
    name="rr",
    summary="Round robin: each real server in turn.",
    weight="Ignored, but for 0.",
    poor_choice="Real servers differ in size, or connections differ in length.",
)

WRR = Scheduler(
    name="wrr",
    summary="Weighted round robin: each real server in turn, as often as its weight says.",
    weight="Share of the turns.",
    poor_choice="Connections differ in length, so that turns say little of load.",
)
