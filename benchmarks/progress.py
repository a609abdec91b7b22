"""How far something long is, for people who wait: one line that is written over, and only on a terminal."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

TERMINAL = "IPVS_AGENT_TERMINAL"
"""Set where the output of a machine goes to a terminal, which nobody in the machine can see."""

_EVERY = 0.2


def over(things: Iterable[T], total: int, what: str) -> Iterator[T]:
    """Yield the things, and say how many have been."""
    if not _is_on_terminal():
        yield from things
        return
    said = 0.0
    for number, thing in enumerate(things):
        if time.monotonic() - said > _EVERY:
            said = time.monotonic()
            say(f"{what}: {number:,} of {total:,}")
        yield thing
    say("")


def say(text: str) -> None:
    """Write over the line; an empty text clears it."""
    if _is_on_terminal():
        sys.stderr.write(f"\r\033[K{text}")
        sys.stderr.flush()


def _is_on_terminal() -> bool:
    return sys.stderr.isatty() or bool(os.environ.get(TERMINAL))
