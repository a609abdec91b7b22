"""A thread for what may take long: node tools behind their locks, reads of whole tables."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Protocol

Job = Callable[[], None]


class Worker(Protocol):
    """Runs jobs one after another; a job hands its result, and what it expects to go wrong, to its user."""

    def submit(self, job: Job) -> None:
        """Have a job run."""


class ThreadWorker:
    """A worker with a thread of its own, which ends with the process."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="worker", daemon=True).start()

    def submit(self, job: Job) -> None:
        """Have a job run after those submitted before."""
        self._jobs.put(job)

    def _run(self) -> None:
        while True:
            self._jobs.get()()
