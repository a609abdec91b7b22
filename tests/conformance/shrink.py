"""Makes a failing case smaller while it still fails."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Sequence

from tests.conformance.cases import Case, Object

Fails = Callable[[Sequence[Case]], Sequence[bool]]
"""Says of many cases, tried at the same time, which of them fail."""
Removal = Callable[[Case], Case]

_ROUNDS = 6
_AT_ONCE = 60
_OPTIONAL = (
    *("externalTrafficPolicy", "internalTrafficPolicy", "sessionAffinity", "sessionAffinityConfig"),
    *("externalIPs", "loadBalancerSourceRanges", "allocateLoadBalancerNodePorts", "healthCheckNodePort"),
    *("nodePort", "status", "hints", "conditions", "service.kubernetes.io/service-proxy-name"),
)
"""Without nodeName: a pod that is nowhere and calls itself is another case (generator.py)."""
_LISTS = ("ports", "externalIPs", "loadBalancerSourceRanges", "ingress", "endpoints")


def shrink(case: Case, fails: Fails, has_time: Callable[[], bool] = lambda: True) -> Case:
    """Return a case that still fails, from which nothing can be removed that we know of, or nearly so.

    has_time: asked before each round, which runs up to sixty cases twice.
    """
    for _ in range(_ROUNDS):
        if not has_time():
            break
        removals = list(_removals(case))[:_AT_ONCE]
        verdicts = fails([removal(case) for removal in removals])
        useful = [removal for removal, failed in zip(removals, verdicts, strict=True) if failed]
        if not useful:
            return case
        # What can be removed alone can often be removed together.
        counts = sorted({len(useful), len(useful) // 2, len(useful) // 4, 1} - {0}, reverse=True)
        merged = [_all_of(useful[:count], case) for count in counts]
        case = next(one for one, failed in zip(merged, [*fails(merged[:-1]), True], strict=True) if failed)
    return case


def _all_of(removals: Sequence[Removal], case: Case) -> Case:
    for removal in removals:
        case = removal(case)
    return case


def _removals(case: Case) -> Iterator[Removal]:
    """Yield the ways to make a case smaller, the largest steps first; each can follow any other."""
    for state in case.states if len(case.states) > 1 else ():
        yield lambda now, state=state: _without_state(now, state)  # type: ignore[misc]
    seen = set()
    for state in case.states:
        for thing in state:
            for name in _removable(thing, (thing["kind"], thing["metadata"]["name"])):
                if name not in seen:
                    seen.add(name)
                    yield lambda now, name=name: _without(now, name)  # type: ignore[misc]


Path = tuple[str, ...]


def _without_state(case: Case, state: tuple[Object, ...]) -> Case:
    kept = tuple(one for one in case.states if one is not state)
    return Case(case.name, kept) if kept else case


def _removable(value: object, path: Path) -> Iterator[Path]:
    """Yield the paths of what may go: a slice, an item of a list (by its text), or an optional field."""
    if path[0] == "EndpointSlice" and len(path) == 2:
        yield path
    match value:
        case dict():
            for name, one in value.items():
                if name in _OPTIONAL:
                    yield (*path, name)
                if name in _LISTS and len(one) > (name == "ports"):
                    yield from ((*path, name, json.dumps(item)) for item in one)
                yield from _removable(one, (*path, name))
        case list():
            for item in value:
                yield from _removable(item, (*path, json.dumps(item)))


def _without(case: Case, path: Path) -> Case:
    """Return the case without something, in all states that have it."""
    return Case(case.name, tuple(_state_without(state, path) for state in case.states))


def _state_without(state: tuple[Object, ...], path: Path) -> tuple[Object, ...]:
    kind, name, *rest = path
    kept = []
    for thing in state:
        if (thing["kind"], thing["metadata"]["name"]) != (kind, name):
            kept.append(thing)
        elif rest:
            smaller = copy.deepcopy(thing)
            _remove(smaller, rest)
            kept.append(smaller)
    return tuple(kept)


def _remove(value: object, path: Sequence[str]) -> None:
    first, *rest = path
    if isinstance(value, dict):
        is_last_port = first == "ports" and len(rest) == 1 and len(value.get(first, ())) == 1
        if first in value and rest:
            if not is_last_port:
                _remove(value[first], rest)
        else:
            value.pop(first, None)
    elif isinstance(value, list):
        for item in [item for item in value if json.dumps(item) == first]:
            if rest:
                _remove(item, rest)
            else:
                value.remove(item)
