"""What was measured, kept: one line of JSON for each table, with where and when."""

from __future__ import annotations

import datetime
import json
import os
import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import table

FOLDER = Path(__file__).parent / "results"
FILE = FOLDER / "results.jsonl"

Row = dict[str, Any]
"""What was measured of one thing: plain figures by names with units; None: not measured."""

RUN: defaultdict[str, list[Row]] = defaultdict(list)
"""What this process has measured, by the name of the benchmark."""


def latencies(seconds: Sequence[float]) -> Row:
    """Return median, 99th percentile and longest of some times, in ms."""
    times = [1000 * one for one in seconds]
    # The inclusive method does not go beyond the longest where there are few.
    p99 = statistics.quantiles(times, n=100, method="inclusive")[98] if len(times) > 1 else times[0]
    return {"median_ms": statistics.median(times), "p99_ms": p99, "longest_ms": max(times)}


def keep(benchmark: str, rows: Sequence[Row]) -> None:
    """Append a line to the file, which git ignores."""
    RUN[benchmark] += rows
    FOLDER.mkdir(exist_ok=True)
    line = {
        "benchmark": benchmark,
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": table.machine(),
        "versions": table.versions(),
        "load": os.getloadavg()[0],
        "rows": rows,
    }
    with FILE.open("a") as file:
        file.write(json.dumps(line) + "\n")


def read(path: Path = FILE) -> Iterator[dict[str, Any]]:
    """Yield all lines, oldest first."""
    with path.open() as file:
        for line in file:
            yield json.loads(line)
