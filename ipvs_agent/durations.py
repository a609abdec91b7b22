"""Durations as Go writes them: 30s, 1m30s, 1.5h, 0."""

from __future__ import annotations

import re
import reprlib

_LONGEST = 2**63 // 10**9
"""Seconds; what Go can hold, and what Python can wait for."""
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")
_DURATION = re.compile(rf"(-?)((?:{_PART.pattern})+|0)")


def parse_duration(text: str) -> float:
    """Return a duration in seconds; raise ValueError where it is none."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"{reprlib.repr(text)} is not a duration such as 30s or 1m30s")
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(match[2]))
    return -seconds if match[1] else seconds


def parse_timeout(text: str, longest: float = _LONGEST) -> float:
    """Return a duration from 0 to the longest, in seconds; raise ValueError where it is none."""
    seconds = parse_duration(text)
    if seconds < 0:
        raise ValueError(f"{reprlib.repr(text)} is negative")
    if seconds > longest:
        raise ValueError(f"{reprlib.repr(text)} is longer than {longest // 3600:.0f}h")
    return seconds
