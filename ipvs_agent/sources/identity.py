"""Which object it is, whose it is, and what to call it."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ipvs_agent.model import ObjectName, Skipped
from ipvs_agent.sources import checks, wire
from ipvs_agent.sources.changes import Kind

NOT_OURS_LABELS = ("service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless")
"""Where one of these labels is present, whatever its value, the object is for another proxy or for none."""


def name_of(kind: Kind, metadata: wire.Name | None) -> ObjectName:
    """Return the name of an object; UnusableError where it has none that the API would take."""
    if metadata is None:
        raise checks.UnusableError("metadata", "is missing")
    namespace, name = metadata.namespace, metadata.name
    if not name:
        raise checks.UnusableError("metadata.name", "is missing")
    is_valid_name = checks.is_label if kind is Kind.SERVICE else checks.is_subdomain
    if not is_valid_name(name):
        raise checks.UnusableError("metadata.name", f"{checks.quoted(name)} is not a name of the API")
    if kind is Kind.NODE:
        return ObjectName("", name)
    if not namespace:
        raise checks.UnusableError("metadata.namespace", "is missing")
    if not checks.is_label(namespace):
        raise checks.UnusableError(
            "metadata.namespace", f"{checks.quoted(namespace)} is not a name of the API"
        )
    return ObjectName(sys.intern(namespace), name)


def subject_of(kind: Kind, name: ObjectName) -> str:
    """Return what to call an object, as "Service default/web"."""
    return f"{kind.value} {name.name if kind is Kind.NODE else name}"


def is_not_ours(metadata: wire.Metadata) -> bool:
    """Return whether its labels give the object to another proxy, or to none."""
    labels = metadata.labels
    return labels is not None and any(label in labels for label in NOT_OURS_LABELS)


def skipped(kind: Kind, name: ObjectName, faults: Sequence[checks.Fault]) -> tuple[Skipped, ...]:
    """Return what to tell of the faults of an object."""
    if not faults:
        return ()
    subject = subject_of(kind, name)
    return tuple(Skipped(subject, field, reason) for field, reason in faults)
