"""Affinity of whole networks of clients, and of all ports of a Service."""

from __future__ import annotations

import pytest

from tests import objects
from tests.integration.packets import crowd
from tests.integration.packets.stock import Stock, families, running
from tests.lab import Node
from tools.lab import talk

pytestmark = pytest.mark.long

MASK, SHARED = "ipvs-agent.io/affinity-mask", "ipvs-agent.io/affinity-shared"
MASKED, BY_PORT, WHOLE = map(Stock, range(1, 4))
PORTS = ((80, "TCP", 8080), (81, "TCP", 8081))
SOURCES = tuple(range(1, 61))


def sticky(stock, pods, annotations):
    """A Service with affinity and two ports, over pods."""
    numbers = tuple((port, protocol) for port, protocol, _ in PORTS)
    service = stock.service(("tcp",), sessionAffinity="ClientIP")
    service["spec"]["ports"] = objects.service(stock.name, ("10.96.0.1",), numbers)["spec"]["ports"]
    service["metadata"]["annotations"] = annotations
    slices = [
        objects.endpoint_slice(stock.name, [address(pod) for pod in pods], PORTS, suffix=suffix)
        for suffix, address in (("4", lambda pod: pod.ipv4), ("6", lambda pod: pod.ipv6))
    ]
    return [service, *slices]


@pytest.fixture(scope="module")
def node(lab, tmp_path_factory):
    """A node whose agent serves Services with affinity, over pods that answer on two ports."""
    crowd.give_addresses(lab)
    for pod in lab.pods:
        lab.serve(pod, talk.TCP, 8081)
    node = Node(lab, tmp_path_factory.mktemp("node"))
    node.put(
        *sticky(MASKED, lab.pods, {MASK: "25/121"}),
        *sticky(BY_PORT, lab.pods, {}),
    )
    with running(node):
        node.wait_for(lambda: " serving " in node.log.read_text())
        yield node


def answers(lab, stock, family, port, numbers=SOURCES):
    """Who answers each source."""
    asked = (lab.client.namespace, talk.TCP, stock.cluster_ip(family), port)
    return {number: talk.ask(*asked, source=crowd.source(family, number)).name for number in numbers}


@families
def test_clients_of_a_network_have_one_pod(node, lab, family):
    low = answers(lab, MASKED, family, 80, range(1, 128, 9))
    high = answers(lab, MASKED, family, 80, range(129, 255, 9))

    assert (1, 1) == (len(set(low.values())), len(set(high.values())))
    assert set(low.values()) != set(high.values())


@families
def test_by_itself_affinity_is_by_port(node, lab, family):
    """Or the next test would show nothing."""
    first = answers(lab, BY_PORT, family, 80)

    assert first != answers(lab, BY_PORT, family, 81, SOURCES[::-1])
    assert first == answers(lab, BY_PORT, family, 80)


@families
def test_the_whole_service_has_one_pod_for_a_client(node, lab, family):
    try:
        for pods in (lab.pods, (lab.c, lab.a), (lab.b, lab.c, lab.a)):
            node.put(*sticky(WHOLE, pods, {SHARED: "true"}), file="whole.json")

            def is_shared(names=frozenset(pod.name for pod in pods)):
                # Where an endpoint was away long enough to be removed, its place in the order comes later.
                first, second = (answers(lab, WHOLE, family, port) for port in (80, 81))
                return names == set(first.values()) and first == second

            node.wait_for(is_shared)
    finally:
        node.put(file="whole.json")
