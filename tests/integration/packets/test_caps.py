"""Caps of connections: a pod at its cap gets no more, and where all are, clients are refused."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.integration.packets import crowd
from tests.integration.packets.crowd import Crowd
from tests.integration.packets.stock import Stock, families, running
from tests.lab import Node
from tools.lab import talk

pytestmark = pytest.mark.long

MOST, RESUME = "ipvs-agent.io/max-connections", "ipvs-agent.io/resume-connections"
CAPPED, RESUMING = Stock(1), Stock(2)
LIFTED = {4: Stock(3), 6: Stock(4)}


@pytest.fixture(scope="module")
def node(lab, tmp_path_factory):
    """A node whose agent serves Services with a cap of four."""
    node = Node(lab, tmp_path_factory.mktemp("node"))
    node.put(
        *crowd.asking(CAPPED, [lab.a, lab.b], {MOST: "4"}),
        *crowd.asking(RESUMING, [lab.a, lab.b], {MOST: "4", RESUME: "2"}),
    )
    with running(node):
        node.wait_for(lambda: " serving " in node.log.read_text())
        yield node


def is_refused(clients):
    try:
        clients.come(1)
    except ConnectionRefusedError:
        return True
    return False


def connections(node, stock, family):
    """How many connections each real server has, closing ones too."""
    address = stock.cluster_ip(family)
    listed = node.run("ipvsadm", "-Ln", "-t", f"[{address}]:80" if family == 6 else f"{address}:80")
    rows = [line.split() for line in listed.splitlines() if line.startswith("  ->") and "Masq" in line]
    return [int(row[4]) + int(row[5]) for row in rows]


@families
def test_a_pod_at_its_cap_gets_no_more_until_it_has_room(node, lab, family):
    """Without a low-water mark there is room below three quarters of the cap, with one below that."""
    with Crowd(lab, CAPPED, family) as clients, Crowd(lab, RESUMING, family) as others:
        for each in (clients, others):
            assert {"a": 4, "b": 4} == Counter(each.come(8))
            assert is_refused(each)
            gone = [one for one in each.open if one.pod == "a"][:2]
            each.open = [one for one in each.open if one not in gone]
            for one in gone:
                one.reset()
        # A connection that was reset counts for ten seconds.
        node.wait_for(lambda: [2, 4] == sorted(connections(node, CAPPED, family)))
        node.wait_for(lambda: [2, 4] == sorted(connections(node, RESUMING, family)))

        assert ["a", "a"] == clients.come(2)
        assert is_refused(clients)
        assert is_refused(others)
        (first, *_) = [one for one in others.open if one.pod == "a"]
        others.open.remove(first)
        first.reset()
        node.wait_for(lambda: [1, 4] == sorted(connections(node, RESUMING, family)))
        assert ["a", "a", "a"] == others.come(3)
        assert is_refused(others)


@families
def test_a_closed_connection_counts(node, lab, family):
    stock = LIFTED[family]
    try:
        node.put(*crowd.asking(stock, [lab.c], {MOST: "1"}), file="lifted.json")
        node.wait_for_answer(lab.client, talk.TCP, stock.cluster_ip(family), 80)
        with Crowd(lab, stock, family) as clients:
            assert is_refused(clients)
            node.put(*crowd.asking(stock, [lab.c], {MOST: "3"}), file="lifted.json")
            node.wait_for(lambda: not is_refused(clients))
            assert ["c"] == clients.come(1)
            assert is_refused(clients)
    finally:
        node.put(file="lifted.json")


def test_a_small_cap_is_said(node):
    said = "[ipvs-agent.io/max-connections]: 4 is few: a closed connection counts for up to two minutes"

    node.wait_for(lambda: said in node.agent.command("status", "-o", "wide"))
