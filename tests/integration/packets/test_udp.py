"""UDP: a flow, which is one port of a client, follows the endpoints at once, as it cannot be drained."""

from __future__ import annotations

import contextlib

import pytest

from tests.integration.packets.stock import Stock, client, families, node_object, running
from tests.lab import Node
from tools.lab import talk

pytestmark = pytest.mark.long

PLAIN, LOCAL, LATE = Stock(1), Stock(2), Stock(3)
UDP = (talk.UDP,)
# Who asks, which Service, and which pods serve that client.
CASES = {
    "cluster IP": ("client", PLAIN, "abc"),
    "balancer, from outside": ("client", LOCAL, "ab"),
    "balancer, from a pod by mark": ("b", LOCAL, "abc"),
    "balancer, from the node by mark": ("node", LOCAL, "abc"),
    "balancer, from elsewhere by mark": ("c", LOCAL, "abc"),
}
cases = pytest.mark.parametrize("case", CASES)


@pytest.fixture(scope="module")
def node(lab, tmp_path_factory):
    """A node whose agent serves what the tests put."""
    node = Node(lab, tmp_path_factory.mktemp("node"))
    node.put(node_object(lab), file="node.json")
    # The node has a way to send what is for nobody; the client there drops it.
    for gateway in (lab.client.ipv4, lab.client.ipv6):
        node.run("ip", "route", "add", "default", "via", gateway)
    with running(node):
        yield node


class Flow:
    """One port of a client, which asks again and again."""

    def __init__(self, lab, who, address, port=80):
        asker = client(lab, who)
        source = asker.source(6 if ":" in address else 4)
        self._socket = talk.connect(asker.host.namespace, talk.UDP, address, port, source=source)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._socket.close()

    def ask(self, seconds=10.0):
        """Return who answers within so long; "" where nobody does, or the kernel says that nobody can."""
        self._forget()
        self._socket.settimeout(seconds)
        try:
            return talk.ask_on(self._socket).name
        except OSError:
            return ""

    def is_silent(self):
        """Whether nobody answers."""
        return self.ask(1.0) == ""

    def _forget(self):
        """Take what came too late for the question before."""
        self._socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                with contextlib.suppress(ConnectionError, PermissionError):
                    self._socket.recv(512)


def put(node, lab, stock, names):
    """Have a Service run on pods by their names."""
    spec = {"externalTrafficPolicy": "Local"} if stock is LOCAL else {}
    node.put(*stock.objects(lab, [getattr(lab, name) for name in names], UDP, **spec), file="udp.json")


def way(stock, family):
    return stock.balancer(family) if stock is LOCAL else stock.cluster_ip(family)


def real_servers(node):
    """How many real servers for UDP there are, by address and by mark."""
    lines = [line.split() for line in node.virtual_servers()]
    return sum(line[0] == "-a" and line[1] in ("-u", "-f") for line in lines)


@pytest.mark.sample
@families
@cases
def test_a_flow_moves_when_its_endpoint_goes_and_begins_again_when_one_comes(node, lab, family, case):
    who, stock, names = CASES[case]
    address = way(stock, family)
    put(node, lab, stock, names)
    node.wait_for_answer(getattr(lab, who), talk.UDP, address, 80)
    with Flow(lab, who, address) as flow:
        first = flow.ask()
        assert first in set(names)
        others = names.replace(first, "")

        put(node, lab, stock, others)
        # The datagram by which IPVS ends the old flow may be lost, and no other.
        node.wait_for(lambda: flow.ask(1.0) not in (first, ""))
        answers = [flow.ask() for _ in range(5)]
        assert len(set(answers)) == 1
        assert answers[0] in set(others)

        put(node, lab, stock, "")
        node.wait_for(lambda: real_servers(node) == 0)
        node.wait_for(flow.is_silent)
        assert [True] * 5 == [flow.is_silent() for _ in range(5)]

        put(node, lab, stock, first)
        node.wait_for(lambda: flow.ask(1.0) == first)
        assert [first] * 5 == [flow.ask() for _ in range(5)]


@families
@pytest.mark.parametrize("stock", [PLAIN, LOCAL], ids=["cluster IP", "balancer, by mark"])
@pytest.mark.parametrize("who", ["a", "node", "client"])
def test_a_flow_that_is_older_than_the_service_is_answered(node, lab, family, stock, who):
    """Such a flow has an entry in conntrack's table that knows nothing of the Service."""
    address = way(stock, family)
    node.put(file="udp.json")
    node.wait_for(lambda: node.virtual_servers() == [])
    with Flow(lab, who, address) as flow:
        assert [True] * 3 == [flow.is_silent() for _ in range(3)]
        put(node, lab, stock, "ab")
        node.wait_for(lambda: flow.ask(1.0) in ("a", "b"))
        answers = [flow.ask() for _ in range(5)]
        assert len(set(answers)) == 1
        assert answers[0] in ("a", "b")


@families
def test_a_flow_to_a_node_port_follows_too(node, lab, family):
    address = lab.node.ipv4 if family == 4 else lab.node.ipv6
    node.put(file="udp.json")
    node.wait_for(lambda: node.virtual_servers() == [])
    with Flow(lab, "client", address, PLAIN.node_port) as flow:
        assert flow.is_silent()
        put(node, lab, PLAIN, "a")
        node.wait_for(lambda: flow.ask(1.0) == "a")
        put(node, lab, PLAIN, "b")
        node.wait_for(lambda: flow.ask(1.0) == "b")


@families
@pytest.mark.parametrize("who", ["client", "b"])
def test_a_flow_that_an_iptables_mode_has_led_to_an_endpoint_follows_too(node, lab, family, who):
    tool, pod = ("iptables", lab.a.ipv4) if family == 4 else ("ip6tables", f"[{lab.a.ipv6}]")
    address = PLAIN.cluster_ip(family)
    rule = f"PREROUTING -p udp -d {address} --dport 80 -j DNAT --to-destination {pod}:8080".split()
    listing = ["conntrack", "-L", "-f", f"ipv{family}", "-p", "udp", "--orig-dst", address, "--dst-nat"]
    node.put(file="udp.json")
    node.wait_for(lambda: node.virtual_servers() == [])
    node.run(tool, "-w", "-t", "nat", "-A", *rule)
    with Flow(lab, who, address) as flow:
        try:
            assert "a" == flow.ask()
            assert "" != node.run(*listing)
        finally:
            node.run(tool, "-w", "-t", "nat", "-D", *rule)
        put(node, lab, PLAIN, "a")
        node.wait_for(lambda: "" == node.run(*listing))
        node.wait_for(lambda: flow.ask(1.0) == "a")
        put(node, lab, PLAIN, "b" if who == "client" else "c")
        node.wait_for(lambda: flow.ask(1.0) in ("b", "c"))
