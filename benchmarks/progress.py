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
_WIDTH = 20
_SECOND = 1.0


def over(things: Iterable[T], total: int, what: str) -> Iterator[T]:
    """Yield the things, and show how many have been."""
    if not _is_on_terminal():
        yield from things
        return
    said = 0.0
    try:
        for number, thing in enumerate(things):
            if time.monotonic() - said > _EVERY:
                said = time.monotonic()
                share(number, total, what)
            yield thing
    finally:  # whoever wants no more of them leaves no line behind
        say("")


class Steps:
    """Steps of different kinds, of which the number is known."""

    def __init__(self, total: int, what: str) -> None:
        self._total = total
        self._what = what
        self._begun = 0

    def begin(self, step: str) -> None:
        """Show that the next one begins."""
        share(self._begun, self._total, f"{self._what}: {step}")
        self._begun += 1


def wait(seconds: float, what: str) -> None:
    """Let time go by, and show how much of it has; as one sleep where nobody looks."""
    if not _is_on_terminal():
        time.sleep(seconds)
        return
    begin = time.monotonic()
    while (remaining := begin + seconds - time.monotonic()) > 0:
        since(begin, what, seconds)
        time.sleep(min(_SECOND, remaining))
    say("")


def since(begin: float, what: str, expected: float = 0.0) -> None:
    """Show how long something goes on, by the monotonic clock, and how long it may; 0: nobody knows."""
    seconds = time.monotonic() - begin
    if expected:
        say(f"{what}: {_bar(seconds, expected)} {seconds:.0f} of {expected:.0f} s")
    else:
        say(f"{what}: {seconds:.0f} s")


def share(done: int, total: int, what: str) -> None:
    """Show how much of something is done."""
    say(f"{what}: {_bar(done, total)} {done:,} of {total:,}")


def say(text: str) -> None:
    """Write over the line; an empty text clears it."""
    if _is_on_terminal():
        sys.stderr.write(f"\r\033[K{text}")
        sys.stderr.flush()


def _bar(done: float, total: float) -> str:
    part = min(1.0, done / total) if total else 1.0
    full = int(part * _WIDTH)
    return f"[{'#' * full}{'.' * (_WIDTH - full)}] {part:4.0%}"


def _is_on_terminal() -> bool:
    return sys.stderr.isatty() or bool(os.environ.get(TERMINAL))
