"""What the kernel refused: when it is tried again, and what it holds back."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping

from ipvs_agent.reconcile.claims import Key
from ipvs_agent.reconcile.executor import Failure, WaitingError
from ipvs_agent.reconcile.timers import Retry, Timers

FIRST_RETRY = 0.1
"""Seconds to wait after a first failure, at the most."""
_SLOWEST_RETRY = 30.0


class Retries:
    """The objects that are not where they should be, each with a timer of its own.

    seed: spreads the retries of nodes.
    """

    def __init__(self, timers: Timers, clock: Callable[[], float], seed: str) -> None:
        self._timers = timers
        self._clock = clock
        self._random = random.Random(seed)  # noqa: S311 - spreads retries, guards nothing
        self._failing: dict[Key, tuple[int, float]] = {}
        """Attempts, and when the next one is due."""
        self._waiting: set[Key] = set()
        """Those of them that another failing one held back: they go on as soon as one succeeds."""

    def __len__(self) -> int:
        """Return how many objects are to be tried again."""
        return len(self._failing)

    def keys(self) -> list[Key]:
        """Return them."""
        return list(self._failing)

    def backoff(self, attempt: int) -> float:
        """Return the seconds to wait after so many failed attempts."""
        longest = min(_SLOWEST_RETRY, FIRST_RETRY * 2.0 ** min(attempt - 1, 16))
        return longest * self._random.uniform(0.5, 1.0)

    def note_failed(self, failed: Mapping[Key, Failure]) -> int:
        """Have some objects tried again; return the most attempts that one of them has had."""
        self._waiting |= {key for key, one in failed.items() if isinstance(one.error, WaitingError)}
        for key in failed:
            attempt = self._failing.get(key, (0, 0.0))[0] + 1
            due = self._clock() + self.backoff(attempt)
            self._failing[key] = (attempt, due)
            self._timers.add(due, Retry(key))
        return max((self._failing[key][0] for key in failed), default=0)

    def note_done(self, keys: Iterable[Key]) -> set[Key]:
        """Return those of some objects that had failed and are where they should be now."""
        if not self._failing:
            return set()
        recovered = self._failing.keys() & set(keys)
        for key in recovered:
            del self._failing[key]
        return recovered

    def take_held_back(self) -> set[Key]:
        """Return and forget those that wait for another one to succeed."""
        held_back, self._waiting = self._waiting, set()
        return held_back

    def is_due(self, key: Key) -> bool:
        """Tell whether an object is to be tried again now."""
        return key in self._failing and self._failing[key][1] <= self._clock()

    def is_held_back(self, key: Key) -> bool:
        """Tell whether an object waits for another one to succeed."""
        return key in self._waiting
