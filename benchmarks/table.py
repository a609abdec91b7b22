"""Printing tables, and telling on what they were measured."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path

from ipvs_agent import __version__


def machine() -> str:
    """Describe machine, kernel and versions in one line."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith(("model name", "host"))]
    where = os.environ.get("IPVS_AGENT_VM", "host")
    return (
        f"ipvs-agent {__version__}, Python {platform.python_version()}, Linux {platform.release()} ({where})"
        f", {os.cpu_count()} CPU: {models[0] if models else platform.machine()}"
    )


def cell(figure: float | None) -> str:
    """Return a figure with three digits at least; a dash where there is none."""
    return "-" if figure is None else f"{figure:.3g}" if figure < 100 else f"{figure:,.0f}"


def show(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table with a title, its first column to the left and the others to the right."""
    widths = [max(len(line[column]) for line in (heads, *rows)) for column in range(len(heads))]
    print(title)
    for line in (heads, ["-" * width for width in widths], *rows):
        cells = [
            line[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)),
        ]
        print("  ".join(cells).rstrip())
    print()
