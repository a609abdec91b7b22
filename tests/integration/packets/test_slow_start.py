"""Slow start: a pod that comes to others gets few connections at first, and its share in the end."""

from __future__ import annotations

import time
from collections import Counter

import pytest

from tests.integration.packets import crowd
from tests.integration.packets.crowd import SCHEDULER, Crowd
from tests.integration.packets.stock import Stock, running
from tests.lab import Node
from tools.lab import talk

pytestmark = pytest.mark.long

LENGTH = 36.0
"""Seconds, of which the first step lasts four."""
STARTING = Stock(1)


@pytest.fixture(scope="module")
def node(lab, tmp_path_factory):
    """A node whose agent serves a Service with a slow start, over two pods of three."""
    node = Node(lab, tmp_path_factory.mktemp("node"))
    put(node, [lab.a, lab.b])
    with running(node):
        for family in (4, 6):
            node.wait_for_answer(lab.client, talk.TCP, STARTING.cluster_ip(family), 80)
        yield node


def put(node, pods):
    asked = {SCHEDULER: "wrr", "ipvs-agent.io/slow-start": f"{LENGTH:g}s"}
    node.put(*crowd.asking(STARTING, pods, asked))


def weights(node):
    """The weights behind the Service in both families, the smallest first."""
    return sorted(int(line.split()[7]) for line in node.virtual_servers() if line.startswith("-a"))


def test_a_pod_that_comes_gets_its_share_in_time(node, lab):
    assert [10] * 4 == weights(node)
    with Crowd(lab, STARTING, 4) as held, Crowd(lab, STARTING, 6) as held6:
        held.come(10)
        held6.come(10)
        put(node, lab.pods)
        node.wait_for(lambda: len(weights(node)) == 6)
        began = time.monotonic()
        for family in (4, 6):
            with Crowd(lab, STARTING, family) as clients:
                assert Counter(clients.come(21))["c"] <= 4
        seen = []
        while not seen or seen[-1][0] < 10:
            seen.append(weights(node))
            time.sleep(0.5)
        assert time.monotonic() - began > LENGTH - 5
        for family in (4, 6):
            with Crowd(lab, STARTING, family) as clients:
                assert Counter(clients.come(60))["c"] >= 18
        assert all(one.lives() for one in held.open + held6.open)

    growing = [smallest for smallest, *_ in seen]
    assert sorted(growing) == growing
    assert len(set(growing)) >= 4
    assert all([10] * 4 == found[2:] for found in seen)
