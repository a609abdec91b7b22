"""What differs between the tables as read and what was achieved.

A read takes time, and the loop goes on meanwhile, so a difference is only a suspicion: VIPs and set members
are brought to where they should be by operations that may be repeated, virtual servers are read again by
their key before anything is done. To compare takes time too, so the worker does it, with what was achieved
when the audit began.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from ipvs_agent.desired import sets
from ipvs_agent.model import SetMember, Vip, VipForm, VirtualServer, VirtualServerKey
from ipvs_agent.reconcile.achieved import Achieved
from ipvs_agent.reconcile.audit import Tables


class Left(msgspec.Struct, frozen=True):
    """How the kernel was left when an audit began."""

    virtual_servers: Mapping[VirtualServerKey, VirtualServer]
    vips: frozenset[Vip]
    members: frozenset[SetMember]
    foreign: frozenset[VirtualServerKey]
    """Virtual servers that others have made."""


def left(achieved: Achieved, foreign: Iterable[VirtualServerKey]) -> Left:
    """Return what a later look is compared with; foreign: the virtual servers of others."""
    virtual_servers = {key: held.virtual_server for key, held in achieved.virtual_servers.items()}
    return Left(virtual_servers, frozenset(achieved.vips), frozenset(achieved.members), frozenset(foreign))


class Drift(msgspec.Struct, frozen=True):
    """Objects that are not as they were left."""

    lost: frozenset[Vip | SetMember]
    """VIPs and members that should be there and are not."""
    extra: frozenset[Vip | SetMember]
    """VIPs and members of ours that should not be there and are."""
    suspects: frozenset[VirtualServerKey]
    """Virtual servers of ours that are missing, changed or superfluous."""
    foreign: frozenset[VirtualServerKey]
    """Virtual servers that others have made since."""
    foreign_gone: frozenset[VirtualServerKey]
    """Virtual servers of others that are gone."""


def find(tables: Tables, left: Left) -> Drift:
    """Compare the tables with how the kernel was left."""
    present = tables.virtual_servers.keys()
    ours = sets.ours(present, tables.members | left.members)
    held = left.virtual_servers
    unknown = present - held.keys() - left.foreign
    return Drift(
        lost=(left.vips - tables.vips) | (left.members - tables.members),
        extra=(vips_of_ours(tables) - left.vips) | (tables.members - left.members),
        suspects=frozenset(
            {key for key in present & held.keys() if tables.virtual_servers[key] != held[key]}
            | (held.keys() - present)
            | (unknown & ours)
        ),
        foreign=frozenset(unknown - ours),
        foreign_gone=left.foreign - present,
    )


def vips_of_ours(tables: Tables) -> frozenset[Vip]:
    """Return the routes, which are all ours, and those addresses that the sets name as VIPs of ours."""
    return frozenset(
        vip for vip in tables.vips if vip.form is VipForm.ROUTE or sets.is_vip(vip.address, tables.members)
    )
