"""What a listing in JSON shows."""

from __future__ import annotations

import msgspec

from ipvs_agent.observed import IpvsInfo, ObservedRealServer, ObservedVirtualServer
from ipvs_agent.status.notes import Notes

Entry = tuple[ObservedVirtualServer, list[ObservedRealServer]]
"""A virtual server with its real servers."""


class Listing(msgspec.Struct, frozen=True):
    """The kernel's table, or a part of it."""

    entries: list[Entry]
    info: IpvsInfo | None = None
    """What IPVS says of itself; None in the listing of a single virtual server."""
    notes: Notes | None = None
    """What the agent here does not serve as asked; None: nobody says."""
