"""The rules among those of others: policies of DROP, and marks that are not ours."""

from __future__ import annotations

import re

import pytest

from tests import objects
from tools.lab import talk

VIP, NODE_PORT = "10.96.0.80", 30080


@pytest.fixture
def serving(node, lab):
    """Have the agent serve a Service by its cluster IP and a NodePort."""
    node.put(
        objects.service("web", (VIP,), ((80, "TCP", NODE_PORT),), type="NodePort"),
        objects.endpoint_slice("web", [pod.ipv4 for pod in lab.pods]),
    )
    node.agent.start()
    node.wait_for_answer(lab.client, talk.TCP, VIP, 80)


@pytest.fixture
def iptables(node):
    """Add rules of somebody else, by (table, rule); they and the policies are taken back at the end."""
    added = []

    def add(table, rule):
        node.run("iptables", "-w", "-t", table, *rule.split())
        added.append((table, rule))

    yield add
    for table, rule in added:
        node.run("iptables", "-w", "-t", table, *undone(rule).split())


def undone(rule):
    """The rule that takes another one back."""
    if rule.startswith("-P"):
        return rule.replace("DROP", "ACCEPT")
    return re.sub(r"^-I (\w+)( \d+)?", r"-D \1", rule)


def everybody(node, lab):
    """Who answers from outside, from a pod and from the node."""
    return [
        {node.ask(client, talk.TCP, address, port).name for _ in range(6)}
        for client in (lab.client, lab.a, lab.node)
        for address, port in ((VIP, 80), (lab.node.ipv4, NODE_PORT))
    ]


def test_what_was_load_balanced_passes_policies_of_drop(node, lab, serving, iptables):
    # Without this rule a policy of DROP cuts the node itself off from everything.
    iptables("filter", "-I INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT")
    iptables("filter", "-P INPUT DROP")
    iptables("filter", "-P FORWARD DROP")

    assert [{"a", "b", "c"}] * 6 == everybody(node, lab)


def test_a_rule_of_the_administrator_wins_over_our_accept(node, lab, serving, iptables):
    match = f"-s {lab.client.ipv4} -p tcp --dport {NODE_PORT}"
    iptables("filter", f"-I INPUT 2 {match} -j REJECT --reject-with tcp-reset")

    with pytest.raises(ConnectionRefusedError):
        node.ask(lab.client, talk.TCP, lab.node.ipv4, NODE_PORT)
    assert node.ask(lab.node_b, talk.TCP, lab.node.ipv4, NODE_PORT)


def test_other_bits_of_the_mark_are_left_alone(node, lab, serving, iptables):
    iptables("mangle", "-I PREROUTING -j MARK --set-xmark 0x20/0x20")
    iptables("mangle", "-I POSTROUTING -m mark --mark 0x4020/0x4020")

    assert [{"a", "b", "c"}] * 6 == everybody(node, lab)
    (line,) = [line for line in node.run("iptables-save", "-c").splitlines() if "0x4020/0x4020" in line]
    assert int(line[1:].split(":")[0]) > 0
