"""The part of a cold start behind the first byte: from the JSON of a manifest in memory to complete tables.

    python -m benchmarks.in_hand NAMESPACE MANIFEST

The process has imported its modules and laid its foundation before the clock runs, and has nothing else in
memory: each start has one of its own. The stages come one after the other here, so that they can be told
apart. It prints one line of JSON.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

from benchmarks import bench
from ipvs_agent.cli import wiring
from ipvs_agent.config import AgentConfig
from ipvs_agent.kernel.ipsets import NetlinkIpSets
from ipvs_agent.kernel.ipvs import NetlinkIpvs
from ipvs_agent.kernel.netlink import NetlinkSocket
from ipvs_agent.kernel.vips import NetlinkVips
from ipvs_agent.sources.changes import Change, Kind, Listed, Put, Rejected, Removed
from ipvs_agent.sources.manifest import Manifest

T = TypeVar("T")

TIMED = (
    (NetlinkIpvs, "apply", "encode"),
    (NetlinkIpSets, "apply", "encode"),
    (NetlinkVips, "apply", "encode"),
    (NetlinkSocket, "send", "kernel"),
    (NetlinkSocket, "ask", "kernel"),
    (NetlinkSocket, "dumps", "kernel"),
)
"""What turns operations into messages, and what sends them: each is called for many operations at once, since
to read the clock for every one of them would take longer than they do."""

STAGES = ("list", "decode", "compile", "encode", "kernel")
"""list: the objects are found in the JSON; decode: they become values."""

_NO_AUDIT = 3600.0


class Stopwatch:
    """Adds up the seconds of calls by the name of a stage; those of a call within another count once."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._clock = clock
        self._counted = 0.0

    def timed(self, stage: str, call: Callable[..., T]) -> Callable[..., T]:
        """Return a function whose calls count for a stage."""

        def counted(*arguments: Any, **options: Any) -> T:
            before, started = self._counted, self._clock()
            try:
                return call(*arguments, **options)
            finally:
                spent = self._clock() - started
                self.seconds[stage] += spent - (self._counted - before)
                self._counted = before + spent

        return counted

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Count all calls of what is TIMED."""
        with contextlib.ExitStack() as patches:
            for owner, name, stage in TIMED:
                counted = self.timed(stage, getattr(owner, name))
                patches.enter_context(mock.patch.object(owner, name, counted))
            yield


def measure(namespace: str, path: Path) -> dict[str, float]:
    """Return the seconds of a start and of its stages."""
    data = path.read_bytes()
    # What `run` has where nothing is configured.
    settings = wiring.settings(AgentConfig(sync_period=_NO_AUDIT), "node-0")
    watch = Stopwatch()
    with watch.watching():
        agent = bench.AgentInProcess(namespace, settings=settings)
        agent.wait_until_ready()
        watch.seconds.clear()
        started = time.perf_counter()
        manifest = watch.timed("list", Manifest)(str(path), data)
        changes: list[Put | Removed | Rejected] = watch.timed("decode", list)(manifest.changes())
        del manifest, data
        agent.tell([*changes, *_listed(changes)])
        del changes
        agent.wait_until_serving()
        agent.end()
    seconds = watch.seconds | {"compile": agent.stages["compile"]}
    return {"all": agent.serving_at - started} | {stage: seconds[stage] for stage in STAGES}


def _listed(changes: Sequence[Change]) -> Iterator[Listed]:
    for kind in Kind:
        names = (one.name for one in changes if isinstance(one, Put) and one.kind is kind)
        yield Listed(kind, frozenset(names))


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], Path(sys.argv[2]))))
