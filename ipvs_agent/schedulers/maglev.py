"""Maglev hashing, which moves few clients when real servers change."""

from __future__ import annotations

from ipvs_agent.model import ServiceFlags
from ipvs_agent.schedulers.scheduler import Scheduler

MH = Scheduler(
    name="mh",
    summary="Maglev hashing: a client always to the same real server, few of them moved by a change.",
    weight="Share of the table's places.",
    poor_choice="Thousands of virtual servers on a small node: each has a table of 4093 places (32 KiB).",
    flags=("mh-fallback", "mh-port"),
    # The port as kube-proxy has it, which always hashes it; the fallback for the reason that sh has.
    default_flags=ServiceFlags.SCHEDULER_1 | ServiceFlags.SCHEDULER_2,
)
