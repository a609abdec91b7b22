"""Draws what was measured against the size of the cluster: python -m benchmarks.plots [FILE] [--to FOLDER].

It needs the package's extra "bench". Of each thing the newest figure in the file counts.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.ticker import NullFormatter

from benchmarks import results

MEASURED = Path(__file__).parents[1] / "docs" / "performance"
"""The figures that docs/performance.md shows, and their plots."""

_INK = "#7a828c"
"""Grey that can be read on white and on black; the colours of the lines are of the same lightness."""
_COLOURS = ("#2f81f7", "#d9730d", "#2da44e", "#a371f7")


class Line(NamedTuple):
    """What one line of a plot shows, by the size of each row."""

    label: str
    benchmark: str
    figure: str
    where: Mapping[str, str]
    """What rows must have in other fields."""


class Plot(NamedTuple):
    """One file."""

    name: str
    title: str
    across: str
    up: str
    lines: Sequence[Line]


PLOTS = (
    Plot(
        "start",
        "Cold start from JSON manifests, 10 endpoints for each Service",
        "endpoints",
        "seconds",
        (
            Line("the same netlink messages from memory", "start", "floor", {}),
            Line("ipvs-agent run --once", "start", "agent", {}),
            Line("ipvsadm --restore", "start", "ipvsadm", {}),
            Line("ipset restore", "start", "ipset", {}),
        ),
    ),
    Plot(
        "tables",
        "From the start of the process to complete tables, from a real API server",
        "Services of 10 endpoints",
        "seconds",
        (
            Line("ipvs-agent", "kube-proxy", "tables_s", {"who": "ipvs-agent"}),
            Line("kube-proxy", "kube-proxy", "tables_s", {"who": "kube-proxy"}),
            Line("kube-proxy, first sync complete", "kube-proxy", "sync_s", {"who": "kube-proxy"}),
        ),
    ),
    Plot(
        "change",
        "One changed endpoint, from the write to the API server to the kernel",
        "Services of 10 endpoints",
        "seconds (median)",
        (
            Line("ipvs-agent", "kube-proxy", "change_s", {"who": "ipvs-agent"}),
            Line("kube-proxy", "kube-proxy", "change_s", {"who": "kube-proxy"}),
        ),
    ),
    Plot(
        "memory",
        "Memory (RSS) when all is done",
        "Services of 10 endpoints",
        "MB",
        (
            Line("ipvs-agent", "kube-proxy", "settled_mb", {"who": "ipvs-agent"}),
            Line("kube-proxy", "kube-proxy", "settled_mb", {"who": "kube-proxy"}),
        ),
    ),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw all plots."""
    parser = argparse.ArgumentParser(prog="benchmarks.plots", description="Draw what was measured.")
    parser.add_argument("file", type=Path, nargs="?", default=MEASURED / "measured.jsonl")
    parser.add_argument("--to", type=Path, default=MEASURED, help="the folder (docs/performance)")
    options = parser.parse_args(arguments)
    kept = list(results.read(options.file))
    mpl.use("svg")
    # So that the same figures make the same file.
    mpl.rcParams.update({"svg.hashsalt": "ipvs-agent", "svg.fonttype": "none", "font.size": 9})
    mpl.rcParams.update(dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), _INK))
    options.to.mkdir(exist_ok=True)
    for plot in PLOTS:
        _draw(plot, kept, options.to / f"{plot.name}.svg")
    return 0


def points(line: Line, kept: Sequence[Mapping[str, Any]]) -> list[tuple[int, float]]:
    """Return size and newest figure, by size; of clusters with 10 endpoints for each Service."""
    found: dict[int, float] = {}
    for one in kept:
        if one["benchmark"] != line.benchmark:
            continue
        for row in one["rows"]:
            is_asked = all(row[name] == value for name, value in line.where.items())
            if is_asked and row["services"].endswith(" of 10") and row[line.figure] is not None:
                found[row["size"]] = row[line.figure]
    return sorted(found.items())


def _draw(plot: Plot, kept: Sequence[Mapping[str, Any]], path: Path) -> None:
    figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    for line, colour in zip(plot.lines, _COLOURS, strict=False):
        if drawn := points(line, kept):
            across, up = zip(*drawn, strict=True)
            axes.plot(across, up, marker="o", markersize=4, color=colour, label=line.label)
    axes.set(title=plot.title, xlabel=plot.across, ylabel=plot.up, xscale="log", yscale="log")
    axes.grid(color=_INK, alpha=0.25, linewidth=0.6)
    axes.spines[:].set_color(_INK)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:,g}")
        axis.set_minor_formatter(NullFormatter())
    axes.tick_params(which="both", color=_INK)
    figure.legend(frameon=False, loc="outside lower center", ncols=2)
    figure.savefig(path, transparent=True, metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(main())
