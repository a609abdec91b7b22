"""The rules are as many for a thousand Services as for one, and nothing is written that is there already."""

from __future__ import annotations

import re

import pytest

from tests import objects
from tests.integration.packets.configured import configured
from tests.integration.packets.stock import Stock, client, is_silent, node_object
from tools.lab import talk

pytestmark = pytest.mark.long

FIRST, LAST = Stock(1), Stock(2)
FIELDS = "clusterCIDR: 10.244.0.0/16,fd00:10:244::/48\nipvs: {syncPeriod: 1s}\n"
RULE = re.compile(r"\[(\d+):\d+\] (-A .*)")


def rules(node):
    """All rules of both families, without their counters."""
    return [
        line
        for tool in ("iptables-save", "ip6tables-save")
        for line in node.run(tool).splitlines()
        if line.startswith(("-A", ":")) and "IPVS-AGENT" in line
    ]


def counted(node):
    """How many packets each rule has seen, which a rule that is written anew forgets."""
    return {
        (tool, number, rule): int(packets)
        for tool in ("iptables-save", "ip6tables-save")
        for number, (packets, rule) in enumerate(RULE.findall(node.run(tool, "-c")))
        if "IPVS-AGENT" in rule
    }


def names(stock):
    """What matches an operation for a Service."""
    addresses = [
        way(family) for way in (stock.cluster_ip, stock.balancer, stock.external) for family in (4, 6)
    ]
    return "|".join([rf"{re.escape(address)}(?!\d)" for address in addresses] + [str(stock.node_port)])


def thousand():
    """Services of all sorts, so that every set has many members."""
    sorts = (
        {"type": "NodePort"},
        {"externalIPs": ["10.98.{}.{}"]},
        {"externalIPs": ["10.98.{}.{}"], "type": "NodePort", "externalTrafficPolicy": "Local"},
        {"type": "LoadBalancer", "loadBalancerSourceRanges": ["198.51.100.0/24"]},
        {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 1},
    )
    for number in range(1000):
        low = (number >> 8, number & 255)
        spec = dict(sorts[number % len(sorts)])
        if "externalIPs" in spec:
            spec["externalIPs"] = [spec["externalIPs"][0].format(*low)]
        if "healthCheckNodePort" in spec:
            spec["healthCheckNodePort"] = 40000 + number
        node_port = 32000 + number if "type" in spec else 0
        made = objects.service(
            f"one-{number}", ("10.97.{}.{}".format(*low),), ((80, "TCP", node_port),), **spec
        )
        if spec.get("type") == "LoadBalancer":
            made["status"] = {"loadBalancer": {"ingress": [{"ip": "10.99.{}.{}".format(*low)}]}}
        yield made
        yield objects.endpoint_slice(
            f"one-{number}",
            [("10.244.1.11", {"nodeName": "node-a"}), ("10.244.2.13", {"nodeName": "node-b"})],
        )


@pytest.mark.timeout(900)
def test_a_thousand_services_have_the_rules_of_one(lab, tmp_path):
    one = [node_object(lab), *FIRST.objects(lab, [lab.a], (talk.TCP,))]
    with configured(lab, tmp_path, FIELDS, *one) as node:
        node.wait_for_answer(lab.client, talk.TCP, FIRST.cluster_ip(4), 80)
        before, packets = rules(node), counted(node)
        node.put(*thousand(), file="thousand.json")
        node.wait_for(lambda: sum(line.startswith("-A -t 10.97.") for line in node.virtual_servers()) == 1000)
        node.wait_for_answer(lab.client, talk.TCP, "10.97.3.231", 80)
        # Every rule that asks a set has what to ask.
        assert is_silent(node, client(lab, "client"), talk.TCP, "10.99.0.3", 80)

        assert before == rules(node)
        assert all(now >= packets[rule] for rule, now in counted(node).items())


def test_a_change_without_content_writes_nothing(lab, tmp_path):
    """What is changed in the same file by a word that matters shows that the rest was read."""

    def served(number, last):
        local = {"externalTrafficPolicy": "Local", "healthCheckNodePort": 32001}
        served = FIRST.objects(lab, lab.pods, loadBalancerSourceRanges=["192.0.2.0/24"], **local)
        for one in served:
            one["metadata"]["annotations"] = {"note": f"number {number}"}
            one["metadata"]["resourceVersion"] = str(number)
            one["metadata"]["labels"] = one["metadata"].get("labels", {}) | {"number": str(number)}
        for endpoint_slice in served[1:]:
            if number % 2:
                endpoint_slice["endpoints"].reverse()
        return [node_object(lab, number=str(number)), *served, *LAST.objects(lab, [last], (talk.TCP,))]

    with configured(lab, tmp_path, FIELDS, *served(0, lab.a), arguments=["--verbose"]) as node:
        node.wait_for(lambda: "a" == node.ask(lab.client, talk.TCP, LAST.cluster_ip(4), 80).name)
        node.wait_for_answer(lab.client, talk.TCP, FIRST.balancer(4), 80)
        node.wait_for(lambda: " serving " in node.log.read_text())
        written = len(node.log.read_text())
        before, packets = rules(node), counted(node)
        for number, pod in enumerate((lab.b, lab.a, lab.b, lab.a), start=1):
            node.put(*served(number, pod))
            node.wait_for(
                lambda pod=pod: (
                    pod.name == node.ask(lab.client, talk.TCP, LAST.cluster_ip(6), 80).name
                    and pod.name == node.ask(lab.client, talk.TCP, LAST.cluster_ip(4), 80).name
                )
            )

        assert before == rules(node)
        assert all(now >= packets[rule] for rule, now in counted(node).items())
        said = node.log.read_text()[written:]
        assert "foundation laid" not in said
        operations = [line for line in said.splitlines() if " operation " in line]
        assert any(re.search(names(LAST), line) for line in operations)
        assert [] == [line for line in operations if re.search(names(FIRST), line)]
