"""Damage to JSON values, at random but by a seed."""

from __future__ import annotations

import copy

NONSENSE = (
    *(None, True, -1, 0, 65536, 2**70, 1.5),
    *("", "$(x)", "\x00", "é", "127.0.0.1", "::"),
    *([], [None], {}, {"a": 1}),
)


def mutated(document, rng):
    """Return a copy in which one to three random parts are replaced, removed or doubled."""
    result = copy.deepcopy(document)
    for _ in range(rng.randrange(1, 4)):
        _mutate(result, rng)
    return result


def _mutate(value, rng):
    keys = list(value) if isinstance(value, dict) else range(len(value))
    if not keys:
        return
    key = rng.choice(keys)
    if isinstance(value[key], dict | list) and rng.random() < 0.8:
        _mutate(value[key], rng)
        return
    action = rng.choice(("replace", "remove", "double"))
    if action == "replace":
        value[key] = copy.deepcopy(rng.choice(NONSENSE))
    elif action == "remove":
        del value[key]
    elif isinstance(value, list):
        value.append(copy.deepcopy(value[key]))
