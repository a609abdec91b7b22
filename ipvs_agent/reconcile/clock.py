"""The time of a round of the loop."""

from __future__ import annotations

from collections.abc import Callable


class RoundClock:
    """A clock that stands still until it is set: what one round does happens at one time.

    It also spares the loop some twenty readings a change, each of which is a system call where the kernel's
    clock cannot be read without one.

    exact: the clock that it is set by, for how long something took and for other threads; in seconds.
    """

    def __init__(self, exact: Callable[[], float]) -> None:
        self.exact = exact
        self._now = exact()

    def __call__(self) -> float:
        """Return the time of this round."""
        return self._now

    def set(self) -> None:
        """Go to the time that it is now."""
        self._now = self.exact()
