"""What a virtual server is while it keeps the scheduler that it has, though another one is wanted."""

from __future__ import annotations

from collections import Counter

import msgspec

from ipvs_agent.model import Frontend
from ipvs_agent.reconcile.achieved import Held
from ipvs_agent.schedulers import SCHEDULERS
from ipvs_agent.schedulers.weights import fit


def with_held_scheduler(wanted: Frontend, held: Held) -> Frontend:
    """Return what is wanted, with the scheduler that is held and weights that are for that one.

    A weight may be a share, a rank or a capacity: those for the wanted scheduler would have the held one
    refuse clients, or send them all to one real server. What serves keeps its weight; what comes gets the one
    that most of those have, and what is to have none gets none.
    """
    weights = {endpoint: server.weight for endpoint, server in held.real_servers.items() if server.weight}
    usual = Counter(weights.values()).most_common(1)[0][0] if weights else 1
    numbers = [weights.get(server.endpoint, usual) if server.weight else 0 for server in wanted.real_servers]
    scheduler = SCHEDULERS.get(held.virtual_server.scheduler)
    if scheduler is not None and len(numbers) <= scheduler.weight_sum:
        numbers = fit(numbers, scheduler.weight_sum)
    real_servers = tuple(
        [
            msgspec.structs.replace(server, weight=number)
            for server, number in zip(wanted.real_servers, numbers, strict=True)
        ]
    )
    return msgspec.structs.replace(wanted, virtual_server=held.virtual_server, real_servers=real_servers)
