"""ipvs-agent, which says at its end the most memory that it had: python -m benchmarks.peak run ...

What wait4(2) says of a process (ru_maxrss) is also what the process had that started it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from ipvs_agent.cli import leave
from ipvs_agent.cli import main as ipvs_agent

_SAID = re.compile(r"^VmHWM:\s+(\d+) kB$", re.MULTILINE)


def read(words: str) -> float:
    """Return the MB that an agent said."""
    found = _SAID.search(words)
    if found is None:
        raise ValueError(f"the agent did not say what memory it had:\n{words}")
    return int(found[1]) / 1024


def main(arguments: Sequence[str]) -> int:
    """Run the agent."""
    status = ipvs_agent(arguments)
    for line in Path("/proc/self/status").read_text().splitlines():
        if _SAID.match(line):
            print(line, file=sys.stderr)
    return status


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
