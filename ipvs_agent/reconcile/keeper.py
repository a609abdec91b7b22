"""The keeper of the kernel's objects: what is claimed, what was achieved, and all that lies between.

It brings objects from where they are to where the claims want them, tries again what failed and ends drains.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set

from ipvs_agent.addresses import Address, Family
from ipvs_agent.desired import sets, split
from ipvs_agent.desired.sets import Purpose
from ipvs_agent.errors import AlreadyExists, KernelError, NotAnAddress, NotFound, UnknownScheduler
from ipvs_agent.kernel.api import Kernel
from ipvs_agent.model import ObjectName, Protocol, SetMember, Vip, VirtualServerKey
from ipvs_agent.operations import (
    AddVip,
    AddVirtualServer,
    DeleteMember,
    Operation,
    SetVip,
    SetVirtualServer,
)
from ipvs_agent.reconcile import audit, diff, drift, growth
from ipvs_agent.reconcile.achieved import Achieved, are_alike
from ipvs_agent.reconcile.claims import FOREIGN, Claims, Key
from ipvs_agent.reconcile.drains import Drains
from ipvs_agent.reconcile.executor import Failure, WaitingError, execute, key_of
from ipvs_agent.reconcile.pacing import Pacing
from ipvs_agent.reconcile.rebuild import Rebuilds
from ipvs_agent.reconcile.report import Report
from ipvs_agent.reconcile.retries import FIRST_RETRY, Retries
from ipvs_agent.reconcile.settings import Settings
from ipvs_agent.reconcile.slow_start import SlowStart
from ipvs_agent.reconcile.timers import AuditDue, Timers
from ipvs_agent.reconcile.unserved import Unserved
from ipvs_agent.reconcile.vip_forms import VipForms
from ipvs_agent.schedulers import SAFE


class Keeper:
    """Brings the kernel's objects to where the claims want them; used by the reconciler's thread alone."""

    def __init__(
        self,
        kernel: Kernel,
        timers: Timers,
        report: Report,
        unserved: Unserved,
        clock: Callable[[], float],
        settings: Settings,
    ) -> None:
        self.claims = Claims()
        self.achieved = Achieved()
        self.may_remove = False
        """Not before all sources have been listed whole and all that they ask for is there."""
        self.missing_schedulers: set[str] = set()
        """Those that Services asked for and the kernel does not know."""
        self.capacities: dict[str, int] = {}
        """How many members each set takes."""
        self._was_there: dict[Key, None] = {}
        """What was there, adopted or made here, before it was brought to what is claimed now."""
        self._new_datagram_servers: list[VirtualServerKey] = []
        self._kernel = kernel
        self._timers = timers
        self._report = report
        self._unserved = unserved
        self._clock = clock
        self.retries = Retries(timers, clock, settings.node_name)
        self._drains = Drains(
            kernel,
            self.claims,
            self.achieved,
            timers,
            report,
            clock,
            default_limit=settings.drain_seconds,
        )
        self._pacing = Pacing(timers, clock)
        self.rebuilds = Rebuilds(kernel, self.claims, self.achieved, timers, report, clock)
        self._slow_start = SlowStart(timers, clock)
        self._vip_forms = VipForms(settings.vip_mode, self.claims, self.achieved, timers, report, clock)
        self._foreign: set[VirtualServerKey] = set()

    @property
    def is_failing(self) -> bool:
        """Whether something is not where it should be: the kernel refused it, or others have its address."""
        is_anything_refused = len(self.retries) > 0 or not self.rebuilds.is_complete
        return is_anything_refused or any(self.claims.claimants(key) for key in self.foreign)

    # --- Operations -----------------------------------------------------------------------------------------

    def bring(
        self, keys: dict[Key, None], services: Sequence[ObjectName] = (), *, is_yielding: bool = False
    ) -> None:
        """Bring objects from what was achieved to what is claimed.

        is_yielding: also remove, though not all sources have been listed; for what was said of a virtual
        server before it turned out to be somebody else's.
        """
        self._note_contests(keys, services)
        if not keys:
            return
        started = self._clock()
        if self.may_remove:
            self._drains.let_linger(keys)
        else:
            self._welcome_outside(keys)
            self._was_there.update((key, None) for key in keys if self.achieved.has(key))
        operations = [operation for key in keys for operation in self._difference(key)]
        if not (self.may_remove or is_yielding):
            operations = [
                operation
                for operation in operations
                if not diff.removes(operation) or self._only_says_how(operation)
            ]
        for name, texts in self._drains.put_off.take_changed().items():
            self._unserved.put_off(name, texts)
        self._drains.remember_ways_in(operations)
        self._make_room(operations)
        failures = execute(operations, self._kernel, self.achieved, self.claims.frontend)
        done = self._clock()
        self._report.applied(services, operations, failures, done - started)
        self._vip_forms.take_over(keys)
        self._drains.note_limits(keys)
        if self.may_remove:
            self._drains.watch(keys, done)
            self.rebuilds.watch(keys, done)
        self._note(keys, failures)
        self._new_datagram_servers += (
            operation.virtual_server.key
            for operation in operations
            if isinstance(operation, AddVirtualServer)
            and operation.virtual_server.key.protocol == Protocol.UDP
        )

    def begin_to_remove(self) -> None:
        """Bring all objects to what is claimed now, and from now on remove what nobody claims."""
        self.may_remove = True
        self._drains.recall_ways_in()
        # All others are what they were made. What failed goes on, for a single sync waits for no retry.
        keys = self._was_there | dict.fromkeys(self.retries.keys())
        self._was_there = {}
        self.bring(keys)

    def _welcome_outside(self, keys: dict[Key, None]) -> None:
        """Add what an earlier agent wrote to keep clients outside from addresses that have endpoints now."""
        for key in list(keys):
            frontend = self.claims.frontend(key) if isinstance(key, VirtualServerKey) else None
            if isinstance(key, VirtualServerKey) and not key.mark and frontend and frontend.real_servers:
                silence = sets.port_member(Purpose.NOLOCAL, key)
                if silence in self.achieved.members and not self.claims.wanted(silence):
                    keys[silence] = None

    def _only_says_how(self, operation: Operation) -> bool:
        """Tell whether an operation does no more than change how a virtual server is reached."""
        return (
            isinstance(operation, DeleteMember)
            and sets.purpose_of(operation.member) in sets.MANNERS
            and self.claims.frontend(sets.dialled(operation.member)) is not None
        )

    @property
    def may_have_older_flows(self) -> bool:
        """Whether virtual servers for UDP were made since `take_new_datagram_servers`."""
        return bool(self._new_datagram_servers)

    def take_new_datagram_servers(self) -> list[VirtualServerKey]:
        """Return and forget the virtual servers for UDP that were made since the last time."""
        keys, self._new_datagram_servers = self._new_datagram_servers, []
        return keys

    def _make_room(self, operations: Sequence[Operation]) -> None:
        for ip_set in growth.too_small(operations, self.achieved, self.capacities):
            members = (member for member in self.achieved.members if member.set_name == ip_set.name)
            try:
                growth.replace(ip_set, members, self._kernel.ipsets)
            except KernelError as error:
                self._report.not_grown(ip_set, error)  # what it cannot take is tried again, and this with it
            else:
                self.capacities[ip_set.name] = ip_set.capacity
                self._report.grown(ip_set)

    def _note_contests(self, keys: Iterable[Key], services: Iterable[ObjectName]) -> None:
        """Have it said who asks for what another has: these Services, and those that wait for these keys."""
        names = dict.fromkeys(services)
        for key in keys:
            if isinstance(key, VirtualServerKey):
                names.update(dict.fromkeys(self.claims.claimants(key)))
        for name in names:
            self._unserved.contested(name, self.claims.contests(name))

    def _difference(self, key: Key) -> Iterable[Operation]:
        if isinstance(key, VirtualServerKey):
            held = self.achieved.virtual_servers.get(key)
            drainable = self._drains.attainable(key, self.claims.frontend(key), held)
            paced = self._pacing.attainable(key, drainable, held)
            attainable = self._slow_start.attainable(key, paced, held, is_starting=not self.may_remove)
            return diff.virtual_server(key, attainable, held)
        if isinstance(key, SetMember):
            return diff.member(key, wanted=self.claims.wanted(key), achieved=self.achieved)
        return self._vip_forms.difference(key)

    def _note(self, keys: Iterable[Key], failures: Iterable[Failure]) -> None:
        """Have what failed tried again, and say what succeeded at last."""
        failed: dict[Key, Failure] = {}
        for failure in failures:
            failed.setdefault(key_of(failure.operation), failure)
        taken = [key for key, failure in failed.items() if _is_taken(failure)]
        unpreferred = {
            key: failure for key, failure in failed.items() if isinstance(failure.error, NotAnAddress)
        }
        for key in (*taken, *unpreferred):
            del failed[key]
        self.missing_schedulers.update(filter(None, map(_missing_scheduler, failed.values())))
        attempts = self.retries.note_failed(failed)
        if failed:
            causes = [one for one in failed.values() if not _is_said_elsewhere(one)]
            self._report.failed(causes, attempts)
        if any(isinstance(failure.error, NotFound) for failure in failed.values()):
            self._timers.add(self._clock(), AuditDue())  # what is gone has rarely gone alone
        self._forgo(unpreferred.values())
        recovered = self.retries.note_done(
            key for key in keys if key not in failed and key not in unpreferred and key not in self._pacing
        )
        self._report.recovered(recovered)
        self._vip_forms.look_again(recovered)
        if recovered:
            self.bring(dict.fromkeys(self.retries.take_held_back()))
        for key in taken:
            if isinstance(key, VirtualServerKey):
                self.yield_to_others(key)

    def _forgo(self, failures: Iterable[Failure]) -> None:
        """Have VIPs go on without the sources that the kernel refused."""
        operations = [one.operation for one in failures if isinstance(one.operation, AddVip | SetVip)]
        for source in self._vip_forms.forgo(operations):
            self._report.not_preferred(source)

    def retry(self, key: Key) -> None:
        """Try again what failed, after a look at where it is now."""
        if not self.retries.is_due(key):
            return
        is_new = self.retries.is_held_back(key) and key not in self.achieved.virtual_servers
        if isinstance(key, VirtualServerKey) and not is_new:  # what has come meanwhile is somebody else's
            self.reread(key)
        may_move = self._vip_forms.letting_move(key) if isinstance(key, bytes) else contextlib.nullcontext()
        with may_move:
            self.bring({key: None})

    def reread(self, key: VirtualServerKey) -> bool:
        """Read a virtual server again by its key; tell whether it is not as it was left."""
        held = self.achieved.virtual_servers.get(key)
        try:
            found = self._kernel.ipvs.virtual_server(key).virtual_server
            behind = audit.read_real_servers(self._kernel, key)
        except NotFound:
            self.achieved.observe(key, None, {})
        except KernelError as error:
            self._report.not_ready(error, FIRST_RETRY)
            self._timers.add(self._clock() + FIRST_RETRY, AuditDue())
            return False
        else:
            self.achieved.observe(key, found, behind)
        return not are_alike(self.achieved.virtual_servers.get(key), held)

    @property
    def foreign(self) -> Set[VirtualServerKey]:
        """Return the virtual servers that others have made."""
        return self._foreign

    def note_foreign(self, key: VirtualServerKey) -> None:
        """Take note that others have made a virtual server."""
        self._foreign.add(key)
        self.achieved.touch(key)

    def forget_foreign(self, key: VirtualServerKey) -> None:
        """Take note that a virtual server of others is gone."""
        self._foreign.discard(key)
        self.achieved.touch(key)

    def left(self) -> audit.Left:
        """Return how the kernel was left, for an audit."""
        self.achieved.note_changes()
        return drift.left(self.achieved, self.foreign)

    def yield_to_others(self, key: VirtualServerKey) -> None:
        """Leave a virtual server to whoever made it, and take back what was said of it in the sets."""
        self.note_foreign(key)
        self.bring(self.claims.claim_for_nobody(key, FOREIGN, None), is_yielding=True)

    @property
    def is_changing_schedulers(self) -> bool:
        """Whether virtual servers wait for a scheduler that they can have."""
        return len(self._pacing) > 0

    def change_scheduler(self) -> None:
        """Give the next virtual server the scheduler that it waits for."""
        with self._pacing.turn() as key:
            if key is not None:
                self.bring({key: None})

    def take_step(self, key: VirtualServerKey) -> None:
        """Give real servers that start slowly the weights that are due."""
        self._slow_start.take_step(key)
        self.bring({key: None})

    def check_drains(self, moment: float) -> None:
        """Remove draining real servers that have lost their last connection, of what is due at a moment."""
        self.bring(self._drains.check_due(moment))

    def rebuild(self, *, may_begin: bool) -> None:
        """Put real servers in order where that is due; what was refused is brought to where it should be."""
        refused = self.rebuilds.step(may_begin=may_begin)
        for key in refused:
            self.reread(key)
        self.bring(dict.fromkeys(refused))

    def end_drains(self) -> None:
        """Look at every drain at once, for a process that will not be there later."""
        for _ in range(2):  # an address waits for what it leads to by mark
            self.bring(self._drains.check(self._drains.under_way()))
        self._report.still_draining(len(self._drains.under_way()))

    def note_adopted(self, vips: Iterable[Vip]) -> None:
        """Take note that what was achieved up to now is what an agent before this one left.

        vips: all that are on the interface, those of others too.
        """
        self._was_there = dict.fromkeys(self.achieved.keys())
        self._vip_forms.adopt(vips)
        self._tidy()

    @property
    def preferred_sources(self) -> Collection[Address]:
        """From which of its addresses the node is to dial VIPs that are routes."""
        return self._vip_forms.preferred

    def prefer_sources(self, sources: Mapping[Family, Address]) -> None:
        """Have the node dial VIPs that are routes from these addresses, which are its own."""
        self._vip_forms.prefer(sources)

    def try_sources_again(self, new: Set[Address]) -> None:
        """Prefer again what the kernel refused, where the node has just got the address."""
        self._vip_forms.try_again(new)

    def lose_source(self, address: Address) -> None:
        """Have the node dial no VIP from an address that it has just lost."""
        self._vip_forms.lose(address)

    def choose_vip_form(self) -> None:
        """See whether the VIPs that are wanted now should be there in another form."""
        self._vip_forms.choose()

    def move_vips(self) -> None:
        """Bring some VIPs to their form: all of them have it before they lose the other one."""
        with self._vip_forms.turn() as addresses:
            keys: dict[Key, None] = dict.fromkeys(addresses)
            self.bring(keys)
            self.bring(keys)
        if not self._vip_forms.are_moving:
            self._tidy()

    @property
    def are_vips_moving(self) -> bool:
        """Whether some VIPs have yet to get their form or source."""
        return self._vip_forms.are_moving

    def _tidy(self) -> None:
        """Remove what was on the interface for routes only, where there are to be none."""
        if self._vip_forms.are_addresses:
            with contextlib.suppress(KernelError):  # it harms nobody, and the next agent sees it too
                self._kernel.vips.tidy()


def _missing_scheduler(failure: Failure) -> str:
    """Return the scheduler that the kernel does not know, empty where it is not that which failed."""
    operation = failure.operation
    is_unknown = isinstance(failure.error, UnknownScheduler)
    if not is_unknown or not isinstance(operation, AddVirtualServer | SetVirtualServer):
        return ""
    return operation.virtual_server.scheduler


def _is_said_elsewhere(failure: Failure) -> bool:
    """Tell whether a failure is not worth a line of its own."""
    # Whoever asks for a scheduler that is not there gets another one, and is told so.
    return isinstance(failure.error, WaitingError) or _missing_scheduler(failure) not in ("", SAFE)


def _is_taken(failure: Failure) -> bool:
    """Tell whether somebody else has what was to be added.

    A virtual server by a mark of ours was made by an agent of ours: it is read and adopted at the next try.
    """
    if not isinstance(failure.operation, AddVirtualServer) or not isinstance(failure.error, AlreadyExists):
        return False
    return not split.is_ours(failure.operation.virtual_server.key)
