"""One changed endpoint: from the API's JSON in hand to the kernel."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence

from benchmarks import bench, cluster, progress, results, table
from benchmarks.sizes import SMALL, Size
from ipvs_agent.addresses import Address, parse_address
from ipvs_agent.sources.changes import Kind
from ipvs_agent.sources.decode import decode

CHANGES = 1000
REST = 0.2
"""Seconds for which a Service stays as it is, for what comes sooner may be kept waiting for more."""
LONGEST = 120.0
"""Seconds after which no further change is made, so that one Service alone has fewer."""
GOAL_MEDIAN_MS = 5.0
GOAL_99TH_MS = 20.0
GOAL_TIMES = 1.5
"""At most so many times what it is with so few Services of as many endpoints: cost follows the change."""
FEW = 10
_TIMES = {"median_times": "median_ms", "p99_times": "p99_ms"}


def main(sizes: Sequence[Size] = SMALL) -> bool:
    """Print the table; return whether the goal was reached at every size."""
    rows = [_measure(size) for size in sizes]
    _compare(rows)
    table.show(
        f"One changed endpoint, {CHANGES:,} times, ms from the JSON in hand to the kernel"
        f"\n(goals: median below {GOAL_MEDIAN_MS:g}, 99th percentile below {GOAL_99TH_MS:g}, neither more"
        f" than {GOAL_TIMES:g} times that at {FEW} Services)",
        (
            "Services",
            "median",
            "99th percentile",
            "longest",
            "changes",
            f"median, times that at {FEW}",
            "99th",
        ),
        [
            (
                row["services"],
                *(f"{row[name]:.2f}" for name in ("median_ms", "p99_ms", "longest_ms")),
                f"{row['changes']:,}",
                *("-" if row[name] is None else f"{row[name]:.2f}" for name in _TIMES),
            )
            for row in rows
        ],
    )
    for row in rows:
        if row["median_times"] is None:
            print(
                f"{row['services']}: not compared; that needs --size {FEW}x{row['endpoints']} in this run too"
            )
    results.keep("change", rows)
    return all(map(_reached, rows))


def _compare(rows: Sequence[results.Row]) -> None:
    """Note how many times that with few Services each figure is; None where that was not measured."""
    few = {row["endpoints"]: row for row in rows if row["size"] == FEW}
    for row in rows:
        base = few.get(row["endpoints"])
        for name, of in _TIMES.items():
            row[name] = None if base is None else row[of] / base[of]


def _reached(row: results.Row) -> bool:
    is_quick = row["median_ms"] < GOAL_MEDIAN_MS and row["p99_ms"] < GOAL_99TH_MS
    return is_quick and all(row[name] is None or row[name] <= GOAL_TIMES for name in _TIMES)


def _measure(size: Size) -> results.Row:
    times = []
    with bench.serving(size) as agent:
        begin = time.monotonic()
        for number in progress.over(range(CHANGES), CHANGES, f"changes at {size}"):
            service = number % size.services
            time.sleep(max(0.0, begin + REST * (number // size.services) - time.monotonic()))
            if time.monotonic() > begin + LONGEST:
                break
            new = f"10.255.{number >> 8}.{number & 255}"
            changed = cluster.changed_slice(service, size.endpoints, number % size.endpoints, new)
            event = json.dumps(changed).encode()
            times.append(_time(agent, event, parse_address(new)))
    return {
        "services": str(size),
        "size": size.services,
        "endpoints": size.endpoints,
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
