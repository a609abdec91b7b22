"""Many agents on one real API server, through restarts of it: what they ask for, and how they come back.

    python -m benchmarks.scale --agents 100 --size 1000x10

Its status is 1 where a goal is missed.

No kernel is needed, for of each agent there is only its source, which holds the same watches whatever is done
with what it says. The sources run in a few processes, the server beside them, on this machine.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from http import HTTPStatus
from multiprocessing.queues import Queue
from pathlib import Path
from queue import Empty
from typing import Any, NamedTuple
from unittest import mock
from urllib.parse import parse_qs, urlsplit

from benchmarks import api, cluster, progress, results, sizes, table
from benchmarks.sizes import Size
from ipvs_agent.config import Lists
from ipvs_agent.sources.api_client import ApiClient
from ipvs_agent.sources.changes import Change, Kind, Listed, Put
from ipvs_agent.sources.kube import KubeSource
from tests.kube.client import Client
from tests.kube.server import AGENT, ApiServer

_PATIENCE = 3600.0
_AWAY = 20.0
"""Seconds that the server is away: the pauses between attempts have grown by then."""
GOAL_SHARE = 0.2
"""Of all watches, answered in one second after a restart."""
GOAL_SHARE_FROM = 150
"""With fewer watches chance alone makes more."""
GOAL_BACK = 60.0
"""Seconds within which all agents know again what is new, after a restart."""
_AT_ONCE = 2
"""Seconds in which is answered what came while the server was starting."""
_MARKERS = "marker-"
"""How the names of objects begin by which it is seen how far an agent is."""
_METRIC = re.compile(r"^(\w+)(?:\{(.*)\})? ([\d.e+-]+)$", re.MULTILINE)


class Said(NamedTuple):
    """What an agent did or learnt, and when."""

    agent: int
    what: str
    """A request that was granted ("WatchList services", ...), "listed KIND" or "saw NAME"."""
    at: float


class Phase(NamedTuple):
    """What happened from some moment on."""

    name: str
    ready: float
    """When the server was ready."""
    said: list[Said]
    metrics: dict[str, float]


class Crowd:
    """The agents, in processes of their own; what they say arrives in one queue."""

    def __init__(
        self, server: ApiServer, agents: int, processes: int, folder: Path, *, is_streamed: bool
    ) -> None:
        self.agents = agents
        kubeconfig = folder / "kubeconfig"
        kubeconfig.write_text(json.dumps(server.kubeconfig(AGENT)))
        context = multiprocessing.get_context("spawn")  # a fork would take the threads' locks along
        self._said: Queue[Said] = context.Queue()
        self._processes = [
            context.Process(
                target=_be_agents,
                args=(range(first, agents, processes), str(kubeconfig), self._said, is_streamed),
                daemon=True,
            )
            for first in range(processes)
        ]

    def start(self) -> None:
        """Start all agents at about the same time."""
        for process in self._processes:
            process.start()

    def end(self) -> None:
        """End all processes."""
        for process in self._processes:
            process.terminate()
            process.join()

    def hear(self, enough: Callable[[Sequence[Said]], bool], what: str) -> list[Said]:
        """Collect what is said until it is enough, and show how many agents have said something."""
        heard: list[Said] = []
        speakers: set[int] = set()
        deadline = time.monotonic() + _PATIENCE
        while not enough(heard):
            try:
                heard.append(self._said.get(timeout=1.0))
                speakers.add(heard[-1].agent)
                progress.share(len(speakers), self.agents, what)
            except Empty:
                if time.monotonic() > deadline:
                    counts = dict(Counter(one.what for one in heard))
                    raise TimeoutError(f"not within {_PATIENCE:g} s, but: {counts}") from None
        return heard


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the simulation."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.scale", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--agents", type=int, default=100)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--size", type=sizes.parse, default=Size(1000, 10))
    parser.add_argument("--lists", choices=[one.value for one in Lists], default=Lists.STREAMED.value)
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # the agents end with us
    with tempfile.TemporaryDirectory() as folder, ApiServer() as server:
        with server.client() as client:
            api.prepare(client, "node-0", "192.0.2.1")
        api.grow(server, None, options.size)
        server.wait_until_allowed(AGENT, "/api/v1/services")
        is_streamed = options.lists == Lists.STREAMED
        crowd = Crowd(server, options.agents, options.processes, Path(folder), is_streamed=is_streamed)
        try:
            phases = _phases(server, crowd)
        finally:
            crowd.end()
    rows = [_row(phase, options) for phase in phases]
    _show(options, rows)
    missed = list(misses(rows))
    for words in missed:
        print(f"MISSED: {words}")
    return 1 if missed else 0


def _phases(server: ApiServer, crowd: Crowd) -> list[Phase]:
    phases = []
    with server.client() as client:
        before, begin = _metrics(client), time.monotonic()
        crowd.start()
        said = crowd.hear(partial(_all_watch, crowd.agents), "agents start")
        phases.append(Phase("all start at once", begin, said, _difference(_metrics(client), before)))

        before, begin = _metrics(client), time.monotonic()
        _create_marker(client, f"{_MARKERS}0")
        said = crowd.hear(partial(_all_saw, crowd.agents, f"{_MARKERS}0"), "agents see a Service")
        time.sleep(1.0)  # the server counts what it sent a moment later
        phases.append(Phase("one Service is created", begin, said, _difference(_metrics(client), before)))
    for name, end in (("after the server was killed", server.kill), ("after it ended in order", server.stop)):
        end()
        gone = time.monotonic()
        progress.wait(_AWAY, "the server is away")
        server.start()
        ready = time.monotonic()
        with server.client() as client:
            marker = f"{_MARKERS}{len(phases)}"
            _create_marker(client, marker)
            heard = crowd.hear(partial(_all_saw, crowd.agents, marker), "agents come back")
            said = [one for one in heard if one.at >= gone]  # not what the restart before left to be said
            time.sleep(2.0)
            phases.append(Phase(name, ready, said, _metrics(client)))
    progress.say("")
    return phases


def _create_marker(client: Client, name: str) -> None:
    """Create a Service and a slice that every agent is to see."""
    spec = {"ports": [{"port": 80}]}
    metadata = {"name": name, "namespace": "bench"}
    client.create({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec})
    endpoint_slice = cluster.endpoint_slice(0, ["10.255.0.1"])
    client.create(endpoint_slice | {"metadata": metadata | {"labels": {"kubernetes.io/service-name": name}}})


def _all_watch(agents: int, said: Sequence[Said]) -> bool:
    listed = {(one.agent, one.what) for one in said if one.what.startswith("listed ")}
    watched = {(one.agent, one.what.rpartition(" ")[2]) for one in said if _is_watch(one)}
    return len(listed) == len(watched) == agents * len(Kind)


def _is_watch(one: Said) -> bool:
    return one.what.startswith(("watch ", "WatchList "))


def _all_saw(agents: int, marker: str, said: Sequence[Said]) -> bool:
    return _all_said(agents, {f"saw Service {marker}", f"saw EndpointSlice {marker}"}, said)


def _all_said(agents: int, wanted: Collection[str], said: Sequence[Said]) -> bool:
    if not said or said[-1].what not in wanted:
        return False
    return len({(one.agent, one.what) for one in said if one.what in wanted}) == agents * len(wanted)


# --- The agents ---------------------------------------------------------------------------------------------


def _be_agents(numbers: Sequence[int], kubeconfig: str, said: Queue[Said], is_streamed: bool) -> None:
    send = ApiClient._send
    owners: dict[int, int] = {}

    def watched(client: ApiClient, url: str, body: bytes | None) -> Any:
        answer = send(client, url, body)
        if answer.status == HTTPStatus.OK:
            said.put(Said(owners[id(client)], request_name(url), time.monotonic()))
        return answer

    with mock.patch.object(ApiClient, "_send", watched):
        for number in numbers:
            told = partial(_note, number, said)
            source = KubeSource(kubeconfig, "node-0", told, is_streamed=is_streamed)
            owners.update(dict.fromkeys(map(id, source._clients), number))
            source.start()
        while True:
            time.sleep(3600.0)


def request_name(url: str) -> str:
    """Say in a few words what a URL asks for."""
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    verb = "list"
    if "watch" in query:
        verb = "WatchList" if "sendInitialEvents" in query else "watch"
    elif "resourceVersion" not in query:
        verb = "consistent list"
    return f"{verb} {parts.path.rpartition('/')[2]}"


def _note(agent: int, said: Queue[Said], changes: Sequence[Change]) -> None:
    for change in changes:
        if isinstance(change, Listed):
            said.put(Said(agent, f"listed {change.kind.value}", time.monotonic()))
        elif isinstance(change, Put) and change.name.name.startswith(_MARKERS):
            said.put(Said(agent, f"saw {change.kind.value} {change.name.name}", time.monotonic()))


# --- The server ---------------------------------------------------------------------------------------------


def _metrics(client: Client) -> dict[str, float]:
    """Return the server's own counts that matter here; it forgets them when it ends."""
    counts: defaultdict[str, float] = defaultdict(float)
    for name, labels, value in _METRIC.findall(client.get("/metrics", parse=False).decode()):
        by = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        number = float(value)
        match name:
            case "process_cpu_seconds_total":
                counts["server CPU s"] += number
            case "process_resident_memory_bytes":
                counts["server MB"] += number / 1e6
            case "etcd_request_duration_seconds_count" if by["operation"] == "list":
                counts["lists from etcd"] += number
            case "apiserver_watch_events_sizes_sum":
                counts["MB sent"] += number / 1e6
            case "apiserver_response_sizes_sum" if by["verb"] == "LIST":
                counts["MB sent"] += number / 1e6
            case "apiserver_longrunning_requests" if by.get("verb") == "WATCH" and by.get("version") == "v1":
                if by["resource"] in ("services", "endpointslices", "nodes"):
                    counts["open watches"] += number
    return dict(counts)


def _difference(after: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    stays = ("server MB", "open watches")
    return {name: value if name in stays else value - before.get(name, 0.0) for name, value in after.items()}


# --- What came of it ----------------------------------------------------------------------------------------


def misses(rows: Sequence[results.Row]) -> Iterator[str]:
    """Yield what was to be otherwise; rows: the start, one change, then restarts."""
    start, _, *restarts = rows
    if start["lists from etcd"]:
        yield f"{start['phase']}: the database was read {start['lists from etcd']:.0f} times"
    for row in restarts:
        for request, count in row["requests"].items():
            if request.startswith("consistent list "):
                yield f"{row['phase']}: {count} times {request}, which reads the database"
        if row["asked twice"]:
            yield f"{row['phase']}: {row['asked twice']} times an agent asked again for all of a kind"
        most, watches = max(row["per_second"][_AT_ONCE:], default=0), row["agents"] * len(Kind)
        if watches >= GOAL_SHARE_FROM and most > GOAL_SHARE * watches:
            yield f"{row['phase']}: {most} of {watches} watches came in one second"
        if row["caught up, last"] > GOAL_BACK:
            yield f"{row['phase']}: the last agent knew what is new after {row['caught up, last']:.0f} s"


def _show(options: argparse.Namespace, rows: Sequence[results.Row]) -> None:
    print(f"{table.machine()}, 1-minute load {os.getloadavg()[0]:.1f}\n")
    heads = [name for name in rows[0] if name not in ("agents", "size", "lists", "requests", "per_second")]
    table.show(
        f"{options.agents} agents on one kube-apiserver with {options.size}, lists {options.lists}"
        "\n(seconds from the first answer)\n"
        "Goals: no agent reads the database at its start; after a restart none asks for a kind twice,"
        f"\nin one second come at most {GOAL_SHARE:.0%} of the watches, and the last agent is back within"
        f" {GOAL_BACK:g} s",
        ("", *(str(row["phase"]) for row in rows)),
        [(head, *(_text(row[head]) for row in rows)) for head in heads if head != "phase"],
    )
    for row in rows:
        requests = row["requests"] or "none"
        print(f"{row['phase']}: requests: {requests}; watches in each second: {row['per_second']}")
    results.keep("scale", rows)


def _row(phase: Phase, options: argparse.Namespace) -> results.Row:
    requests = [one for one in phase.said if not one.what.startswith(("saw ", "listed "))]
    # A server answers some requests before it counts as ready.
    begin = min([phase.ready, *(one.at for one in requests)])
    # A list is always followed by a watch, if it is none itself.
    seconds = Counter(int(one.at - begin) for one in requests if _is_watch(one))
    # The last object or list that an agent told of completed what it knows.
    news = [one for one in phase.said if one.what.startswith(("saw ", "listed "))]
    caught_up = list({one.agent: one.at - begin for one in news}.values())
    return {
        "phase": phase.name,
        "agents": options.agents,
        "size": str(options.size),
        "lists": options.lists,
        "requests": dict(Counter(one.what for one in requests)),
        "per_second": [seconds[number] for number in range(max(seconds, default=-1) + 1)],
        "caught up, first": min(caught_up),
        "caught up, median": statistics.median(caught_up),
        "caught up, last": max(caught_up),
        "requests of an agent": len(requests) / options.agents,
        "most watches in a second": max(seconds.values(), default=0),
        "asked twice": _asked_twice(requests),
        **phase.metrics,
    }


def _asked_twice(requests: Iterable[Said]) -> int:
    """Return how often an agent asked more than once for all objects of a kind."""
    asked = Counter((one.agent, one.what.rpartition(" ")[2]) for one in requests if _is_for_all(one))
    return sum(count > 1 for count in asked.values())


def _is_for_all(one: Said) -> bool:
    return one.what.startswith(("list ", "consistent list ", "WatchList "))


def _text(figure: float) -> str:
    return f"{figure:,.0f}" if figure >= 100 or figure == int(figure) else f"{figure:.2f}"


if __name__ == "__main__":
    sys.exit(main())
