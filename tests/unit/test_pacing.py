"""Changes of schedulers, for each of which the kernel makes everybody wait: one at a time."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest

from ipvs_agent.errors import KernelError
from ipvs_agent.operations import SetVirtualServer
from ipvs_agent.schedulers.annotations import Choice
from ipvs_agent.sources.changes import Kind, Listed, Put, Trouble
from ipvs_agent.testing.builders import endpoint, endpoint_slice, key, port, service
from ipvs_agent.testing.fake_ipvs import FakeIpvs
from tests.unit.test_reconciler import Bench

A, B = endpoint("10.244.1.11"), endpoint("10.244.1.12")
COUNT = 30
FEW = 8  # of one round
GRACE = 0.02
"""Seconds for which the kernel waits."""


def many(**annotations):
    """So many Services, on 10.96.1.1 and so on."""
    asked = {f"ipvs-agent.io/{word}": value for word, value in annotations.items()}
    return [service(f"a/s{n}", port(f"10.96.1.{n}"), annotations=asked) for n in range(1, COUNT + 1)]


class Node(Bench):
    """A bench on a kernel that takes its time for each change of a scheduler, and notes them."""

    def __init__(self, kernel=None, **settings):
        super().__init__(kernel, **settings)
        self.changes = []
        """When each change began, and the batch that it was in."""
        self.real_apply = FakeIpvs.apply.__get__(self.kernel.ipvs)
        self.kernel.ipvs.apply = self.apply

    def apply(self, batch):
        for operation in batch:
            if isinstance(operation, SetVirtualServer) and self.changes_scheduler(operation):
                self.changes.append((self.now, batch))
                self.now += GRACE
        return self.real_apply(batch)

    def changes_scheduler(self, operation):
        before = self.kernel.ipvs.virtual_server(operation.virtual_server.key).virtual_server.scheduler
        return before not in ("", operation.virtual_server.scheduler)

    def step(self, seconds):
        """Let time pass as the loop does: it is asleep until something is due, and looks once then."""
        deadline = self.now + seconds
        while self.now < deadline:
            self.now += 0.001
            self.reconciler.catch_up()

    def schedulers(self):
        return [found.virtual_server.scheduler for found in self.kernel.ipvs.virtual_servers()]


class Running(Node):
    """One whose loop may sleep: each look at the clock takes a moment."""

    @property
    def now(self):
        self.seconds += 0.001
        return self.seconds

    @now.setter
    def now(self, seconds):
        self.seconds = seconds


def serving(*services, **settings):
    node = Node(**settings)
    node.put(*services, endpoint_slice("a/s1", [A]), endpoint_slice("a/s2", [A]))
    return node.list_all()


def ask(node, *things):
    """Tell of changes, and have the loop look once."""
    node.reconciler.tell([Put(Kind.SERVICE, one) for one in things])
    node.reconciler.catch_up()


def test_each_change_is_a_burst_of_its_own_and_others_have_as_long_after_it():
    node = serving(*many())
    ask(node, *many(scheduler="lc"))
    node.step(COUNT * GRACE * 2)

    assert ["lc"] * COUNT == node.schedulers()
    assert [1] * COUNT == [len(batch) for _, batch in node.changes]
    times = [when for when, _ in node.changes]
    assert all(later - earlier >= 2 * GRACE for earlier, later in itertools.pairwise(times))


def test_what_waits_keeps_the_weights_for_the_scheduler_that_it_has():
    """Under ovf a weight is a capacity: with those for lc it would refuse clients."""
    node = serving(*many(scheduler="ovf", weights="other=200"))
    ask(node, *many(scheduler="lc"))
    waiting = [
        {one.real_server.weight for one in node.kernel.ipvs.real_servers(found.virtual_server.key)}
        for found in node.kernel.ipvs.virtual_servers()
        if found.virtual_server.scheduler == "ovf"
    ]
    assert COUNT - 1 <= len(waiting)
    assert {1} not in waiting
    node.step(COUNT * GRACE * 2)

    keys = [found.virtual_server.key for found in node.kernel.ipvs.virtual_servers()]
    assert ["lc"] * COUNT == node.schedulers()
    assert {1} == {one.real_server.weight for key in keys for one in node.kernel.ipvs.real_servers(key)}


def test_another_default_scheduler_at_a_restart_is_paced_too():
    kernel = serving(*many()).kernel
    restarted = Node(kernel, scheduler=Choice("mh", 0))
    restarted.reconciler.tell(
        [
            *(Put(Kind.SERVICE, one) for one in many()),
            *(Listed(kind, frozenset(one.name for one in many())) for kind in Kind),
        ]
    )
    restarted.reconciler.catch_up()
    assert 1 == restarted.schedulers().count("mh")
    restarted.step(COUNT * GRACE * 2)

    assert ["mh"] * COUNT == restarted.schedulers()
    assert [1] * COUNT == [len(batch) for _, batch in restarted.changes]


@pytest.mark.parametrize("number", [1, COUNT], ids=["one that changes now", "one that waits"])
def test_an_endpoint_is_behind_no_more_than_one_change(number):
    node = serving(*many())
    ask(node, *many(scheduler="lc"))
    node.step(GRACE * 5)
    for _ in range(5):
        done = len(node.changes)
        node.reconciler.tell([Put(Kind.ENDPOINT_SLICE, endpoint_slice(f"a/s{number}", [B]))])
        node.reconciler.catch_up()
        assert B.address in behind(node, number)
        assert len(node.changes) - done <= 1
        node.reconciler.tell([Put(Kind.ENDPOINT_SLICE, endpoint_slice(f"a/s{number}"))])
        node.step(GRACE * 4)
    assert COUNT > len(node.changes)


def behind(node, number):
    found = node.kernel.ipvs.real_servers(key(f"10.96.1.{number}:80"))
    return {server.real_server.address: server.real_server.weight for server in found}


def test_while_a_virtual_server_waits_its_endpoints_go_as_its_present_scheduler_needs_it():
    """rr drains; dh, which comes, would refuse clients of a real server of weight 0."""
    node = serving(*many())
    node.put(endpoint_slice(f"a/s{COUNT}", [A, B]))
    last = key(f"10.96.1.{COUNT}:80")
    node.kernel.ipvs.set_connections(last, (A.address, A.port), active=1)
    ask(node, *many(scheduler="dh"))
    node.reconciler.tell([Put(Kind.ENDPOINT_SLICE, endpoint_slice(f"a/s{COUNT}", [B]))])
    node.reconciler.catch_up()
    assert {A.address: 0, B.address: 1} == behind(node, COUNT)
    node.step(COUNT * GRACE * 2)
    assert {A.address: 0, B.address: 1} == behind(node, COUNT)
    assert {"dh": COUNT - 1, "rr": 1} == Counter(node.schedulers())
    node.kernel.ipvs.set_connections(last, (A.address, A.port), active=0)
    node.pass_time(5)

    assert {B.address: 1} == behind(node, COUNT)
    assert ["dh"] * COUNT == node.schedulers()


def test_a_scheduler_that_is_not_wanted_any_more_when_its_turn_comes_is_not_set():
    node = serving(*many())
    ask(node, *many(scheduler="lc"))
    ask(node, *many())
    node.step(COUNT * GRACE * 2)

    assert ["rr"] * COUNT == node.schedulers()
    assert len(node.changes) <= 2


def test_what_goes_or_is_taken_away_while_it_waits_has_no_turn():
    node = serving(*many())
    ask(node, *many(scheduler="lc"))
    for one in many()[COUNT // 2 :]:
        node.remove(one)
    node.step(COUNT * GRACE * 2)

    assert ["lc"] * (COUNT // 2) == node.schedulers()
    assert COUNT // 2 >= len(node.changes)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(
            {"annotations": {"ipvs-agent.io/scheduler": "mh"}},
            {"annotations": {"ipvs-agent.io/scheduler": "mh", "ipvs-agent.io/scheduler-flags": "mh-port"}},
            id="flags",
        ),
        pytest.param({}, {"affinity_seconds": 100}, id="affinity"),
    ],
)
def test_what_the_kernel_does_not_wait_for_is_done_in_one_burst(before, after):
    ports = [(f"a/s{n}", port(f"10.96.1.{n}")) for n in range(1, FEW + 1)]
    node = serving(*(service(*one, **before) for one in ports))
    done = len(node.kernel.ipvs.batches)
    ask(node, *(service(*one, **after) for one in ports))

    assert [FEW] == [len(batch) for batch in node.kernel.ipvs.batches[done:] if batch]
    assert [] == node.changes


def test_a_virtual_server_without_a_scheduler_gets_one_at_once():
    """It refuses everybody, and there is no old scheduler to wait for."""
    node = serving(*many())
    for found in node.kernel.ipvs.virtual_servers():
        bare = SetVirtualServer(found.virtual_server.__replace__(scheduler=""))
        assert [None] == node.kernel.ipvs.apply([bare])
    node.changes.clear()
    node.now += 31
    node.reconciler.catch_up()
    node.reconciler.catch_up()

    assert ["rr"] * COUNT == node.schedulers()
    assert [] == node.changes


def test_a_change_that_fails_is_tried_again_ever_more_seldom():
    node = serving(*many())
    attempts = []

    def refusing(batch):
        attempts.extend(node.now for one in batch if isinstance(one, SetVirtualServer))
        return [KernelError("no") if isinstance(one, SetVirtualServer) else None for one in batch]

    node.kernel.ipvs.apply = refusing
    ask(node, many(scheduler="lc")[0])
    node.step(10)
    node.kernel.ipvs.apply = node.apply

    assert 4 <= len(attempts) <= 12
    node.step(30)
    assert 1 == node.schedulers().count("lc")


@pytest.mark.parametrize("trouble", ["", "line 3: broken"], ids=["sources listed", "a source in trouble"])
def test_a_single_sync_ends_when_the_last_one_is_changed(trouble):
    kernel = serving(*many()).kernel
    once = Running(kernel, scheduler=Choice("mh", 0x8))
    once.reconciler.tell([Put(Kind.SERVICE, one) for one in many()])
    if trouble:
        once.reconciler.tell([Trouble("web.yaml", trouble)])
    else:
        once.reconciler.tell([Listed(kind, frozenset(one.name for one in many())) for kind in Kind])
    is_complete = once.reconciler.run_once()

    assert ["mh"] * COUNT == once.schedulers()
    assert is_complete == (not trouble)
