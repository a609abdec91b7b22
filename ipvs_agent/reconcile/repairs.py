"""What others did to the kernel's objects: found by reading, and made good.

What an agent before this one left is taken over; what somebody else made is left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set

from ipvs_agent.addresses import Address
from ipvs_agent.desired import sets
from ipvs_agent.errors import KernelError, NotFound
from ipvs_agent.kernel.api import Kernel
from ipvs_agent.model import ObjectName, SetMember, Vip, VirtualServerKey
from ipvs_agent.reconcile import audit, drift
from ipvs_agent.reconcile.achieved import VIRTUAL_SERVERS, Held, are_alike
from ipvs_agent.reconcile.audit import Tables, TableSlice
from ipvs_agent.reconcile.claims import FOREIGN, Key
from ipvs_agent.reconcile.keeper import Keeper
from ipvs_agent.reconcile.report import Report
from ipvs_agent.reconcile.timers import SuspectsDue, Timers


class Repairs:
    """Finds what is not as it was left, and has it brought to where it should be.

    rank: what puts Services first that others need.
    """

    def __init__(
        self,
        keeper: Keeper,
        kernel: Kernel,
        timers: Timers,
        report: Report,
        clock: Callable[[], float],
        *,
        rank: Callable[[ObjectName], int],
    ) -> None:
        self._keeper = keeper
        self._claims = keeper.claims
        self._achieved = keeper.achieved
        self._kernel = kernel
        self._timers = timers
        self._report = report
        self._clock = clock
        self._service_rank = rank

    def adopt(self, tables: Tables) -> frozenset[VirtualServerKey]:
        """Take over what an agent before this one left, and return the virtual servers of it.

        What the ledger does not name is not ours.
        """
        ours = sets.ours(tables.virtual_servers, tables.members)
        behind = audit.read_slice(self._kernel, [key for key in tables.virtual_servers if key in ours])
        others: dict[Key, None] = {}
        for key, virtual_server in tables.virtual_servers.items():
            if key in ours:
                self._achieved.observe(key, virtual_server, behind[key])
            else:
                self._keeper.note_foreign(key)
                others.update(self._claims.claim_for_nobody(key, FOREIGN, None))
        self._achieved.discover(tables.members | drift.vips_of_ours(tables))
        self._keeper.note_adopted(tables.vips)
        self._keeper.bring(others)
        self._report.adopted(len(behind), len(self._keeper.foreign))
        return frozenset(behind)

    def repair(self, found: drift.Drift, digests: Mapping[str, int]) -> None:
        """Make good what others changed, real servers apart.

        digests: what was said of each table that was read.
        """
        changes = self._achieved.take_changes()
        found = drift.without(found, changes)
        differing = (*found.lost, *found.extra)
        self._confirm(found, changes, digests)
        changed: dict[Key, None] = {thing: None for thing in differing if isinstance(thing, SetMember)}
        vips = dict.fromkeys(thing.address for thing in differing if isinstance(thing, Vip))
        self._achieved.forget(found.lost)
        self._achieved.discover(found.extra)
        # What is in the ledger and was never made here was made by others while ours waited.
        new = found.suspects - self._achieved.virtual_servers.keys() - changes
        intruders = frozenset(filter(self._keeper.retries.is_held_back, new))
        suspects = sorted(found.suspects - intruders, key=self._rank)
        for key in found.foreign | intruders:
            if self._exists(key):
                self._keeper.yield_to_others(key)
        for key in found.foreign_gone:
            if not self._exists(key):
                self._keeper.forget_foreign(key)
                self._claims.release(key, FOREIGN, changed)
        self._report.drifted(len(changed))
        self._keeper.bring(changed)
        self.look_again((*suspects, *vips))  # a VIP comes back when its virtual server has

    def _confirm(
        self,
        found: drift.Drift,
        changes: Set[VirtualServerKey | Vip | SetMember],
        digests: Mapping[str, int],
    ) -> None:
        """Take note of those tables that are as they were left, and have not been changed since."""
        doubtful = {
            thing.set_name for thing in (*changes, *found.lost, *found.extra) if isinstance(thing, SetMember)
        }
        is_changed = any(isinstance(thing, VirtualServerKey) for thing in changes)
        if is_changed or found.suspects or found.foreign or found.foreign_gone:
            doubtful.add(VIRTUAL_SERVERS)
        for name in doubtful:
            self._achieved.doubt(name)
        self._achieved.confirm({name: digest for name, digest in digests.items() if name not in doubtful})

    def repair_vips(self, found: Set[Vip]) -> None:
        """Make good what went with the interface."""
        there = {(vip.address, vip.form) for vip in found}  # sources are for the audit to compare
        lost = [vip for vip in self._achieved.vips if (vip.address, vip.form) not in there]
        self._achieved.forget(lost)
        self.look_again([*dict.fromkeys(vip.address for vip in lost)])

    def repair_real_servers(
        self, table: TableSlice, outlined: Mapping[VirtualServerKey, int] | None
    ) -> list[VirtualServerKey]:
        """Make good what others changed behind some virtual servers; return those that need a closer look.

        outlined: their digests where the table is of the outline, which does not say all that there is to say
        of real servers.
        """
        suspects: list[VirtualServerKey] = []
        unjudged: list[VirtualServerKey] = []
        for key, real_servers in table.items():
            held = self._achieved.virtual_servers.get(key)
            if held is None:
                continue
            found = Held(held.virtual_server, real_servers)
            if not are_alike(held, found):
                is_unjudged = outlined is not None and are_alike(audit.outlined(held), found)
                (unjudged if is_unjudged else suspects).append(key)
            elif outlined is not None:
                self._achieved.confirm({key: outlined[key]})
        self.look_again(suspects)
        return unjudged

    def look_again(self, suspects: Sequence[VirtualServerKey | Address]) -> None:
        """Make good what others changed of the first of some virtual servers and VIPs; the others follow."""
        now, later = suspects[: audit.CLOSE_LOOKS], tuple(suspects[audit.CLOSE_LOOKS :])
        changed: dict[Key, None] = {
            key: None for key in now if not isinstance(key, VirtualServerKey) or self._keeper.reread(key)
        }
        self._report.drifted(len(changed))
        self._keeper.bring(changed)
        if later:
            self._timers.add(self._clock(), SuspectsDue(later))

    def _rank(self, key: VirtualServerKey) -> int:
        """Return what puts virtual servers first that others need."""
        owner = self._claims.owner(key)
        return self._service_rank(owner.name if owner is not None else ObjectName("", ""))

    def _exists(self, key: VirtualServerKey) -> bool:
        try:
            self._kernel.ipvs.virtual_server(key)
        except NotFound:
            return False
        except KernelError:
            return key in self._keeper.foreign
        return True
