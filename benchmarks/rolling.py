"""A rolling update: many slices change, at a steady rate, in a large cluster."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence

from benchmarks import bench, cluster, progress, results, spare, table
from benchmarks.sizes import Size
from ipvs_agent.addresses import parse_address
from ipvs_agent.sources.changes import Kind
from ipvs_agent.sources.decode import decode

SIZES = (Size(1000, 10),)
LARGE = (Size(10000, 10), Size(40000, 2), Size(5000, 50))
SERVICES = 1000
"""How many Services are updated, if there are as many."""
AT_REST = 200
"""So many turns at least are seen without an agent that has work."""
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
    count = min(SERVICES, size.services)
    with spare.on_one_cpu(), bench.serving(size) as agent:
        progress.say(f"rolling update at {size}, timed")
        times = _update(agent, _Update(254, count, size.endpoints))
        with spare.counting() as left:
            progress.say(f"rolling update at {size}, with another process that takes the rest of the CPU")
            another = _Update(255, count, size.endpoints)
            at_rest = left.rate(lambda: _take_turns(max(count, AT_REST), lambda _: None))
            at_work = left.rate(lambda: _update(agent, another))
        progress.say("")
    return {
        "services": str(size),
        "size": size.services,
        "share": 1 - at_work / at_rest,
        **results.latencies(times),
    }


class _Update:
    """What the API says when pods are replaced by others, one of each of the first Services.

    Each Service once, for an address that is replaced before it was added never is.
    """

    def __init__(self, network: int, services: int, endpoints: int) -> None:
        self.new = [f"10.{network}.{number >> 8}.{number & 255}" for number in range(services)]
        self.events = [
            json.dumps(cluster.changed_slice(number, endpoints, number % endpoints, new)).encode()
            for number, new in enumerate(self.new)
        ]


def _update(agent: bench.AgentInProcess, update: _Update) -> list[float]:
    """Tell of an update, and wait for its end; return the seconds until each new real server was there."""
    told: list[float] = []

    def tell(number: int) -> None:
        told.append(time.perf_counter())
        agent.tell([decode(Kind.ENDPOINT_SLICE, update.events[number])])

    new = [parse_address(address) for address in update.new]
    _take_turns(len(new), tell)
    agent.wait_until(lambda: all(address in agent.added for address in new))
    return [agent.added[address] - at for address, at in zip(new, told, strict=True)]


def _take_turns(count: int, take_turn: Callable[[int], None]) -> None:
    begin = time.perf_counter()
    for number in range(count):
        time.sleep(max(0.0, begin + number / RATE - time.perf_counter()))
        take_turn(number)


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
