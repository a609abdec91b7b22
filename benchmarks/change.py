"""One changed endpoint: from the API's JSON in hand to the kernel."""

from __future__ import annotations

import json
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
CHANGES = 1000
REST = 0.2
"""Seconds for which a Service stays as it is, for what comes sooner may be kept waiting for more."""
LONGEST = 120.0
"""Seconds after which no further change is made, so that one Service alone has fewer."""
GOAL_MEDIAN_MS = 5.0
GOAL_99TH_MS = 20.0


def main(sizes: Sequence[Size] = SIZES) -> bool:
    """Print the table; return whether the goal was reached at every size."""
    rows = [_measure(size) for size in sizes]
    table.show(
        f"One changed endpoint, {CHANGES:,} times, ms from the JSON in hand to the kernel"
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
        begin = time.monotonic()
        for number in progress.over(range(CHANGES), CHANGES, f"changes at {size}"):
            service = number % size.services
            time.sleep(max(0.0, begin + REST * (number // size.services) - time.monotonic()))
            if time.monotonic() > begin + LONGEST:
                break
            addresses = [cluster.pod_ip(service, index, size.endpoints) for index in range(size.endpoints)]
            new = f"10.255.{number >> 8}.{number & 255}"
            addresses[number % size.endpoints] = new
            event = json.dumps(cluster.endpoint_slice(service, addresses)).encode()
            times.append(_time(agent, event, parse_address(new)))
    return {
        "services": str(size),
        "size": size.services,
        "changes": len(times),
        **results.latencies(times),
    }


def _time(agent: bench.AgentInProcess, event: bytes, new: Address) -> float:
    """Tell of one event and return the seconds until the kernel had the new real server."""
    started = time.perf_counter()
    agent.tell([decode(Kind.ENDPOINT_SLICE, event)])
    return agent.wait_until_added(new) - started


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
