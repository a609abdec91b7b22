"""Schedulers that hash an address to a table of 256 buckets, filled in list order."""

from __future__ import annotations

from ipvs_agent.model import ServiceFlags
from ipvs_agent.schedulers.scheduler import Scheduler

SH = Scheduler(
    name="sh",
    summary="Source hashing: a client address always to the same real server.",
    weight="Number of neighbouring buckets.",
    poor_choice="Many clients behind one address; or real servers that come and go: mh moves fewer clients.",
    flags=("sh-fallback", "sh-port"),
    # Without it a drained real server's clients are refused instead of sent to the next bucket.
    default_flags=ServiceFlags.SCHEDULER_1,
)

DH = Scheduler(
    name="dh",
    summary="Destination hashing: a dialled address always to the same real server; made for caches.",
    weight="Ignored, but for 0.",
    poor_choice="Any Service: it has one address, so one real server gets every connection.",
)
