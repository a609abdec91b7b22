"""Schedulers that hash an address to a table of 256 buckets, filled in list order."""

from __future__ import annotations

from ipvs_agent.model import ServiceFlags
from ipvs_agent.schedulers.scheduler import Order, Scheduler, Weight

_BUCKETS = 256  # CONFIG_IP_VS_SH_TAB_BITS and CONFIG_IP_VS_DH_TAB_BITS, where a kernel does not set others

SH = Scheduler(
    name="sh",
    summary="Source hashing: by client address.",
    weight=Weight.SHARE,
    weight_meaning="Number of neighbouring buckets, of 256: the last ones get none when the sum is above.",
    poor_choice="One address for many clients. Much change: mh moves fewer.",
    order=Order.CANONICAL,
    flags=("sh-fallback", "sh-port"),
    safe_flags=ServiceFlags.SCHEDULER_1,
    table_size=_BUCKETS,
    weight_sum=_BUCKETS,
)

DH = Scheduler(
    name="dh",
    summary="Destination hashing: by the address that was dialled.",
    weight=Weight.IGNORED,
    weight_meaning="Nothing, but for 0, at which its clients are refused.",
    poor_choice="Any Service: one real server gets all. Made for caches.",
    order=Order.CANONICAL,
    table_size=_BUCKETS,
)
