"""What differs between the tables as read and what was achieved.

A read takes time, and the loop goes on meanwhile, so a difference is only a suspicion: VIPs and set members
are brought to where they should be by operations that may be repeated, virtual servers are read again by
their key before anything is done.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet

import msgspec

from ipvs_agent.desired import sets
from ipvs_agent.model import SetMember, Vip, VipForm, VirtualServerKey
from ipvs_agent.reconcile.achieved import Achieved
from ipvs_agent.reconcile.audit import Tables


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


def find(tables: Tables, achieved: Achieved, known_foreign: AbstractSet[VirtualServerKey]) -> Drift:
    """Compare the tables with what was achieved."""
    present = tables.virtual_servers.keys()
    ours = sets.ours(present, tables.members | achieved.members)
    held = achieved.virtual_servers
    unknown = present - held.keys() - known_foreign
    return Drift(
        lost=frozenset((achieved.vips - tables.vips) | (achieved.members - tables.members)),
        extra=frozenset((vips_of_ours(tables) - achieved.vips) | (tables.members - achieved.members)),
        suspects=frozenset(
            {key for key in present & held.keys() if tables.virtual_servers[key] != held[key].virtual_server}
            | (held.keys() - present)
            | (unknown & ours)
        ),
        foreign=frozenset(unknown - ours),
        foreign_gone=frozenset(known_foreign - present),
    )


def vips_of_ours(tables: Tables) -> set[Vip]:
    """Return the routes, which are all ours, and those addresses that the sets name as VIPs of ours."""
    return {
        vip for vip in tables.vips if vip.form is VipForm.ROUTE or sets.is_vip(vip.address, tables.members)
    }
