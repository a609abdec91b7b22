"""What one change costs on a real kernel: no dump, no listing, no process, whatever else there is."""

from __future__ import annotations

import json
import subprocess
import time

import pytest

from benchmarks import bench, cluster
from ipvs_agent.kernel.netlink import NetlinkSocket
from ipvs_agent.sources.changes import Kind, Listed
from ipvs_agent.sources.decode import decode

ENDPOINTS = 3


def decoded(thing):
    return decode(Kind(thing["kind"]), json.dumps(thing).encode())


@pytest.fixture(params=[1, 300], ids=lambda size: f"{size} Services")
def agent(request):
    """An agent that serves so many Services, and has nothing left to do."""
    said = [decoded(thing) for thing in cluster.objects(request.param, ENDPOINTS)]
    names = {kind: frozenset(one.name for one in said if one.kind is kind) for kind in Kind}
    with bench.namespace() as name:
        agent = bench.AgentInProcess(name)
        agent.tell([*said, *(Listed(kind, names[kind]) for kind in Kind)])
        agent.wait_until_serving()
        yield agent
        agent.end()


def test_one_changed_endpoint_is_one_burst_and_nothing_else(agent, monkeypatch):
    calls = []

    def watch(owner, method):
        real = getattr(owner, method)

        def call(*arguments, **options):
            calls.append(method)
            return real(*arguments, **options)

        monkeypatch.setattr(owner, method, call)

    for method in ("send", "ask", "dump"):
        watch(NetlinkSocket, method)
    watch(subprocess.Popen, "__init__")
    addresses = [cluster.pod_ip(0, index, ENDPOINTS) for index in range(ENDPOINTS)]
    since = time.perf_counter()
    agent.tell([decoded(cluster.endpoint_slice(0, [*addresses, "10.255.0.1"]))])
    agent.wait_until(lambda: agent.applied > since)

    assert ["send"] == calls
