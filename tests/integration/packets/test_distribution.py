"""How each scheduler spreads 200 connections over three pods, by the annotation of a Service."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from ipvs_agent.schedulers import SCHEDULERS
from tests.integration.packets import crowd
from tests.integration.packets.crowd import SCHEDULER, Crowd
from tests.integration.packets.stock import Stock, families, running
from tests.lab import Node
from tools.lab import talk

long = pytest.mark.long

COUNT = 200
EVEN = [66, 67, 67]
STOCK = {name: Stock(number) for number, name in enumerate(SCHEDULERS, start=1)}
"""The Service that asks for a scheduler."""
MISSING = "twos"
"""The scheduler that neither kernel has."""
GOES = Stock(101)
"""A Service that a test of its own puts there."""


def serving(lab):
    """A Service for each scheduler, over all pods."""
    return [
        thing for name, stock in STOCK.items() for thing in crowd.asking(stock, lab.pods, {SCHEDULER: name})
    ]


@pytest.fixture(scope="module")
def node(lab, tmp_path_factory):
    """A node whose agent serves a Service for each scheduler."""
    crowd.give_addresses(lab)
    node = Node(lab, tmp_path_factory.mktemp("node"))
    node.put(*serving(lab))
    with running(node):
        node.wait_for(lambda: " serving " in node.log.read_text())
        for family in (4, 6):
            for stock in STOCK.values():
                node.wait_for_answer(lab.client, talk.TCP, stock.cluster_ip(family), 80)
        yield node


def at(lab, scheduler, family):
    """A crowd that nobody has come to yet, at the Service of a scheduler."""
    return Crowd(lab, STOCK[scheduler], family)


def by_pod(pods):
    """How many went to each pod, the fewest first."""
    return sorted(Counter(pods).values())


@families
@pytest.mark.parametrize("scheduler", ["rr", pytest.param("wrr", marks=long)])
def test_turns(node, lab, family, scheduler):
    with at(lab, scheduler, family) as clients:
        went = clients.come(COUNT)

    assert EVEN == by_pod(went)
    assert all(len(set(went[first : first + 3])) == 3 for first in range(0, COUNT - 2, 3))


@long
@families
@pytest.mark.parametrize("scheduler", ["lc", "wlc", "sed", "nq"])
def test_open_connections(node, lab, family, scheduler):
    """Those who leave make room at their pod, and the next ones go there."""
    with at(lab, scheduler, family) as clients:
        went = clients.come(COUNT)
        clients.leave("b")
        room = went.count("b")

        assert EVEN == by_pod(went)
        assert {"b"} == set(clients.come(room - 1))


@long
@families
@pytest.mark.parametrize("scheduler", ["sh", "mh"])
def test_source(node, lab, family, scheduler):
    sources = range(1, COUNT + 1)
    clients = at(lab, scheduler, family)
    first = clients.pass_by(sources)

    assert {"a", "b", "c"} == set(first.values())
    assert first == clients.pass_by(sources)


@long
@families
def test_the_table_of_mh_moves_few_when_a_pod_goes(node, lab, family):
    """Maglev moves one or two of a hundred whose pod has stayed."""
    sources = range(1, COUNT + 1)
    clients = Crowd(lab, GOES, family)
    pods = lab.pods
    try:
        node.put(*crowd.asking(GOES, pods, {SCHEDULER: "mh"}), file="goes.json")
        node.wait_for_answer(lab.client, talk.TCP, GOES.cluster_ip(family), 80)
        before = clients.pass_by(sources)
        node.put(*crowd.asking(GOES, [lab.a, lab.c], {SCHEDULER: "mh"}), file="goes.json")
        node.wait_for(lambda: crowd.weights(node)[GOES.cluster_ip(family)].keys() == {"a", "c"})
        after = clients.pass_by(sources)
    finally:
        node.put(file="goes.json")

    stayed = [number for number, pod in before.items() if pod != "b"]
    moved = [number for number in stayed if after[number] != before[number]]
    assert {"a", "c"} == set(after.values())
    assert len(moved) <= 0.05 * len(stayed)


@long
@families
def test_one_destination_is_hashed_to_one_pod(node, lab, family):
    with at(lab, "dh", family) as clients:
        assert [COUNT] == by_pod(clients.come(COUNT))


@long
@families
def test_one_destination_stays_until_overloaded(node, lab, family):
    """Overloaded: more connections than the weight, while another pod has fewer than half of its own."""
    with at(lab, "lblc", family) as clients:
        went = clients.come(COUNT)

    first, second, third = dict.fromkeys(went)
    assert [first] * 2 + [second] * 2 + [third] * (COUNT - 4) == went


@long
@families
def test_one_destination_gets_more_pods_when_overloaded(node, lab, family):
    with at(lab, "lblcr", family) as clients:
        went = clients.come(COUNT)

    assert EVEN == by_pod(went)
    assert went[0] == went[1] != went[2] == went[3]


@long
@families
def test_failover(node, lab, family):
    with at(lab, "fo", family) as clients:
        assert [COUNT] == by_pod(clients.come(COUNT))


@families
def test_overflow(node, lab, family):
    """A pod is full when it has more active connections than its weight."""
    with at(lab, "ovf", family) as clients:
        went = clients.come(6)
        with pytest.raises(ConnectionRefusedError):
            clients.come(1)

    first, second, third = dict.fromkeys(went)
    assert [first] * 2 + [second] * 2 + [third] * 2 == went


@long
@families
def test_a_scheduler_that_the_kernel_lacks_gives_the_default(node, lab, family):
    with at(lab, MISSING, family) as clients:
        assert EVEN == by_pod(clients.come(COUNT))


def test_a_scheduler_that_the_kernel_lacks_is_said_once(node):
    said = f"this kernel has no scheduler {MISSING}, so rr is used"
    subject = f"shop/{STOCK[MISSING].name}"

    assert 1 == len(re.findall(f"{subject}.*{said}", node.log.read_text()))
    line = re.compile(f"^{subject}: .*{said}$", re.MULTILINE)
    node.wait_for(lambda: line.search(node.agent.command("status", "-o", "wide")))
