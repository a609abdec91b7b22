"""loadBalancerSourceRanges: who may dial the load balancer's addresses, and that nobody else ever does."""

from __future__ import annotations

import subprocess
import threading

import pytest

from tests.integration.packets.stock import (
    Client,
    Stock,
    ask,
    client,
    families,
    is_silent,
    node_object,
    pods,
    running,
)
from tests.lab import Node
from tools.lab import talk

pytestmark = pytest.mark.long

RANGED, SECOND, NODE_IN, OPEN, OTHER_FAMILY, LOCAL = map(Stock, range(1, 7))
UPDATED, REPLACED = Stock(11), Stock(12)
OWN = ["192.0.2.100/32", "2001:db8::100/128"]
# The client's second address, which is in no range.
OFF = {4: "192.0.2.200", 6: "2001:db8::200"}
NODE_RANGE = ["192.0.2.0/30", "2001:db8::/124"]
EVERYBODY = ["0.0.0.0/0", "::/0"]


@pytest.fixture(scope="module")
def node(lab, tmp_path_factory):
    """A node whose agent serves Services with source ranges; the client has a second address."""
    # "preferred_lft 0": what names no source goes on with the first address.
    for address in (f"{OFF[4]}/24", f"{OFF[6]}/64"):
        words = f"ip -n {lab.client.namespace} addr add {address} dev eth0 preferred_lft 0"
        subprocess.run([*words.split(), *(["nodad"] if ":" in address else [])], check=True)
    node = Node(lab, tmp_path_factory.mktemp("node"))
    second = SECOND.objects(lab, lab.pods, (talk.TCP,), loadBalancerSourceRanges=OWN)
    second[0]["spec"]["ports"].append({"name": "tcp-81", "port": 81, "protocol": "TCP"})
    for endpoint_slice in second[1:]:
        endpoint_slice["ports"].append({"name": "tcp-81", "port": 8080, "protocol": "TCP"})
    node.put(
        node_object(lab),
        *RANGED.objects(lab, lab.pods, loadBalancerSourceRanges=OWN),
        *second,
        *NODE_IN.objects(lab, lab.pods, loadBalancerSourceRanges=NODE_RANGE),
        *OPEN.objects(lab, lab.pods, loadBalancerSourceRanges=EVERYBODY),
        *OTHER_FAMILY.objects(lab, lab.pods, loadBalancerSourceRanges=OWN[:1]),
        *LOCAL.objects(lab, lab.pods, loadBalancerSourceRanges=OWN, externalTrafficPolicy="Local"),
    )
    with running(node):
        for family in (4, 6):
            node.wait_for_answer(lab.client, talk.TCP, LOCAL.cluster_ip(family), 80)
        yield node


@pytest.fixture
def off_range(lab):
    """The client by its second address."""
    return Client(lab.client._replace(ipv4=OFF[4], ipv6=OFF[6]), is_bound=True)


@pytest.fixture
def in_range(lab):
    """The client by its first address."""
    return Client(lab.client, is_bound=True)


@pytest.mark.sample
@families
@pytest.mark.parametrize("protocol", [talk.TCP, talk.UDP, talk.SCTP])
def test_in_range_is_answered_and_off_range_is_not(node, family, protocol, in_range, off_range):
    address = RANGED.balancer(family)
    assert {"a", "b", "c"} == pods(node, in_range, protocol, address, 80, {"a", "b", "c"})
    assert is_silent(node, off_range, protocol, address, 80)


@families
def test_off_range_clients_inside_the_cluster_are_dropped_too(node, lab, family):
    for who in ("a", "c"):
        assert is_silent(node, client(lab, who), talk.TCP, RANGED.balancer(family), 80)


@pytest.mark.sample
@families
def test_the_node_off_range_is_not_answered(node, lab, family):
    with pytest.raises((TimeoutError, PermissionError)):
        ask(node, client(lab, "node"), talk.TCP, RANGED.balancer(family), 80, timeout=1.0)


@families
def test_the_node_in_range_is_answered(node, lab, family, off_range):
    address = NODE_IN.balancer(family)
    assert {"a", "b", "c"} == pods(node, client(lab, "node"), talk.TCP, address, 80, {"a", "b", "c"})
    assert is_silent(node, off_range, talk.TCP, address, 80)


@families
def test_a_range_of_everybody_restricts_nobody(node, lab, family, off_range):
    address = OPEN.balancer(family)
    for asker in (off_range, client(lab, "a"), client(lab, "c"), client(lab, "node")):
        assert {"a", "b", "c"} == pods(node, asker, talk.TCP, address, 80, {"a", "b", "c"})


@families
@pytest.mark.parametrize("port", [80, 81])
def test_every_port_is_restricted(node, family, in_range, off_range, port):
    address = SECOND.balancer(family)
    assert {"a", "b", "c"} == pods(node, in_range, talk.TCP, address, port, {"a", "b", "c"})
    assert is_silent(node, off_range, talk.TCP, address, port)


@families
def test_the_other_ways_in_stay_open(node, lab, family, off_range):
    ways = [(RANGED.cluster_ip(family), 80), *RANGED.ways_in(lab, family)[1:]]
    for address, port in ways:
        assert {"a", "b", "c"} == pods(node, off_range, talk.TCP, address, port, {"a", "b", "c"})


def test_ranges_of_one_family_say_nothing_of_the_other(node, off_range):
    assert is_silent(node, off_range, talk.TCP, OTHER_FAMILY.balancer(4), 80)
    assert ask(node, off_range, talk.TCP, OTHER_FAMILY.balancer(6), 80)


@families
def test_with_external_policy_local(node, lab, family, in_range, off_range):
    address = LOCAL.balancer(family)
    assert {"a", "b"} == pods(node, in_range, talk.TCP, address, 80, {"a", "b"})
    for asker in (off_range, client(lab, "a"), client(lab, "c")):
        assert is_silent(node, asker, talk.TCP, address, 80)


class Attempts:
    """Attempts of a client without pause, by some threads, each with an answer or without, until end()."""

    def __init__(self, node, asker, addresses, timeout, threads=1):
        self.counts = {address: [0, 0] for address in addresses}
        """How many were not answered, and how many were."""
        self._asker = node, asker, timeout
        self._is_ending = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(address,), daemon=True)
            for address in addresses
            for _ in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def end(self):
        """Stop, and return how many were not answered and how many were, by address."""
        self._is_ending.set()
        for thread in self._threads:
            thread.join()
        return self.counts

    def _run(self, address):
        node, asker, timeout = self._asker
        while not self._is_ending.is_set():
            self.counts[address][is_answered(node, asker, address, timeout)] += 1


def is_answered(node, asker, address, timeout=1.0):
    """Tell whether somebody answers a client."""
    try:
        ask(node, asker, talk.TCP, address, 80, timeout=timeout)
    except OSError:
        return False
    return True


def served(lab, stock, ranges):
    """A Service over one pod for clients in some ranges."""
    return stock.objects(lab, [lab.a], (talk.TCP,), loadBalancerSourceRanges=ranges)


@pytest.mark.timeout(900)
def test_ranges_that_change_open_nothing_and_interrupt_nobody(node, lab, in_range, off_range):
    """No range ever holds the one client, and all of them the other."""
    addresses = [UPDATED.balancer(4), UPDATED.balancer(6)]
    node.put(*served(lab, UPDATED, OWN), file="updated.json")
    for address in addresses:
        node.wait_for(lambda address=address: is_answered(node, in_range, address))
    shut_out = Attempts(node, off_range, addresses, timeout=0.2, threads=10)
    admitted = Attempts(node, in_range, addresses, timeout=30.0)
    for number in range(50):
        ranges = [f"198.51.100.{number}/32", f"2001:db8:1::{number:x}/128"]
        # The client's own range gets wider and narrower around it.
        ranges += OWN if number % 2 else ["192.0.2.96/27", "2001:db8::100/120"]
        node.put(*served(lab, UPDATED, ranges), file="updated.json")
        new = ranges[0].removesuffix("/32")
        node.wait_for(lambda new=new: new in node.run("ipset", "save", "IPVS-AGENT-4-ALLOWED"))
    node.wait_for(lambda: min(count for count, _ in shut_out.counts.values()) >= 500)

    assert [0, 0] == [answered for _, answered in shut_out.end().values()]
    assert [0, 0] == [lost for lost, _ in admitted.end().values()]
    assert all(answered > 50 for _, answered in admitted.counts.values())


@pytest.mark.timeout(900)
def test_a_service_that_comes_and_goes_is_never_open(node, lab, in_range, off_range):
    """A client in range holds a connection over some rounds, so that what goes lingers and comes back."""
    addresses = {family: REPLACED.balancer(family) for family in (4, 6)}
    shut_out = Attempts(node, off_range, addresses.values(), timeout=0.2, threads=10)
    held = []
    for _ in range(15):
        node.put(*served(lab, REPLACED, OWN), file="replaced.json")
        for family, address in addresses.items():
            node.wait_for(lambda address=address: is_answered(node, in_range, address))
            source = in_range.source(family)
            held.append(talk.connect(lab.client.namespace, talk.TCP, address, 80, source=source))
        node.put(file="replaced.json")
        for address in addresses.values():
            # What is gone refuses at once; a machine that stands still for a moment does not.
            node.wait_for(lambda address=address: not is_answered(node, in_range, address, timeout=10.0))
        if len(held) > 6:
            while held:
                held.pop().close()
    while held:
        held.pop().close()
    node.wait_for(lambda: min(count for count, _ in shut_out.counts.values()) >= 500)

    assert [0, 0] == [answered for _, answered in shut_out.end().values()]
