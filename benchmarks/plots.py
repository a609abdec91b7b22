"""Draws what was measured against the size of the cluster: python -m benchmarks.plots [FILE] [--to FOLDER].

It needs the package's extra "bench". Of each thing the newest figure in the file counts.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import in_hand, results, sizes
from benchmarks.contenders import AGENT, KUBE_PROXY

MEASURED = Path(__file__).parents[1] / "docs" / "performance"
"""The figures that docs/performance.md shows, and their plots."""

MANY = 10
"""Endpoints of each Service in the clusters that a line connects; others are marked by themselves."""

_INK = "#7a828c"
"""Grey that can be read on white and on black; the colours of the lines are of the same lightness."""
COLOURS = ("#2f81f7", "#d9730d", "#2da44e", "#a371f7", "#d1449b", "#8c8c1a")

_MS = 0.001


class Line(NamedTuple):
    """What one line of a plot shows, by the size of each row."""

    label: str
    benchmark: str
    figure: str
    where: Mapping[str, str] = {}
    """What rows must have in other fields."""
    unit: float = 1.0
    """That of the figure, in units of the plot."""


class Point(NamedTuple):
    """A figure that was measured."""

    across: int
    up: float
    apart: str = ""
    """What to call a cluster that is no part of the line."""


class Plot(NamedTuple):
    """One file."""

    name: str
    title: str
    up: str
    lines: Sequence[Line]
    across: str = "endpoints in the cluster"
    least: float = 0.0
    """Below that the scale upwards is even, for there are figures of 0; 0: there are none."""


_API = {"who": AGENT}
_KUBE_PROXY = {"who": KUBE_PROXY}


def _of_vips(family: str) -> Plot:
    return Plot(
        f"vips-{family.lower()}",
        f"{family} VIPs, without virtual servers",
        "seconds",
        tuple(
            Line(
                f"{form} added" if what == "add_ms" else f"{form} removed",
                f"vips {family.upper()}",
                what,
                by,
                _MS,
            )
            for form, by in (("addresses", {"form": "address"}), ("routes", {"form": "route"}))
            for what in ("add_ms", "remove_ms")
        ),
        across="VIPs",
    )


PLOTS = (
    Plot(
        "start",
        "Cold start from JSON manifests",
        "seconds",
        (
            Line("the same bytes from memory (floor)", "start", "floor"),
            Line("ipvs-agent from JSON in hand", "start", "in_hand"),
            Line("ipvs-agent run --once", "start", "agent"),
            Line("ipvsadm --restore", "start", "ipvsadm"),
            Line("ipset restore", "start", "ipset"),
            Line("ip -batch", "start", "ip"),
        ),
    ),
    Plot(
        "stages",
        "Cold start from JSON in hand, by its stages",
        "seconds",
        tuple(Line(stage, "start", f"in_hand_{stage}") for stage in (*in_hand.STAGES, "rest")),
    ),
    Plot(
        "tables",
        "From the start of the process to complete tables, from a real API server",
        "seconds",
        (
            Line("ipvs-agent", "kube-proxy", "tables_s", _API),
            Line("kube-proxy", "kube-proxy", "tables_s", _KUBE_PROXY),
            Line("kube-proxy, first sync complete", "kube-proxy", "sync_s", _KUBE_PROXY),
        ),
    ),
    Plot(
        "change",
        "One changed endpoint, until it is in the kernel",
        "seconds",
        (
            Line("ipvs-agent, JSON in hand: median", "change", "median_ms", unit=_MS),
            Line("99th percentile", "change", "p99_ms", unit=_MS),
            Line("ipvs-agent, API: median", "kube-proxy", "change_s", _API),
            Line("99th percentile, API", "kube-proxy", "change_p99_s", _API),
            Line("kube-proxy, API: median", "kube-proxy", "change_s", _KUBE_PROXY),
        ),
    ),
    Plot(
        "rolling",
        "A rolling update at 200 slices a second: how long a change waits",
        "seconds",
        (
            Line("median", "rolling", "median_ms", unit=_MS),
            Line("99th percentile", "rolling", "p99_ms", unit=_MS),
            Line("longest", "rolling", "longest_ms", unit=_MS),
        ),
    ),
    Plot(
        "idle",
        "CPU of a minute without changes",
        "seconds",
        (
            Line("ipvs-agent on the API, no audit", "idle", "idle"),
            Line("with audits", "idle", "audits"),
            Line("on manifests, no audit", "idle", "manifests"),
            Line("kube-proxy", "kube-proxy", "idle_cpu_s", _KUBE_PROXY),
        ),
        least=0.01,
    ),
    Plot(
        "cpu",
        "CPU of one change, and of a second of a rolling update",
        "seconds",
        (
            Line("one change, ipvs-agent", "kube-proxy", "change_cpu_s", _API),
            Line("one change, kube-proxy", "kube-proxy", "change_cpu_s", _KUBE_PROXY),
            Line("a second of a rolling update, ipvs-agent", "rolling", "share"),
        ),
    ),
    Plot(
        "audit",
        "An audit, and endpoints that change while it reads",
        "seconds",
        (
            Line("from its begin to its end", "audit", "audit_s"),
            Line("its CPU", "audit", "audit_cpu_s"),
            Line("a change meanwhile: median", "audit", "median_ms", unit=_MS),
            Line("99th percentile", "audit", "p99_ms", unit=_MS),
            Line("99th percentile, no audit", "audit", "rest_p99_ms", unit=_MS),
        ),
    ),
    Plot(
        "status",
        "The listing of all tables",
        "seconds",
        (
            Line("ipvsadm -Ln", "status", "ipvsadm"),
            Line("ipvs-agent status -Ln", "status", "agent"),
            Line("ipvs-agent status -o json", "status", "agent_json"),
        ),
    ),
    Plot(
        "memory",
        "Memory (RSS)",
        "MB",
        (
            Line("ipvs-agent on the API, idle", "idle", "api_settled_mb"),
            Line("after changes", "kube-proxy", "settled_mb", _API),
            Line("on manifests, idle", "idle", "manifests_settled_mb"),
            Line("kube-proxy", "kube-proxy", "settled_mb", _KUBE_PROXY),
            Line("run --once, peak", "start", "agent_peak_mb"),
            Line("kube-proxy, peak", "kube-proxy", "peak_mb", _KUBE_PROXY),
        ),
    ),
    _of_vips("IPv4"),
    _of_vips("IPv6"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw all plots."""
    parser = argparse.ArgumentParser(prog="benchmarks.plots", description="Draw what was measured.")
    parser.add_argument("file", type=Path, nargs="?", default=MEASURED / "measured.jsonl")
    parser.add_argument("--to", type=Path, default=MEASURED, help="the folder (docs/performance)")
    options = parser.parse_args(arguments)
    kept = list(results.read(options.file))
    options.to.mkdir(exist_ok=True)
    for plot in PLOTS:
        lines = [(line, points(line, kept)) for line in plot.lines]
        if any(found for _, found in lines):
            _draw(plot, lines, options.to / f"{plot.name}.svg")
    return 0


def points(line: Line, kept: Iterable[Mapping[str, Any]]) -> list[Point]:
    """Return the newest figure of each size."""
    found: dict[tuple[int, str], float] = {}
    for row in _rows(line, kept):
        if row.get(line.figure) is not None:
            found[_place(row)] = row[line.figure] * line.unit
    return sorted(Point(across, up, apart) for (across, apart), up in found.items())


def _rows(line: Line, kept: Iterable[Mapping[str, Any]]) -> Iterator[results.Row]:
    for one in kept:
        if one["benchmark"] == line.benchmark:
            yield from (
                row for row in one["rows"] if all(row[name] == value for name, value in line.where.items())
            )


def _place(row: results.Row) -> tuple[int, str]:
    """Return where a row is across a plot, and what to call it where it stands apart from the others."""
    if "vips" in row:
        return row["vips"], ""
    size = sizes.read(row["services"])
    return size.services * size.endpoints, "" if size.endpoints == MANY else str(size)


def _draw(plot: Plot, lines: Sequence[tuple[Line, Sequence[Point]]], path: Path) -> None:
    # Here, for it is wanted for plots alone, and few have it.
    import matplotlib as mpl  # noqa: PLC0415
    from matplotlib import pyplot as plt  # noqa: PLC0415
    from matplotlib.ticker import NullFormatter  # noqa: PLC0415

    mpl.use("svg")
    # So that the same figures make the same file.
    mpl.rcParams.update({"svg.hashsalt": "ipvs-agent", "svg.fonttype": "none", "font.size": 9})
    mpl.rcParams.update(dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), _INK))
    figure, axes = plt.subplots(figsize=(6.4, 3.9), layout="constrained")
    for (line, drawn), colour in zip(lines, COLOURS, strict=False):
        for one in drawn:
            face = "none" if one.apart else colour
            axes.plot(one.across, one.up, marker="o", markersize=4, color=colour, markerfacecolor=face)
        connected = [(one.across, one.up) for one in drawn if not one.apart]
        axes.plot(*zip(*connected, strict=True) if connected else ([], []), color=colour, label=line.label)
    for across, up, name in sorted(_names(lines)):
        axes.annotate(name, (across, up), (0, 5), textcoords="offset points", ha="center", fontsize=6)
    axes.set(title=plot.title, xlabel=plot.across, ylabel=plot.up, xscale="log", yscale="log")
    if plot.least:
        axes.set_yscale("symlog", linthresh=plot.least)
    axes.grid(color=_INK, alpha=0.25, linewidth=0.6)
    axes.spines[:].set_color(_INK)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:,g}")
        axis.set_minor_formatter(NullFormatter())
    axes.tick_params(which="both", color=_INK)
    figure.legend(frameon=False, loc="outside lower center", ncols=2)
    figure.savefig(path, transparent=True, metadata={"Date": None})
    plt.close(figure)


def _names(lines: Iterable[tuple[Line, Iterable[Point]]]) -> Iterable[Point]:
    """Return the highest point of each cluster that stands apart, where its name goes."""
    highest: dict[str, Point] = {}
    for _, drawn in lines:
        for one in drawn:
            if one.apart and one.up >= highest.get(one.apart, one).up:
                highest[one.apart] = one
    return highest.values()


if __name__ == "__main__":
    sys.exit(main())
