"""The agent beside the real kube-proxy in IPVS mode, both from the same real API server."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks import api, cluster, contenders, progress, results, table
from benchmarks.contenders import Contender
from benchmarks.sizes import SMALL, Size
from ipvs_agent.addresses import parse_address
from tests.kube.client import Client

GOAL_TABLES = 20.0
GOAL_CHANGE = 100.0
"""How many times faster the agent is to be, at GOAL_FROM Services and more; and its memory is to be less."""
GOAL_FROM = 10000

_TABLES_LIMIT = 1800.0
SYNC_LIMIT = 2400.0
_CHANGES = 1000
_CHANGES_SECONDS = 90.0
"""After which no further change is made, so that who is slow makes few."""
_ENOUGH = 100
"""Changes of which there is a 99th percentile."""
_REST = 0.2
"""Seconds for which a Service stays as it is, for what comes sooner may be kept waiting for more."""
_IDLE = 60.0

_MEASURED = {
    "tables_s": "tables",
    "sync_s": "sync",
    "change_s": "change",
    "change_p99_s": "99th",
    "change_cpu_s": "its CPU",
    "idle_cpu_s": "idle CPU",
    "settled_mb": "MB",
    "peak_mb": "peak",
}


def main(sizes: Sequence[Size] = SMALL, sync_limit: float = SYNC_LIMIT) -> bool:
    """Print the table; return whether the goals were reached at the sizes to which they apply.

    sync_limit: how many seconds after its tables a first sync may end, that changes be measured behind it.
    """
    if "KUBECONFIG" not in os.environ:
        sys.exit("kube-proxy needs an API server beside the machine: python -m tests.kube run -- ...")
    contenders.prepare_machine()
    rows: list[results.Row] = []
    with api.client() as server:
        api.prepare(server, contenders.NODE, contenders.ADDRESS)
        beside, there = api.Beside(), None
        for size in sorted(sizes):
            api.grow(beside, there, size)
            there = size
            for name in (contenders.AGENT, contenders.KUBE_PROXY):
                what: results.Row = {"services": str(size), "size": size.services, "who": name}
                rows.append(what | _measure(name, size, server, sync_limit))
            # At once, for the next size may take an hour.
            results.keep("kube-proxy", rows[-2:])
    table.show(
        "From a real API server: seconds from the start of the process to complete tables and to the end of\n"
        "the first sync, of one changed endpoint (median and 99th percentile) and the CPU for it, CPU of an\n"
        f"idle minute, and memory (goals from {GOAL_FROM:,} Services on: tables {GOAL_TABLES:g} times faster,"
        f"\na change {GOAL_CHANGE:g} times, and less memory)",
        ("Services", "", *_MEASURED.values()),
        [line for agent, other in _pairs(rows) for line in _lines(agent, other)],
    )
    for row in rows:
        if row["who"] == contenders.AGENT and row["stages"]:
            said = ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in row["stages"].items())
            print(f"ipvs-agent's own stages at {row['services']}, seconds: {said}")
    print()
    return all(_reached(agent, other) for agent, other in _pairs(rows) if agent["size"] >= GOAL_FROM)


def _pairs(rows: Sequence[results.Row]) -> Iterator[tuple[results.Row, results.Row]]:
    """Yield the agent's row and kube-proxy's of each size."""
    return zip(rows[::2], rows[1::2], strict=True)


def _lines(agent: results.Row, other: results.Row) -> Iterator[tuple[str, ...]]:
    for row in (agent, other):
        yield row["services"], row["who"], *(table.cell(row[name]) for name in _MEASURED)
    yield "", "times as much", *(table.cell(_times(agent, other, name)) for name in _MEASURED)


def _times(agent: results.Row, other: results.Row, name: str) -> float | None:
    """Return how many times the agent's figure kube-proxy's is; None where one was not measured."""
    return other[name] / agent[name] if other[name] is not None and agent[name] else None


def _reached(agent: results.Row, other: results.Row) -> bool:
    """Tell whether the goals are reached; what was not measured is not."""
    goals = {"tables_s": GOAL_TABLES, "change_s": GOAL_CHANGE, "settled_mb": 1.0}
    times = {name: _times(agent, other, name) for name in goals}
    return all((times[name] or 0.0) >= goal for name, goal in goals.items())


def _measure(name: str, size: Size, server: Client, sync_limit: float) -> results.Row:
    row: results.Row = dict.fromkeys(_MEASURED) | {"stages": {}}
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, contenders.running(name, Path(folder)) as contender:
        with contextlib.suppress(TimeoutError):  # what was not reached stays unmeasured
            row["tables_s"] = contender.wait_for_tables(size, _TABLES_LIMIT) - started
            row["sync_s"] = contender.wait_for_sync(sync_limit) - started
            row["stages"] = contender.stages()
            row |= _change(contender, size, server)
            before = contender.cpu()
            progress.wait(_IDLE, f"{name} at {size}: an idle minute")
            row["idle_cpu_s"] = (contender.cpu() - before) * 60 / _IDLE
        row["settled_mb"], row["peak_mb"] = contender.memory()
    progress.say("")
    return row


def _change(contender: Contender, size: Size, server: Client) -> results.Row:
    """Change endpoints one after the other; return how many seconds that took, and the CPU time of each."""
    times: list[float] = []
    before, begin = contender.cpu(), time.monotonic()
    for number in progress.over(range(_CHANGES), _CHANGES, f"{contender.name} at {size}: changes"):
        service = number % size.services
        time.sleep(max(0.0, begin + _REST * (number // size.services) - time.monotonic()))
        if time.monotonic() - begin > _CHANGES_SECONDS:
            break
        new = f"10.255.{number // 256}.{number % 256}"
        started = time.monotonic()
        server.replace(cluster.changed_slice(service, size.endpoints, 0, new))
        times.append(contender.wait_for_endpoint(service, parse_address(new), _CHANGES_SECONDS) - started)
    spent = (contender.cpu() - before) / len(times)
    for service in range(min(len(times), size.services)):
        server.replace(next(cluster.endpoint_slices(service, size.endpoints)))
    latencies = results.latencies(times)
    return {
        "changes": len(times),
        "change_s": latencies["median_ms"] / 1000,
        "change_p99_s": latencies["p99_ms"] / 1000 if len(times) >= _ENOUGH else None,
        "change_cpu_s": spent,
    }


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
