"""What a source tells the reconciler: changes, handed over in batches to a sink.

A source runs in a thread of its own, decodes what it reads and calls the sink with a sequence of changes. It
neither logs nor decides: what it cannot read is a Rejected, a Remark or a Trouble, and the reconciler reports
it.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from ipvs_agent.model import EndpointSlice, Node, ObjectName, Service, Skipped


class Kind(enum.Enum):
    """The kinds of objects that are watched, by their names in the API."""

    SERVICE = "Service"
    ENDPOINT_SLICE = "EndpointSlice"
    NODE = "Node"


class Put(msgspec.Struct, frozen=True):
    """An object is there, in this form."""

    kind: Kind
    object: Service | EndpointSlice | Node

    @property
    def name(self) -> ObjectName:
        """Return the object's name; a Node's has an empty namespace."""
        return ObjectName("", self.object.name) if isinstance(self.object, Node) else self.object.name


class Removed(msgspec.Struct, frozen=True):
    """An object is gone, or asks nothing of a node any more."""

    kind: Kind
    name: ObjectName


class Rejected(msgspec.Struct, frozen=True):
    """An object cannot be read at all, and counts as gone; name is None where it has none."""

    kind: Kind
    name: ObjectName | None
    skipped: Skipped


class Listed(msgspec.Struct, frozen=True):
    """All objects of a kind have been said: those not among the names are gone."""

    kind: Kind
    names: frozenset[ObjectName]


class Trouble(msgspec.Struct, frozen=True):
    """A source cannot be read now; what it said before stays in force. An empty message: it can be again."""

    source: str
    """The file, folder or API path."""
    message: str


class Remark(msgspec.Struct, frozen=True):
    """Something in a source is passed over; all else that stands there is in force."""

    source: str
    """The file."""
    message: str


Change = Put | Removed | Rejected | Listed | Trouble | Remark
Sink = Callable[[Sequence[Change]], None]
"""Takes a batch of changes; may be called from any thread."""


class Source(Protocol):
    """A running source."""

    def start(self) -> None:
        """Begin to read in a thread of its own."""

    def stop(self) -> None:
        """End the thread, within a second."""
