"""What stays for its connections: real servers at weight 0, and virtual servers that nobody wants any more.

An address with a mark has connections in two places: behind its own virtual server, and behind the one by
mark, which other addresses of the Service share. It stays until neither has any.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ipvs_agent.desired import sets
from ipvs_agent.errors import KernelError
from ipvs_agent.kernel.api import Kernel
from ipvs_agent.model import RealServerKey, VirtualServerKey, mark_key
from ipvs_agent.operations import DeleteMember, DeleteVirtualServer, Operation
from ipvs_agent.reconcile import diff, drain
from ipvs_agent.reconcile.achieved import Achieved
from ipvs_agent.reconcile.claims import LINGERING, Claims, Key
from ipvs_agent.reconcile.executor import execute
from ipvs_agent.reconcile.report import Report
from ipvs_agent.reconcile.timers import DrainCheck, Timers


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
    ) -> None:
        self._kernel = kernel
        self._claims = claims
        self._achieved = achieved
        self._timers = timers
        self._report = report
        self._clock = clock
        self._under_way: dict[VirtualServerKey, drain.Progress] = {}
        self._ways_in: dict[VirtualServerKey, set[VirtualServerKey]] = {}
        """The virtual servers by mark that may have connections from addresses which lead there no longer."""

    def under_way(self) -> list[VirtualServerKey]:
        """Return the virtual servers that are looked at."""
        return list(self._under_way)

    def let_linger(self, keys: dict[Key, None]) -> None:
        """Claim virtual servers that nobody wants any more, as long as they may have connections.

        What that changes is added to the keys.
        """
        for key in list(keys):
            if not isinstance(key, VirtualServerKey) or self._claims.owner(key) is not None:
                continue
            held = self._achieved.virtual_servers.get(key)
            if held is None:
                continue
            marks = self._connected_marks(key)
            if marks or (held.real_servers and diff.is_drained(held.virtual_server)):
                self._ways_in[key] = marks
                keeps_mark = all(self._claims.owner(mark) in (None, LINGERING) for mark in marks)
                frontend = drain.lingering(held, self._achieved, keeps_mark=keeps_mark)
                keys.update(self._claims.claim_for_nobody(key, LINGERING, frontend))

    def remember_ways_in(self, operations: Iterable[Operation]) -> None:
        """Take note of addresses that lose a mark, and of marks that have lost their virtual server."""
        for operation in operations:
            if isinstance(operation, DeleteMember) and operation.member.mark:
                key = sets.dialled(operation.member)
                self._ways_in.setdefault(key, set()).add(mark_key(key.family, operation.member.mark))
            elif isinstance(operation, DeleteVirtualServer) and operation.key.mark:
                for marks in self._ways_in.values():
                    marks.discard(operation.key)
                self._ways_in = {key: marks for key, marks in self._ways_in.items() if marks}

    def watch(self, keys: Iterable[Key]) -> None:
        """Plan a look at those virtual servers of which something drains now."""
        for key in keys:
            if isinstance(key, VirtualServerKey) and key not in self._under_way and self._is_draining(key):
                now = self._clock()
                self._under_way[key] = drain.Progress(now)
                self._timers.add(now + drain.FIRST_CHECK, DrainCheck(key))

    def check(self, key: VirtualServerKey) -> dict[Key, None]:
        """Remove what has lost its last connection; return the objects that nobody wants any more."""
        progress = self._under_way.get(key)
        if progress is None:
            return {}
        now = self._clock()
        leaving = self._leaving(key)
        try:
            observed = {server.real_server.endpoint: server for server in self._kernel.ipvs.real_servers(key)}
            is_way_in = self._is_way_in(key) and self._has_connections_behind_marks(key, progress)
        except KernelError as error:
            self._report.not_ready(error, drain.FIRST_CHECK)
            self._timers.add(now + drain.FIRST_CHECK, DrainCheck(key))
            return {}
        present = [observed[endpoint] for endpoint in leaving if endpoint in observed]
        gone = {*progress.finished(present, now), *(leaving - observed.keys())}
        operations = drain.removals(key, gone)
        failures = execute(operations, self._kernel, self._achieved, self._claims.frontend)
        self._report.applied((), operations, len(failures), self._clock() - now)
        if is_way_in or self._leaving(key):
            self._timers.add(progress.next_check(now), DrainCheck(key))
            return {}
        del self._under_way[key]
        changed: dict[Key, None] = {}
        if self._claims.owner(key) == LINGERING:
            self._ways_in.pop(key, None)
        self._claims.release(key, LINGERING, changed)
        return changed

    def _is_draining(self, key: VirtualServerKey) -> bool:
        return bool(self._leaving(key)) or self._is_way_in(key)

    def _leaving(self, key: VirtualServerKey) -> set[RealServerKey]:
        return drain.draining(self._claims.frontend(key), self._achieved.virtual_servers.get(key))

    def _is_way_in(self, key: VirtualServerKey) -> bool:
        """Tell whether an address stays for connections behind marks."""
        return key in self._ways_in and self._claims.owner(key) == LINGERING

    def _has_connections_behind_marks(self, key: VirtualServerKey, progress: drain.Progress) -> bool:
        """Tell whether connections may have come in on an address; raise KernelError.

        IPVS does not say on which of the addresses with a mark one came in.
        """
        if self._clock() - progress.started > drain.PATIENCE_BEHIND_MARK:
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
