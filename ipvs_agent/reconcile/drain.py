"""When a real server that takes no new connections may go, and what stays up for those that it has.

An established connection holds its real server. Others (TIME_WAIT and the like, but also a half-closed
transfer, which the kernel counts among them) hold it while its packet counters still move.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from ipvs_agent.desired import sets
from ipvs_agent.desired.sets import Purpose
from ipvs_agent.model import Frontend, ObservedRealServer, RealServerKey, VirtualServerKey
from ipvs_agent.operations import DeleteRealServer
from ipvs_agent.reconcile.achieved import Achieved, Held

FIRST_CHECK = 1.0
"""Seconds from the start of a drain until it is looked at."""
_SLOWEST_CHECK = 10.0
PATIENCE_BEHIND_MARK = 3600.0
"""Seconds for which an address stays for connections behind a mark that other addresses have too: IPVS does
not say on which of them a connection came in."""
_STILL = 5.0
"""Seconds without a packet after which connections that are not established are given up."""


class Progress(msgspec.Struct):
    """What was seen of the draining real servers of one virtual server."""

    started: float
    packets: dict[RealServerKey, tuple[int, float]] = {}
    """Packets of each, and since when that number stands."""

    def finished(self, observed: Iterable[ObservedRealServer], now: float) -> Iterator[RealServerKey]:
        """Yield those of the observed draining real servers that may go."""
        for server in observed:
            endpoint = server.real_server.endpoint
            packets = server.counters.packets_in + server.counters.packets_out
            last, since = self.packets.get(endpoint, (-1, now))
            if packets != last:
                since = now
            self.packets[endpoint] = (packets, since)
            is_still = now - since >= _STILL
            if not server.active and (not server.inactive or is_still):
                yield endpoint

    def next_check(self, now: float) -> float:
        """Return when to look again: often at first, seldom at connections that stay for hours."""
        return now + min(_SLOWEST_CHECK, max(FIRST_CHECK, (now - self.started) / 4))


def draining(wanted: Frontend | None, held: Held | None) -> set[RealServerKey]:
    """Return the real servers that are held and not wanted."""
    if held is None:
        return set()
    staying = {server.endpoint for server in wanted.real_servers} if wanted is not None else set()
    return held.real_servers.keys() - staying


def removals(key: VirtualServerKey, endpoints: Iterable[RealServerKey]) -> list[DeleteRealServer]:
    """Return the operations that remove drained real servers."""
    return [DeleteRealServer(key, address, port) for address, port in endpoints]


def lingering(held: Held, achieved: Achieved, *, keeps_mark: bool) -> Frontend:
    """Return what stays of a virtual server that nobody wants, until its connections have ended.

    keeps_mark: clients inside the cluster go on to be led to a virtual server by mark, which drains too.
    """
    key = held.virtual_server.key
    if key.mark:
        return Frontend(held.virtual_server, (), vips=(), members=())
    belongings = [
        sets.port_member(purpose, key) for purpose in (Purpose.SERVICES, Purpose.CLUSTER, Purpose.EXTERNAL)
    ]
    belongings.append(sets.vip_member(key.family, key.address))
    marking = achieved.marking(key)
    if keeps_mark and marking is not None:
        belongings.append(marking)
    members = tuple(member for member in belongings if member in achieved.members)
    vips = (key.address,) if key.address in achieved.vips else ()
    return Frontend(held.virtual_server, (), vips, members)
