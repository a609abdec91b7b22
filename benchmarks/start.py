"""A cold start from JSON manifests, beside the floor and the tools that do the same by hand."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from benchmarks import bench, cluster, floor, in_hand, peak, progress, results, table
from benchmarks.sizes import SMALL, Size
from ipvs_agent.cli import main as ipvs_agent
from ipvs_agent.operations import LINK, ROUTE_PROTOCOL
from tools.lab import talk

T = TypeVar("T")

TRIES = 3
"""Of the floor and of the agent's starts, of which the one in the middle counts."""
GOAL_TIMES = 4.0
"""From JSON in hand against the floor, from so many endpoints on."""
GOAL_FROM = 80_000
GOAL_SECONDS = 2.0
"""For the whole process, up to so many endpoints."""
GOAL_UP_TO = 10_000

IPVSADM_MOST = 100_000
"""Endpoints up to which ipvsadm is run, for it takes a millisecond for each."""
_TOOLS = {"ipset": ("ipset", "restore"), "ipvsadm": ("ipvsadm", "--restore"), "ip": ("ip", "-batch", "-")}
"""Each with the command that takes on standard input what is to be made."""
_OURS = f"table local proto {ROUTE_PROTOCOL}"
"""What `ip` does not say of a route that it was asked for by this."""


class _Ended(NamedTuple):
    seconds: float
    said: str


def main(sizes: Sequence[Size] = SMALL) -> bool:
    """Print the table; return whether the goal was reached at every size to which it applies."""
    _load_modules()
    rows = [_measure(size) for size in sizes]
    progress.say("")
    table.show(
        f"Cold start from JSON manifests, seconds (medians of {TRIES})\n"
        f"Goal from {GOAL_FROM:,} endpoints on: from JSON in hand at most {GOAL_TIMES:g} times the floor.\n"
        f"The whole process, of which Python's own start is a part, up to {GOAL_UP_TO:,}: {GOAL_SECONDS:g} s",
        ("", *(row["services"] for row in rows)),
        [(head, *(_cell(figure(row)) for row in rows)) for head, figure in _lines(rows)],
    )
    print(
        "floor: the bytes that the agent sends, from memory, in all and by what they write.\n"
        "from JSON in hand: from the bytes of the manifest in memory to complete tables, in a process that\n"
        "has imported its modules and laid its foundation. rest: finding what is to be done, and noting it.\n"
        "whole process: `run --once` from exec to exit, and the stages that it tells of itself.\n"
        "ipvsadm --restore, ipset restore and ip -batch write the same virtual servers, sets and VIPs.\n"
    )
    results.keep("start", rows)
    return all(map(_reached, rows))


def _reached(row: results.Row) -> bool:
    is_quick = row["size"] > GOAL_UP_TO or row["agent"] < GOAL_SECONDS
    return is_quick and (row["size"] < GOAL_FROM or _times(row, "in_hand") <= GOAL_TIMES)


def _lines(rows: Sequence[results.Row]) -> list[tuple[str, Callable[[results.Row], float | None]]]:
    """Return the lines of the table: what each is called, and how to get its figure."""

    def figure(name: str) -> Callable[[results.Row], float | None]:
        return lambda row: row.get(name)

    parts = [f"floor_{what}" for what in floor.WHAT.values()]
    of_hand = [f"in_hand_{stage}" for stage in (*in_hand.STAGES, "rest")]
    prefix = "agent_stage_"
    of_agent = dict.fromkeys(name for row in rows for name in row if name.startswith(prefix))
    return [
        ("floor", figure("floor")),
        *((f"  {name.removeprefix('floor_')}", figure(name)) for name in parts),
        ("from JSON in hand", figure("in_hand")),
        *((f"  {name.removeprefix('in_hand_')}", figure(name)) for name in of_hand),
        ("  times the floor", lambda row: _times(row, "in_hand")),
        ("whole process", figure("agent")),
        *((f"  {name.removeprefix(prefix)}", figure(name)) for name in of_agent),
        ("  times the floor", lambda row: _times(row, "agent")),
        ("  peak MB", figure("agent_peak_mb")),
        *((tool, figure(tool)) for tool in ("ipvsadm", "ipset", "ip")),
    ]


def _cell(figure: float | None) -> str:
    return "-" if figure is None else f"{figure:.3f}" if figure < 10 else f"{figure:.1f}"


def _times(row: results.Row, name: str) -> float:
    return float(row[name] / row["floor"])


def _measure(size: Size) -> results.Row:
    steps = progress.Steps(2 + 3 * TRIES + len(_TOOLS), f"cold start of {size}")

    def tries(step: str, attempt: Callable[[], T]) -> Iterator[T]:
        for _ in range(TRIES):
            steps.begin(step)
            yield attempt()

    with tempfile.TemporaryDirectory() as folder:
        steps.begin("manifest")
        manifest = Path(folder) / "cluster.json"
        cluster.write_manifest(manifest, *size)
        command = ["run", "--once", "--manifests", str(manifest), "--node-name", "node-0"]
        agent = _middle(tries("whole process", lambda: _start(command)), lambda ended: ended.seconds)
        hand = _middle(
            tries("JSON in hand", lambda: _start_in_hand(manifest)), lambda seconds: seconds["all"]
        )
        steps.begin("recording")
        recording, saved = _record(command, size)
        least = _middle(tries("floor", lambda: _replay(recording)), lambda parts: sum(parts.values()))
        by_hand = _by_hand(saved, steps)
    whole = hand.pop("all")
    return {
        "services": str(size),
        "size": size.services * size.endpoints,
        "floor": sum(least.values()),
        **{f"floor_{what}": seconds for what, seconds in least.items()},
        "in_hand": whole,
        **{f"in_hand_{stage}": seconds for stage, seconds in hand.items()},
        "in_hand_rest": whole - sum(hand.values()),
        "agent": agent.seconds,
        "agent_peak_mb": peak.read(agent.said),
        **{f"agent_stage_{stage}": seconds for stage, seconds in bench.stages(agent.said).items()},
        **by_hand,
    }


def _middle(tries: Iterable[T], of: Callable[[T], float]) -> T:
    """Return the whole of the try whose figure is the median, so that its parts belong together."""
    in_order = sorted(tries, key=of)
    return in_order[len(in_order) // 2]


def _start(command: list[str]) -> _Ended:
    with bench.namespace() as name:
        inside = ["ip", "netns", "exec", name]
        return _timed([*inside, sys.executable, "-m", "benchmarks.peak", *command])


def _start_in_hand(manifest: Path) -> dict[str, float]:
    with bench.namespace() as name:
        command = [sys.executable, "-m", "benchmarks.in_hand", name, str(manifest)]
        said = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    seconds: dict[str, float] = json.loads(said)
    return seconds


def _record(command: list[str], size: Size) -> tuple[floor.Recording, dict[str, str]]:
    """Run the agent in this process; return what it sent, and what its node holds then."""
    recording = floor.Recording()
    said = io.StringIO()
    with bench.namespace() as name:
        with talk.inside(name), recording.record(), contextlib.redirect_stderr(said):
            if ipvs_agent(command):
                raise RuntimeError(f"the recorded run failed:\n{said.getvalue()}")
        logging.getLogger("ipvs_agent").handlers.clear()
        return recording, _save(name, size)


def _replay(recording: floor.Recording) -> dict[str, float]:
    with bench.namespace() as name, talk.inside(name):
        return recording.replay()


def _timed(command: Sequence[str], text: str = "") -> _Ended:
    """Run a command; return how long its process took, and what it said."""
    with tempfile.TemporaryFile("w+") as given, tempfile.TemporaryFile("w+") as said:
        given.write(text)
        given.seek(0)
        started = time.perf_counter()
        process = subprocess.Popen(command, stdin=given, stderr=said)
        process.wait()
        seconds = time.perf_counter() - started
        said.seek(0)
        words = said.read()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with status {process.returncode}:\n{words}")
    return _Ended(seconds, words)


def _save(namespace: str, size: Size) -> dict[str, str]:
    """Return what a namespace holds, as the tools that can restore it say it."""

    def said(*command: str) -> str:
        inside = ["ip", "netns", "exec", namespace, *command]
        return subprocess.run(inside, check=True, stdout=subprocess.PIPE, text=True).stdout

    saved = {
        "ipset": said("ipset", "save"),
        "ip": vips_by_hand(
            said("ip", "-oneline", "address", "show", "dev", LINK),
            said("ip", "route", "show", "dev", LINK, *_OURS.split()),
        ),
    }
    if size.services * size.endpoints <= IPVSADM_MOST:
        saved["ipvsadm"] = said("ipvsadm", "--save", "--numeric")
    return saved


def vips_by_hand(addresses: str, routes: str) -> str:
    """Return the commands for `ip -batch` that make VIPs anew, from what `ip` says of them."""
    made = [f"address add {line.split()[3]} dev {LINK} scope host" for line in addresses.splitlines()]
    made += [f"route add {line} dev {LINK} {_OURS}" for line in routes.splitlines()]
    if not made:
        raise RuntimeError("the agent has left no VIP")
    return "".join(f"{line}\n" for line in made)


def _by_hand(saved: dict[str, str], steps: progress.Steps) -> dict[str, float | None]:
    seconds: dict[str, float | None] = {}
    with bench.namespace() as name:
        subprocess.run(["ip", "-n", name, "link", "add", LINK, "type", "dummy"], check=True)
        for tool, command in _TOOLS.items():
            steps.begin(tool)
            inside = ["ip", "netns", "exec", name, *command]
            seconds[tool] = _timed(inside, saved[tool]).seconds if tool in saved else None
    return seconds


def _load_modules() -> None:
    """Have the kernel load, before anything is timed, what the first start in a boot would wait for."""
    subprocess.run(["modprobe", "--all", "ip_vs", "ip_vs_rr", "nf_conntrack"], check=True)
    with tempfile.TemporaryDirectory() as folder:
        manifest = Path(folder) / "cluster.json"
        cluster.write_manifest(manifest, 1, 1)
        _start(["run", "--once", "--manifests", str(manifest)])


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
