"""A cold start: `run --once` from JSON manifests, beside the floor and the tools that do the same by hand."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks import bench, cluster, floor, progress, results, table
from benchmarks.sizes import Size
from ipvs_agent.cli import main as ipvs_agent
from tools.lab import talk

SIZES = (Size(10, 10), Size(100, 10), Size(1000, 10))
LARGE = (Size(10000, 10), Size(5000, 50), Size(40000, 2), Size(1, 5000))

GOAL_TIMES = 4.0
"""The agent against the floor, from so many endpoints on: below that, starting Python is most of it."""
GOAL_FROM = 80_000

BY_HAND_MOST = 10_000
"""Endpoints up to which the tools are run, for ipvsadm --restore takes a millisecond for each."""


_STAGES = ("foundation", "sources", "compile", "kernel")
"""What the agent says of its start; the rest is Python's start and the modules' code."""


class _Ended(NamedTuple):
    seconds: float
    peak_mb: float
    said: str


def main(sizes: Sequence[Size] = SIZES) -> bool:
    """Print the table; return whether the goal was reached at every size to which it applies."""
    _load_modules()
    rows = []
    for size in sizes:
        progress.say(f"cold start of {size}")
        rows.append(_measure(size))
    progress.say("")
    table.show(
        f"Cold start from JSON manifests, seconds (goal: at most {GOAL_TIMES:g} times the floor"
        f" from {GOAL_FROM:,} endpoints on)",
        (
            "Services",
            "floor",
            "IPVS",
            "sets",
            "VIPs",
            "ipvs-agent",
            *_STAGES,
            "times",
            "MB",
            "ipvsadm",
            "ipset",
            "ip",
        ),
        [
            (
                row["services"],
                *(f"{row[name]:.3f}" for name in ("floor", "floor_ipvs", "floor_sets", "floor_vips")),
                f"{row['agent']:.2f}",
                *(f"{row[f'agent_{stage}']:.2f}" for stage in _STAGES),
                f"{_times(row):.1f}",
                f"{row['agent_peak_mb']:.0f}",
                *(f"{row[name]:.3f}" if row[name] else "-" for name in ("ipvsadm", "ipset", "ip")),
            )
            for row in rows
        ],
    )
    print(
        "floor: the same netlink messages from memory, in all and by what they write. ipvs-agent: in all,\n"
        "by its stages (the rest is Python's own start), against the floor, and its peak of memory.\n"
        "ipvsadm --restore, ipset restore and ip -batch write the same virtual servers, sets and VIPs.\n"
    )
    results.keep("start", rows)
    return all(_times(row) <= GOAL_TIMES for row in rows if row["size"] >= GOAL_FROM)


def _times(row: results.Row) -> float:
    return float(row["agent"] / row["floor"])


def _measure(size: Size) -> results.Row:
    with tempfile.TemporaryDirectory() as folder:
        manifest = Path(folder) / "cluster.json"
        cluster.write_manifest(manifest, *size)
        command = ["run", "--once", "--manifests", str(manifest), "--node-name", "node-0"]
        with bench.namespace() as name:
            agent = _timed(name, [sys.executable, "-m", "ipvs_agent", *command])
            saved = _save(name) if size.services * size.endpoints <= BY_HAND_MOST else {}
        by_hand = _by_hand(saved)
        least = _floor(command)
    return {
        "services": str(size),
        "size": size.services * size.endpoints,
        "floor": sum(least.values()),
        **{f"floor_{what}": seconds for what, seconds in least.items()},
        "agent": agent.seconds,
        "agent_peak_mb": agent.peak_mb,
        **_stages(agent.said),
        **by_hand,
    }


def _stages(said: str) -> dict[str, float]:
    """Return the seconds of each stage, from the agent's own line."""
    (line,) = (line for line in said.splitlines() if " serving " in line)
    milliseconds = dict(re.findall(r" (\w+)_ms=(\d+)", line))
    return {f"agent_{stage}": int(milliseconds[stage]) / 1000 for stage in _STAGES}


def _timed(namespace: str, command: Sequence[str], text: str = "") -> _Ended:
    """Run a command in a namespace; return how long its process took, and the most memory that it had."""
    with tempfile.TemporaryFile("w+") as given, tempfile.TemporaryFile("w+") as said:
        given.write(text)
        given.seek(0)
        started = time.perf_counter()
        process = subprocess.Popen(["ip", "netns", "exec", namespace, *command], stdin=given, stderr=said)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)  # so that nobody waits for it again
        said.seek(0)
        words = said.read()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with status {process.returncode}:\n{words}")
    return _Ended(seconds, usage.ru_maxrss / 1024, words)


def _floor(command: list[str]) -> dict[str, float]:
    recording = floor.Recording()
    said = io.StringIO()
    with bench.namespace() as name, talk.inside(name), recording.record(), contextlib.redirect_stderr(said):
        if ipvs_agent(command):
            raise RuntimeError(f"the recorded run failed:\n{said.getvalue()}")
    logging.getLogger("ipvs_agent").handlers.clear()
    with bench.namespace() as name, talk.inside(name):
        return recording.replay()


def _save(namespace: str) -> dict[str, str]:
    """Return what a namespace holds, as the tools that can restore it say it."""

    def said(*command: str) -> str:
        inside = ["ip", "netns", "exec", namespace, *command]
        return subprocess.run(inside, check=True, stdout=subprocess.PIPE, text=True).stdout

    lines = (
        line.split() for line in said("ip", "-oneline", "address", "show", "dev", "kube-ipvs0").splitlines()
    )
    return {
        "ipvsadm": said("ipvsadm", "--save", "--numeric"),
        "ipset": said("ipset", "save"),
        "ip": "".join(f"address add {line[3]} dev kube-ipvs0 scope host\n" for line in lines),
    }


def _by_hand(saved: dict[str, str]) -> dict[str, float | None]:
    with bench.namespace() as name:
        subprocess.run(["ip", "-n", name, "link", "add", "kube-ipvs0", "type", "dummy"], check=True)
        commands = {
            "ipset": ("ipset", "restore"),
            "ipvsadm": ("ipvsadm", "--restore"),
            "ip": ("ip", "-batch", "-"),
        }
        return {
            tool: _timed(name, command, saved[tool]).seconds if saved else None
            for tool, command in commands.items()
        }


def _load_modules() -> None:
    """Have the kernel load, before anything is timed, what the first start in a boot would wait for."""
    subprocess.run(["modprobe", "--all", "ip_vs", "ip_vs_rr", "nf_conntrack"], check=True)
    with bench.namespace() as name, tempfile.TemporaryDirectory() as folder:
        manifest = Path(folder) / "cluster.json"
        cluster.write_manifest(manifest, 1, 1)
        _timed(name, [sys.executable, "-m", "ipvs_agent", "run", "--once", "--manifests", str(manifest)])


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
