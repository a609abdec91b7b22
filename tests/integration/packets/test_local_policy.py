"""externalTrafficPolicy Local: local endpoints for clients outside, all endpoints for those inside."""

from __future__ import annotations

import time

import pytest

from tests.integration.packets.stock import (
    GATEWAYS,
    Stock,
    ask,
    client,
    families,
    is_refused,
    is_silent,
    node_object,
    pods,
    running,
    sources,
)
from tests.lab import Node
from tools.lab import talk

EVERYWHERE, ONE_LOCAL, NONE_LOCAL, NONE, STICKY, STICKY_NONE_LOCAL, INTERNAL = map(Stock, range(1, 8))
DRAINED, SWITCHED, COMES, GONE = map(Stock, range(11, 15))

inside = pytest.mark.parametrize("who", ["a", "b", "c", "node"])
ways = pytest.mark.parametrize(
    "way", [0, pytest.param(1, marks=pytest.mark.long), 2], ids=["balancer", "external", "NodePort"]
)
protocols = pytest.mark.parametrize(
    "protocol", [talk.TCP, *(pytest.param(one, marks=pytest.mark.long) for one in (talk.UDP, talk.SCTP))]
)


@pytest.fixture(scope="module")
def node(lab, tmp_path_factory):
    """A node whose agent serves Services with externalTrafficPolicy Local, and knows its own pods."""
    local = {"externalTrafficPolicy": "Local"}
    sticky = local | {"sessionAffinity": "ClientIP"}
    node = Node(lab, tmp_path_factory.mktemp("node"))
    node.put(
        node_object(lab),
        *EVERYWHERE.objects(lab, lab.pods, **local),
        *ONE_LOCAL.objects(lab, [lab.a, lab.c], **local),
        *NONE_LOCAL.objects(lab, [lab.c], **local),
        *NONE.objects(lab, [], **local),
        *STICKY.objects(lab, lab.pods, **sticky),
        *STICKY_NONE_LOCAL.objects(lab, [lab.c], **sticky),
        *INTERNAL.objects(lab, [lab.c], internalTrafficPolicy="Local"),
    )
    with running(node):
        for stock in (EVERYWHERE, NONE_LOCAL, STICKY_NONE_LOCAL):
            for family in (4, 6):
                node.wait_for_answer(lab.client, talk.TCP, stock.cluster_ip(family), 80)
        yield node


def connected(host, address, name):
    """Return a connection to the pod of that name."""
    while True:
        held = talk.connect(host.namespace, talk.TCP, address, 80)
        if talk.ask_on(held).name == name:
            return held
        held.close()


def seen_from_inside(lab, family):
    """The source that each pod sees of a client inside, of which nobody can tell on which node it is."""
    return {
        "a": GATEWAYS[family],
        "b": GATEWAYS[family],
        "c": lab.node.ipv4 if family == 4 else lab.node.ipv6,
    }


@families
@protocols
@ways
class TestOutside:
    def test_local_endpoints_answer_and_see_the_client(self, node, lab, family, protocol, way):
        outside = client(lab, "client")
        address, port = EVERYWHERE.ways_in(lab, family)[way]
        own = outside.address(family)
        assert {"a": own, "b": own} == sources(node, outside, protocol, address, port, {"a", "b"})

    def test_an_endpoint_elsewhere_gets_nothing(self, node, lab, family, protocol, way):
        outside = client(lab, "client")
        address, port = ONE_LOCAL.ways_in(lab, family)[way]
        assert {"a"} == pods(node, outside, protocol, address, port, {"a"})


@families
@ways
@pytest.mark.parametrize("protocol", [talk.TCP, talk.UDP])
def test_outside_without_a_local_endpoint_nothing_comes_back(node, lab, family, way, protocol):
    address, port = NONE_LOCAL.ways_in(lab, family)[way]
    assert is_silent(node, client(lab, "client"), protocol, address, port)


@families
@ways
@pytest.mark.parametrize("protocol", [talk.TCP, talk.UDP])
@pytest.mark.parametrize("who", ["client", "a", "c", "node"])
def test_without_any_endpoint_everybody_is_refused(node, lab, family, way, protocol, who):
    address, port = NONE.ways_in(lab, family)[way]
    assert is_refused(node, client(lab, who), protocol, address, port)


@families
@protocols
@inside
class TestInside:
    @ways
    def test_every_endpoint_answers_and_sees_who_asks(self, node, lab, family, protocol, who, way):
        expected = seen_from_inside(lab, family)
        address, port = EVERYWHERE.ways_in(lab, family)[way]
        assert expected == sources(node, client(lab, who), protocol, address, port, set(expected))

    @ways
    def test_also_on_a_node_without_a_local_one(self, node, lab, family, protocol, who, way):
        expected = {"c": seen_from_inside(lab, family)["c"]}
        address, port = NONE_LOCAL.ways_in(lab, family)[way]
        assert expected == sources(node, client(lab, who), protocol, address, port, {"c"}, at_least=3)


@families
def test_cluster_ip_is_not_divided(node, lab, family):
    asked = (client(lab, "client"), talk.TCP, ONE_LOCAL.cluster_ip(family), 80)
    assert {"a", "c"} == pods(node, *asked, {"a", "c"})


@pytest.mark.long
class TestAffinity:
    """The address of a Service is persistent outside; inside a hash does it, because a mark must not be."""

    @families
    @inside
    @ways
    def test_each_client_inside_stays_at_one_pod(self, node, lab, family, who, way):
        address, port = STICKY.ways_in(lab, family)[way]
        assert 1 == len(pods(node, client(lab, who), talk.TCP, address, port, set(), at_least=10))

    @families
    @ways
    def test_a_client_outside_stays_at_one_local_pod(self, node, lab, family, way):
        address, port = STICKY.ways_in(lab, family)[way]
        found = pods(node, client(lab, "client"), talk.TCP, address, port, set(), at_least=10)
        assert 1 == len(found)
        assert found < {"a", "b"}

    @families
    @inside
    @ways
    def test_inside_without_a_local_one(self, node, lab, family, who, way):
        address, port = STICKY_NONE_LOCAL.ways_in(lab, family)[way]
        assert "c" == ask(node, client(lab, who), talk.TCP, address, port).name

    @families
    @ways
    def test_outside_without_a_local_one(self, node, lab, family, way):
        address, port = STICKY_NONE_LOCAL.ways_in(lab, family)[way]
        assert is_silent(node, client(lab, "client"), talk.TCP, address, port)


@families
@pytest.mark.parametrize("who", ["client", "a", "node"])
def test_internal_policy_local_without_a_local_endpoint_is_refused(node, lab, family, who):
    asker = client(lab, who)
    assert is_refused(node, asker, talk.TCP, INTERNAL.cluster_ip(family), 80)
    for address, port in INTERNAL.ways_in(lab, family):
        assert "c" == ask(node, asker, talk.TCP, address, port).name


@pytest.mark.long
class TestChanges:
    """Each test has a Service of its own in a file of its own."""

    @families
    def test_the_last_local_endpoint_that_goes_keeps_its_connection(self, node, lab, family):
        address = DRAINED.balancer(family)
        local = {"externalTrafficPolicy": "Local"}
        node.put(*DRAINED.objects(lab, [lab.a, lab.c], **local), file="drained.json")
        node.wait_for_answer(lab.client, talk.TCP, address, 80)
        with connected(lab.client, address, "a") as outside, connected(lab.b, address, "a") as inside:
            node.put(*DRAINED.objects(lab, [lab.c], **local), file="drained.json")
            node.wait_for(lambda: is_silent(node, client(lab, "client"), talk.TCP, address, 80))
            # Those outside are told first, and a machine that stands still is as silent.
            everybody = (node, client(lab, "b"), talk.TCP, address, 80, {"c"})
            node.wait_for(lambda: {"c"} == pods(*everybody, at_least=4))
            assert is_silent(node, client(lab, "client"), talk.TCP, address, 80)
            for _ in range(3):
                assert "c" == ask(node, client(lab, "b"), talk.TCP, address, 80).name
                assert ["a", "a"] == [talk.ask_on(held).name for held in (outside, inside)]

    @families
    @pytest.mark.parametrize("pods", ["a", "c"])
    def test_a_service_that_goes_leaves_the_connections_of_clients_inside(self, node, lab, family, pods):
        address = GONE.balancer(family)
        served = [getattr(lab, name) for name in pods]
        node.put(*GONE.objects(lab, served, externalTrafficPolicy="Local"), file="gone.json")
        node.wait_for_answer(lab.b, talk.TCP, address, 80)
        with connected(lab.b, address, pods) as from_pod, connected(lab.node, address, pods) as from_node:
            node.put(file="gone.json")
            node.wait_for(lambda: is_refused(node, client(lab, "b"), talk.TCP, address, 80))
            until = time.monotonic() + 4  # longer than what has no connections stays
            while time.monotonic() < until:
                assert [pods, pods] == [talk.ask_on(held).name for held in (from_pod, from_node)]
                time.sleep(0.1)

    @families
    def test_a_service_that_changes_its_policy(self, node, lab, family):
        outside, pod = client(lab, "client"), client(lab, "b")
        address, port = SWITCHED.ways_in(lab, family)[0]
        lan = lab.node.ipv4 if family == 4 else lab.node.ipv6
        own = outside.address(family)

        def found(policy, expected):
            node.put(*SWITCHED.objects(lab, [lab.a, lab.c], externalTrafficPolicy=policy), file="switch.json")
            node.wait_for_answer(lab.client, talk.TCP, address, port)
            asked = (node, outside, talk.TCP, address, port, set(expected))
            node.wait_for(lambda: expected == sources(*asked))
            assert {"a", "c"} == pods(node, pod, talk.TCP, address, port, {"a", "c"})

        for _ in range(2):
            found("Cluster", {"a": GATEWAYS[family], "c": lan})
            found("Local", {"a": own})

    @families
    def test_the_first_local_endpoint_comes(self, node, lab, family):
        address = COMES.balancer(family)
        local = {"externalTrafficPolicy": "Local"}
        node.put(*COMES.objects(lab, [lab.c], **local), file="comes.json")
        node.wait_for_answer(lab.a, talk.TCP, address, 80)
        node.wait_for(lambda: is_silent(node, client(lab, "client"), talk.TCP, address, 80))
        node.put(*COMES.objects(lab, [lab.b, lab.c], **local), file="comes.json")
        assert "b" == node.wait_for_answer(lab.client, talk.TCP, address, 80).name
