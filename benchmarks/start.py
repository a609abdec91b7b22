"""A cold start: `run --once` from JSON manifests, beside the floor."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import bench, cluster, floor, table
from ipvs_agent.cli import main as ipvs_agent
from tools.lab import talk

SERVICES, ENDPOINTS = 1000, 10
GOAL_SECONDS = 2.0


def main() -> bool:
    """Print the table; return whether the goal was reached."""
    with tempfile.TemporaryDirectory() as folder:
        manifest = Path(folder) / "cluster.json"
        cluster.write_manifest(manifest, SERVICES, ENDPOINTS)
        command = ["run", "--once", "--manifests", str(manifest), "--node-name", "node-0"]
        first, again = (_run(command) for _ in range(2))
        least = _floor(command)
    table.show(
        f"Cold start of {SERVICES:,} Services of {ENDPOINTS} endpoints (goal: below {GOAL_SECONDS:g} s)",
        ("", "seconds", "times the floor"),
        (
            ("the same netlink messages from memory", f"{least:.2f}", "1.0"),
            ("ipvs-agent run --once, first in this boot", f"{first:.2f}", f"{first / least:.1f}"),
            ("ipvs-agent run --once, modules loaded", f"{again:.2f}", f"{again / least:.1f}"),
        ),
    )
    return first < GOAL_SECONDS


def _run(command: list[str]) -> float:
    """Return the seconds from the start of the process to its end, in a fresh namespace."""
    with bench.namespace() as name:
        started = time.perf_counter()
        subprocess.run(
            ["ip", "netns", "exec", name, sys.executable, "-m", "ipvs_agent", *command],
            check=True,
            stderr=subprocess.DEVNULL,
        )
        return time.perf_counter() - started


def _floor(command: list[str]) -> float:
    recording = floor.Recording()
    with bench.namespace() as name, talk.inside(name), recording.record():
        if ipvs_agent(command):
            raise RuntimeError("the recorded run failed")
    with bench.namespace() as name, talk.inside(name):
        return recording.replay()


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
