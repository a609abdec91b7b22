"""An audit by itself: what it costs, and how long endpoints wait that change while it reads the kernel."""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial

import msgspec

from benchmarks import bench, cluster, progress, results, sizes, table
from benchmarks.bench import AgentInProcess
from benchmarks.sizes import Size
from ipvs_agent.addresses import parse_address
from ipvs_agent.sources.changes import Kind
from ipvs_agent.sources.decode import decode

SIZES = (Size(1000, 10),)
LARGE = (*sizes.SMALL, *sizes.LARGE)

PERIOD = 30.0
"""The sync period, kube-proxy's own: an audit is spread over a part of it."""
CHANGES = 1000
AUDITS = 3
"""So many audits at most are met by changes, for those of few Services are over soon."""
AT_REST = 300
REST = 0.2
"""Seconds for which a Service stays as it is, for what comes sooner may be kept waiting for more."""
PAUSE = 0.007
"""Seconds from one change to the next."""
GOAL_MEDIAN_MS = 5.0
GOAL_99TH_MS = 20.0

_LATENCIES = ("median_ms", "p99_ms", "longest_ms")


def main(chosen: Sequence[Size] = SIZES) -> bool:
    """Print the table; return whether the goal was reached at every size."""
    rows = [_measure(size) for size in chosen]
    table.show(
        f"An audit, one each {PERIOD:g} s, and endpoints that change meanwhile, ms to the kernel\n"
        f"(goals: median below {GOAL_MEDIAN_MS:g}, 99th percentile below {GOAL_99TH_MS:g}, and no repairs, as"
        " nobody else changes anything)",
        (
            *("Services", "takes s", "CPU s", "CPU of a minute"),
            *("median", "99th percentile", "longest", "changes", "repairs", "no audit: median", "99th"),
        ),
        [
            (
                row["services"],
                *(f"{row[name]:.2f}" for name in ("audit_s", "audit_cpu_s", "minute_cpu_s")),
                *("-" if row[name] is None else f"{row[name]:.2f}" for name in _LATENCIES),
                *(f"{row[name]:,}" for name in ("changes", "repairs")),
                *(f"{row[f'rest_{name}']:.2f}" for name in ("median_ms", "p99_ms")),
            )
            for row in rows
        ],
    )
    results.keep("audit", rows)
    return all(map(_reached, rows))


def _reached(row: results.Row) -> bool:
    """Tell whether changes went on; where the audit was over before one came, there is nothing to say."""
    goes_on = row["median_ms"] is None or (row["median_ms"] < GOAL_MEDIAN_MS and row["p99_ms"] < GOAL_99TH_MS)
    return bool(goes_on and not row["repairs"])


def _measure(size: Size) -> results.Row:
    settings = msgspec.structs.replace(bench.SETTINGS, sync_period=PERIOD)
    with bench.serving(size, settings) as agent:
        changes = _Changes(agent, size)
        first = _wait_for_audit(agent, f"an audit of {size}")
        progress.say(f"an audit of {size} is under way")
        agent.wait_until(lambda: not _goes_on(agent, first))
        begun, ended = agent.audits_begun[first], agent.audits_ended[first]
        resting = time.monotonic() + PERIOD / 2
        rest = changes.make(AT_REST, lambda: time.monotonic() < resting, f"changes between audits of {size}")
        meanwhile: list[float] = []
        for number in range(AUDITS):
            if len(meanwhile) < CHANGES:
                what = f"changes during audit {number + 1} of {AUDITS}, of {size}"
                audit = _wait_for_audit(agent, what)
                goes_on = partial(_goes_on, agent, audit)
                meanwhile += changes.make(CHANGES - len(meanwhile), goes_on, what)
        progress.say("")
    seconds, cpu = ended.at - begun.at, ended.cpu - begun.cpu
    return {
        "services": str(size),
        "size": size.services,
        "audit_s": seconds,
        "audit_cpu_s": cpu,
        "minute_cpu_s": cpu * 60 / max(seconds, PERIOD),
        "changes": len(meanwhile),
        **(results.latencies(meanwhile) if meanwhile else dict.fromkeys(_LATENCIES)),
        **{f"rest_{name}": figure for name, figure in results.latencies(rest).items()},
        "repairs": agent.repairs,
    }


def _wait_for_audit(agent: AgentInProcess, what: str) -> int:
    """Wait until the next audit has just begun; return its number."""
    number, begin = len(agent.audits_begun), time.monotonic()

    def has_begun() -> bool:
        progress.since(begin, f"{what}, which are {PERIOD:g} s apart", PERIOD)
        return len(agent.audits_begun) > number

    agent.wait_until(has_begun)
    return number


def _goes_on(agent: AgentInProcess, number: int) -> bool:
    return len(agent.audits_ended) <= number


class _Changes:
    """Endpoints that change one after the other."""

    def __init__(self, agent: AgentInProcess, size: Size) -> None:
        self._agent = agent
        self._size = size
        self._numbers = itertools.count()
        self._changed: dict[int, float] = {}
        """When a Service changed last."""

    def make(self, most: int, goes_on: Callable[[], bool], what: str) -> list[float]:
        """Make so many changes at most, while something goes on; return how many seconds each took."""
        times: list[float] = []
        while len(times) < most and goes_on():
            progress.share(len(times), most, what)
            number = next(self._numbers)
            service = number % self._size.services
            while time.monotonic() < self._changed.get(service, 0.0) + REST and goes_on():
                time.sleep(PAUSE)
            times.append(self._change(service, number))
            self._changed[service] = time.monotonic()
            time.sleep(PAUSE)
        return times

    def _change(self, service: int, number: int) -> float:
        text = f"10.255.{number >> 8}.{number & 255}"
        changed = cluster.changed_slice(service, self._size.endpoints, number % self._size.endpoints, text)
        event = json.dumps(changed).encode()
        started = time.perf_counter()
        self._agent.tell([decode(Kind.ENDPOINT_SLICE, event)])
        return self._agent.wait_until_added(parse_address(text)) - started


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
