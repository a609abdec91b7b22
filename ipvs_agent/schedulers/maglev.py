"""Maglev hashing, which moves few clients when real servers change."""

from __future__ import annotations

from ipvs_agent.model import ServiceFlags
from ipvs_agent.schedulers.scheduler import Order, Scheduler, Weight

MH = Scheduler(
    name="mh",
    summary="Maglev hashing: by client address; a change moves few.",
    weight=Weight.SHARE,
    weight_meaning="Share of the table's places; kept at its last value above 0 while it is 0.",
    poor_choice="One address for many clients. Little memory: 32 KiB each.",
    order=Order.CANONICAL,
    flags=("mh-fallback", "mh-port"),
    safe_flags=ServiceFlags.SCHEDULER_1,
    kube_proxy_flags=ServiceFlags.SCHEDULER_2,
    table_size=4093,  # CONFIG_IP_VS_MH_TAB_INDEX, where a kernel does not set another
    keeps_places=True,
    since="4.18",
)
