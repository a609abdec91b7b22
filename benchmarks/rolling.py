"""A rolling update: many slices change, at a steady rate, in a large cluster."""

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

SIZES = (Size(1000, 10),)
LARGE = (Size(10000, 10), Size(40000, 2), Size(5000, 50))
SERVICES = 1000
"""How many Services are updated, if there are as many."""
RATE = 200.0
"""Changes of slices in a second."""
GOAL_SHARE = 0.2
GOAL_LONGEST_MS = 200.0


def main(sizes: Sequence[Size] = SIZES) -> bool:
    """Print the table; return whether the goal was reached at every size."""
    rows = [_measure(size) for size in sizes]
    table.show(
        f"Rolling update of {SERVICES:,} Services at {RATE:g} changed slices a second"
        f" (goal: below {GOAL_SHARE:.0%} of a core, none waits longer than {GOAL_LONGEST_MS:g} ms)",
        ("Services", "share of a core", "median ms", "99th percentile ms", "longest ms"),
        [
            (
                row["services"],
                f"{row['share']:.1%}",
                *(f"{row[name]:.2f}" for name in ("median_ms", "p99_ms", "longest_ms")),
            )
            for row in rows
        ],
    )
    results.keep("rolling", rows)
    return all(row["share"] < GOAL_SHARE and row["longest_ms"] < GOAL_LONGEST_MS for row in rows)


def _measure(size: Size) -> results.Row:
    # Each Service once, for an address that is replaced before it was added never is.
    events = [_update(number, size.endpoints) for number in range(min(SERVICES, size.services))]
    with bench.serving(size) as agent:
        told, decoding, before = [], 0.0, agent.cpu()
        begin = time.perf_counter()
        for number, (event, _) in enumerate(progress.over(events, len(events), f"rolling update at {size}")):
            time.sleep(max(0.0, begin + number / RATE - time.perf_counter()))
            told.append(time.perf_counter())
            cpu = time.thread_time()
            agent.tell([decode(Kind.ENDPOINT_SLICE, event)])
            decoding += time.thread_time() - cpu
        agent.wait_until(lambda: all(new in agent.added for _, new in events))
        seconds = max(agent.added[new] for _, new in events) - begin
        loop = agent.cpu() - before
    times = [agent.added[new] - at for (_, new), at in zip(events, told, strict=True)]
    return {
        "services": str(size),
        "size": size.services,
        "share": (loop + decoding) / seconds,
        **results.latencies(times),
    }


def _update(service: int, endpoints: int) -> tuple[bytes, Address]:
    """Return what the API says when a pod is replaced by another, and the address of the new one."""
    new = f"10.255.{service >> 8}.{service & 255}"
    changed = cluster.changed_slice(service, endpoints, service % endpoints, new)
    return json.dumps(changed).encode(), parse_address(new)


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
