"""What the agent costs while nothing changes: the CPU of a minute, with and without audits."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import bench, cluster, progress, results, sizes, table
from benchmarks.sizes import Size

SIZES = (Size(1000, 10),)
LARGE = (*sizes.SMALL, *sizes.LARGE)

NO_AUDIT, WITH_AUDITS = "1h", "30s"
"""Sync periods: one that does not end here, and kube-proxy's own, whose minute has one or two audits."""
WATCHED = 60.0
SETTLING = 5.0
"""Seconds after the start in which what it left to be done is over."""
PATIENCE = 600.0
GOAL_IDLE, GOAL_AUDITS = 0.1, 1.5
"""Seconds of CPU a minute."""

_CONFIG = """\
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
ipvs: {{syncPeriod: {period}}}
"""


def main(chosen: Sequence[Size] = SIZES) -> bool:
    """Print the table; return whether the goals were reached at every size."""
    rows = []
    for size in chosen:
        row: results.Row = {"services": str(size)}
        for name, period in (("idle", NO_AUDIT), ("audits", WITH_AUDITS)):
            progress.say(f"{size}: a minute with a sync period of {period}")
            row[name] = _watch(size, period)
        rows.append(row)
    progress.say("")
    table.show(
        f"CPU of a minute without changes, seconds (goals: below {GOAL_IDLE:g}, with audits {GOAL_AUDITS:g})",
        ("Services", "no audit", "with audits"),
        [(row["services"], f"{row['idle']:.2f}", f"{row['audits']:.2f}") for row in rows],
    )
    results.keep("idle", rows)
    return all(row["idle"] < GOAL_IDLE and row["audits"] < GOAL_AUDITS for row in rows)


def _watch(size: Size, period: str) -> float:
    """Return the seconds of CPU that an agent takes in a minute."""
    with tempfile.TemporaryDirectory() as folder, bench.namespace() as name:
        manifest, config = Path(folder) / "cluster.json", Path(folder) / "config.yaml"
        cluster.write_manifest(manifest, *size)
        config.write_text(_CONFIG.format(period=period))
        options = ["--config", str(config), "--manifests", str(manifest), "--node-name", "node-0"]
        with (Path(folder) / "log").open("w+") as log:
            agent = subprocess.Popen(
                ["ip", "netns", "exec", name, sys.executable, "-m", "ipvs_agent", "run", *options], stderr=log
            )
            try:
                _wait_until_serving(agent, Path(log.name))
                time.sleep(SETTLING)
                before = _cpu(agent.pid)
                time.sleep(WATCHED)
                return _cpu(agent.pid) - before
            finally:
                agent.terminate()
                agent.wait()


def _wait_until_serving(agent: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while " serving " not in log.read_text():
        if agent.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the agent does not serve:\n{log.read_text()}")
        time.sleep(0.1)


def _cpu(pid: int) -> float:
    """Return the seconds of CPU that a process has taken, in ticks of the kernel."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
