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

    It depends on what they are alone, not on the order in which they were heard of. Schedulers that spread
    begin at another one for each seed, which names the node: those that take turns would else have the first
    connection of every node at one real server, and those that count would settle their draws alike.
    """
    ordered = sorted(real_servers)
    if scheduler.order is Order.SPREAD and len(ordered) > 1:
        end = ordered.index(_head(ordered, seed)) + 1
        ordered = ordered[end:] + ordered[:end]
    return tuple(ordered)


def _head(real_servers: Sequence[RealServer], seed: str) -> RealServer:
    """Return the one to begin at, which stays the same unless it goes or one that goes before it comes.

    Schedulers that heed weights begin at one of the highest.
    """
    highest = max(server.weight for server in real_servers)
    hashed = hashlib.blake2b(seed.encode(), digest_size=8)

    def rank(server: RealServer) -> bytes:
        its_own = hashed.copy()
        its_own.update(b"%b %d" % server.endpoint)
        return its_own.digest()

    return min((server for server in real_servers if server.weight == highest), key=rank)
