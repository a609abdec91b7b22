"""What differs between both sides."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from tests.conformance.cases import Target
from tests.conformance.dialling import SILENT
from tests.conformance.lan import API, CALLERS, INSIDE, NODE_ADDRESSES, server_name
from tests.conformance.tables import Kept, VirtualServer

BOUND = "bound"
"""What is listed of an address of kube-ipvs0."""
Listed = VirtualServer | str
_ONE_OF = "one-of-"


class Asked(NamedTuple):
    """What calls of one client to one target met."""

    outcomes: frozenset[str]
    kept_at: str = ""
    """The real server at which session affinity keeps a client that heard nothing."""

    def __str__(self) -> str:
        return ", ".join(sorted(self.outcomes)) + (f" from {self.kept_at}" if self.kept_at else "")

    @property
    def is_answered(self) -> bool:
        """Whether some server answered."""
        return any(" " in outcome for outcome in self.outcomes)

    @property
    def names(self) -> frozenset[str]:
        """Who answered, or may have."""
        answers = (outcome.rpartition(" ")[0] for outcome in self.outcomes if " " in outcome)
        return frozenset(name for one in answers for name in one.removeprefix(_ONE_OF).split("/"))

    @property
    def failures(self) -> frozenset[str]:
        """How calls failed."""
        return frozenset(outcome for outcome in self.outcomes if " " not in outcome)

    @property
    def sources(self) -> frozenset[str]:
        """Whom the servers saw."""
        return frozenset(outcome.rpartition(" ")[2] for outcome in self.outcomes if " " in outcome)


class Difference(NamedTuple):
    """Something in which the sides differ."""

    where: Target | str
    """A virtual server or a target; or the address of a VIP."""
    caller: str
    """Who called; empty for what is listed."""
    theirs: Listed | Asked | None
    """kube-proxy's; None: it has nothing there."""
    ours: Listed | Asked | None

    def __str__(self) -> str:
        where = "{} {}:{}".format(*self.where) if isinstance(self.where, Target) else f"VIP {self.where}"
        head = f"{self.caller} calls {where}" if self.caller else where
        return f"{head}\n    kube-proxy  {self.theirs or 'nothing'}\n    ipvs-agent  {self.ours or 'nothing'}"


def tables(
    theirs: Mapping[Target | str, Listed], ours: Mapping[Target | str, Listed]
) -> Iterator[Difference]:
    """Yield the differences between what two nodes list; who drains is nobody's business."""
    for where in sorted(theirs.keys() | ours.keys(), key=str):
        difference = Difference(where, "", theirs.get(where), ours.get(where))
        if _undrained(difference.theirs) != _undrained(difference.ours):
            yield difference


def answers(
    caller: str,
    target: Target,
    counts: tuple[Mapping[str, int], Mapping[str, int]],
    listed: tuple[Mapping[Target | str, Listed], Mapping[Target | str, Listed]],
    kept: tuple[Kept, Kept] = ({}, {}),
) -> Iterator[Difference]:
    """Yield the difference between what one client met on both sides, if there is one.

    counts: how often each outcome was met.
    kept: at which real servers session affinity keeps clients.
    """
    rows = [row if isinstance(row, VirtualServer) else None for row in (one.get(target) for one in listed)]
    asked = [Asked(_heard(one, row)) for one, row in zip(counts, rows, strict=True)]
    if all(row and _is_sticky(row) for row in rows):
        asked = [
            Asked(_steady(one.outcomes, caller, row), _kept_at(one, caller, target, templates))
            for one, row, templates in zip(asked, rows, kept, strict=True)
            if row
        ]
    theirs, ours = asked
    if theirs.outcomes != ours.outcomes:
        yield Difference(target, caller, theirs, ours)


def _undrained(listed: Listed | Asked | None) -> Listed | Asked | None:
    return listed._replace(draining=frozenset()) if isinstance(listed, VirtualServer) else listed


def _heard(counts: Mapping[str, int], row: VirtualServer | None) -> frozenset[str]:
    """Leave out calls that a busy machine lost: a server that does not answer would lose its whole share."""
    answered = any(" " in outcome for outcome in counts)
    shares = max([1, *(len(one) for one in (row.servers, row.inside or ()))]) if row else 1
    is_lost = answered and 2 * shares * counts.get(SILENT, 0) < sum(counts.values())
    return frozenset(outcome for outcome in counts if not (is_lost and outcome == SILENT))


def _is_sticky(row: VirtualServer) -> bool:
    return " -p " in f"{row.options} "


def _steady(outcomes: frozenset[str], caller: str, row: VirtualServer) -> frozenset[str]:
    """Say "one of these" where clients are kept at the endpoint that they had first, whichever that is.

    Which of its addresses the node takes as the source depends on the endpoint.
    """
    if len(outcomes) != 1:
        return outcomes
    name, _, source = next(iter(outcomes)).partition(" ")
    who = "node" if source in (*NODE_ADDRESSES, API) else source
    for servers in (row.inside or (), row.servers) if caller in INSIDE else (row.servers,):
        names = sorted(server_name(server) for server in servers)
        if name in names:
            return frozenset({f"{_ONE_OF}{'/'.join(names)} {who}"})
    return outcomes


def _kept_at(asked: Asked, caller: str, target: Target, kept: Kept) -> str:
    """Return the server at which a client that heard nothing is kept; empty where there is none."""
    if asked.outcomes != {SILENT}:
        return ""
    servers = (kept.get((address, target)) for address in CALLERS.get(caller, ()))
    return next((server_name(server) for server in servers if server), "")
