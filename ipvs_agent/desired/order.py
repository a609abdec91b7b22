"""The order in which real servers are added, which is the kernel's list from its end to its head."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from ipvs_agent.model import RealServer
from ipvs_agent.schedulers import Order, Scheduler


def insertion_order(
    real_servers: Sequence[RealServer], scheduler: Scheduler, seed: str
) -> tuple[RealServer, ...]:
    """Return the real servers of a virtual server in the order in which to add them.

    It depends on what they are alone, not on the order in which they were heard of. Where the list need not
    be the same on all nodes it is another one for each seed, which names the node: schedulers that take turns
    would else have the first connection of every node at one real server, and those that count would settle
    their draws alike. The last one, at which they begin, has one of the highest weights; it is the last until
    it goes, or one comes that ranks above it.
    """
    if len(real_servers) < 2:
        return tuple(real_servers)
    if scheduler.order is Order.CANONICAL:
        return tuple(sorted(real_servers))
    hashed = hashlib.blake2b(seed.encode(), digest_size=8)

    def rank(server: RealServer) -> tuple[int, bytes]:
        its_own = hashed.copy()
        its_own.update(b"%b %d" % server.endpoint)
        return -server.weight, its_own.digest()

    return tuple(sorted(real_servers, key=rank, reverse=True))
