"""What has to be done later."""

from __future__ import annotations

import heapq
import itertools
from typing import ClassVar

import msgspec

from ipvs_agent.addresses import Address
from ipvs_agent.model import ObjectName, VirtualServerKey
from ipvs_agent.reconcile.claims import Key


class ServiceDue(msgspec.Struct, frozen=True):
    """Serve a Service that had its last turns too short a time ago."""

    name: ObjectName


class LinesDue(msgspec.Struct, frozen=True):
    """Say in the log what was not said at once."""


class Retry(msgspec.Struct, frozen=True):
    """Bring an object that failed to where it should be."""

    key: Key


class DrainsDue(msgspec.Struct, frozen=True):
    """Look whether draining real servers have lost their last connection, of what is due at a moment."""

    moment: float


class RebuildDue(msgspec.Struct, frozen=True):
    """Put real servers in order, where that was needed for long enough."""


class AuditDue(msgspec.Struct, frozen=True):
    """Read the kernel back, unless another audit has come since the one of that number was planned."""

    URGENT: ClassVar[int] = 0
    number: int = URGENT


class SliceDue(msgspec.Struct, frozen=True):
    """Read real servers of the next virtual servers of an audit."""


class SuspectsDue(msgspec.Struct, frozen=True):
    """Look again at virtual servers and VIPs that an audit found otherwise than they were left."""

    remaining: tuple[VirtualServerKey | Address, ...]


class AddressesDue(msgspec.Struct, frozen=True):
    """Read the node's addresses again."""


class FlowsDue(msgspec.Struct, frozen=True):
    """Have the flows removed that are older than the virtual servers which they are for."""


class SchedulerTurn(msgspec.Struct, frozen=True):
    """Give the next virtual server the scheduler that it waits for."""


class RampStep(msgspec.Struct, frozen=True):
    """Give real servers of a virtual server that start slowly the weights that are due."""

    key: VirtualServerKey


class RoomDue(msgspec.Struct, frozen=True):
    """Compile a Service again, behind which tables have had room for its endpoints for a while."""

    name: ObjectName


class VipsMove(msgspec.Struct, frozen=True):
    """Move some VIPs to the form that they are to have."""


ObjectTask = Retry | DrainsDue | RebuildDue | SuspectsDue | SchedulerTurn | RampStep | VipsMove
"""What concerns objects of the kernel."""
Task = ObjectTask | ServiceDue | RoomDue | LinesDue | AuditDue | SliceDue | AddressesDue | FlowsDue


class Timers:
    """A heap of tasks by the time at which they are due."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Task]] = []
        self._numbers = itertools.count()

    def add(self, due: float, task: Task) -> None:
        """Have a task returned at or after a time."""
        heapq.heappush(self._heap, (due, next(self._numbers), task))

    def next_due(self) -> float | None:
        """Return when the next task is due."""
        return self._heap[0][0] if self._heap else None

    def take_due(self, now: float) -> list[Task]:
        """Return and forget the tasks that are due."""
        due: list[Task] = []
        while self._heap and self._heap[0][0] <= now:
            due.append(heapq.heappop(self._heap)[2])
        return due
