"""The time of a round of the loop."""

from __future__ import annotations

from collections.abc import Callable


class RoundClock:
    """A clock that stands still until it is set, for what a round as a whole is early or late for.

    It spares the loop readings, each of which is a system call where the kernel's clock cannot be read
    without one. Not for when something was seen or written in the kernel, nor for how long it took: a round
    may be long.

    exact: the clock that it is set by; in seconds.
    """

    def __init__(self, exact: Callable[[], float]) -> None:
        self._exact = exact
        self._now = exact()

    def __call__(self) -> float:
        """Return the time of this round."""
        return self._now

    def set(self) -> None:
        """Go to the time that it is now."""
        self._now = self._exact()
