"""ipvs-agent, which also writes down when each of its audits began.

python -m benchmarks.stamped FILE run ...
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

from ipvs_agent.cli import main as ipvs_agent
from ipvs_agent.reconcile.audits import Audits
from ipvs_agent.reconcile.foundation import Ground, Needs


def read(path: Path) -> list[float]:
    """Return when those began of which was written so far, in seconds of the monotonic clock.

    The first one is the start.
    """
    return [float(line) for line in path.read_text().splitlines()] if path.exists() else []


def main(path: Path, arguments: Sequence[str]) -> int:
    """Run the agent."""
    start = Audits.start

    def stamped(audits: Audits, needs: Needs, before: Ground | None) -> None:
        was_laying, now = audits.is_laying, time.monotonic()
        start(audits, needs, before)
        if audits.is_laying and not was_laying:  # and it was not put off
            with path.open("a") as file:
                file.write(f"{now}\n")

    with mock.patch.object(Audits, "start", stamped):
        return ipvs_agent(arguments)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
