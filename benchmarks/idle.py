"""What the agent costs while nothing changes: the CPU of a minute, and its memory."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks import bench, cluster, progress, results, sizes, spare, stamped, table
from benchmarks.sizes import Size
from ipvs_agent.testing.fake_api import FakeApi
from tools.lab import talk
from tools.lab.agent import ROOT

SIZES = (Size(1000, 10),)
LARGE = (*sizes.SMALL, *sizes.LARGE)

NO_AUDIT, WITH_AUDITS = "1h", "30s"
"""Sync periods: one that does not end here, and kube-proxy's own."""
WATCHED = 60.0
AUDITS = 2
"""So many are watched, from the begin of one to that of another."""
HELD = 10.0
"""Seconds for which the agent stands still, to see what is left of the CPU without it."""
SETTLING = 5.0
"""Seconds after the start in which what it left to be done is over."""
PATIENCE = 600.0
GOAL_IDLE, GOAL_AUDITS = 0.1, 1.5
"""Seconds of CPU a minute, for an agent on the API."""

_CONFIG = """\
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
ipvs: {{syncPeriod: {period}}}
"""


def main(chosen: Sequence[Size] = SIZES) -> bool:
    """Print the table; return whether the goals were reached at every size."""
    rows: list[results.Row] = []
    for size in chosen:
        rows.append(_measure(size))
        # At once, for each size takes minutes.
        results.keep("idle", rows[-1:])
    table.show(
        f"CPU of a minute without changes, seconds, and memory after it (goals: API below {GOAL_IDLE:g},"
        f"\nwith an audit each {WITH_AUDITS} below {GOAL_AUDITS:g}; manifests are looked at now and then)",
        ("Services", "API", "with audits", "manifests", "MB on the API", "peak", "on manifests", "peak"),
        [
            (
                row["services"],
                *(f"{row[name]:.2f}" for name in ("idle", "audits", "manifests")),
                *(f"{row[f'{who}_{name}']:.0f}" for who in ("api", "manifests") for name in _MEMORY),
            )
            for row in rows
        ],
    )
    return all(row["idle"] < GOAL_IDLE and row["audits"] < GOAL_AUDITS for row in rows)


_MEMORY = ("settled_mb", "peak_mb")


def _measure(size: Size) -> results.Row:
    row: results.Row = {"services": str(size), "size": size.services}
    with _running(size, "manifests", NO_AUDIT) as (agent, _):
        row["manifests"] = _idle_minute(agent, f"{size} from manifests")
        row |= {f"manifests_{name}": mb for name, mb in zip(_MEMORY, bench.memory(agent.pid), strict=True)}
    with _running(size, "api", NO_AUDIT) as (agent, _):
        row["idle"] = _idle_minute(agent, f"{size} from the API")
        row |= {f"api_{name}": mb for name, mb in zip(_MEMORY, bench.memory(agent.pid), strict=True)}
    with spare.on_one_cpu(), _running(size, "api", WITH_AUDITS) as (agent, stamps), spare.counting() as left:

        def wait_for_audits(count: int) -> None:
            what = f"{size}: {count} audits begin, which are {WITH_AUDITS} apart"
            begun = len(stamped.read(stamps))
            _wait(agent, lambda: len(stamped.read(stamps)) >= begun + count, what)

        wait_for_audits(2)  # what the start left is over, and so is the first one, which takes all apart
        at_work = left.rate(lambda: wait_for_audits(AUDITS))
        row["audits"] = minute_of(left.rate(lambda: _hold(agent)), at_work)
    return row


def minute_of(alone: float, at_work: float) -> float:
    """Return the seconds of CPU that something takes of a minute, by what was left without it and with it."""
    return 60.0 * (1 - at_work / alone)


def _hold(agent: subprocess.Popen[bytes]) -> None:
    agent.send_signal(signal.SIGSTOP)
    try:
        time.sleep(HELD)
    finally:
        agent.send_signal(signal.SIGCONT)


def _idle_minute(agent: subprocess.Popen[bytes], what: str) -> float:
    progress.wait(SETTLING, f"{what}: settling")
    before = bench.cpu(agent.pid)
    progress.wait(WATCHED, f"{what}: a minute without an audit")
    return (bench.cpu(agent.pid) - before) * 60 / WATCHED


@contextlib.contextmanager
def _running(size: Size, source: str, period: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """Have an agent that serves a cluster; yield its process, and the file of its audits."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        name = stack.enter_context(bench.namespace())
        config = folder / "config.yaml"
        config.write_text(_CONFIG.format(period=period))
        if source == "api":
            options = ["--kubeconfig", _serve(stack, name, folder, size)]
        else:
            cluster.write_manifest(folder / "cluster.json", *size)
            options = ["--manifests", str(folder / "cluster.json")]
        options += ["--config", str(config), "--node-name", "node-0"]
        stamps, log = folder / "audits", folder / "log"
        program = [sys.executable, "-m", "benchmarks.stamped", str(stamps), "run", *options]
        with log.open("wb") as output:
            inside = ["ip", "netns", "exec", name, *program]
            agent = subprocess.Popen(inside, stdin=subprocess.DEVNULL, stderr=output, cwd=ROOT)
        stack.callback(agent.wait)
        stack.callback(agent.terminate)
        _wait(agent, lambda: " serving " in log.read_text(), f"{size}: the agent starts")
        yield agent, stamps


def _serve(stack: contextlib.ExitStack, name: str, folder: Path, size: Size) -> str:
    """Have an API server in a namespace, as long as the stack lasts; return a kubeconfig for it."""
    with talk.inside(name):
        api = stack.enter_context(FakeApi())
    for thing in progress.over(cluster.objects(*size), cluster.count(*size), f"API of {size}"):
        api.put(thing)
    api.put({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-0"}})
    return api.write_kubeconfig(folder)


def _wait(agent: subprocess.Popen[bytes], condition: Callable[[], bool], what: str) -> None:
    begin = time.monotonic()
    while not condition():
        progress.since(begin, what)
        if agent.poll() is not None or time.monotonic() > begin + PATIENCE:
            raise RuntimeError(f"{what}: not within {PATIENCE:g} s, or it has ended")
        time.sleep(0.5)
    progress.say("")


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
