"""`ipvs-agent status`, as text and as JSON, beside `ipvsadm -Ln`, on large tables."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from benchmarks import bench, cluster, progress, results, table
from benchmarks.sizes import SMALL, Size
from ipvs_agent.addresses import parse_address
from ipvs_agent.kernel.modules import NodeModules
from ipvs_agent.kernel.node import NodeKernel
from ipvs_agent.model import Protocol, RealServer, VirtualServer, address_key
from ipvs_agent.operations import AddRealServer, AddVirtualServer
from tools.lab import talk

TRIES = 3
"""The quickest counts, as the machine may be busy with other things."""
GOAL_TIMES = 5.0
"""How much faster than ipvsadm, from so many lines on: below that, starting Python is most of it."""
GOAL_FROM = 100_000
_IN_MEMORY = "/dev/shm"


def main(sizes: Sequence[Size] = SMALL) -> bool:
    """Print the table; return whether the bytes were equal, and the goal reached where it applies."""
    rows = [_measure(size) for size in sizes]
    progress.say("")
    table.show(
        f"status, seconds (goal: the same bytes, and {GOAL_TIMES:g} times as fast as ipvsadm"
        f" from {GOAL_FROM:,} lines on;\nof -o json, which says more, none)",
        ("Services", "lines", "ipvsadm -Ln", "status -Ln", "its start", "times as fast", "bytes", "-o json"),
        [
            (
                row["services"],
                f"{row['lines']:,}",
                *(f"{row[name]:.2f}" for name in ("ipvsadm", "agent", "agent_start")),
                f"{_times(row):.1f}",
                "equal" if row["equal"] else "DIFFERENT",
                f"{row['agent_json']:.2f}",
            )
            for row in rows
        ],
    )
    results.keep("status", rows)
    return all(row["equal"] and (row["lines"] < GOAL_FROM or _times(row) >= GOAL_TIMES) for row in rows)


def _times(row: results.Row) -> float:
    return float(row["ipvsadm"] / row["agent"])


def _measure(size: Size) -> results.Row:
    steps = progress.Steps(4 * TRIES, f"listing {size}")
    agent = [sys.executable, "-m", "ipvs_agent"]
    with bench.namespace() as name:
        with talk.inside(name):
            _fill(size)
        theirs, expected = _time(name, ["ipvsadm", "-Ln"], steps)
        ours, listed = _time(name, [*agent, "status", "-Ln"], steps)
        as_json, said = _time(name, [*agent, "status", "-o", "json"], steps)
        json.loads(said)
        start, _ = _time(name, [*agent, "schedulers"], steps)
    return {
        "services": str(size),
        "lines": expected.count(b"\n"),
        "ipvsadm": theirs,
        "agent": ours,
        "agent_json": as_json,
        "agent_start": start,
        "equal": listed == expected,
    }


def _fill(size: Size) -> None:
    NodeModules().load("ip_vs", "ip_vs_rr")
    ipvs = NodeKernel().ipvs
    for number in progress.over(range(size.services), size.services, f"tables of {size}"):
        key = address_key(Protocol.TCP, parse_address(cluster.cluster_ip(number + 256)), 80)
        addresses = [
            parse_address(cluster.pod_ip(number, index, size.endpoints)) for index in range(size.endpoints)
        ]
        behind = [AddRealServer(key, RealServer(address, 8080)) for address in addresses]
        if set(ipvs.apply([AddVirtualServer(VirtualServer(key, "rr")), *behind])) != {None}:
            raise RuntimeError(f"the kernel refused {key}")


def _time(name: str, command: Sequence[str], steps: progress.Steps) -> tuple[float, bytes]:
    """Return the seconds that the quickest run of a command took, and what it printed.

    It prints into a file in memory: who reads megabytes from a pipe would be a good part of what is measured.
    """
    quickest = float("inf")
    with tempfile.TemporaryFile(dir=_IN_MEMORY) as printed:
        for _ in range(TRIES):
            steps.begin(" ".join(command[-2:]))
            printed.seek(0)
            printed.truncate()
            started = time.perf_counter()
            inside = ["ip", "netns", "exec", name, *command]
            # -o json says on standard error that no agent runs.
            subprocess.run(inside, check=True, stdout=printed, stderr=subprocess.PIPE)
            quickest = min(quickest, time.perf_counter() - started)
        printed.seek(0)
        return quickest, printed.read()


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
