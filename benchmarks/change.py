"""One changed endpoint: from the API's JSON in hand to the kernel."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Sequence

from benchmarks import bench, cluster, progress, results, table
from benchmarks.sizes import Size
from ipvs_agent.addresses import Address, parse_address
from ipvs_agent.sources.changes import Kind
from ipvs_agent.sources.decode import decode

SIZES = (Size(10, 10), Size(1000, 10))
LARGE = (Size(10, 10), Size(100, 10), Size(1000, 10), Size(10000, 10), Size(1, 5000))
CHANGES = 200
GOAL_MEDIAN_MS = 5.0
GOAL_99TH_MS = 20.0


def main(sizes: Sequence[Size] = SIZES) -> bool:
    """Print the table; return whether the goal was reached at every size."""
    rows = [_measure(size) for size in sizes]
    table.show(
        f"One changed endpoint, {CHANGES} times, ms from the JSON in hand to the kernel"
        f" (goal: median below {GOAL_MEDIAN_MS:g}, 99th percentile below {GOAL_99TH_MS:g})",
        ("Services", "median", "99th percentile", "longest"),
        [
            (row["services"], *(f"{row[name]:.2f}" for name in ("median_ms", "p99_ms", "longest_ms")))
            for row in rows
        ],
    )
    results.keep("change", rows)
    return all(row["median_ms"] < GOAL_MEDIAN_MS and row["p99_ms"] < GOAL_99TH_MS for row in rows)


def _measure(size: Size) -> results.Row:
    times = []
    with bench.serving(size) as agent:
        for number in progress.over(range(CHANGES), CHANGES, f"changes at {size}"):
            service = number % size.services
            addresses = [cluster.pod_ip(service, index, size.endpoints) for index in range(size.endpoints)]
            new = f"10.255.{number >> 8}.{number & 255}"
            addresses[number % size.endpoints] = new
            event = json.dumps(cluster.endpoint_slice(service, addresses)).encode()
            times.append(_time(agent, event, parse_address(new)) * 1000)
    return {
        "services": str(size),
        "size": size.services,
        "median_ms": statistics.median(times),
        "p99_ms": statistics.quantiles(times, n=100)[98],
        "longest_ms": max(times),
    }


def _time(agent: bench.AgentInProcess, event: bytes, new: Address) -> float:
    """Tell of one event and return the seconds until the kernel had the new real server."""
    started = time.perf_counter()
    agent.tell([decode(Kind.ENDPOINT_SLICE, event)])
    agent.wait_until(lambda: new in agent.added)
    return agent.added[new] - started


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
