"""Endpoints that terminate: they serve where no ready one is left, of the cluster or of the node."""

from __future__ import annotations

import pytest

from tests.integration.packets.stock import (
    Stock,
    ask,
    client,
    families,
    is_refused,
    is_silent,
    node_object,
    pods,
    running,
)
from tests.lab import Node
from tools.lab import talk

pytestmark = pytest.mark.long

READY = {"ready": True, "serving": True, "terminating": False}
LEAVING = {"ready": False, "serving": True, "terminating": True}
LEFT = {"ready": False, "serving": False, "terminating": True}
STARTING = {"ready": False, "serving": False, "terminating": False}
CLUSTER, LOCAL = "Cluster", "Local"
ASKED = 6
"""Calls that would have met one more who answers, most probably."""
WHO = pytest.mark.parametrize("who", ["client", "a", "node"])

# The conditions of the pods a, b (here) and c (on another node); who answers everybody under policy Cluster,
# and who answers clients outside under policy Local.
STATES = {
    "one ready": ((READY, LEAVING, LEAVING), "a", "a"),
    "the ready one elsewhere": ((LEAVING, LEFT, READY), "c", "a"),
    "all leaving": ((LEAVING, LEAVING, LEAVING), "abc", "ab"),
    "one still serves": ((LEFT, LEAVING, STARTING), "b", "b"),
    "only one elsewhere serves": ((LEFT, STARTING, LEAVING), "c", ""),
    "none serves": ((LEFT, STARTING, LEFT), "", ""),
}
STOCKS = {
    (state, policy): Stock(number)
    for number, (state, policy) in enumerate(
        ((state, policy) for state in STATES for policy in (CLUSTER, LOCAL)), start=1
    )
}


def served(lab, stock, conditions, policy):
    """A Service over the pods a, b and c in these conditions."""
    service, *slices = stock.objects(lab, lab.pods, externalTrafficPolicy=policy)
    for endpoint_slice in slices:
        for endpoint, condition in zip(endpoint_slice["endpoints"], conditions, strict=True):
            endpoint["conditions"] = condition
    return [service, *slices]


@pytest.fixture(scope="module")
def node(lab, tmp_path_factory):
    """A node whose agent serves Services some of whose endpoints terminate."""
    node = Node(lab, tmp_path_factory.mktemp("node"))
    services = [
        thing
        for (state, policy), stock in STOCKS.items()
        for thing in served(lab, stock, STATES[state][0], policy)
    ]
    node.put(node_object(lab), *services)
    with running(node):
        for family in (4, 6):
            for policy in (CLUSTER, LOCAL):
                node.wait_for_answer(lab.a, talk.TCP, STOCKS["one ready", policy].cluster_ip(family), 80)
        yield node


@families
@pytest.mark.parametrize("protocol", [talk.TCP, talk.UDP])
@pytest.mark.parametrize("state", STATES)
class TestEverywhere:
    @pytest.mark.sample
    @WHO
    def test_at_every_address_under_policy_cluster(self, node, lab, family, protocol, state, who):
        _, names, _ = STATES[state]
        stock, asker = STOCKS[state, CLUSTER], client(lab, who)
        for way in ((stock.cluster_ip(family), 80), stock.ways_in(lab, family)[2]):
            if names:
                assert set(names) == pods(node, asker, protocol, *way, set(names), at_least=ASKED)
            else:
                assert is_refused(node, asker, protocol, *way)

    @pytest.mark.parametrize("who", ["a", "node"])
    def test_inside_under_policy_local(self, node, lab, family, protocol, state, who):
        _, names, _ = STATES[state]
        stock = STOCKS[state, LOCAL]
        for way in stock.ways_in(lab, family):
            asked = (node, client(lab, who), protocol, *way)
            if names:
                assert set(names) == pods(*asked, set(names), at_least=ASKED)
            else:
                assert is_refused(*asked)

    def test_outside_under_policy_local(self, node, lab, family, protocol, state):
        _, everywhere, names = STATES[state]
        stock, asker = STOCKS[state, LOCAL], client(lab, "client")
        for way in stock.ways_in(lab, family):
            if names:
                assert set(names) == pods(node, asker, protocol, *way, set(names), at_least=ASKED)
            elif everywhere:
                assert is_silent(node, asker, protocol, *way)
            else:
                assert is_refused(node, asker, protocol, *way)


MOVING = Stock(31)


@families
def test_a_pod_that_terminates_hands_over_when_another_is_ready(node, lab, family):
    asker = client(lab, "client")
    way = (MOVING.cluster_ip(family), 80)
    for conditions, names in (
        ((READY, STARTING, STARTING), "a"),
        ((LEAVING, STARTING, STARTING), "a"),
        ((LEAVING, READY, STARTING), "b"),
        ((LEFT, READY, STARTING), "b"),
    ):
        node.put(*served(lab, MOVING, conditions, CLUSTER), file="moving.json")
        node.wait_for_answer(lab.client, talk.TCP, *way)
        node.wait_for(lambda names=names: set(names) == pods(node, asker, talk.TCP, *way, set(names)))
    assert ask(node, asker, talk.TCP, *way).name == "b"
