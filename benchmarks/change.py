"""One changed endpoint: from the API's JSON in hand to the kernel."""

from __future__ import annotations

import json
import statistics
import sys
import time

from benchmarks import bench, cluster, table
from ipvs_agent.sources.changes import Kind, Listed
from ipvs_agent.sources.decode import decode

SIZES = (10, 1000)
ENDPOINTS = 10
CHANGES = 200
GOAL_SECONDS = 0.020


def main() -> bool:
    """Print the table; return whether the goal was reached at every size."""
    measured = {size: _measure(size) for size in SIZES}
    table.show(
        f"One changed endpoint, {CHANGES} times (goal: below {GOAL_SECONDS * 1000:g} ms)",
        ("Services", "median ms", "99th percentile ms", "longest ms"),
        [
            (
                f"{size:,} of {ENDPOINTS}",
                f"{statistics.median(times) * 1000:.2f}",
                f"{statistics.quantiles(times, n=100)[98] * 1000:.2f}",
                f"{max(times) * 1000:.2f}",
            )
            for size, times in measured.items()
        ],
    )
    return all(statistics.quantiles(times, n=100)[98] < GOAL_SECONDS for times in measured.values())


def _measure(size: int) -> list[float]:
    with bench.namespace() as name:
        agent = bench.AgentInProcess(name)
        said = [
            decode(Kind(thing["kind"]), json.dumps(thing).encode())
            for thing in cluster.objects(size, ENDPOINTS)
        ]
        names = {kind: frozenset(one.name for one in said if one.kind is kind and one.name) for kind in Kind}
        agent.tell([*said, *(Listed(kind, names[kind]) for kind in Kind)])
        agent.wait_until_serving()
        times = []
        for number in range(CHANGES):
            addresses = [cluster.pod_ip(number % size, index, ENDPOINTS) for index in range(ENDPOINTS)]
            addresses[number % ENDPOINTS] = f"10.255.{number >> 8}.{number & 255}"
            event = json.dumps(cluster.endpoint_slice(number % size, addresses)).encode()
            times.append(_time(agent, event))
        agent.end()
    return times


def _time(agent: bench.AgentInProcess, event: bytes) -> float:
    """Tell of one event and return the seconds until it was applied."""
    started = time.perf_counter()
    agent.tell([decode(Kind.ENDPOINT_SLICE, event)])
    agent.wait_until(lambda: agent.applied > started)
    return agent.applied - started


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
