"""The only loop over operations: changes in, operations out, and what became of them remembered.

Everything here runs in one thread. Sources and the worker hand their results to `tell`, which may be called
from any thread and from a signal handler; the loop takes all that has come, and brings what it touched to
where it should be.
"""

from __future__ import annotations

import contextlib
import gc
import queue
from collections.abc import Callable

from ipvs_agent.errors import KernelError
from ipvs_agent.kernel.api import Kernel
from ipvs_agent.model import NodeHealth, ObjectName
from ipvs_agent.reconcile.audits import Audits
from ipvs_agent.reconcile.claims import Key
from ipvs_agent.reconcile.clock import RoundClock
from ipvs_agent.reconcile.crowds import Crowds
from ipvs_agent.reconcile.figures import Figures
from ipvs_agent.reconcile.foundation import still_missing
from ipvs_agent.reconcile.health import Health
from ipvs_agent.reconcile.keeper import Keeper
from ipvs_agent.reconcile.marks import Marks
from ipvs_agent.reconcile.messages import (
    AddressesChanged,
    AddressesFailed,
    AddressesRead,
    AddressGone,
    AuditFailed,
    FlowsForgotten,
    Laid,
    LinkLost,
    Message,
    NodeNews,
    SliceRead,
    Stop,
    VipsRead,
)
from ipvs_agent.reconcile.node_reads import NodeReads
from ipvs_agent.reconcile.node_views import NodeViews
from ipvs_agent.reconcile.older_flows import OlderFlows
from ipvs_agent.reconcile.outlets import Outlets
from ipvs_agent.reconcile.planner import Planner
from ipvs_agent.reconcile.repairs import Repairs
from ipvs_agent.reconcile.report import Report
from ipvs_agent.reconcile.settings import Settings
from ipvs_agent.reconcile.spacing import Spacing
from ipvs_agent.reconcile.stages import Stages
from ipvs_agent.reconcile.timers import (
    AddressesDue,
    AuditDue,
    DrainsDue,
    FlowsDue,
    LinesDue,
    ObjectTask,
    RampStep,
    RebuildDue,
    Retry,
    RoomDue,
    SchedulerTurn,
    ServiceDue,
    SliceDue,
    Task,
    Timers,
    VipsMove,
)
from ipvs_agent.reconcile.unserved import Unserved
from ipvs_agent.reconcile.worker import Worker
from ipvs_agent.sources.changes import Change, Kind, Rejected, Remark, Trouble
from ipvs_agent.sources.store import Store

_SETTLED = 10_000
"""So many objects more have the garbage collector look for garbage, once the agent serves."""
_ROUND = 10
"""Services that one round serves; what comes meanwhile waits for no more than that."""
_START = 500
"""Services that a start serves at a time, when nothing else can come first."""

_NOBODY = Outlets()


class Reconciler:
    """Brings the kernel to what the sources ask for, and keeps it there.

    kernel is used by this loop alone, background by the jobs that it gives to the worker.
    """

    def __init__(
        self,
        kernel: Kernel,
        background: Kernel,
        worker: Worker,
        settings: Settings,
        clock: Callable[[], float],
        outlets: Outlets = _NOBODY,
    ) -> None:
        self._background = background
        self._worker = worker
        self._settings = settings
        self._clock = now = RoundClock(clock)
        self._stages = Stages(clock)
        self._inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._store = Store(settings.node_name)
        self._timers = Timers()
        self._spacing = Spacing(settings.min_sync_period, self._timers, now)
        self._report = Report(self._timers, now)
        self._unserved = Unserved(outlets, self._report, self._store.service_nearby)
        self._keeper = Keeper(kernel, self._timers, self._report, self._unserved, clock, settings)
        self._repairs = Repairs(self._keeper, kernel, self._timers, self._report, now, rank=self._store.rank)
        self._marks = Marks(self._keeper.achieved.goes_by, self._keeper.claims.owner)
        self._health = Health(outlets.health, settings.sync_period, clock)
        crowds = Crowds(self._timers, now)
        self._planner = Planner(
            self._store,
            self._keeper,
            self._marks,
            crowds,
            self._unserved,
            health=self._health,
            figures=Figures(outlets.metrics),
        )
        self._node_reads = NodeReads(background, worker, self.tell)
        self._older_flows = OlderFlows(self._keeper, background, worker, self.tell)
        self._audits = Audits(
            background, worker, self.tell, self._keeper, self._timers, now, sync_period=settings.sync_period
        )
        self._node = NodeViews(self._store, self._keeper, settings, self._report, outlets.health)
        self._troubles: dict[str, str] = {}
        self._is_stopping = False

    def health(self) -> NodeHealth:
        """Tell, in any thread, whether the kernel is as it should be or has not been otherwise for long."""
        return self._health.now()

    def tell(self, message: Message) -> None:
        """Hand something to the loop, from any thread."""
        self._inbox.put(message)

    def stop(self) -> None:
        """Have the loop end soon, in the midst of a large round too; in its thread or a signal handler."""
        self._is_stopping = True
        self.tell(Stop())

    def start(self) -> None:
        """Have the foundation laid and the kernel read; `run` and `run_once` begin with it."""
        self._start_audit()

    def run(self) -> None:
        """Run until told to Stop; the kernel goes on serving."""
        self.start()
        self._go_on_until(lambda: self._keeper.may_remove)
        gc.freeze()  # what a start has loaded mostly stays, and need not be looked through for garbage
        gc.set_threshold(_SETTLED)
        self._go_on_until(lambda: False)
        self._keeper.rebuilds.release()
        self._report.flush()

    def run_once(self) -> bool:
        """Bring the kernel to what the sources say now; return whether all of it was achieved."""
        self.start()
        while not (self._is_stopping or self._is_done() or self._is_hopeless()):
            self._wait()
            self.catch_up()
        self._older_flows.forget()
        while not self._is_stopping and self._has_more_to_do():
            self._wait()
            self.catch_up()
        self._keeper.rebuilds.release()
        while self._keeper.are_vips_moving and not self._is_stopping:
            self._keeper.move_vips()  # at once, for this process will not be there later
        if not self._is_stopping:
            self._keeper.end_drains()
        self._report.flush()
        is_failing = self._keeper.is_failing or self._older_flows.failures > 0
        is_undisturbed = not (self._is_stopping or self._troubles)
        return self._keeper.may_remove and not is_failing and is_undisturbed

    def _has_more_to_do(self) -> bool:
        """Tell whether something is under way that does not wait for connections to end."""
        return self._older_flows.are_being_forgotten or self._keeper.rebuilds.is_pending

    def _go_on_until(self, is_enough: Callable[[], bool]) -> None:
        """Turn the loop until something holds, or until told to Stop."""
        while not (self._is_stopping or is_enough()):
            self._wait()
            self.catch_up()

    def _is_done(self) -> bool:
        return self._keeper.may_remove and not self._is_at_work() and not self._node.lags_behind

    def _is_at_work(self) -> bool:
        return bool(self._store.dirty or self._spacing) or self._keeper.is_changing_schedulers

    def _is_hopeless(self) -> bool:
        """Tell whether a single sync will not become complete by waiting."""
        if self._node.view is None:
            is_waiting = self._store.complete and self._node.needs is None
            return is_waiting or self._audits.failures > 0
        return bool(self._troubles) and not self._is_at_work()

    def catch_up(self) -> None:
        """Take what has come, do what is due and one round of what is dirty, without waiting for anything."""
        self._clock.set()
        while not (self._is_stopping or self._inbox.empty()):
            self._handle(self._inbox.get())
        if self._is_stopping:
            return
        self._round()
        # What has come goes first: for a task the kernel may have to wait.
        for task in self._timers.take_due(self._clock()):
            self._run_task(task)
        self._older_flows.watch(self._timers, self._clock())
        is_behind = self._node.view is None or bool(self._store.dirty) or self._audits.failures > 0
        self._health.note(is_behind=is_behind)
        self._unserved.flush()

    # --- What comes in --------------------------------------------------------------------------------------

    def _wait(self) -> None:
        with contextlib.suppress(queue.Empty):
            message = self._inbox.get(timeout=self._patience())
            self._clock.set()
            self._handle(message)

    def _patience(self) -> float | None:
        """Return for how long nothing needs to be done unless a message comes."""
        if self._can_plan() and self._store.dirty:
            return 0.0
        self._clock.set()
        due = self._timers.next_due()
        return None if due is None else max(0.0, due - self._clock())

    def _handle(self, message: Message) -> None:
        if isinstance(message, Stop):
            self._is_stopping = True
        elif isinstance(message, Laid):
            self._on_laid(message)
        elif isinstance(message, SliceRead):
            unjudged = self._repairs.repair_real_servers(message.table, message.outlined)
            self._audits.go_on(message, unjudged)
        elif isinstance(message, AuditFailed):
            self._on_audit_failed(message.error)
        elif isinstance(message, NodeNews):
            self._on_node(message)
        elif isinstance(message, FlowsForgotten):
            self._report.flows(message.count, message.error, self._older_flows.failures)
            self._older_flows.note(message)
        else:
            for change in message:
                self._on_change(change)

    def _on_node(self, news: NodeNews) -> None:
        if isinstance(news, AddressesChanged):
            self._node_reads.read_addresses()
        elif isinstance(news, AddressGone):
            self._node.note_gone(news.address)
        elif isinstance(news, AddressesRead):
            self._node.note_addresses(news.addresses)
            self._refresh_view()
        elif isinstance(news, AddressesFailed):
            delay = self._keeper.retries.backoff(1)
            self._report.not_ready(news.error, delay)
            self._timers.add(self._clock() + delay, AddressesDue())
        elif isinstance(news, LinkLost):
            self._node_reads.mend_link()
        else:
            self._on_vips_read(news)

    def _on_change(self, change: Change) -> None:
        if isinstance(change, Remark):
            self._report.skipped(f"{change.source}: {change.message}")
            return
        if isinstance(change, Trouble):
            self._report.trouble(change)
            if change.message:
                self._troubles[change.source] = change.message
            else:
                self._troubles.pop(change.source, None)
            return
        self._store.apply(change)
        self._unserved.changed(change)
        if change.kind is Kind.NODE and not isinstance(change, Rejected):
            self._health.note_node(self._store.node)
        if self._node.is_told_of(change):
            self._refresh_view()

    def _run_task(self, task: Task) -> None:
        if isinstance(task, ServiceDue):
            if self._spacing.end_wait(task.name):
                self._store.dirty[task.name] = None
        elif isinstance(task, RoomDue):
            self._store.dirty[task.name] = None
        elif isinstance(task, LinesDue):
            self._report.flush()
        elif isinstance(task, FlowsDue):
            self._older_flows.forget()
        elif isinstance(task, AddressesDue):
            self._node_reads.read_addresses()
        elif isinstance(task, SliceDue):
            self._audits.go_on_after_rest()
        elif isinstance(task, AuditDue):
            if self._audits.take(task):
                self._start_audit()
        else:
            self._have_kept(task)

    def _have_kept(self, task: ObjectTask) -> None:
        """Have the keeper do what is due."""
        if isinstance(task, Retry):
            self._keeper.retry(task.key)
        elif isinstance(task, DrainsDue):
            self._keeper.check_drains(task.moment)
        elif isinstance(task, RebuildDue):
            self._keeper.rebuild(may_begin=not self._audits.is_laying)
        elif isinstance(task, VipsMove):
            self._keeper.move_vips()
        elif isinstance(task, SchedulerTurn):
            self._keeper.change_scheduler()
        elif isinstance(task, RampStep):
            self._keeper.take_step(task.key)
        else:
            self._repairs.look_again(task.remaining)

    # --- Plans ----------------------------------------------------------------------------------------------

    def _can_plan(self) -> bool:
        """Tell whether planning makes sense: a source in trouble may not become complete for hours."""
        return self._node.view is not None and (self._store.complete or bool(self._troubles))

    def _round(self) -> None:
        """Bring some dirty Services to where they should be."""
        if not self._can_plan():
            return
        is_first = not self._keeper.may_remove
        if is_first:
            self._stages.end("sources")
        # At first all is claimed before anything is done: a younger Service must not have, for a moment, the
        # address of an older one that comes later in the list.
        names = self._take_turns(is_first=is_first)
        if is_first:
            names.sort(key=self._store.precedence)
        changed: list[dict[Key, None]] = []
        for name in names:
            if self._is_stopping:
                return
            changed.append(self._keeper.claims.replace(name, self._planner.plan(name, self._node.view)))
        if is_first:
            self._stages.end("compile")
        self._health.publish_losses()
        self._keeper.choose_vip_form()
        for start in range(0, len(names), _START):
            if self._is_stopping:
                return
            now = slice(start, start + _START)
            self._keeper.bring({key: None for keys in changed[now] for key in keys}, names[now])
        self._health.publish()
        if self._node.has_other_schedulers:
            self._refresh_view()  # Services that asked for one that the kernel does not know get another
        if self._store.complete and is_first and not self._is_stopping:
            self._prune()

    def _take_turns(self, *, is_first: bool) -> list[ObjectName]:
        """Return the Services to be served in this round."""
        names = self._store.take_dirty(len(self._store.dirty) if is_first else _ROUND)
        if is_first and self._store.complete:
            # What nobody wants is removed behind this round, so each is looked at as it is now.
            return list(dict.fromkeys((*self._spacing.end_all(), *names)))
        return self._spacing.admit(names)

    def _prune(self) -> None:
        """From now on remove what nobody wants, beginning with what earlier agents left."""
        keeper = self._keeper
        keeper.begin_to_remove()
        self._node.left = frozenset()
        achieved = keeper.achieved
        self._marks.adopt(())  # those of Services that are gone may be given again
        self._stages.end("kernel")
        self._report.serving(
            len(self._store.services), len(achieved.virtual_servers), keeper.claims.vips, self._stages.seconds
        )

    def _refresh_view(self) -> None:
        """Look at the node anew; where it differs, what depends on it is compiled again."""
        if self._node.ground is not None and self._node.lags_behind:
            self._start_audit()
        self._node.refresh()

    def _on_vips_read(self, message: VipsRead) -> None:
        if message.vips is None:
            self._timers.add(self._clock(), AuditDue())  # which says what is wrong
        else:
            self._repairs.repair_vips(message.vips)

    # --- Audit ----------------------------------------------------------------------------------------------

    def _start_audit(self) -> None:
        self._audits.start(self._node.needs_to_lay, self._node.ground)

    def _on_laid(self, laid: Laid) -> None:
        before = self._node.ground
        if before is None:
            self._stages.end("foundation")
        self._keeper.capacities.update(laid.ground.capacities)
        self._keeper.missing_schedulers = still_missing(self._keeper.missing_schedulers, laid.ground, before)
        if before is None:
            self._marks.adopt(laid.tables.members)
            try:
                self._node.left = self._repairs.adopt(laid.tables)
            except KernelError as error:
                self._on_audit_failed(error)
                return
        self._audits.succeed()
        self._report.laid(laid.ground, before)
        self._node.note_laid(laid)
        self._health.note_families(laid.ground.families)
        self._refresh_view()
        if laid.drift is None:
            self._audits.end()
        else:
            self._repairs.repair(laid.drift, laid.tables.digests)
            self._audits.read_real_servers()

    def _on_audit_failed(self, error: KernelError) -> None:
        self._report.not_ready(error, self._audits.fail())
