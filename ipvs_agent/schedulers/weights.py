"""Which weights a Service gives its endpoints, as its users write it: zone:eu-1a=10,local=5,other=1."""

from __future__ import annotations

import heapq
import re
from collections.abc import Mapping, Sequence

import msgspec

from ipvs_agent.model import Endpoint
from ipvs_agent.schedulers.annotations import quote
from ipvs_agent.schedulers.guess import closest

HIGHEST = 65535
"""What ipvsadm takes; the kernel would take more."""

_NODE, _LOCAL, _HINTED, _ZONE, _OTHER = "node", "local", "hinted", "zone", "other"
_WORDS = (_NODE, _LOCAL, _HINTED, _ZONE, _OTHER)
_NAMED = {_NODE: "a node", _ZONE: "a zone"}
_NAME = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,251}[A-Za-z0-9])?")


class Weights(msgspec.Struct, frozen=True):
    """Weights by where endpoints are; the first of these that says something of an endpoint counts."""

    of_nodes: Mapping[str, int] = {}
    local: int | None = None
    """Of endpoints on this node."""
    hinted: int | None = None
    """Of endpoints whose hints name this node or its zone; where it is said, hints keep no endpoint out."""
    of_zones: Mapping[str, int] = {}
    zone: int | None = None
    """Of endpoints in this node's zone."""
    other: int = 1

    def of(self, endpoint: Endpoint, node: str, zone: str) -> int:
        """Return the weight of an endpoint on a node in a zone."""
        weight = self.of_nodes.get(endpoint.node)
        if weight is None and endpoint.node == node:
            weight = self.local
        if weight is None and (node in endpoint.node_hints or (zone and zone in endpoint.zone_hints)):
            weight = self.hinted
        if weight is None:
            weight = self.of_zones.get(endpoint.zone)
        if weight is None and zone and endpoint.zone == zone:
            weight = self.zone
        return self.other if weight is None else weight


def parse_weights(text: str) -> Weights:
    """Return the weights that a text gives; ValueError says what makes no sense in it."""
    plain: dict[str, int] = {}
    named: dict[str, dict[str, int]] = {_NODE: {}, _ZONE: {}}
    for item in text.split(","):
        target, equals, number = (part.strip(" ") for part in item.partition("="))
        if not target and not equals:
            raise ValueError("a weight is missing; write one such as local=10,zone=3,other=1")
        word, colon, name = target.partition(":")
        _check_target(target, word, name, has_name=bool(colon))
        weights, key = (named[word], name) if colon else (plain, word)
        if key in weights:
            raise ValueError(f"{quote(target)} is there twice")
        weights[key] = _weight(target, number)
    return Weights(
        of_nodes=named[_NODE],
        local=plain.get(_LOCAL),
        hinted=plain.get(_HINTED),
        of_zones=named[_ZONE],
        zone=plain.get(_ZONE),
        other=plain.get(_OTHER, 1),
    )


def fit(weights: Sequence[int], places: int) -> list[int]:
    """Reduce weights to as many as a table has places, in proportion; of no more real servers than that.

    What is above 0 stays above 0. One of 0 has a place, too: the kernel gives it one when it fills the table.
    """
    places -= weights.count(0)
    total = sum(weights)
    if total <= places:
        return list(weights)
    fitting = [max(1, weight * places // total) if weight else 0 for weight in weights]
    largest = [(-weight, number) for number, weight in enumerate(fitting)]
    heapq.heapify(largest)
    for _ in range(sum(fitting) - places):
        _, number = largest[0]
        fitting[number] -= 1
        heapq.heapreplace(largest, (-fitting[number], number))
    return fitting


def _check_target(target: str, word: str, name: str, *, has_name: bool) -> None:
    if word not in _WORDS:
        guess = closest(word, _WORDS)
        known = "node:NAME, local, hinted, zone:NAME, zone or other"
        raise ValueError(
            f"{quote(target)} is not where an endpoint can be; "
            + (f"did you mean {guess}?" if guess else f"use {known}")
        )
    if has_name and word not in _NAMED:
        raise ValueError(f"{quote(target)} is {word} with a name, and it has none")
    if has_name and not _NAME.fullmatch(name):
        raise ValueError(f"{quote(name)} cannot be the name of {_NAMED[word]}")
    if word == _NODE and not has_name:
        raise ValueError("node needs a name, as in node:NAME=1; for this node use local")


def _weight(target: str, number: str) -> int:
    # Of a long number int() would take its time, or refuse it in other words.
    if number.isascii() and number.isdigit() and len(number) <= len(str(HIGHEST)) and int(number) <= HIGHEST:
        return int(number)
    raise ValueError(f"the weight {quote(number)} of {quote(target)} is not a number from 0 to {HIGHEST}")
