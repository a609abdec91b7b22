"""Who answers, and what source address the pods see: from the node, a pod and an off-cluster client."""

from __future__ import annotations

import pytest

from tests import objects
from tests.lab import Node
from tools.lab import talk

PORTS = ((80, "TCP", 30080), (80, "UDP", 30081), (80, "SCTP", 30082))
TARGETS = tuple((port, protocol, 8080) for port, protocol, _ in PORTS)
VIPS = {4: "10.96.0.80", 6: "fd00:10:96::80"}
NODE_PORTS = {talk.TCP: 30080, talk.UDP: 30081, talk.SCTP: 30082}
# Where a masqueraded flow leaves node-a: towards its own pods, and towards node-b.
TO_PODS = {4: "10.244.1.1", 6: "fd00:10:244:1::1"}
TO_LAN = {4: "192.0.2.1", 6: "2001:db8::1"}
POD_A = {4: "10.244.1.11", 6: "fd00:10:244:1::11"}

families = pytest.mark.parametrize("family", [4, 6], ids=["IPv4", "IPv6"])
protocols = pytest.mark.parametrize("protocol", [talk.TCP, talk.UDP, talk.SCTP])


def pods_of(lab, family):
    return [
        (pod.ipv4 if family == 4 else pod.ipv6, {"nodeName": "node-b" if pod is lab.c else "node-a"})
        for pod in lab.pods
    ]


def web(lab):
    """A Service of every protocol, dual stack, by cluster IPs and NodePorts."""
    return (
        objects.service("web", tuple(VIPS.values()), PORTS, type="NodePort"),
        objects.endpoint_slice("web", pods_of(lab, 4), TARGETS, suffix="4"),
        objects.endpoint_slice("web", pods_of(lab, 6), TARGETS, suffix="6"),
    )


@pytest.fixture(scope="module")
def node(lab, tmp_path_factory):
    """A node whose agent serves one Service of every protocol, dual stack, by cluster IPs and NodePorts."""
    node = Node(lab, tmp_path_factory.mktemp("node"))
    node.put(
        *web(lab),
        objects.service("sticky", ("10.96.0.81",), sessionAffinity="ClientIP"),
        objects.endpoint_slice("sticky", pods_of(lab, 4)),
        objects.service("mixed", ("10.96.0.83",)),
        objects.endpoint_slice("mixed", [(lab.a.ipv4, {"conditions": {"ready": False}}), lab.b.ipv4]),
        objects.endpoint_slice("mixed", [lab.c.ipv4], suffix="2"),
    )
    with node.agent:
        for vip in (*VIPS.values(), "10.96.0.81", "10.96.0.83"):
            node.wait_for_answer(lab.client, talk.TCP, vip, 80)
        yield node
    node.agent.command("cleanup")


def sources(node, client, protocol, address, port):
    """Ask until every pod has answered (rr: at most twice each), and return the source that each one saw."""
    return {answer.name: answer.source for answer in (
        node.ask(client, protocol, address, port) for _ in range(6)
    )}  # fmt: skip


@families
@protocols
class TestReachability:
    def test_off_cluster_client_to_cluster_ip_is_masqueraded(self, node, lab, protocol, family):
        expected = {"a": TO_PODS[family], "b": TO_PODS[family], "c": TO_LAN[family]}
        assert expected == sources(node, lab.client, protocol, VIPS[family], 80)

    def test_off_cluster_client_to_node_port_is_masqueraded(self, node, lab, protocol, family):
        expected = {"a": TO_PODS[family], "b": TO_PODS[family], "c": TO_LAN[family]}
        address = lab.node.ipv4 if family == 4 else lab.node.ipv6
        assert expected == sources(node, lab.client, protocol, address, NODE_PORTS[protocol])

    def test_pod_to_cluster_ip_keeps_its_address_but_to_itself(self, node, lab, protocol, family):
        expected = {"a": TO_PODS[family], "b": POD_A[family], "c": POD_A[family]}
        assert expected == sources(node, lab.a, protocol, VIPS[family], 80)

    def test_pod_to_node_port_is_masqueraded(self, node, lab, protocol, family):
        expected = {"a": TO_PODS[family], "b": TO_PODS[family], "c": TO_LAN[family]}
        address = lab.node.ipv4 if family == 4 else lab.node.ipv6
        assert expected == sources(node, lab.a, protocol, address, NODE_PORTS[protocol])

    def test_node_to_cluster_ip(self, node, lab, protocol, family):
        expected = {"a": TO_PODS[family], "b": TO_PODS[family], "c": TO_LAN[family]}
        assert expected == sources(node, lab.node, protocol, VIPS[family], 80)

    def test_node_to_its_own_node_port(self, node, lab, protocol, family):
        expected = {"a": TO_PODS[family], "b": TO_PODS[family], "c": TO_LAN[family]}
        address = lab.node.ipv4 if family == 4 else lab.node.ipv6
        assert expected == sources(node, lab.node, protocol, address, NODE_PORTS[protocol])


def test_affinity_keeps_each_client_at_one_pod(node, lab):
    for client in (lab.client, lab.a, lab.node):
        names = {node.ask(client, talk.TCP, "10.96.0.81", 80).name for _ in range(10)}
        assert 1 == len(names)


def test_endpoints_that_are_not_ready_get_nothing_and_slices_add_up(node, lab):
    assert {"b", "c"} == {node.ask(lab.client, talk.TCP, "10.96.0.83", 80).name for _ in range(8)}


@families
@pytest.mark.parametrize("protocol", [talk.TCP, talk.UDP])
def test_hostports_of_a_cni_do_not_take_what_is_for_a_service(node, lab, family, protocol):
    """A rule for all addresses that are the node's own means VIPs, too (k/k#61938)."""
    tool, to = ("iptables", lab.b.ipv4) if family == 4 else ("ip6tables", f"[{lab.b.ipv6}]")
    rule = f"-p {protocol} --dport 80 -m addrtype --dst-type LOCAL -j DNAT --to-destination {to}:8080".split()
    for chain in ("PREROUTING", "OUTPUT"):
        node.run(tool, "-w", "-t", "nat", "-A", chain, *rule)
    try:
        for client in (lab.client, lab.a, lab.node):
            assert {"a", "b", "c"} == {node.ask(client, protocol, VIPS[family], 80).name for _ in range(9)}
        assert {"b"} == {node.ask(lab.client, protocol, TO_LAN[family], 80).name for _ in range(3)}
    finally:
        for chain in ("PREROUTING", "OUTPUT"):
            node.run(tool, "-w", "-t", "nat", "-D", chain, *rule)


@families
@protocols
def test_nobody_answers_what_the_node_sends_from_its_loopback_address(node, lab, family, protocol):
    """The kernel sends nothing from there to another host, whatever we or kube-proxy do about it."""
    source = {4: "127.0.0.1", 6: "::1"}[family]
    for address, port in ((VIPS[family], 80), (TO_LAN[family], NODE_PORTS[protocol])):
        with pytest.raises(OSError, match=r"timed out|unreachable"):
            node.ask(lab.node, protocol, address, port, source=source, timeout=1.0)
