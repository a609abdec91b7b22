"""How long each stage of a start takes."""

from __future__ import annotations

from collections.abc import Callable


class Stages:
    """Divides the time since it was made among stages, one after the other."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since = clock()
        self.seconds: dict[str, float] = {}
        """By the name of a stage, in the order in which they ended first."""

    def end(self, stage: str) -> None:
        """Count all time since a stage ended last for this one."""
        now = self._clock()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._since
        self._since = now
