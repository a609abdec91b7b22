"""An audit by itself: what it costs, and how long endpoints wait that change while it reads the kernel."""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
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
"""So many audits at most are met by changes, for those of few Services are over soon; of the first, one."""
AT_REST = 300
REST = 0.2
"""Seconds for which a Service stays as it is, for what comes sooner may be kept waiting for more."""
PAUSE = 0.007
"""Seconds from one change to the next."""
GOAL_MEDIAN_MS = 5.0
GOAL_99TH_MS = 20.0

_LATENCIES = ("median_ms", "p99_ms", "longest_ms")
_FIRST, _LATER = "first_", ""
"""The first audit behind a start takes apart all that the kernel says; later ones what it says anew."""


def main(chosen: Sequence[Size] = SIZES) -> bool:
    """Print the table; return whether the goal was reached at every size."""
    rows = [_measure(size) for size in chosen]
    table.show(
        f"Audits, one each {PERIOD:g} s, and endpoints that change meanwhile, ms to the kernel\n"
        "(the first one takes apart all that the kernel says, later ones what it says anew; goals:\n"
        f"median below {GOAL_MEDIAN_MS:g}, 99th percentile below {GOAL_99TH_MS:g},"
        " and no repairs, as nobody else changes anything)",
        ("Services", "", "takes s", "CPU s", "median", "99th percentile", "longest", "changes", "repairs"),
        [line for row in rows for line in _lines(row)],
    )
    results.keep("audit", rows)
    return all(map(_reached, rows))


def _lines(row: results.Row) -> Iterator[tuple[str, ...]]:
    for services, head, kind in ((row["services"], "first", _FIRST), ("", "later", _LATER)):
        yield (
            *(services, head),
            *(f"{row[f'{kind}{name}']:.2f}" for name in ("audit_s", "audit_cpu_s")),
            *(table.cell(row[f"{kind}{name}"]) for name in _LATENCIES),
            *(f"{row[f'{kind}{name}']:,}" for name in ("changes", "repairs")),
        )
    rest = (table.cell(row[f"rest_{name}"]) for name in _LATENCIES)
    yield "", "between audits", "", "", *rest, f"{row['rest_changes']:,}", ""


def _reached(row: results.Row) -> bool:
    return all(_goes_on_well(row, kind) for kind in (_FIRST, _LATER))


def _goes_on_well(row: results.Row, kind: str) -> bool:
    """Tell whether changes went on; where the audit was over before one came, there is nothing to say."""
    median, p99 = row[f"{kind}median_ms"], row[f"{kind}p99_ms"]
    goes_on = median is None or (median < GOAL_MEDIAN_MS and p99 < GOAL_99TH_MS)
    return bool(goes_on and not row[f"{kind}repairs"])


def _measure(size: Size) -> results.Row:
    settings = msgspec.structs.replace(bench.SETTINGS, sync_period=PERIOD)
    row: results.Row = {"services": str(size), "size": size.services}
    with bench.serving(size, settings) as agent:
        row |= _undisturbed(agent, _FIRST, f"the first audit of {size}")
        row |= _undisturbed(agent, _LATER, f"a later audit of {size}")
        changes = _Changes(agent, size)
        resting = time.monotonic() + PERIOD / 2
        rest = changes.make(AT_REST, lambda: time.monotonic() < resting, f"changes between audits of {size}")
        row |= _told("rest_", rest)
        row |= _told(_LATER, _meanwhile(agent, changes, AUDITS, f"later audits of {size}"))
        row[f"{_LATER}repairs"] = agent.repairs
    with bench.serving(size, settings) as agent:
        row |= _told(_FIRST, _meanwhile(agent, _Changes(agent, size), 1, f"the first audit of {size}"))
        row[f"{_FIRST}repairs"] = agent.repairs
    progress.say("")
    return row


def _undisturbed(agent: AgentInProcess, kind: str, what: str) -> results.Row:
    """Return how long the next audit is under way, and its CPU, when nothing else happens."""
    number = _wait_for_audit(agent, what)
    progress.say(f"{what} is under way")
    agent.wait_until(lambda: not _goes_on(agent, number))
    begun, ended = agent.audits_begun[number], agent.audits_ended[number]
    return {f"{kind}audit_s": ended.at - begun.at, f"{kind}audit_cpu_s": ended.cpu - begun.cpu}


def _meanwhile(agent: AgentInProcess, changes: _Changes, audits: int, what: str) -> list[float]:
    """Change endpoints during so many audits at most; return how many seconds each took."""
    times: list[float] = []
    for _ in range(audits):
        if len(times) < CHANGES:
            goes_on = partial(_goes_on, agent, _wait_for_audit(agent, what))
            times += changes.make(CHANGES - len(times), goes_on, f"changes during {what}")
    return times


def _told(kind: str, times: Sequence[float]) -> results.Row:
    latencies = results.latencies(times) if times else dict.fromkeys(_LATENCIES)
    return {f"{kind}changes": len(times), **{f"{kind}{name}": each for name, each in latencies.items()}}


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
