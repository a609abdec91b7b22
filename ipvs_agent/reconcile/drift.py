"""What differs between the tables as read and what was achieved.

A read takes time, and the loop goes on meanwhile, so a difference is only a suspicion: VIPs and set members
are brought to where they should be by operations that may be repeated, virtual servers are read again by
their key before anything is done. To compare takes time too, so the worker does it, with what was achieved
when the audit began; what the loop has changed since is left to the next audit. It compares one by one: an
operation on whole sets would let no other thread run until it is done.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Set
from typing import TypeVar

import msgspec

from ipvs_agent.desired import sets
from ipvs_agent.model import SetMember, Vip, VipForm, VirtualServerKey
from ipvs_agent.reconcile.achieved import Achieved
from ipvs_agent.reconcile.audit import Left, Tables

_Thing = TypeVar("_Thing", bound=Vip | SetMember)


def left(achieved: Achieved, foreign: Iterable[VirtualServerKey]) -> Left:
    """Return what a later look is compared with; foreign: the virtual servers of others."""
    virtual_servers = {key: held.virtual_server for key, held in achieved.virtual_servers.items()}
    return Left(
        virtual_servers,
        frozenset(achieved.vips),
        frozenset(achieved.members),
        frozenset(name for name, size in achieved.sizes.items() if size),
        frozenset(foreign),
    )


class Drift(msgspec.Struct, frozen=True):
    """Objects that are not as they were left."""

    lost: frozenset[Vip | SetMember]
    """VIPs and members that should be there and are not."""
    extra: frozenset[Vip | SetMember]
    """VIPs and members of ours that should not be there and are."""
    suspects: frozenset[VirtualServerKey] = frozenset()
    """Virtual servers of ours that are missing, changed or superfluous."""
    foreign: frozenset[VirtualServerKey] = frozenset()
    """Virtual servers that others have made since."""
    foreign_gone: frozenset[VirtualServerKey] = frozenset()
    """Virtual servers of others that are gone."""


def find(tables: Tables, left: Left) -> Drift:
    """Compare the tables with how the kernel was left."""
    lost = _missing(left.vips, tables.vips) | _missing(left.members, tables.members)
    extra = _missing(vips_of_ours(tables), left.vips) | _missing(tables.members, left.members)
    present, held = tables.virtual_servers, left.virtual_servers
    if present is held:
        return Drift(lost, extra)
    unknown = frozenset(key for key in present if key not in held and key not in left.foreign)
    ours = sets.ours(unknown, itertools.chain(tables.members, left.members)) if unknown else set()
    return Drift(
        lost,
        extra,
        suspects=frozenset(key for key in held if present.get(key) != held[key]) | ours,
        foreign=unknown - ours,
        foreign_gone=left.foreign - present.keys(),
    )


def without(found: Drift, changes: Set[VirtualServerKey | Vip | SetMember]) -> Drift:
    """Return the drift without what has changed meanwhile; suspects are read again anyway."""
    return msgspec.structs.replace(
        found,
        lost=found.lost - changes,
        extra=found.extra - changes,
        foreign=found.foreign - changes,
        foreign_gone=found.foreign_gone - changes,
    )


def _missing(expected: Iterable[_Thing], there: Set[_Thing]) -> frozenset[_Thing]:
    if expected is there:
        return frozenset()
    return frozenset(thing for thing in expected if thing not in there)


def vips_of_ours(tables: Tables) -> frozenset[Vip]:
    """Return the routes, which are all ours, and those addresses that the sets name as VIPs of ours."""
    return frozenset(
        vip for vip in tables.vips if vip.form is VipForm.ROUTE or sets.is_vip(vip.address, tables.members)
    )
