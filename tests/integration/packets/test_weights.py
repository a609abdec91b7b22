"""How each scheduler spreads 200 connections by the weights that a Service gives its endpoints.

To node-a, in the zone z1, pod a is local, b is in its zone, and c is elsewhere.
"""

from __future__ import annotations

from collections import Counter

import pytest

from tests.integration.packets import crowd
from tests.integration.packets.crowd import SCHEDULER, WEIGHTS, Crowd
from tests.integration.packets.stock import Stock, families, node_object, running
from tests.lab import Node
from tools.lab import talk

pytestmark = pytest.mark.long

COUNT = 200
WHERE = {
    "a": {"nodeName": "node-a", "zone": "z1"},
    "b": {"nodeName": "node-c", "zone": "z1"},
    "c": {"nodeName": "node-b", "zone": "z2"},
}
SHARES = "local=6,zone=3,other=1"
ALIKE = "local=50,other=50"
ASKED = {
    "wrr": SHARES,
    "wlc": SHARES,
    "sed": SHARES,
    "nq": SHARES,
    "sh": SHARES,
    "mh": SHARES,
    "lc": SHARES,  # which heeds none
    "lblc": ALIKE,
    "lblcr": ALIKE,
    "fo": SHARES,
    "ovf": "local=80,zone=60,other=58",
}
STOCK = {name: Stock(number) for number, name in enumerate(ASKED, start=1)}
CHANGING = Stock(101)
"""A Service that a test of its own puts there."""


def asking(lab, stock, pods, scheduler, weights, **annotations):
    """A Service with weights over pods, as objects."""
    return crowd.asking(stock, pods, {SCHEDULER: scheduler, WEIGHTS: weights, **annotations}, WHERE)


@pytest.fixture(scope="module")
def node(lab, tmp_path_factory):
    """A node whose agent serves a Service with weights for each scheduler."""
    crowd.give_addresses(lab)
    node = Node(lab, tmp_path_factory.mktemp("node"))
    node.put(
        node_object(lab, **{"topology.kubernetes.io/zone": "z1"}),
        *(
            thing
            for name, weights in ASKED.items()
            for thing in asking(lab, STOCK[name], lab.pods, name, weights)
        ),
    )
    with running(node):
        for family in (4, 6):
            for stock in STOCK.values():
                node.wait_for_answer(lab.client, talk.TCP, stock.cluster_ip(family), 80)
        yield node


@pytest.fixture
def changing(node, lab):
    """Put a Service that changes; it goes at the end."""

    def put(family, scheduler, weights, pods=lab.pods, **annotations):
        node.put(*asking(lab, CHANGING, pods, scheduler, weights, **annotations), file="changing.json")
        return Crowd(lab, CHANGING, family)

    yield put
    node.put(file="changing.json")


def at(lab, scheduler, family):
    """A crowd that nobody has come to yet, at the Service of a scheduler."""
    return Crowd(lab, STOCK[scheduler], family)


@families
def test_turns(node, lab, family):
    with at(lab, "wrr", family) as clients:
        went = clients.come(COUNT)

    assert {"a": 120, "b": 60, "c": 20} == Counter(went)
    for first in range(0, COUNT, 10):
        assert {"a": 6, "b": 3, "c": 1} == Counter(went[first : first + 10])


@families
@pytest.mark.parametrize("scheduler", ["wlc", "sed", "nq"])
def test_open_connections(node, lab, family, scheduler):
    with at(lab, scheduler, family) as clients:
        went = clients.come(COUNT)

        assert {"a": 120, "b": 60, "c": 20} == pytest.approx(Counter(went), abs=2)
        # To sed, the second one in a large pod is served sooner than the first one in a small pod.
        assert (scheduler == "sed") == (len(set(went[:3])) < 3)
        clients.leave("b")
        assert {"b"} == set(clients.come(50))


@families
def test_open_connections_without_weights(node, lab, family):
    with at(lab, "lc", family) as clients:
        assert [66, 67, 67] == sorted(Counter(clients.come(COUNT)).values())


@families
@pytest.mark.parametrize("scheduler", ["sh", "mh"])
def test_source(node, lab, family, scheduler):
    """By hash, the shares are not exact."""
    sources = range(1, COUNT + 1)
    clients = at(lab, scheduler, family)
    went = clients.pass_by(sources)

    assert {"a": 120, "b": 60, "c": 20} == pytest.approx(Counter(went.values()), abs=20)
    assert went == clients.pass_by(sources)


@families
def test_one_destination_stays_until_overloaded(node, lab, family):
    """Overloaded: more connections than the weight, while another pod has fewer than half of its own."""
    with at(lab, "lblc", family) as clients:
        went = clients.come(COUNT)

    first, second, third = dict.fromkeys(went)
    assert [first] * 51 + [second] * 51 + [third] * (COUNT - 102) == went


@families
def test_one_destination_gets_more_pods_when_overloaded(node, lab, family):
    with at(lab, "lblcr", family) as clients:
        went = clients.come(COUNT)

    first, second, third = dict.fromkeys(went)
    assert [first] * 51 + [second] * 51 + [third] * 51 == went[:153]
    assert [66, 67, 67] == sorted(Counter(went).values())


@families
def test_overflow(node, lab, family):
    """A pod is full when it has more active connections than its weight."""
    with at(lab, "ovf", family) as clients:
        assert ["a"] * 81 + ["b"] * 61 + ["c"] * 58 == clients.come(COUNT)
        clients.leave("a")
        assert ["a"] * 20 == clients.come(20)


@families
def test_failover(node, lab, family, changing):
    def weight_of_a():
        return crowd.weights(node).get(CHANGING.cluster_ip(family), {}).get("a")

    with at(lab, "fo", family) as clients:
        assert ["a"] * COUNT == clients.come(COUNT)
    with changing(family, "fo", SHARES) as clients:
        node.wait_for(lambda: {"a"} == set(clients.come(1)))
        changing(family, "fo", SHARES, pods=[lab.b, lab.c])
        node.wait_for(lambda: weight_of_a() == 0)
        assert ["b"] * 5 == clients.come(5)
        changing(family, "fo", SHARES)
        node.wait_for(lambda: weight_of_a() == 6)
        assert ["a"] * 5 == clients.come(5)


@families
def test_a_new_weight_counts_from_the_next_connection_on(node, lab, family, changing):
    vip = CHANGING.cluster_ip(family)
    # Weights come at once, another scheduler when it is its turn.
    head = f"-A -t {f'[{vip}]' if family == 6 else vip}:80 -s wrr"

    def weighs(a, b, c):
        return lambda: (
            head in node.virtual_servers() and crowd.weights(node).get(vip) == {"a": a, "b": b, "c": c}
        )

    with changing(family, "wrr", SHARES) as clients:
        node.wait_for(weighs(6, 3, 1))
        changing(family, "wrr", "local=1,zone=3,other=6")
        node.wait_for(weighs(1, 3, 6))
        assert {"a": 20, "b": 60, "c": 120} == Counter(clients.come(COUNT))
        changing(family, "wrr", "local=0")
        node.wait_for(weighs(0, 1, 1))
        assert {"b": 10, "c": 10} == Counter(clients.come(20))
        assert all(one.lives() for one in clients.open)


@families
def test_under_mh_one_of_weight_0_goes_when_its_connections_have_ended(node, lab, family, changing):
    def behind():
        return crowd.weights(node).get(CHANGING.cluster_ip(family))

    with changing(family, "mh", "local=2,zone=2,other=1") as clients:
        node.wait_for(lambda: behind() == {"a": 2, "b": 2, "c": 1})
        went = clients.come_from(range(1, 41))
        assert "a" in went.values()
        changing(family, "mh", "local=0,zone=2,other=1")
        node.wait_for(lambda: behind() == {"a": 0, "b": 2, "c": 1})
        assert "a" not in clients.pass_by(range(101, 141)).values()
        assert all(one.lives() for one in clients.open)
        clients.leave("a")
        node.wait_for(lambda: behind() == {"b": 2, "c": 1})


@families
def test_under_sh_nobody_is_left_without_a_place_because_of_one_that_drains(node, lab, family, changing):
    """Pod a has one place, the last one of the table."""

    def behind():
        return crowd.weights(node).get(CHANGING.cluster_ip(family))

    spread = {"ipvs-agent.io/scheduler-flags": "sh-port,sh-fallback"}
    with changing(family, "sh", "other=1", **spread) as clients:
        node.wait_for(lambda: behind() == {"a": 1, "b": 1, "c": 1})
        assert "b" in clients.come(40)
        changing(family, "sh", "local=1,other=65535", pods=[lab.a, lab.c], **spread)
        node.wait_for(lambda: behind() == {"a": 1, "b": 0, "c": 255})
        address = CHANGING.cluster_ip(family)
        node.wait_for(lambda: "a" in {node.ask(lab.client, talk.TCP, address, 80).name for _ in range(200)})
        assert all(one.lives() for one in clients.open)
