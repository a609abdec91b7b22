"""What one change costs: as much at 10,000 Services as at 10.

Counted are the steps of the interpreter and what the kernel is asked. What the interpreter gathers without
steps, as by `list`, shows in the memory that it takes.
"""

from __future__ import annotations

import sys
import tracemalloc
from collections import Counter

import pytest

from ipvs_agent import testing
from ipvs_agent.errors import KernelError
from ipvs_agent.model import Protocol, VipMode
from ipvs_agent.sources.changes import Kind, Listed, Put, Removed
from ipvs_agent.testing.builders import endpoint, endpoint_slice, port, service
from ipvs_agent.testing.fake_ipvs import FakeIpvs
from tests.unit.test_reconciler import KINDS, Bench

FEW, MANY = 10, 10_000
LASTS = 30
"""Seconds after which all that a change leads to is over: drains, retries, lines of the log."""
A, B = endpoint("10.244.1.11", node="node-a"), endpoint("10.244.1.12", node="node-b")
OF_ONE_OBJECT = {"apply", "virtual_server", "real_servers", "real_servers_of"}
"""What is asked of the kernel that is no dump."""
OF_FLOWS = "delete"
"""The table of flows has no index: for a new virtual server for UDP the worker looks through all of it."""
NOT_COUNTED = (*testing.__path__, __file__)
GATHERED = 8 * MANY
"""Octets that a list of all Services takes: a pointer for each."""


def web(*ports, **fields):
    return service("shop/web", *ports, **fields)


def asking(**annotations):
    return web(annotations={f"ipvs-agent.io/{word}": value for word, value in annotations.items()})


def behind(*endpoints):
    return endpoint_slice(endpoints=endpoints)


BALANCED = port(node_port=30080, load_balancer_ips=["198.51.100.7"])
UDP = port(protocol=Protocol.UDP)
BOTH = behind(A, B)
NOTHING = (None, None)
CHANGES = [
    pytest.param((web(), behind(A)), (web(), BOTH), id="an endpoint comes"),
    pytest.param((web(), BOTH), (web(), behind(A)), id="an endpoint goes"),
    pytest.param((web(UDP), BOTH), (web(UDP), behind(A)), id="an endpoint for UDP goes"),
    pytest.param((web(), behind(A)), (web(), behind(B)), id="an endpoint is replaced"),
    pytest.param((web(), BOTH), (web(), behind(A, endpoint("10.244.1.12", ready=False))), id="unready"),
    pytest.param((web(), BOTH), (web(), None), id="the slice goes"),
    pytest.param(NOTHING, (web(), BOTH), id="a Service comes"),
    pytest.param(NOTHING, (web(UDP), BOTH), id="a Service for UDP comes"),
    pytest.param((web(), BOTH), NOTHING, id="a Service goes"),
    pytest.param((web(), BOTH), (web(BALANCED), BOTH), id="a load balancer comes"),
    pytest.param((web(BALANCED), BOTH), (web(), BOTH), id="a load balancer goes"),
    pytest.param((web(BALANCED), BOTH), (web(BALANCED, external_local=True), BOTH), id="a traffic policy"),
    pytest.param((web(), BOTH), (asking(scheduler="wlc"), BOTH), id="another scheduler"),
    pytest.param((web(), BOTH), (asking(scheduler="mh"), BOTH), id="a scheduler with an order"),
    pytest.param((asking(scheduler="mh"), behind(B)), (asking(scheduler="mh"), BOTH), id="an order"),
    pytest.param((web(), BOTH), (web(affinity_seconds=60), BOTH), id="session affinity"),
    pytest.param((web(), BOTH), (asking(scheduler="nonsense"), BOTH), id="what is not served is said"),
    pytest.param((web(), BOTH), (web(port("10.97.0.1")), BOTH), id="an address that another Service has"),
]


class Node(Bench):
    """A bench that serves so many Services, with nothing left to do."""

    def __init__(self, others):
        super().__init__(sync_period=1e9, vip_mode=VipMode.ADDRESSES)  # no audit, whatever time passes
        told = [Put(KINDS[type(thing)], thing) for thing in crowd(others)]
        names = {kind: frozenset(change.name for change in told if change.kind is kind) for kind in Kind}
        self.tell(*told, *(Listed(kind, names[kind]) for kind in Kind)).pass_time(LASTS)
        self.asked = Counter()
        self.refusals = 0
        """How many batches for IPVS the kernel refuses from now on."""
        for field in ("ipvs", "vips", "node_addresses", "ipsets", "iptables", "conntrack"):
            setattr(self.kernel, field, Asked(getattr(self.kernel, field), self))

    def settle(self):
        for _ in range(3):
            self.reconciler.catch_up()
        return self

    def become(self, a_service, a_slice):
        """Have shop/web be what is given, and let pass what that leads to."""
        wanted = {Kind.SERVICE: (a_service, web().name), Kind.ENDPOINT_SLICE: (a_slice, BOTH.name)}
        for kind, (thing, name) in wanted.items():
            self.tell(Put(kind, thing) if thing else Removed(kind, name))
        return self.pass_time(LASTS)


class Asked:
    """An adapter that notes what it is asked, and of how many objects."""

    def __init__(self, inner, node):
        self._inner = inner
        self._node = node

    def apply(self, operations):
        self._node.asked["apply", len(operations)] += 1
        if self._node.refusals and isinstance(self._inner, FakeIpvs):
            self._node.refusals -= 1
            return [KernelError("not now") for _ in operations]
        return self._inner.apply(operations)

    def __getattr__(self, name):
        real = getattr(self._inner, name)

        def call(*arguments):
            count = len(arguments[0]) if name == "real_servers_of" else 1
            self._node.asked[name, count] += 1
            return real(*arguments)

        return call


def crowd(size):
    """So many Services with an endpoint each."""
    for number in range(size):
        name = f"a/s{number}"
        yield service(name, port(f"10.97.{number // 250}.{number % 250}"))
        yield endpoint_slice(name, [A])


@pytest.fixture(scope="module")
def nodes():
    return Node(FEW), Node(MANY)


@pytest.mark.parametrize(("before", "after"), CHANGES)
def test_one_change_costs_the_same_whatever_else_there_is(nodes, before, after):
    """To its end, with all that it leads to."""
    few, many = (cost(node, before, after) for node in nodes)

    assert few[0] == many[0]
    assert few[1] == many[1]
    assert {name for name, _ in many[1]} <= OF_ONE_OBJECT | {OF_FLOWS}
    assert many[2] - few[2] < GATHERED / 2


def test_one_that_the_kernel_refuses_at_first_does_so_too(nodes):
    few, many = (cost(node, (web(), behind(A)), (web(), BOTH), refusals=2) for node in nodes)

    assert few[:2] == many[:2]
    assert many[1]["virtual_server", 1] >= 2  # it was looked at before it was tried again
    assert {name for name, _ in many[1]} <= OF_ONE_OBJECT
    assert many[2] - few[2] < GATHERED / 2


def cost(node, before, after, *, refusals=0):
    """Return the steps of the interpreter by function, what the kernel was asked, and the most memory in use.

    A change is made several times: first for what is remembered from then on, then for the steps, and twice
    for the memory. A dictionary of all Services may grow at one change; a walk takes memory at each.
    """
    node.become(*before)
    node.refusals = refusals
    node.become(*after).become(*before)
    steps = Counter()
    node.asked.clear()
    node.refusals = refusals
    sys.settrace(lambda frame, *_: trace(frame, steps))
    try:
        node.become(*after)
    finally:
        sys.settrace(None)
    asked = Counter(node.asked)
    octets = []
    for _ in range(2):
        node.become(*before)
        node.refusals = refusals
        tracemalloc.start()
        node.become(*after)
        octets.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    return steps, asked, min(octets)


def trace(frame, counter):
    code = frame.f_code
    if code.co_filename.startswith(NOT_COUNTED):
        return None
    name = f"{code.co_filename.rpartition('/')[2]} {code.co_qualname}"
    frame.f_trace_lines, frame.f_trace_opcodes = False, True

    def count(_frame, event, _argument):
        counter[name] += event == "opcode"
        return count

    return count
