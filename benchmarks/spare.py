"""What is left of a CPU, counted by a process that takes what nobody else wants.

The kernel's own account of CPU time is kept by ticks of 10 ms in User-Mode Linux: a process that a timer
wakes runs at each tick, and is said to have had all of what lies between two.
"""

from __future__ import annotations

import mmap
import os
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO

_COUNT = struct.Struct("=Q")
_LOOK_AGAIN = 0.05
_TURNS = 2_000
"""Of the counting process, for each count: long enough that telling of it costs little."""


class Spare:
    """What the counting process has counted."""

    def __init__(self, counter: mmap.mmap) -> None:
        self._counter = counter

    def rate(self, work: Callable[[], object]) -> float:
        """Do some work; return how much was left of the CPU meanwhile, in counts a second."""
        begin, before = time.perf_counter(), self._count()
        work()
        return (self._count() - before) / (time.perf_counter() - begin)

    def wait_until_counting(self) -> None:
        """Wait for the counting process, which has to start first."""
        while not self._count():
            time.sleep(_LOOK_AGAIN)

    def _count(self) -> int:
        (count,) = _COUNT.unpack_from(self._counter)
        return int(count)


@contextmanager
def on_one_cpu() -> Iterator[None]:
    """Have this thread, and those that it starts, on one CPU for the length of a with block."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


@contextmanager
def counting() -> Iterator[Spare]:
    """Count for the length of a with block, on the CPU that this thread has."""
    with tempfile.TemporaryFile() as file:
        file.truncate(_COUNT.size)
        process = subprocess.Popen([sys.executable, "-m", "benchmarks.spare"], stdin=file)
        try:
            with mmap.mmap(file.fileno(), _COUNT.size) as counter:
                spare = Spare(counter)
                spare.wait_until_counting()
                yield spare
        finally:
            process.kill()
            process.wait()


def _count_on(file: BinaryIO) -> None:
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    with mmap.mmap(file.fileno(), _COUNT.size) as counter:
        count = 0
        while True:
            for _ in range(_TURNS):
                pass
            count += 1
            _COUNT.pack_into(counter, 0, count)


if __name__ == "__main__":
    _count_on(sys.stdin.buffer)
