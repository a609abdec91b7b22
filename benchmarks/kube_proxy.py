"""The agent beside the real kube-proxy in IPVS mode, both from the same real API server."""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import api, cluster, contenders, progress, results, table
from benchmarks.contenders import Contender
from benchmarks.sizes import SMALL, Size
from ipvs_agent.addresses import parse_address
from tests.kube.client import Client

GOAL_TABLES = 20.0
GOAL_CHANGE = 100.0
"""How many times faster the agent is to be, at GOAL_FROM Services and more."""
GOAL_FROM = 10000

_TABLES_LIMIT = 1800.0
_SYNC_LIMIT = 2400.0
_CHANGES = 20
_CHANGES_SECONDS = 90.0
"""After which no further change is made, so that who is slow makes few."""
_IDLE = 60.0

_MEASURED = ("tables_s", "sync_s", "change_s", "change_cpu_s", "idle_cpu_s", "settled_mb", "peak_mb")


def main(sizes: Sequence[Size] = SMALL) -> bool:
    """Print the table; return whether the goals were reached at the sizes to which they apply."""
    if "KUBECONFIG" not in os.environ:
        sys.exit("kube-proxy needs an API server beside the machine: python -m tests.kube run -- ...")
    contenders.prepare_machine()
    rows: list[results.Row] = []
    with api.client() as server:
        api.prepare(server, contenders.NODE, contenders.ADDRESS)
        there = None
        for size in sorted(sizes):
            api.grow(server, there, size)
            there = size
            for name in (contenders.AGENT, contenders.KUBE_PROXY):
                row = {"services": str(size), "size": size.services, "who": name}
                rows.append(row | _measure(name, size, server))
            # At once, for the next size may take an hour.
            results.keep("kube-proxy", rows[-2:])
    table.show(
        "From a real API server: seconds from the start of the process to complete tables and to the end of\n"
        "the first sync, of one changed endpoint and the CPU for it, CPU of an idle minute, and memory\n"
        f"(goal from {GOAL_FROM:,} on: tables {GOAL_TABLES:g} times faster, a change {GOAL_CHANGE:g} times)",
        ("Services", "", "tables", "sync", "change", "its CPU", "idle CPU", "MB", "peak"),
        [(row["services"], row["who"], *(_cell(row[name]) for name in _MEASURED)) for row in rows],
    )
    pairs = zip(rows[::2], rows[1::2], strict=True)
    return all(_reached(agent, other) for agent, other in pairs if agent["size"] >= GOAL_FROM)


def _reached(agent: results.Row, other: results.Row) -> bool:
    """Tell whether the goals are reached; where the other one took longer than we wait, by what is known."""
    tables = (other["tables_s"] or _TABLES_LIMIT) / agent["tables_s"] >= GOAL_TABLES
    change = other["change_s"] is None or other["change_s"] / agent["change_s"] >= GOAL_CHANGE
    return bool(tables and change)


def _cell(figure: float | None) -> str:
    return "-" if figure is None else f"{figure:.3g}" if figure < 100 else f"{figure:,.0f}"


def _measure(name: str, size: Size, server: Client) -> results.Row:
    row: results.Row = dict.fromkeys(_MEASURED)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, contenders.running(name, Path(folder)) as contender:
        with contextlib.suppress(TimeoutError):  # what was not reached stays unmeasured
            contender.wait_for_tables(size, _TABLES_LIMIT)
            row["tables_s"] = time.monotonic() - started
            progress.say(f"{name} at {size}: the end of the first sync")
            contender.wait_for_sync(_SYNC_LIMIT)
            row["sync_s"] = time.monotonic() - started
            row["change_s"], row["change_cpu_s"] = _change(contender, size, server)
            progress.say(f"{name} at {size}: idle for {_IDLE:g} s")
            before = contender.cpu()
            time.sleep(_IDLE)
            row["idle_cpu_s"] = (contender.cpu() - before) * 60 / _IDLE
        row["settled_mb"], row["peak_mb"] = contender.memory()
    progress.say("")
    return row


def _change(contender: Contender, size: Size, server: Client) -> tuple[float, float]:
    """Change endpoints one after the other; return the median of the seconds, and the CPU time of each."""
    times: list[float] = []
    before = contender.cpu()
    begin = time.monotonic()
    for number in range(_CHANGES):
        if time.monotonic() - begin > _CHANGES_SECONDS:
            break
        service = number % size.services
        new = f"10.255.{number // 256}.{number % 256}"
        started = time.monotonic()
        server.replace(cluster.changed_slice(service, size.endpoints, 0, new))
        contender.wait_for_endpoint(service, parse_address(new), _CHANGES_SECONDS)
        times.append(time.monotonic() - started)
    spent = (contender.cpu() - before) / len(times)
    for service in range(min(len(times), size.services)):
        server.replace(next(cluster.endpoint_slices(service, size.endpoints)))
    return statistics.median(times), spent


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
