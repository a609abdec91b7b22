"""Two agents on two nodes, which heard of the same endpoints in other orders and with other histories."""

from __future__ import annotations

import itertools
import json
import random
import signal
from pathlib import Path

import pytest

from tests import objects
from tests.integration.packets import several_ports
from tests.lab import Node
from tools.lab import talk
from tools.lab.agent import Agent
from tools.lab.network import Lab

VIPS = ("10.96.0.80", "fd00:10:96::80")
SOURCES = {
    VIPS[0]: [f"198.18.{number // 250}.{number % 250 + 1}" for number in range(500)],
    VIPS[1]: [f"2001:db8:5::{number:x}" for number in range(1, 501)],
}
WEIGHTS = (
    "node:rack-8090=5,node:rack-8091=3,node:rack-8093=0,other=2",
    "node:rack-8092=7,other=1",
    "node:rack-8090=0,other=9",
)
"""The first ones are those that it ends with."""
ROUTES = ("198.18.0.0/16", "2001:db8:5::/64")


@pytest.fixture(scope="module")
def labs():
    """Two labs with the same addresses that know nothing of each other, with many clients and endpoints."""
    with Lab() as one, Lab() as other:
        for lab in (one, other):
            several_ports.answer(lab)
        yield one, other


@pytest.fixture
def nodes(labs, tmp_path):
    """Their nodes, each with a name of its own; what the agents leave there is cleaned up."""
    made = []
    for lab, name in zip(labs, ("node-a", "node-b"), strict=True):
        folder = tmp_path / name
        folder.mkdir()
        node = Node(lab, folder)
        node.agent = Agent(lab.node.namespace, node.manifests, node.config, node_name=name, log=node.log)
        let_clients_in(node)
        made.append(node)
    yield made
    for node in made:
        print(node.log.read_text())
        if node.agent.is_running:
            node.agent.end()
        node.agent.command("cleanup")
        assert [] == node.leftovers()


def let_clients_in(node):
    """Give the client all the addresses, and the node the way to them."""
    client = node.lab.client
    for route in ROUTES:
        node.run("ip", "route", "replace", route, "via", client.address(route))
        node.run("ip", "-n", client.namespace, "route", "replace", "local", route, "dev", "lo")
    with talk.inside(client.namespace):
        Path("/proc/sys/net/ipv6/ip_nonlocal_bind").write_text("1")  # IPv6 asks for an address, not a route


class Teller:
    """Tells a node of endpoints in orders and slices that are its own."""

    def __init__(self, node, seed):
        self.rng = random.Random(seed)
        self._node = node

    def put(self, scheduler, endpoints, weights=WEIGHTS[0]):
        """Have the node serve these endpoints, (address, port), those of each port on a node."""
        web = objects.service("web", VIPS)
        web["metadata"]["annotations"] = {
            "ipvs-agent.io/scheduler": scheduler,
            "ipvs-agent.io/weights": weights,
        }
        slices = []
        for port, is_ipv6 in itertools.product(several_ports.PORTS, (False, True)):
            alike = [
                (one, {"nodeName": f"rack-{port}"})
                for one, number in endpoints
                if number == port and (":" in one) == is_ipv6
            ]
            self.rng.shuffle(alike)
            middle = self.rng.randint(0, len(alike))
            for part in filter(None, (alike[:middle], alike[middle:])):
                suffix = str(len(slices))
                slices.append(objects.endpoint_slice("web", part, ((80, "TCP", port),), suffix=suffix))
        self.rng.shuffle(slices)
        self._node.put(web, *slices)

    def change(self, scheduler, endpoints):
        """Have the node serve some of the endpoints with some weights, and wait until it has taken note."""
        applied = self._applied()
        some = self.rng.sample(endpoints, self.rng.randint(8, 20))
        self.put(scheduler, some, self.rng.choice(WEIGHTS))
        self._node.wait_for(lambda: self._applied() > applied)

    def _applied(self):
        return self._node.log.read_text().count(" applied ") if self._node.log.exists() else 0


def virtual_servers(node):
    """What there is to compare of each virtual server, by address."""
    return {
        one["address"]: (one["scheduler"], sorted(map(_weight, one["realServers"])), one["fingerprint"])
        for one in _listed(node)
    }


def fingerprints(node):
    """The fingerprints of the virtual servers."""
    return [one["fingerprint"] for one in _listed(node)]


def weight_of(node, address, port):
    """The weight of a real server behind the IPv4 address; None where it is not there."""
    (behind,) = (one["realServers"] for one in _listed(node) if one["address"] == VIPS[0])
    weights = {(one["address"], one["port"]): _weight(one) for one in behind}
    return weights.get((address, port))


def _listed(node):
    return json.loads(node.agent.command("status", "-o", "json"))["virtualServers"]


def _weight(real_server):
    return real_server["weight"]


def choices(lab, count=500):
    """Which endpoint each of so many sources is sent to, in each family."""
    return {
        source: talk.ask(lab.client.namespace, talk.TCP, vip, 80, source=source).name
        for vip, sources in SOURCES.items()
        for source in sources[:count]
    }


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("scheduler", ["mh", "sh"])
def test_they_have_one_fingerprint_and_choose_alike(labs, nodes, scheduler):
    every = [
        (address, port)
        for pod, port in itertools.product(labs[0].pods, several_ports.PORTS)
        for address in (pod.ipv4, pod.ipv6)
    ]
    first, second = (Teller(node, seed) for seed, node in enumerate(nodes))
    first.put(scheduler, every)
    nodes[0].agent.start()

    second.put("rr", every[::2])
    nodes[1].agent.start()
    for _ in range(4):
        second.change(scheduler, every)
    nodes[1].agent.end(signal.SIGKILL)
    second.put(scheduler, second.rng.sample(every, 10))
    nodes[1].agent.start()
    second.change(scheduler, every)
    second.put(scheduler, every)

    # Under mh those of weight 0 go: the nodes on which they had another one would else have places for them.
    of_weight_0 = [0] * 3 if scheduler == "sh" else []
    settled = [(scheduler, of_weight_0 + [2] * 3 + [3] * 3 + [5] * 3)] * 2
    for node in nodes:
        node.wait_for(lambda node=node: [one[:2] for one in virtual_servers(node).values()] == settled)
    nodes[1].wait_for(lambda: virtual_servers(nodes[0]) == virtual_servers(nodes[1]))
    ours, theirs = map(choices, labs)

    assert ours == theirs
    assert [9, 9] == [len({ours[source] for source in sources}) for sources in SOURCES.values()]

    # While one drains on one of them, they have one fingerprint, and then choose alike again.
    held = talk.connect(labs[1].client.namespace, talk.TCP, VIPS[0], 80)
    leaving = talk.ask_on(held).name
    pod, _, number = leaving.rpartition("-")
    (gone,) = ((one.ipv4, int(number)) for one in labs[0].pods if one.name == pod)
    for teller in (first, second):
        teller.put(scheduler, [one for one in every if one != gone])
    nodes[0].wait_for(lambda: weight_of(nodes[0], *gone) is None)
    nodes[1].wait_for(lambda: weight_of(nodes[1], *gone) == 0)
    nodes[1].wait_for(lambda: fingerprints(nodes[0]) == fingerprints(nodes[1]))
    theirs = choices(labs[1], 50)
    assert leaving not in {theirs[source] for source in SOURCES[VIPS[0]][:50]}
    assert leaving == talk.ask_on(held).name
    held.close()
    nodes[1].wait_for(lambda: virtual_servers(nodes[0]) == virtual_servers(nodes[1]))

    assert choices(labs[0], 100) == choices(labs[1], 100)
