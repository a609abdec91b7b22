"""What stays for its connections: real servers at weight 0, and virtual servers that nobody wants any more.

An address with a mark has connections in two places: behind its own virtual server, and behind the one by
mark, which other addresses of the Service share. It stays until neither has any.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from ipvs_agent.desired import sets, split
from ipvs_agent.desired.sets import Purpose
from ipvs_agent.errors import KernelError
from ipvs_agent.kernel.api import Kernel
from ipvs_agent.model import Frontend, RealServerKey, VirtualServerKey, mark_key
from ipvs_agent.observed import ObservedRealServer
from ipvs_agent.operations import DeleteMember, DeleteRealServer, DeleteVirtualServer, Operation
from ipvs_agent.reconcile import diff, drain
from ipvs_agent.reconcile.achieved import Achieved, Held
from ipvs_agent.reconcile.claims import FOREIGN, LINGERING, Claims, Key
from ipvs_agent.reconcile.executor import execute
from ipvs_agent.reconcile.put_off import PutOff, with_held_scheduler
from ipvs_agent.reconcile.report import Report
from ipvs_agent.reconcile.timers import DrainsDue, Timers

_ESTIMATION = "net/ipv4/vs/run_estimation"
_TICK = 1 / 16
"""Seconds to multiples of which looks are put off, so that those of a rolling update are taken together."""
_LOOKS = 100
"""Virtual servers that are looked at before the loop looks at other things: some hundredths of a second."""


class Drains:
    """Follows drains to their end; used by the keeper alone."""

    def __init__(
        self,
        kernel: Kernel,
        claims: Claims,
        achieved: Achieved,
        timers: Timers,
        report: Report,
        clock: Callable[[], float],
        *,
        default_limit: float | None,
    ) -> None:
        self._kernel = kernel
        self._claims = claims
        self._achieved = achieved
        self._timers = timers
        self._report = report
        self._clock = clock
        self._under_way: dict[VirtualServerKey, drain.Progress] = {}
        self._looks: dict[float, dict[VirtualServerKey, None]] = {}
        """Which of them to look at, by time; those that have another time by now are passed over."""
        self._default_limit = default_limit
        self._limits: dict[VirtualServerKey, float | None] = {}
        """For how many seconds the connections of virtual servers may last that are not as by default."""
        self._ways_in: dict[VirtualServerKey, set[VirtualServerKey]] = {}
        """The virtual servers by mark that may have connections from addresses which lead there no longer."""
        self.put_off = PutOff()
        """Those that are to have a scheduler or flags under which nothing drains, once nothing does."""

    def under_way(self) -> list[VirtualServerKey]:
        """Return the virtual servers that are looked at."""
        return list(self._under_way)

    def attainable(
        self, key: VirtualServerKey, wanted: Frontend | None, held: Held | None
    ) -> Frontend | None:
        """Return what a virtual server can be now: what is wanted, or that with the scheduler it has.

        That is while something drains that would have to go at once under the wanted one.
        """
        owner = self._claims.owner(key)
        if owner is None or wanted is None or held is None or not _would_cut(wanted, held):
            self.put_off.forget(key)
            return wanted
        self.put_off.note(owner.name, wanted.virtual_server, held.virtual_server)
        return with_held_scheduler(wanted, held)

    def let_linger(self, keys: dict[Key, None]) -> None:
        """Claim virtual servers that nobody wants any more, as long as they may have connections.

        What that changes is added to the keys.
        """
        for key in list(keys):
            if not isinstance(key, VirtualServerKey):
                continue
            owner, held = self._claims.owner(key), self._achieved.virtual_servers.get(key)
            if owner not in (None, LINGERING):
                # What it is now is what lingers when this owner goes, too.
                self._claims.release(key, LINGERING, keys)
            if owner is not None or held is None:
                continue
            limit = self._limits.pop(key, self._default_limit)
            marks = self._connected_marks(key)
            if marks or (held.real_servers and diff.is_drained(held.virtual_server)):
                self._ways_in[key] = marks
                keeps_mark = all(self._claims.owner(mark) in (None, LINGERING) for mark in marks)
                frontend = drain.lingering(held, self._achieved, limit=limit, keeps_mark=keeps_mark)
                keys.update(self._claims.claim_for_nobody(key, LINGERING, frontend))

    def recall_ways_in(self) -> None:
        """Take note of where addresses of an agent before this one may lead; the kernel does not say."""
        marks = [key for key in self._achieved.virtual_servers if split.is_ours(key)]
        if not marks:
            return
        unwanted = [mark for mark in marks if self._claims.owner(mark) is None]
        for key in self._achieved.virtual_servers:
            if key.mark or sets.port_member(Purpose.CLUSTER, key) in self._achieved.members:
                continue
            is_lost = self._claims.owner(key) is None and self._achieved.marking(key) is None
            ways = {
                mark
                for mark in (marks if is_lost else unwanted)
                if mark.family is key.family and split.is_for(mark, key.protocol)
            }
            if ways:
                self._ways_in[key] = ways

    def remember_ways_in(self, operations: Iterable[Operation]) -> None:
        """Take note of addresses that lose a mark, and of marks that have lost their virtual server."""
        for operation in operations:
            if isinstance(operation, DeleteMember) and operation.member.mark:
                key = sets.dialled(operation.member)
                self._ways_in.setdefault(key, set()).add(mark_key(key.family, operation.member.mark))
            elif isinstance(operation, DeleteVirtualServer) and operation.key.mark:
                self._forget_way_in(operation.key)

    def _forget_way_in(self, mark: VirtualServerKey) -> None:
        for marks in self._ways_in.values():
            marks.discard(mark)
        for key in [key for key, marks in self._ways_in.items() if not marks]:
            del self._ways_in[key]
            if key in self._under_way:  # it has nothing to wait for but its own connections
                self._plan(key, self._under_way[key], self._clock())

    def watch(self, keys: Iterable[Key], now: float) -> None:
        """Plan a look at those virtual servers of which something drains now."""
        for key in keys:
            if not isinstance(key, VirtualServerKey):
                continue
            progress = self._under_way.get(key)
            if progress is not None or self._is_draining(key):
                if progress is None:
                    progress = self._under_way[key] = drain.Progress(now, now, math.inf)
                is_nobodys = self._claims.owner(key) == LINGERING
                progress.patience = drain.STILL_OF_NOBODY if is_nobodys else drain.STILL
                progress.follow(self._leaving(key), now)
                self._plan(key, progress, min(progress.due, progress.next_check(now, self._limit(key))))

    def note_limits(self, keys: Iterable[Key]) -> None:
        """Remember how long connections may last when nobody wants some virtual servers any more."""
        for key in keys:
            if not isinstance(key, VirtualServerKey):
                continue
            if self._claims.owner(key) in (None, FOREIGN, LINGERING):
                continue
            limit = self._limit(key)
            if limit != self._default_limit:
                self._limits[key] = limit
            else:
                self._limits.pop(key, None)

    def _limit(self, key: VirtualServerKey) -> float | None:
        frontend = self._claims.frontend(key)
        return frontend.drain_seconds if frontend is not None else self._default_limit

    def _plan(self, key: VirtualServerKey, progress: drain.Progress, due: float) -> None:
        moment = math.ceil(due / _TICK) * _TICK
        if moment == progress.due:
            return
        progress.due = moment
        if moment not in self._looks:
            self._looks[moment] = {}
            self._timers.add(moment, DrainsDue(moment))
        self._looks[moment][key] = None

    def check_due(self, moment: float) -> dict[Key, None]:
        """Look at the virtual servers whose time it is as `check` does, unless they have another one now."""
        waiting = [key for key in self._looks.pop(moment) if self._is_due(key, moment)]
        if len(waiting) > _LOOKS:
            self._looks[moment] = dict.fromkeys(waiting[_LOOKS:])
            self._timers.add(moment, DrainsDue(moment))
        return self.check(waiting[:_LOOKS])

    def _is_due(self, key: VirtualServerKey, moment: float) -> bool:
        progress = self._under_way.get(key)
        return progress is not None and progress.due == moment

    def check(self, keys: Sequence[VirtualServerKey]) -> dict[Key, None]:
        """Remove what has lost its last connection behind virtual servers that are under way.

        Returns the objects that nobody wants any more.
        """
        now = self._clock()
        try:
            observed = self._kernel.ipvs.real_servers_of(keys)
            ways_in = {key for key in keys if self._is_way_in(key) and self._is_way_in_use(key)}
        except KernelError as error:
            return self._check_each(keys, error, now)
        operations = [
            operation
            for key, found in zip(keys, observed, strict=True)
            for operation in self._removals(key, found, now)
        ]
        failures = execute(operations, self._kernel, self._achieved, self._claims.frontend)
        self._report.applied((), operations, failures, self._clock() - now)
        changed: dict[Key, None] = {}
        for key in keys:
            progress, leaving = self._under_way[key], self._leaving(key)
            if leaving or key in ways_in:
                progress.follow(leaving, now)
                self._plan(key, progress, progress.next_check(now, self._limit(key)))
            else:
                self._end(key, changed)
        return changed

    def _check_each(
        self, keys: Sequence[VirtualServerKey], error: KernelError, now: float
    ) -> dict[Key, None]:
        """Look at each alone, so that one that cannot be read, and is read again later, holds up no other."""
        if len(keys) > 1:
            return {changed: None for key in keys for changed in self.check([key])}
        self._report.not_ready(error, drain.FIRST_CHECK)
        for key in keys:
            self._plan(key, self._under_way[key], now + drain.FIRST_CHECK)
        return {}

    def _removals(
        self, key: VirtualServerKey, found: Iterable[ObservedRealServer], now: float
    ) -> list[DeleteRealServer]:
        """Return the operations that remove what has no connections any more, or has no more time."""
        progress, leaving = self._under_way[key], self._leaving(key)
        progress.follow(leaving, now)
        observed = {server.real_server.endpoint: server for server in found}
        present = [observed[endpoint] for endpoint in leaving if endpoint in observed]
        gone = {*progress.finished(present, now, self._counts_packets), *(leaving - observed.keys())}
        overdue = progress.overdue(now, self._limit(key)) - gone
        self._report.cut_off(key, sum(observed[endpoint].active for endpoint in overdue))
        return drain.removals(key, gone | overdue)

    def _end(self, key: VirtualServerKey, changed: dict[Key, None]) -> None:
        """Take note that nothing of a virtual server drains any more; what that changes is added."""
        del self._under_way[key]
        if key in self.put_off:
            changed[key] = None
        if self._claims.owner(key) == LINGERING:
            self._ways_in.pop(key, None)
        self._claims.release(key, LINGERING, changed)

    def _counts_packets(self) -> bool:
        """Tell whether the counters move at all: administrators switch the estimator off that moves them."""
        try:
            return self._kernel.sysctls.read(_ESTIMATION) != "0"
        except KernelError:  # an older kernel, whose estimator cannot be switched off
            return True

    def _is_draining(self, key: VirtualServerKey) -> bool:
        return bool(self._leaving(key)) or self._is_way_in(key)

    def _leaving(self, key: VirtualServerKey) -> set[RealServerKey]:
        return drain.draining(self._claims.frontend(key), self._achieved.virtual_servers.get(key))

    def _is_way_in(self, key: VirtualServerKey) -> bool:
        """Tell whether an address stays for connections behind marks."""
        return key in self._ways_in and self._claims.owner(key) == LINGERING

    def _is_way_in_use(self, key: VirtualServerKey) -> bool:
        """Tell whether connections may have come in on an address; raise KernelError.

        IPVS does not say on which of the addresses with a mark one came in.
        """
        limit = self._limit(key)
        patience = drain.PATIENCE_BEHIND_MARK if limit is None else min(limit, drain.PATIENCE_BEHIND_MARK)
        if self._clock() - self._under_way[key].started > patience:
            return False
        return any(
            # A virtual server that drains too is gone when its connections are.
            self._claims.owner(mark) == LINGERING
            or any(server.active for server in self._kernel.ipvs.real_servers(mark))
            for mark in self._connected_marks(key)
        )

    def _connected_marks(self, key: VirtualServerKey) -> set[VirtualServerKey]:
        """Return the virtual servers by mark that may have connections which came in on an address."""
        marks = set(self._ways_in.get(key, ()))
        if (marking := self._achieved.marking(key)) is not None:
            marks.add(mark_key(key.family, marking.mark))
        held = {mark: self._achieved.virtual_servers.get(mark) for mark in marks}
        return {
            mark
            for mark, one in held.items()
            if one is not None and one.real_servers and diff.is_drained(one.virtual_server)
        }


def _would_cut(wanted: Frontend, held: Held) -> bool:
    """Tell whether the wanted scheduler, or its flags, would take connections from what drains."""
    return (
        held.virtual_server.scheduler != ""  # without one, nobody is served
        and diff.is_drained(held.virtual_server)
        and not diff.is_drained(wanted.virtual_server)
        and bool(drain.draining(wanted, held))
    )
