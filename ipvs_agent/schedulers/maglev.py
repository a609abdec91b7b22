"""Maglev hashing, which moves few clients when real servers change."""

from __future__ import annotations

from ipvs_agent.model import ServiceFlags
from ipvs_agent.schedulers.scheduler import Order, Scheduler, Weight

_PLACES = 4093  # CONFIG_IP_VS_MH_TAB_INDEX, where a kernel does not set another

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
    table_size=_PLACES,
    # In the first round each takes as many places in a row as its weight, or fewer (ip_vs_mh_populate).
    weight_sum=_PLACES,
    keeps_places=True,
    since="4.18",
)
