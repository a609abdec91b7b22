"""What reaches the reconciler's loop from other threads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from ipvs_agent.addresses import Address
from ipvs_agent.errors import KernelError
from ipvs_agent.model import Vip, VirtualServerKey
from ipvs_agent.reconcile.audit import Tables, TableSlice
from ipvs_agent.reconcile.drift import Drift
from ipvs_agent.reconcile.foundation import Ground, Needs
from ipvs_agent.sources.changes import Change


class Stop(msgspec.Struct, frozen=True):
    """End the loop."""


class AddressesChanged(msgspec.Struct, frozen=True):
    """Addresses of the node have come or gone."""


class AddressGone(msgspec.Struct, frozen=True):
    """An interface of the node has lost an address; AddressesChanged follows."""

    address: Address


class LinkLost(msgspec.Struct, frozen=True):
    """The VIPs' interface has gone down or away, and VIPs with it."""


class VipsRead(msgspec.Struct, frozen=True):
    """The worker has made good the loss of the interface and read what VIPs it has; None: it could not."""

    vips: frozenset[Vip] | None


class AddressesRead(msgspec.Struct, frozen=True):
    """The worker has read the node's addresses."""

    addresses: frozenset[Address]


class AddressesFailed(msgspec.Struct, frozen=True):
    """The worker could not read the node's addresses."""

    error: KernelError


class Laid(msgspec.Struct, frozen=True):
    """The worker has laid the foundation and read the tables; drift: None at the first time."""

    needs: Needs
    ground: Ground
    tables: Tables
    drift: Drift | None


class AuditFailed(msgspec.Struct, frozen=True):
    """The worker could not lay the foundation, or not read the kernel back."""

    error: KernelError


class SliceRead(msgspec.Struct, frozen=True):
    """The worker has read real servers of some virtual servers."""

    table: TableSlice
    outlined: Mapping[VirtualServerKey, int] | None = None
    """Where it was read by the outline: the digests of all that this showed. The table has those of them
    that were not confirmed, without thresholds and tunnels."""


class FlowsForgotten(msgspec.Struct, frozen=True):
    """The worker has removed flows that are older than these virtual servers, or could not."""

    keys: tuple[VirtualServerKey, ...]
    count: int
    error: KernelError | None = None


NodeNews = AddressesChanged | AddressGone | AddressesRead | AddressesFailed | LinkLost | VipsRead
"""What is heard of the node's addresses and the VIPs' interface."""
Message = Sequence[Change] | Stop | NodeNews | Laid | SliceRead | AuditFailed | FlowsForgotten
