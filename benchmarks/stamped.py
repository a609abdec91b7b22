"""ipvs-agent, which also writes down when each of its audits began and what CPU time it had had by then.

python -m benchmarks.stamped FILE run ...
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from ipvs_agent.cli import main as ipvs_agent
from ipvs_agent.reconcile.audits import Audits
from ipvs_agent.reconcile.foundation import Ground, Needs


class Stamp(NamedTuple):
    """The begin of an audit; the first one is the start."""

    at: float
    cpu: float


def read(path: Path) -> list[Stamp]:
    """Return what has been written so far."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [Stamp(*json.loads(line)) for line in lines]


def main(path: Path, arguments: Sequence[str]) -> int:
    """Run the agent."""
    start = Audits.start

    def stamped(audits: Audits, needs: Needs, before: Ground | None) -> None:
        was_laying, now = audits.is_laying, Stamp(time.monotonic(), time.process_time())
        start(audits, needs, before)
        if audits.is_laying and not was_laying:  # and it was not put off
            with path.open("a") as file:
                file.write(f"{json.dumps(now)}\n")

    with mock.patch.object(Audits, "start", stamped):
        return ipvs_agent(arguments)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
