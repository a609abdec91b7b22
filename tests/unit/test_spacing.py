"""A Service that changes all the time: it waits a little, costs little, says little, and delays no other."""

from __future__ import annotations

import itertools

from ipvs_agent.errors import KernelError
from ipvs_agent.operations import AddRealServer
from ipvs_agent.testing.builders import endpoint, endpoint_slice, port, service
from tests.unit.test_reconciler import Bench

PERIOD = 0.1
A = endpoint("10.244.1.11")
BUSY, CALM = service("shop/busy", port("10.96.0.1")), service("shop/calm", port("10.96.0.2"))
STEP = 0.001
"""Seconds from one change of the busy Service to the next."""


class Node(Bench):
    """A bench whose loop turns as messages come and tasks are due, with the time of each batch noted."""

    def __init__(self, **options):
        super().__init__(**({"min_sync_period": PERIOD} | options))
        self.put(BUSY, CALM, endpoint_slice("shop/busy", [A]), endpoint_slice("shop/calm", [A]))
        self.list_all()
        self.now += 10
        self.settle()
        self.batches = []
        """When real servers were added."""
        apply = self.kernel.ipvs.apply

        def noting(operations):
            if any(isinstance(operation, AddRealServer) for operation in operations):
                self.batches.append(self.now)
            return apply(operations)

        self.kernel.ipvs.apply = noting

    def settle(self):
        self.reconciler.catch_up()
        self.reconciler.catch_up()  # what a task has found to do
        return self

    def say(self, name, number):
        """Have a Service get another endpoint."""
        new = endpoint(f"10.245.{number >> 8}.{number & 255}")
        return self.put(endpoint_slice(name, [A, new]))

    def flap(self, seconds):
        """Have the busy Service change at every step."""
        for number in range(round(seconds / STEP)):
            self.say("shop/busy", number)
            self.now += STEP

    def has(self, name, number):
        """Tell whether a Service has got that endpoint."""
        vip = {"shop/busy": "10.96.0.1", "shop/calm": "10.96.0.2"}[name]
        weights = self.tables()[f"-t {vip}:80"]
        return weights.get(f"10.245.{number >> 8}.{number & 255}:8080") == 1


def test_a_lone_change_does_not_wait():
    node = Node(min_sync_period=20)
    for number in range(3):
        node.say("shop/calm", number)
        assert node.has("shop/calm", number)
        node.pass_time(41)


def test_two_changes_in_a_row_do_not_wait_as_those_of_a_new_service_come():
    node = Node()
    new = service("shop/new", port("10.96.0.3"))
    node.put(new)
    node.put(endpoint_slice("shop/new", [A]))

    assert {"10.244.1.11:8080": 1} == node.tables()["-t 10.96.0.3:80"]


def test_a_service_that_changes_all_the_time_gets_a_batch_in_each_period():
    node = Node()
    node.flap(2)

    assert 2 / PERIOD <= len(node.batches) <= 2 / PERIOD + 2


def test_nothing_waits_longer_than_a_period():
    node = Node()
    node.flap(1)
    for _ in range(round(PERIOD / STEP)):
        node.now += STEP
        node.settle()

    waits = [later - sooner for sooner, later in itertools.pairwise(node.batches)]
    assert max(waits) < PERIOD + 2 * STEP
    assert node.has("shop/busy", round(1 / STEP) - 1)


def test_another_service_is_served_in_the_same_turn():
    node = Node()
    for number in range(20):
        node.flap(0.25)
        node.say("shop/calm", number)
        assert node.has("shop/calm", number)


def test_one_that_has_waited_is_served_as_it_is_then():
    node = Node()
    for number in range(5):
        node.say("shop/busy", number)
    node.remove(BUSY)
    assert "-t 10.96.0.1:80" in node.tables()
    node.pass_time(5)

    assert {"-t 10.96.0.2:80"} == node.tables().keys()


def test_nothing_that_waits_is_taken_for_gone_when_all_has_been_listed():
    """What an earlier agent left stays if the lists want it, though the Service has just had its turns."""
    before = Node()
    before.say("shop/busy", 7)
    node = Bench(before.kernel, min_sync_period=PERIOD)
    deleted = []
    apply = node.kernel.ipvs.apply

    def noting(operations):
        deleted.extend(one for one in operations if "-d " in f"{one} " or "-D " in f"{one} ")
        return apply(operations)

    node.kernel.ipvs.apply = noting
    for _ in range(3):
        node.put(BUSY)
        node.put(endpoint_slice("shop/busy", []))
    node.put(CALM, endpoint_slice("shop/calm", [A]), endpoint_slice("shop/busy", [A, endpoint("10.245.0.7")]))
    node.list_all()

    assert [] == deleted
    assert {"10.244.1.11:8080": 1, "10.245.0.7:8080": 1} == node.tables()["-t 10.96.0.1:80"]


def test_an_agent_that_serves_a_busy_service_is_healthy():
    node = Node()
    for _ in range(70):
        node.flap(0.2)
        node.now += 0.8
        assert node.reconciler.health().is_healthy


def test_what_is_applied_is_said_at_most_once_a_second(caplog):
    caplog.set_level("INFO")
    node = Node()
    caplog.clear()
    node.flap(3)
    node.pass_time(2)

    lines = [line for line in caplog.messages if line.startswith("applied ")]
    operations = sum(int(line.split("operations=")[1].split()[0]) for line in lines)
    assert 3 <= len(lines) <= 6
    assert 60 <= operations
    assert "services=shop/busy" in lines[0]
    assert "rounds=" not in lines[0]
    assert "rounds=" in lines[1]


def test_what_fails_all_the_time_is_named_three_times_a_second_and_then_counted(caplog):
    node = Node()
    node.kernel.ipvs.apply = lambda operations: [KernelError("not now") for _ in operations]
    node.flap(2)
    node.pass_time(2)

    counted = [line for line in caplog.messages if line.startswith("more operations failed")]
    assert 3 * 2 <= caplog.text.count("operation failed, trying again") <= 3 * 5
    assert 2 <= len(counted) <= 5


def test_what_is_left_out_and_back_is_not_said_in_the_same_words_again_and_again(caplog):
    node = Node()
    caplog.clear()
    faulty = service("shop/busy", port("10.96.0.1"), annotations={"ipvs-agent.io/scheduler": "nonsense"})
    for _ in range(500):
        node.put(faulty)
        node.put(BUSY)
        node.now += STEP

    assert 1 == caplog.text.count("nonsense")
    node.pass_time(25)
    node.put(faulty)
    assert 2 == caplog.text.count("nonsense")
