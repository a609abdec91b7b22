"""JSON of the API to typed objects: the border where everything is parsed and checked.

Whatever it is given, decode() does not raise. A fault in a part of an object leaves out that part and is told
in the object's `skipped`; a fault of the whole is a Rejected. What asks nothing of a node is Removed.
"""

from __future__ import annotations

import msgspec

from ipvs_agent.documents import UNREADABLE, explain
from ipvs_agent.model import ObjectName, Skipped
from ipvs_agent.sources import checks, identity, nodes, services, slices, wire
from ipvs_agent.sources.changes import Kind, Put, Rejected, Removed
from ipvs_agent.sources.checks import UnusableError


def decode(kind: Kind, data: bytes | msgspec.Raw) -> Put | Removed | Rejected:
    """Decode an object; whatever the data, the answer says what became of it."""
    try:
        if kind is Kind.ENDPOINT_SLICE:
            return slices.from_wire(_ENDPOINT_SLICES.decode(data))
        if kind is Kind.SERVICE:
            return _service(_SERVICES.decode(data))
        return nodes.from_wire(_NODES.decode(data))
    except UnusableError as error:
        field, reason = error.field, error.reason
    except UNREADABLE as error:
        field, reason = explain(error)
    name, subject = _identify(kind, data)
    return Rejected(kind, name, Skipped(subject, field, reason))


def _service(said: wire.Service) -> Put | Removed:
    change = services.from_wire(said)
    labels = (said.metadata and said.metadata.labels) or {}
    if labels.get(_DNS_LABEL) != _DNS or not isinstance(change, Put):
        return change
    return msgspec.structs.replace(change, object=msgspec.structs.replace(change.object, is_dns=True))


_DNS_LABEL, _DNS = "k8s-app", "kube-dns"
"""What the DNS of a cluster is labelled with, be it kube-dns or CoreDNS, and whoever installed it."""
_SERVICES = msgspec.json.Decoder(wire.Service)
_ENDPOINT_SLICES = msgspec.json.Decoder(wire.EndpointSlice)
_NODES = msgspec.json.Decoder(wire.Node)


def _identify(kind: Kind, data: bytes | msgspec.Raw) -> tuple[ObjectName | None, str]:
    """Return the name of an unusable object as far as it has one, and what to call it."""
    try:
        metadata = msgspec.json.decode(data, type=wire.Identity).metadata or wire.Name()
    except UNREADABLE:
        return None, kind.value
    try:
        name = identity.name_of(kind, metadata)
    except UnusableError:
        words = [metadata.name] if kind is Kind.NODE else [metadata.namespace, metadata.name]
        return None, f"{kind.value} {'/'.join(checks.quoted(word) for word in words if word)}".rstrip()
    return name, identity.subject_of(kind, name)
