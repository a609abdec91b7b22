"""A CPU for each machine: two that share one while another idles take more than twice as long."""

from __future__ import annotations

import fcntl
import os
import random
from collections.abc import Collection

from tools.vm import cache

_held: list[int] = []
"""The locks of this process, which go with it."""


def claim(allowed: Collection[int]) -> int:
    """Return a CPU that no other launcher has, if there is one; it is ours while this process lives."""
    for cpu in random.sample(sorted(allowed), len(allowed)):
        lock = os.open(cache.folder() / f"cpu-{cpu}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
        else:
            _held.append(lock)
            return cpu
    return random.choice(sorted(allowed))
