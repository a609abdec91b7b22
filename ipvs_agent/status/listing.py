"""What a listing shows."""

from __future__ import annotations

import msgspec

from ipvs_agent.model import ObservedRealServer, ObservedVirtualServer
from ipvs_agent.status.notes import Notes

Entry = tuple[ObservedVirtualServer, list[ObservedRealServer]]
"""A virtual server with its real servers."""


class Listing(msgspec.Struct, frozen=True):
    """The kernel's table, or a part of it."""

    entries: list[Entry]
    version: tuple[int, int, int] | None = None
    """That of IPVS; None in the listing of a single virtual server."""
    connection_table_size: int = 0
    notes: Notes | None = None
    """What the agent here does not serve as asked; None: nobody says."""
