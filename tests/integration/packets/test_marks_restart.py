"""Marks over a death of the agent: each stays with its Service, and what is new gets none of the old ones."""

from __future__ import annotations

import contextlib
import signal

import pytest

from tests.integration.packets.stock import PROTOCOLS, Stock, client, node_object, pods
from tools.lab import talk
from tools.lab.asking import Asking

# What is added comes first in every order that an agent could go by: number, name and age.
ADDED = Stock(1), Stock(2)
KEPT = Stock(5), Stock(6)
GONE = Stock(7)
EVERY = (*ADDED, *KEPT, GONE)
LOCAL = {"externalTrafficPolicy": "Local"}


def served(lab, stocks, names):
    """Services whose clients inside are served by mark, over pods by their names."""
    return [
        each
        for stock in stocks
        for each in stock.objects(lab, [getattr(lab, name) for name in names], **LOCAL)
    ]


def older(objects):
    """The same, but made a year before all others."""
    for each in objects:
        each["metadata"]["creationTimestamp"] = "2025-01-01T00:00:00Z"
    return objects


def marks(node, family):
    """The mark of each address, protocol and port; none before there is such a set."""
    lines = node.run("ipset", "save").splitlines()
    members = [line.split() for line in lines if line.startswith(f"add IPVS-AGENT-{family}-MARKS ")]
    return {member: mark for _, _, member, _, mark in members}


def ways(lab, stocks, family):
    """What clients dial, in the words of ipset."""
    return {
        f"{address},{protocol}:{port}"
        for stock in stocks
        for address, port in stock.ways_in(lab, family)
        for protocol in PROTOCOLS
    }


def are_marked(node, lab, stocks):
    """Tell whether all ways to just these Services have marks."""
    return all(
        ways(lab, stocks, family) == marks(node, family).keys() & ways(lab, EVERY, family)
        for family in (4, 6)
    )


@pytest.mark.long
def test_marks_stay_with_their_services_over_a_death(node, lab, agent_log, in_background):
    """Pod c is elsewhere: whoever inside hears of it by these addresses was served by mark."""
    node.put(node_object(lab), file="node.json")
    node.put(*served(lab, (*KEPT, GONE), "c"))
    node.agent.start()
    node.wait_for(lambda: are_marked(node, lab, (*KEPT, GONE)))
    before = {family: marks(node, family) for family in (4, 6)}
    for stock in KEPT:
        for family in (4, 6):
            node.wait_for_answer(lab.b, talk.TCP, stock.balancer(family), 80)
    # From a host of its own: where a client uses a port for two addresses that lead to the same real server,
    # IPVS takes the answers to one for those to the other.
    asking = [in_background(Asking(lab.b, KEPT[0].balancer(family))) for family in (4, 6)]
    with contextlib.ExitStack() as stack:
        held = [
            stack.enter_context(talk.connect(host.namespace, talk.TCP, stock.balancer(family), 80))
            for stock in KEPT
            for family in (4, 6)
            for host in (lab.a, lab.node)
        ]
        assert {"c"} == {talk.ask_on(each).name for each in held}

        for _ in range(2):
            node.agent.end(signal.SIGKILL)
            node.put(*older(served(lab, ADDED, "a")), *served(lab, KEPT, "c"))
            node.agent.start()
            node.wait_for(lambda: are_marked(node, lab, (*KEPT, *ADDED)))
            for family, old in before.items():
                after = marks(node, family)
                assert after.items() >= {way: old[way] for way in after.keys() & old.keys()}.items()
                assert not {after[way] for way in after.keys() - old.keys()} & set(old.values())
                for stocks, name in ((ADDED, "a"), (KEPT, "c")):
                    for stock in stocks:
                        address = stock.balancer(family)
                        node.wait_for(
                            lambda address=address, name=name: (
                                {name}
                                == pods(node, client(lab, "b"), talk.UDP, address, 80, {name}, at_least=3)
                            )
                        )
            assert {"c"} == {talk.ask_on(each).name for each in held}

    for each in asking:
        each.end()
    assert [[], []] == [each.failures for each in asking]
    assert [{"c"}, {"c"}] == [set(each.pods) for each in asking]
    assert "Traceback" not in agent_log()
