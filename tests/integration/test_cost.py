"""What one change costs on a real kernel: the same system calls at 10,000 Services as at 10, and no dump."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import sys
import time
from collections import Counter

import pytest

from benchmarks import bench, cluster
from ipvs_agent.addresses import parse_address
from ipvs_agent.kernel.netlink import NETLINK_GENERIC, NLM_F_DUMP
from ipvs_agent.model import VipMode
from ipvs_agent.reconcile.settings import Settings
from ipvs_agent.sources.changes import Kind, Listed, Removed
from ipvs_agent.sources.decode import decode

pytestmark = pytest.mark.long

FEW, MANY = 10, 10_000
ENDPOINTS = 2
NUMBER = 20_000
"""That of the Service which changes."""
FAR_OFF = 60.0
"""Seconds; what is due later, as the next audit, is no part of a change."""
SECONDS, PERIOD = 3.0, Settings("node-0").min_sync_period
HEADER = struct.Struct("=IHHII")
SENDING = ("send", "sendto", "sendmsg")
RECEIVING = ("recv", "recv_into", "recvfrom", "recvmsg")
OTHER_CALLS = ("open", "os.", "subprocess.", "socket.", "ctypes.", "shutil.", "mmap.")
"""What the interpreter says of itself that ends in the kernel."""


def decoded(thing):
    return decode(Kind(thing["kind"]), json.dumps(thing).encode())


class Calls:
    """The system calls of this process while `are_counted`, as far as the interpreter shows them."""

    def __init__(self, monkeypatch):
        self.are_counted = False
        self.made = Counter()
        self.dumps = []
        """The protocols of the dumps that were asked for, and what was asked."""
        for method in (*SENDING, *RECEIVING):
            monkeypatch.setattr(socket.socket, method, self._watched(method), raising=False)
        sys.addaudithook(self._hear)

    def _watched(self, method):
        real = getattr(socket.socket, method)

        def call(sock, *arguments):
            if self.are_counted and sock.family == socket.AF_NETLINK:
                self.made[method, sock.proto] += 1
                if method in SENDING:
                    self.dumps += [sock.proto for flags in flags_of(arguments[0]) if is_dump(flags)]
            return real(sock, *arguments)

        return call

    def _hear(self, event, arguments):
        if self.are_counted and event.startswith(OTHER_CALLS):
            self.made[event, str(arguments[:1])] += 1


def flags_of(burst):
    """Yield the flags of each message."""
    position = 0
    while position < len(burst):
        length, _, flags, _, _ = HEADER.unpack_from(burst, position)
        yield flags
        position += length + (-length & 3)


def is_dump(flags):
    return flags & NLM_F_DUMP == NLM_F_DUMP


class Agent:
    """An agent that serves so many Services."""

    def __init__(self, namespace, size, mode):
        self._agent = bench.AgentInProcess(namespace, mode)
        said = [decoded(thing) for thing in cluster.objects(size, ENDPOINTS)]
        names = {kind: frozenset(one.name for one in said if one.kind is kind) for kind in Kind}
        self._agent.tell([*said, *(Listed(kind, names[kind]) for kind in Kind)])
        self._agent.wait_until_serving()
        self.rest()
        self.end = self._agent.end
        self.tell = self._agent.tell
        self.added = self._agent.added

    def become(self, a_service, a_slice):
        """Have one more Service be what is given, and wait until that has come to its end."""
        wanted = {Kind.SERVICE: (a_service, SERVICE), Kind.ENDPOINT_SLICE: (a_slice, behind())}
        # At once, or it would depend on the moment whether they are done in one round or in two.
        self.tell(
            [
                decoded(thing) if thing else Removed(kind, decoded(gone).name)
                for kind, (thing, gone) in wanted.items()
            ]
        )
        self.rest()

    def rest(self):
        """Wait until nothing is due any more: no drain, no retry, no line of the log."""
        for _ in range(3):
            self._agent.wait_until(self._is_at_rest)
            time.sleep(0.05)

    def _is_at_rest(self):
        reconciler = self._agent._reconciler
        due = reconciler._timers.next_due()
        is_idle = reconciler._inbox.empty() and not self._agent._is_at_work
        return is_idle and (due is None or due > time.monotonic() + FAR_OFF)


SERVICE = cluster.service(NUMBER)


def behind(*endpoints):
    return cluster.endpoint_slice(NUMBER, [f"10.255.0.{number}" for number in endpoints])


def changed(**spec):
    return SERVICE | {"spec": SERVICE["spec"] | spec}


WITH_SCHEDULER = SERVICE | {
    "metadata": SERVICE["metadata"] | {"annotations": {"ipvs-agent.io/scheduler": "wlc"}}
}
BALANCED = changed(type="LoadBalancer", externalIPs=["198.51.100.7"])
CHANGES = [
    pytest.param((SERVICE, behind(1, 2)), (None, None), id="a Service goes"),
    pytest.param((None, None), (SERVICE, behind(1, 2)), id="a Service comes"),
    pytest.param((SERVICE, behind(1)), (SERVICE, behind(1, 2)), id="an endpoint comes"),
    pytest.param((SERVICE, behind(1, 2)), (SERVICE, behind(1)), id="an endpoint goes"),
    pytest.param((SERVICE, behind(1)), (BALANCED, behind(1)), id="an external address comes"),
    pytest.param((BALANCED, behind(1)), (SERVICE, behind(1)), id="an external address goes"),
    pytest.param((SERVICE, behind(1)), (WITH_SCHEDULER, behind(1)), id="another scheduler"),
]


@pytest.fixture(scope="module", params=[VipMode.ADDRESSES, VipMode.ROUTES], ids=str)
def agents(request):
    """An agent that serves few Services and one that serves many, each in a namespace of its own."""
    with contextlib.ExitStack() as stack:
        agents = []
        for size in (FEW, MANY):
            agents.append(Agent(stack.enter_context(bench.namespace()), size, request.param))
            stack.callback(agents[-1].end)
        yield agents


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("before", "after"), CHANGES)
def test_one_change_makes_the_same_calls_whatever_else_there_is(agents, before, after, monkeypatch):
    """To its end. What is dumped is the real servers of the one virtual server, while one of them drains."""
    calls = Calls(monkeypatch)
    made = []
    for agent in agents:
        agent.become(*before)
        calls.made, calls.dumps = Counter(), []
        calls.are_counted = True
        agent.become(*after)
        calls.are_counted = False
        made.append(calls.made)
        assert set(calls.dumps) <= {NETLINK_GENERIC}

    assert made[0] == made[1]
    assert {what for what, _ in made[1]} <= {*SENDING, *RECEIVING}


@pytest.mark.timeout(900)
def test_a_service_that_changes_a_thousand_times_a_second_delays_no_other(agents):
    """It has a batch in each tenth of a second, and what others need is done at once."""
    agent = agents[1]
    for attempt in range(5):  # a busy machine may stand still for a moment
        batches, waits = batches_and_waits(agent, attempt)
        is_done_in_time = waits[-1] < PERIOD and waits[len(waits) // 2] < PERIOD / 2
        if is_done_in_time and SECONDS / PERIOD / 2 < batches:
            break

    assert SECONDS / PERIOD / 2 < batches <= SECONDS / PERIOD + 2
    assert waits[len(waits) // 2] < PERIOD / 2
    assert waits[-1] < PERIOD


def batches_and_waits(agent, attempt):
    """How many batches the Service had, and the seconds that changes of others waited, ordered."""
    agent.become(SERVICE, behind(1))
    busy, calm = {}, {}
    began, number = time.perf_counter(), 0
    while time.perf_counter() < began + SECONDS:
        number += 1
        address = f"10.{240 + attempt}.{number >> 8}.{number & 255}"
        agent.tell([decoded(cluster.endpoint_slice(NUMBER, [address]))])
        busy[parse_address(address)] = time.perf_counter()
        if number % 50 == 0:
            service = number // 50
            address = f"10.253.{attempt}.{service}"
            calm[parse_address(address)] = time.perf_counter()
            agent.tell([decoded(cluster.endpoint_slice(service, [address]))])
        time.sleep(0.0005)
    agent.rest()

    added = agent.added
    waits = sorted(added[address] - told for address, told in calm.items())
    batches = [address for address in busy if address in added]
    print(
        f"{number} changes, {len(batches)} batches, others waited",
        [f"{wait * 1000:.1f} ms" for wait in waits],
    )
    assert list(busy)[-1] in added
    return len(batches), waits
