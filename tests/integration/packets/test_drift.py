"""What others flush or change is put right within one sync period."""

from __future__ import annotations

import pytest

from tests import objects
from tools.lab import talk

pytestmark = pytest.mark.long

VIP, VIP6 = "10.96.0.80", "fd00:10:96::80"


@pytest.fixture
def serving(node, lab, agent_log):
    """Have an agent serve, and return what its objects look like."""
    node.put(
        objects.service("web", (VIP, VIP6), ((80, "TCP", 30080),), type="NodePort"),
        objects.endpoint_slice("web", [pod.ipv4 for pod in lab.pods], suffix="4"),
        objects.endpoint_slice("web", [pod.ipv6 for pod in lab.pods], suffix="6"),
    )
    node.agent.start()
    node.wait_for(lambda: " serving " in agent_log())
    for address in (VIP, VIP6):
        node.wait_for_answer(lab.client, talk.TCP, address, 80)
    return state(node)


def state(node):
    """All objects of the agent in the kernel."""
    addresses = [
        word
        for line in node.run("sh", "-c", "ip -o addr show dev kube-ipvs0 || true").splitlines()
        for word in line.split()
        if "/32" in word or "/128" in word
    ]
    members = [line for line in node.run("ipset", "save").splitlines() if line.startswith("add")]
    rules = [
        line
        for tool in ("iptables-save", "ip6tables-save")
        for line in node.run(tool).splitlines()
        if "IPVS-AGENT" in line and line.startswith("-A")
    ]
    return node.virtual_servers(), sorted(addresses), sorted(members), rules


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param("ipvsadm -C", id="virtual servers flushed", marks=pytest.mark.sample),
        pytest.param(f"ipvsadm -D -t {VIP}:80", id="a virtual server removed"),
        pytest.param(f"ipvsadm -d -t {VIP}:80 -r 10.244.1.11:8080", id="a real server removed"),
        pytest.param(f"ipvsadm -e -t {VIP}:80 -r 10.244.1.11:8080 -m -w 9", id="a weight changed"),
        pytest.param(f"ipvsadm -a -t {VIP}:80 -r 10.244.1.99:8080 -m -w 1", id="a real server added"),
        pytest.param(f"ipvsadm -E -t {VIP}:80 -s lc", id="a scheduler changed"),
        pytest.param("ip addr flush dev kube-ipvs0", id="addresses flushed", marks=pytest.mark.sample),
        pytest.param("ip link del kube-ipvs0", id="link removed"),
        pytest.param("ipset flush", id="sets flushed", marks=pytest.mark.sample),
        pytest.param("ipset add IPVS-AGENT-4-VIPS 192.0.2.77", id="a member added"),
        pytest.param("iptables -w -F IPVS-AGENT-INPUT", id="a chain flushed"),
        pytest.param("iptables -w -t nat -F", id="a whole table flushed", marks=pytest.mark.sample),
        pytest.param("ip6tables -w -t nat -D PREROUTING -j IPVS-AGENT-PREROUTING", id="a jump removed"),
        # The agent may put a rule back before the set is gone.
        pytest.param(
            "until iptables -w -F && iptables -w -X && ipset destroy IPVS-AGENT-4-VIPS; do :; done",
            id="a set destroyed",
        ),
    ],
)
def test_damage_is_repaired(node, lab, serving, damage):
    node.run("sh", "-c", damage)

    node.wait_for(lambda: state(node) == serving)
    for address in (VIP, VIP6):
        node.wait_for_answer(lab.client, talk.TCP, address, 80)
        assert {"a", "b", "c"} == {node.ask(lab.client, talk.TCP, address, 80).name for _ in range(8)}


def test_a_virtual_server_of_others_is_left_alone_and_taken_over_when_it_goes(node, lab, agent_log):
    node.run("ipvsadm", "-A", "-t", f"{VIP}:80", "-s", "wlc")
    node.put(
        objects.service("web", (VIP,), ((80, "TCP"), (81, "TCP"))),
        objects.endpoint_slice("web", [lab.a.ipv4], ((80, "TCP", 8080), (81, "TCP", 8080))),
    )
    node.agent.start()
    node.wait_for_answer(lab.client, talk.TCP, VIP, 81)

    assert f"-A -t {VIP}:80 -s wlc" in node.virtual_servers()
    node.wait_for(lambda: "not ours" in agent_log())
    node.run("ipvsadm", "-D", "-t", f"{VIP}:80")
    node.wait_for_answer(lab.client, talk.TCP, VIP, 80)
