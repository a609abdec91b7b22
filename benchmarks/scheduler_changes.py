"""Many Services get another scheduler at once, and endpoints of other Services go on changing."""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Sequence

from benchmarks import bench, cluster, progress, results, table
from benchmarks.sizes import Size
from ipvs_agent.addresses import parse_address
from ipvs_agent.schedulers.annotations import SCHEDULER
from ipvs_agent.sources.changes import Change, Kind
from ipvs_agent.sources.decode import decode

CHANGES = 1000
"""Services that get another scheduler."""
OTHERS = 100
"""Services of which endpoints change."""
ENDPOINTS = 2
AT_REST = 200
"""Changes of endpoints that are measured while nothing else happens."""
PAUSE_SECONDS = 0.037
"""From one of them to the next, so that they come at any moment of a scheduler's change."""
GOAL_99TH_MS = 100.0


def main() -> bool:
    """Print the table; return whether the goal was reached."""
    with bench.serving(Size(CHANGES + OTHERS, ENDPOINTS)) as agent:
        numbers = itertools.count()
        at_rest = [_time_one(agent, next(numbers)) for _ in progress.over(range(AT_REST), AT_REST, "at rest")]
        asked = [_asks_for(number, "lc") for number in range(CHANGES)]
        started = time.perf_counter()
        agent.tell(asked)
        meanwhile = []
        while agent.edited < CHANGES:
            progress.share(agent.edited, CHANGES, "while schedulers change")
            meanwhile.append(_time_one(agent, next(numbers)))
        seconds = time.perf_counter() - started
        progress.say("")
    rows = [_row("nothing else happens", at_rest), _row("while schedulers change", meanwhile)]
    table.show(
        f"One changed endpoint while {CHANGES:,} schedulers change, which takes {seconds:.1f} s, in ms"
        f" (goal: 99th percentile below {GOAL_99TH_MS:g})",
        ("", "endpoints", "median", "99th percentile", "longest"),
        [
            (
                row["when"],
                str(row["endpoints"]),
                *(f"{row[name]:.2f}" for name in ("median_ms", "p99_ms", "longest_ms")),
            )
            for row in rows
        ],
    )
    results.keep("scheduler_changes", rows)
    return bool(rows[-1]["p99_ms"] < GOAL_99TH_MS)


def _time_one(agent: bench.AgentInProcess, number: int) -> float:
    """Change an endpoint and return the seconds until the kernel has the new one; then pause."""
    service = CHANGES + number % OTHERS
    text = f"10.255.{number >> 8}.{number & 255}"
    new = parse_address(text)
    event = json.dumps(cluster.changed_slice(service, ENDPOINTS, ENDPOINTS - 1, text)).encode()
    started = time.perf_counter()
    agent.tell([decode(Kind.ENDPOINT_SLICE, event)])
    agent.wait_until(lambda: new in agent.added)
    seconds = agent.added[new] - started
    time.sleep(PAUSE_SECONDS)
    return seconds


def _asks_for(number: int, scheduler: str) -> Change:
    service = cluster.service(number)
    service["metadata"]["annotations"] = {SCHEDULER: scheduler}
    return decode(Kind.SERVICE, json.dumps(service).encode())


def _row(when: str, times: Sequence[float]) -> results.Row:
    return {"when": when, "endpoints": len(times), **results.latencies(times)}


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
