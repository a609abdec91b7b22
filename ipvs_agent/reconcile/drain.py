"""When a real server that takes no new connections may go, and what stays up for those that it has.

An established connection holds its real server. Others (TIME_WAIT and the like, but also a half-closed
transfer, which the kernel counts among them) hold it while its packet counters still move, or until they end
where the kernel does not count. Where the Service or the configuration sets a limit, nothing holds it longer
than that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import msgspec

from ipvs_agent.desired import sets
from ipvs_agent.desired.sets import Purpose
from ipvs_agent.model import Frontend, RealServerKey, VirtualServerKey
from ipvs_agent.observed import ObservedRealServer
from ipvs_agent.operations import DeleteRealServer
from ipvs_agent.reconcile.achieved import Achieved, Held

FIRST_CHECK = 0.25
"""Seconds from the start of a drain until it is looked at."""
_SLOWEST_CHECK = 4.0
"""Seconds from one look to the next at most, so that with those for which all is to stand still a real server
is gone within 10 seconds after its last connection has closed."""
PATIENCE_BEHIND_MARK = 3600.0
"""Seconds for which an address stays for connections behind a mark that other addresses have too: IPVS does
not say on which of them a connection came in."""
STILL = 5.0
"""Seconds without a packet after which connections that are not established are given up."""
STILL_OF_NOBODY = 4.25
"""So many where nobody wants the virtual server any more: with the time until the first look it is gone
within 5 seconds, if no connection is established."""


class Progress(msgspec.Struct):
    """What was seen of the draining real servers of one virtual server."""

    started: float
    last_began: float
    """When the last one of them began to drain, as far as this process knows."""
    due: float
    """When to look next."""
    patience: float = STILL
    """For how many seconds connections that are not established may be without a packet."""
    began: dict[RealServerKey, float] = {}
    packets: dict[RealServerKey, tuple[int, float]] = {}
    """Packets of each, and since when that number stands."""
    closing: set[RealServerKey] = set()
    """Those that had no established connection at the last look."""

    def follow(self, leaving: set[RealServerKey], now: float) -> None:
        """Take note of those that have begun to drain, and forget those that do so no more."""
        for endpoint in self.began.keys() - leaving:
            del self.began[endpoint]
            self.packets.pop(endpoint, None)
            self.closing.discard(endpoint)
        for endpoint in leaving - self.began.keys():
            self.began[endpoint] = self.last_began = now

    def finished(
        self, observed: Iterable[ObservedRealServer], now: float, counts_packets: Callable[[], bool]
    ) -> Iterator[RealServerKey]:
        """Yield those of the observed draining real servers that may go.

        counts_packets: asked before one goes because its counters stand still.
        """
        for server in observed:
            endpoint = server.real_server.endpoint
            packets = server.counters.packets_in + server.counters.packets_out
            last, since = self.packets.get(endpoint, (-1, now))
            if packets != last:
                since = now
            self.packets[endpoint] = (packets, since)
            is_still = now - since >= self.patience
            if server.active:
                self.closing.discard(endpoint)
            elif not server.inactive or (is_still and counts_packets()):
                yield endpoint
            else:
                self.closing.add(endpoint)

    def overdue(self, now: float, limit: float | None) -> set[RealServerKey]:
        """Return those that have drained for so many seconds; None: for ever, so none of them."""
        if limit is None:
            return set()
        return {endpoint for endpoint, began in self.began.items() if now - began >= limit}

    def next_check(self, now: float, limit: float | None) -> float:
        """Return when to look again: often at first, seldom at connections that stay for hours.

        Never late for one that may go when it has stood still for long enough, or has come to its limit.
        """
        regular = now + min(_SLOWEST_CHECK, max(FIRST_CHECK, (now - self.last_began) / 4))
        looks = [self.packets[endpoint][1] + self.patience for endpoint in self.closing]
        if limit is not None:
            looks += [began + limit for began in self.began.values()]
        # One whose time has come and that is there all the same is one that the kernel would not remove.
        return min([regular, *(look for look in looks if look > now)])


def draining(wanted: Frontend | None, held: Held | None) -> set[RealServerKey]:
    """Return the real servers that are held and not wanted."""
    if held is None:
        return set()
    staying = {server.endpoint for server in wanted.real_servers} if wanted is not None else set()
    return held.real_servers.keys() - staying


def removals(key: VirtualServerKey, endpoints: Iterable[RealServerKey]) -> list[DeleteRealServer]:
    """Return the operations that remove drained real servers."""
    return [DeleteRealServer(key, address, port) for address, port in endpoints]


def lingering(held: Held, achieved: Achieved, *, limit: float | None, keeps_mark: bool) -> Frontend:
    """Return what stays of a virtual server that nobody wants, until its connections have ended.

    limit: seconds for which they may last; None: as long as they do.
    keeps_mark: clients inside the cluster go on to be led to a virtual server by mark, which drains too.
    """
    key = held.virtual_server.key
    if key.mark:
        return Frontend(held.virtual_server, (), vips=(), members=(), drain_seconds=limit)
    belongings = [
        sets.port_member(purpose, key) for purpose in (Purpose.SERVICES, Purpose.CLUSTER, Purpose.EXTERNAL)
    ]
    belongings.append(sets.vip_member(key.family, key.address))
    marking = achieved.marking(key)
    if keeps_mark and marking is not None:
        belongings.append(marking)
    members = tuple(member for member in belongings if member in achieved.members)
    vips = (key.address,) if achieved.has_vip(key.address) else ()
    return Frontend(held.virtual_server, (), vips, members, drain_seconds=limit)
