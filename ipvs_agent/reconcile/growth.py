"""Sets that take more members when they need to.

A set is made for a number of members and cannot be made larger, so a larger one is filled beside it and takes
its place in one step: no packet sees a set that is half filled.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from ipvs_agent.addresses import Family
from ipvs_agent.desired import sets
from ipvs_agent.errors import KernelError, NotFound
from ipvs_agent.kernel.api import IpSets
from ipvs_agent.model import IpSet, SetMember, SetType
from ipvs_agent.operations import AddMember, Operation
from ipvs_agent.reconcile.achieved import Achieved

_SETS = {ip_set.name: ip_set for family in Family for ip_set in sets.sets_of(family)}


def too_small(
    operations: Iterable[Operation], achieved: Achieved, capacities: Mapping[str, int]
) -> Iterator[IpSet]:
    """Yield the sets that cannot take what is to be added, as they need to be."""
    additions = Counter(
        operation.member.set_name for operation in operations if isinstance(operation, AddMember)
    )
    for name, count in additions.items():
        ip_set = _SETS[name]
        needed = achieved.sizes[name] + count
        capacity = capacities.get(name, needed)
        if needed > capacity and ip_set.type is not SetType.BITMAP_PORT:
            yield msgspec.structs.replace(ip_set, capacity=1 << (needed - 1).bit_length())


def replace(ip_set: IpSet, members: Iterable[SetMember], ipsets: IpSets) -> None:
    """Put a larger set with the same members in the place of a set; raise KernelError."""
    draft = sets.draft(ip_set)
    with contextlib.suppress(NotFound):
        ipsets.destroy(draft.name)  # one that could not be destroyed before
    ipsets.create(draft)
    try:
        copies = [AddMember(msgspec.structs.replace(member, set_name=draft.name)) for member in members]
        for error in ipsets.apply(copies):
            if error is not None:
                raise error
        ipsets.swap(draft.name, ip_set.name)
    finally:
        # Not while somebody lists it. Then it stays, in nobody's way, until the set grows again or the next
        # agent starts; whether the set has grown is another matter.
        with contextlib.suppress(KernelError):
            ipsets.destroy(draft.name)
