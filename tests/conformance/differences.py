"""The intended differences: where the agent does not do what kube-proxy does, and why. There are no others.

A rule explains a difference if its predicate says so; the scenarios together must use every rule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tests.conformance.compare import Asked, Difference
from tests.conformance.situation import GONE, Situation
from tests.conformance.tables import VirtualServer

Predicate = Callable[[Difference, Situation], bool]


@dataclass(frozen=True)
class Rule:
    """An intended difference."""

    name: str
    reason: str
    explains: Predicate


def _lingers(difference: Difference, situation: Situation) -> bool:
    """What nobody wants any more: they have nothing, we have nobody who takes a new connection."""
    where, theirs, ours = difference.where, difference.theirs, difference.ours
    if isinstance(where, str):
        return theirs is None and where not in situation.vips
    if situation.kind(where) != GONE:
        return False
    if isinstance(theirs, Asked) and isinstance(ours, Asked):
        return not theirs.is_answered and not ours.is_answered
    return theirs is None and isinstance(ours, VirtualServer) and not ours.servers


RULES: Iterable[Rule] = (
    Rule(
        "a virtual server lingers",
        "kube-proxy breaks the connections of a Service, port or address that is removed; the agent lets them"
        " end (k/k#71071, #81308)",
        _lingers,
    ),
)


def explain(difference: Difference, situation: Situation) -> str | None:
    """Return the name of the rule by which a difference is intended."""
    return next((rule.name for rule in RULES if rule.explains(difference, situation)), None)
