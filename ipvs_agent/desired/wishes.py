"""What a Service asks for in its annotations beside the scheduler, for all of its ports.

Annotations are written by users: one that makes no sense gives what holds without it, and a fault.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from ipvs_agent.durations import parse_duration
from ipvs_agent.schedulers.annotations import Fault, quote

DRAIN_TIMEOUT = "ipvs-agent.io/drain-timeout"
SLOW_START = "ipvs-agent.io/slow-start"

LONGEST_DRAIN = 7 * 86400.0
"""Seconds."""
LONGEST_SLOW_START = 3600.0
"""Seconds."""


class Wishes(msgspec.Struct, frozen=True):
    """What a Service asks for."""

    drain_seconds: float | None = None
    """As Frontend's."""
    slow_start_seconds: float = 0.0
    """As Frontend's."""


def read_wishes(annotations: Mapping[str, str], default: Wishes) -> tuple[Wishes, list[Fault]]:
    """Return what annotations ask for, and what of them makes no sense.

    default: what holds where they do not say otherwise.
    """
    if not annotations:
        return default, []
    reader = _Reader(annotations)
    drain_seconds = reader.seconds(DRAIN_TIMEOUT, 0, LONGEST_DRAIN)
    slow_start_seconds = reader.seconds(SLOW_START, 1, LONGEST_SLOW_START)
    wishes = Wishes(
        drain_seconds=default.drain_seconds if drain_seconds is None else drain_seconds,
        slow_start_seconds=default.slow_start_seconds if slow_start_seconds is None else slow_start_seconds,
    )
    return wishes, reader.faults


class _Reader:
    """Reads annotations, and keeps a fault of each that makes no sense."""

    def __init__(self, annotations: Mapping[str, str]) -> None:
        self.faults: list[Fault] = []
        self._annotations = annotations

    def seconds(self, key: str, shortest: float, longest: float) -> float | None:
        """Read a duration within bounds; None where there is none to be used."""
        text = self._annotations.get(key)
        if text is None:
            return None
        try:
            return _seconds(text, shortest, longest)
        except ValueError as error:
            self.faults.append(Fault(key, str(error)))
            return None


def _seconds(text: str, shortest: float, longest: float) -> float:
    text = text.strip(" ")
    if not text:
        raise ValueError("says no duration; write one such as 60s, 5m or 1h30m")
    try:
        seconds = parse_duration(text)
    except ValueError:
        raise ValueError(f"{quote(text)} is not a duration such as 60s, 5m or 1h30m") from None
    if not shortest <= seconds <= longest:
        raise ValueError(f"{quote(text)} is not within {shortest:g}s to {longest / 3600:g}h")
    return seconds
