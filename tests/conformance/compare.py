"""What differs between both sides."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from tests.conformance.cases import Target
from tests.conformance.lan import server_name
from tests.conformance.tables import VirtualServer

BOUND = "bound"
"""What is listed of an address of kube-ipvs0."""
Listed = VirtualServer | str


class Asked(NamedTuple):
    """What calls of one client to one target met."""

    outcomes: frozenset[str]

    def __str__(self) -> str:
        return ", ".join(sorted(self.outcomes))

    @property
    def is_answered(self) -> bool:
        """Whether some server answered."""
        return any(" " in outcome for outcome in self.outcomes)

    @property
    def names(self) -> frozenset[str]:
        """Who answered."""
        return frozenset(outcome.rpartition(" ")[0] for outcome in self.outcomes if " " in outcome)

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
    outcomes: tuple[frozenset[str], frozenset[str]],
    listed: tuple[Mapping[Target | str, Listed], Mapping[Target | str, Listed]],
) -> Iterator[Difference]:
    """Yield the difference between what one client met on both sides, if there is one."""
    theirs, ours = (Asked(_steady(one, rows.get(target))) for one, rows in zip(outcomes, listed, strict=True))
    if theirs != ours:
        yield Difference(target, caller, theirs, ours)


def _undrained(listed: Listed | Asked | None) -> Listed | Asked | None:
    return listed._replace(draining=frozenset()) if isinstance(listed, VirtualServer) else listed


def _steady(outcomes: frozenset[str], row: Listed | None) -> frozenset[str]:
    """Say "one of these" where clients are kept at the endpoint that they had first, whichever that is."""
    if not isinstance(row, VirtualServer) or " -p " not in f"{row.options} " or len(outcomes) != 1:
        return outcomes
    name, _, source = next(iter(outcomes)).partition(" ")
    for servers in (row.servers, row.inside or ()):
        names = sorted(server_name(server) for server in servers)
        if name in names:
            return frozenset({f"one-of-{'/'.join(names)} {source}"})
    return outcomes
