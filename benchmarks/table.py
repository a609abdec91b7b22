"""Printing tables, and telling on what they were measured."""

from __future__ import annotations

import functools
import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from ipvs_agent import __version__
from tests.kube import build
from tools.lab.agent import ROOT

_TOOLS = {
    "ipvsadm": ("ipvsadm", "--version"),
    "ipset": ("ipset", "--version"),
    "iproute2": ("ip", "-V"),
}


def machine() -> str:
    """Describe machine, kernel and versions in one line."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith(("model name", "host"))]
    where = os.environ.get("IPVS_AGENT_VM", "host")
    return (
        f"ipvs-agent {__version__}, Python {platform.python_version()}, Linux {platform.release()} ({where})"
        f", {os.cpu_count()} CPU: {models[0] if models else platform.machine()}"
    )


@functools.cache
def versions() -> Mapping[str, str]:
    """Return the commit that is measured, and the versions of what stands beside it, where it is there."""
    tools = {name: _version(_said(*command)) for name, command in _TOOLS.items()}
    commit = _said("git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12").strip()
    found = {"commit": commit, "kube-proxy": build.VERSION, **tools}
    return {name: version for name, version in found.items() if version}


def _said(*command: str) -> str:
    try:
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            check=False,
            env=os.environ | {"GIT_OPTIONAL_LOCKS": "0"},  # it only looks
        )
    except FileNotFoundError:
        return ""
    return done.stdout


def _version(said: str) -> str:
    """Return the first word that has a number, as programs say their version in many ways."""
    return next((word.strip(",") for word in said.split() if re.search(r"\d", word)), "")


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
