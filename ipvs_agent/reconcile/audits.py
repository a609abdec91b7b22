"""When the kernel is read back: an audit lays the foundation, reads the tables, then real servers by slices.

The worker does all that takes long and answers through the loop's inbox; this says what it does next.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

from ipvs_agent.errors import KernelError
from ipvs_agent.kernel.api import Kernel
from ipvs_agent.model import VirtualServerKey
from ipvs_agent.observed import Outlined
from ipvs_agent.reconcile import audit, drift, foundation
from ipvs_agent.reconcile.foundation import Ground, Needs
from ipvs_agent.reconcile.keeper import Keeper
from ipvs_agent.reconcile.messages import AuditFailed, Laid, Message, SliceRead
from ipvs_agent.reconcile.timers import AuditDue, SliceDue, Timers
from ipvs_agent.reconcile.worker import Worker

_FOUNDATION_WAITS = 0.5
"""Seconds until it is looked again whether the foundation may be laid."""
_SPREAD = 0.9
"""The part of a sync period over which an audit is spread: it is over when the next one is due."""


class Audits:
    """The audits of one reconciler, in whose thread all of this runs but for the jobs of the worker."""

    def __init__(
        self,
        background: Kernel,
        worker: Worker,
        tell: Callable[[Message], None],
        keeper: Keeper,
        timers: Timers,
        clock: Callable[[], float],
        *,
        sync_period: float,
    ) -> None:
        self.is_laying = False
        """Whether the worker is at the foundation."""
        self.failures = 0
        """How many have failed since one succeeded."""
        self._background = background
        self._worker = worker
        self._tell = tell
        self._keeper = keeper
        self._timers = timers
        self._clock = clock
        self._sync_period = sync_period
        self._number = 0
        """That of the audit which is planned or under way."""
        self._is_under_way = False
        self._needs: Needs | None = None
        """Those of the last one that began."""
        self._is_hurried = False
        """Whether another one is to follow the one under way at once."""
        self._began = 0.0
        self._between_slices = 0.0
        self._next_slice = 0.0
        """When the next slice is due, however long the last one took."""
        self._is_resting = False
        """Whether it waits for its next slice."""
        self._outline: Iterator[Outlined] | None = None
        """What is left of it; None: it has been read."""
        self._unread: dict[VirtualServerKey, None] = {}
        self._in_full: list[VirtualServerKey] = []
        """Those that are read again after the outline."""

    def take(self, task: AuditDue) -> bool:
        """Tell whether to start an audit for a task; an urgent one follows the one under way."""
        if task.number != AuditDue.URGENT:
            return task.number == self._number  # or another has come since this one was planned
        if self._is_under_way:
            self._hurry()
        return not self._is_under_way

    def start(self, needs: Needs, before: Ground | None) -> None:
        """Have the foundation laid and the tables read; for other needs than those under way, after that.

        before: what was laid last.
        """
        if self._is_under_way:
            if needs != self._needs:
                self._hurry()
            return
        # Laying the foundation lets flows expire, and while it is laid no rebuild can begin.
        if self._keeper.rebuilds.holds_expiry or self._keeper.rebuilds.is_kept_waiting:
            self._timers.add(self._clock() + _FOUNDATION_WAITS, AuditDue())
            return
        self._needs = needs
        self._began = self._clock()
        self._is_under_way = self.is_laying = True
        left = None if before is None else self._keeper.left()
        confirmed = self._keeper.achieved.confirmed
        missing = frozenset(self._keeper.missing_schedulers)

        def lay_and_read() -> None:
            try:
                ground = foundation.lay(self._background, needs, before, missing)
                tables = audit.read_tables(self._background, left, confirmed)
                found = None if left is None else drift.find(tables, left)
            except KernelError as error:
                self._tell(AuditFailed(error))
            else:
                self._tell(Laid(needs, ground, tables, found))

        self._worker.submit(lay_and_read)

    def _hurry(self) -> None:
        """Bring the audit under way to its end, and have another one follow."""
        self._is_hurried = True
        if self._is_resting:
            self._timers.add(self._clock(), SliceDue())

    def succeed(self) -> None:
        """Take note that the foundation was laid and the tables were read."""
        self.is_laying = False
        self.failures = 0

    def read_real_servers(self) -> None:
        """Have the real servers of all virtual servers read, spread over the sync period.

        First by the outline, then in full those that it did not show or cannot judge, and some of the others,
        which are other ones each time.
        """
        keys = list(self._keeper.achieved.virtual_servers)
        self._outline = self._background.ipvs.outline()
        self._unread = dict.fromkeys(keys)
        self._in_full = keys[self._number % audit.IN_FULL :: audit.IN_FULL]
        slices = len(keys) // audit.SLICE + len(self._in_full) // audit.SLICE + 2
        self._next_slice = self._clock()
        remaining = self._began + _SPREAD * self._sync_period - self._next_slice
        self._between_slices = max(0.0, remaining / slices)
        self.read_slice()

    def go_on_after_rest(self) -> None:
        """Have the next real servers read, unless that was hurried on before."""
        if self._is_resting:
            self.read_slice()

    def read_slice(self) -> None:
        """Have the next real servers read."""
        self._is_resting = False
        outline = self._outline
        if outline is not None:
            self._worker.submit(lambda: self._read_outline(outline))
        elif self._unread:
            keys = list(itertools.islice(self._unread, audit.SLICE))
            self._worker.submit(lambda: self._read_in_full(keys))
        else:
            self.end()

    def _read_outline(self, outline: Iterator[Outlined]) -> None:
        """Runs in the worker, which alone goes on with the outline."""
        try:
            table, outlined = audit.read_outline(outline, self._keeper.achieved.confirmed)
        except KernelError:
            table, outlined = {}, {}  # what it does not show is read in full
        self._tell(SliceRead(table, outlined))

    def _read_in_full(self, keys: Sequence[VirtualServerKey]) -> None:
        """Runs in the worker."""
        try:
            table = audit.read_slice(self._background, keys)
        except KernelError as error:
            self._tell(AuditFailed(error))
        else:
            self._tell(SliceRead(table))

    def go_on(self, done: SliceRead, unjudged: Iterable[VirtualServerKey]) -> None:
        """Plan the next slice after one was read; unjudged: what the outline could not say of some."""
        for key in done.table if done.outlined is None else done.outlined:
            self._unread.pop(key, None)
        self._in_full += unjudged
        if done.outlined is not None and len(done.outlined) < audit.SLICE:
            self._outline = None
            self._unread.update(dict.fromkeys(self._in_full))
        if self._outline is not None or self._unread:
            now = self._clock()
            self._next_slice += self._between_slices
            self._is_resting = True
            self._timers.add(now if self._is_hurried else max(now, self._next_slice), SliceDue())
        else:
            self.end()

    def end(self) -> None:
        """Plan the next one: a sync period after this one began."""
        remaining = self._began + self._sync_period - self._clock()
        self._plan(0.0 if self._is_hurried else max(0.0, remaining))

    def fail(self) -> float:
        """Plan another one after one that failed; return the seconds until then."""
        self.is_laying = False
        self.failures += 1
        delay = self._keeper.retries.backoff(self.failures)
        self._plan(delay)
        return delay

    def _plan(self, delay: float) -> None:
        self._is_under_way = self._is_hurried = self._is_resting = False
        self._number += 1
        self._timers.add(self._clock() + delay, AuditDue(self._number))
