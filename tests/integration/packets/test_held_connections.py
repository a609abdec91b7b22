"""Connections are held under each scheduler while pods and schedulers change and the agent is killed."""

from __future__ import annotations

import contextlib
import signal
import time
from collections import Counter

import pytest

from ipvs_agent.schedulers import SCHEDULERS
from tests.integration.packets import crowd
from tests.integration.packets.crowd import SCHEDULER, WEIGHTS, Crowd
from tests.integration.packets.stock import Stock, families, running
from tests.lab import Node
from tools.lab import talk

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

FAMILIES = (4, 6)
HELD = range(1, 26)
"""In each family, the addresses from which a connection is held; 50 for each scheduler."""
PASSING = range(101, 109)
"""Those that ask in between."""
NAMES = [name for name in SCHEDULERS if name != "twos"]  # neither kernel has it
STOCK = {name: Stock(number) for number, name in enumerate(NAMES, start=1)}
PLACES = [(name, family) for name in NAMES for family in FAMILIES]
DRAINING = [place for place in PLACES if place[0] != "dh"]


ROOM = "other=40"
"""Weights that leave room for all of them at one pod, under ovf, too, and for all pods in the table of sh."""
WHERE = {"a": {"nodeName": "node-a"}}


class Holding:
    """The crowds that hold, one for each place, and what the node is to serve them."""

    def __init__(self, node):
        self.node = node
        self.pods = node.lab.pods
        self.crowds = {(name, family): Crowd(node.lab, STOCK[name], family) for name, family in PLACES}

    def serve(self, without=None, asked=NAMES, more=None, **spec):
        """Have each Service ask for a scheduler, over all pods; without: the one left out at a place."""
        gone = without or {}
        self.node.put(
            *(
                crowd.service(stock, {SCHEDULER: name, WEIGHTS: ROOM, **(more or {})}, **spec)
                for stock, name in zip(STOCK.values(), asked, strict=True)
            ),
            *(
                crowd.endpoints(
                    STOCK[place[0]],
                    place[1],
                    [pod for pod in self.pods if pod.name != gone.get(place)],
                    WHERE,
                )
                for place in PLACES
            ),
        )

    def busiest(self, places):
        """The pod that holds the most connections, by place."""
        return {
            place: Counter(one.pod for one in self.crowds[place].open).most_common(1)[0][0]
            for place in places
        }

    def lost(self):
        """How many connections of each place do not live any more; places without loss are left out."""
        dead = {place: sum(not one.lives() for one in held.open) for place, held in self.crowds.items()}
        return {place: count for place, count in dead.items() if count}

    def weights(self, pods):
        """The weights of some pods, by place; None for one that is not there."""
        found = crowd.weights(self.node)
        return {
            (name, family): found.get(STOCK[name].cluster_ip(family), {}).get(pod)
            for (name, family), pod in pods.items()
        }

    def are_drained(self, pods):
        """Tell whether these pods take no new connections, by place, and are there for those they have."""
        return set(self.weights(pods).values()) == {0}

    def take(self, pods):
        """Tell whether these pods take new connections, by place."""
        return all(self.weights(pods).values())

    def reached(self, places):
        """Who answers new clients, by place."""
        return {place: set(self.crowds[place].pass_by(PASSING).values()) for place in places}

    def schedulers(self):
        """The schedulers that the kernel uses now, in the order of NAMES; None where families differ."""
        words = [line.split() for line in self.node.virtual_servers() if line.startswith("-A")]
        found = {line[2].rpartition(":")[0].strip("[]"): line[4] for line in words}
        both = [[found[STOCK[name].cluster_ip(family)] for family in FAMILIES] for name in NAMES]
        return [ipv4 if ipv4 == ipv6 else None for ipv4, ipv6 in both]

    def kill(self):
        """Kill the agent."""
        self.node.agent.end(signal.SIGKILL)

    def start(self):
        """Start it again, and wait until it has put everything right."""
        before = self._said()
        self.node.agent.start()
        self.node.wait_for(lambda: self._said() > before)

    def _said(self):
        return self.node.log.read_text().count(" serving ")


@pytest.fixture(scope="module")
def holding(lab, tmp_path_factory):
    """A node with a Service for each scheduler, and 50 connections held to each."""
    crowd.give_addresses(lab)
    crowd.allow_many_sockets()
    node = Node(lab, tmp_path_factory.mktemp("node"))
    holding = Holding(node)
    holding.serve()
    with running(node), contextlib.ExitStack() as stack:
        node.wait_for(lambda: " serving " in node.log.read_text())
        for (name, family), clients in holding.crowds.items():
            node.wait_for_answer(lab.client, talk.TCP, STOCK[name].cluster_ip(family), 80)
            stack.enter_context(clients).come_from(HELD)
        yield holding


def test_a_drained_pod_keeps_them_and_gets_no_new_ones(holding):
    busiest = holding.busiest(DRAINING)
    holding.serve(without=busiest)
    holding.node.wait_for(lambda: holding.are_drained(busiest))

    assert not [place for place, pods in holding.reached(DRAINING).items() if busiest[place] in pods]
    assert {} == holding.lost()
    holding.serve()
    holding.node.wait_for(lambda: holding.take(busiest))
    assert {} == holding.lost()


def test_a_kill_does_not_wake_what_drains(holding):
    """What left or returned while no agent was there is put right by the next one."""
    busiest = holding.busiest(DRAINING)
    holding.serve(without=busiest)
    holding.node.wait_for(lambda: holding.are_drained(busiest))
    holding.kill()
    assert {} == holding.lost()
    holding.start()

    assert holding.are_drained(busiest)
    assert not [place for place, pods in holding.reached(DRAINING).items() if busiest[place] in pods]
    assert {} == holding.lost()
    holding.kill()
    holding.serve()
    holding.start()
    assert holding.take(busiest)
    assert {} == holding.lost()


@pytest.mark.parametrize("step", [1, 5])
def test_a_new_scheduler_keeps_them(holding, step):
    """Each Service takes the scheduler of another; a pod that drains gets no new connection there either.

    Under dh nothing drains, until the Service has left it, too.
    """
    asked = [*NAMES[step:], *NAMES[:step]]
    now = dict(zip(NAMES, asked, strict=True))
    draining = [(name, family) for name, family in PLACES if "dh" not in (name, now[name])]
    busiest = holding.busiest(draining)
    holding.serve(without=busiest, asked=asked)
    holding.node.wait_for(lambda: holding.are_drained(busiest))
    holding.node.wait_for(lambda: holding.schedulers() == asked)

    assert not [place for place, pods in holding.reached(draining).items() if busiest[place] in pods]
    assert {} == holding.lost()
    holding.serve()
    holding.node.wait_for(lambda: holding.take(busiest))
    holding.node.wait_for(lambda: holding.schedulers() == NAMES)
    assert {} == holding.lost()


@pytest.mark.parametrize(
    ("annotations", "spec"),
    [
        pytest.param({"ipvs-agent.io/scheduler-flags": "flag-1,flag-2"}, {}, id="flags"),
        pytest.param({"ipvs-agent.io/scheduler-flags": "none"}, {}, id="no flags"),
        pytest.param({WEIGHTS: "local=90,other=20"}, {}, id="weights"),
        pytest.param({WEIGHTS: "local=0,other=20"}, {}, id="weight 0"),
        pytest.param({}, {"sessionAffinity": "ClientIP"}, id="affinity"),
    ],
)
def test_a_setting_on_and_off_keeps_them(holding, annotations, spec):
    before = holding.node.virtual_servers()
    holding.serve(more=annotations, **spec)
    holding.node.wait_for(lambda: holding.node.virtual_servers() != before)
    assert {} == holding.lost()
    holding.serve()
    holding.node.wait_for(lambda: holding.node.virtual_servers() == before)
    assert {} == holding.lost()


def test_what_drains_outlives_what_is_asked_for_and_would_cut_it(holding):
    """Flags without the fallback, and dh in the place of rr."""
    busiest = holding.busiest([place for place in PLACES if place[0] in ("rr", "sh", "mh")])
    holding.serve(without=busiest)
    holding.node.wait_for(lambda: holding.are_drained(busiest))
    asked = ["dh" if name == "rr" else name for name in NAMES]
    holding.serve(without=busiest, asked=asked, more={"ipvs-agent.io/scheduler-flags": "none"})
    time.sleep(5)

    assert holding.are_drained(busiest)
    assert {} == holding.lost()
    holding.serve()
    holding.node.wait_for(lambda: holding.take(busiest))
    assert {} == holding.lost()


@families
def test_under_dh_a_pod_goes_at_once(holding, lab, family):
    """There is no fallback, so that as long as it drained all clients would be refused."""
    stock, by_destination = Stock(len(STOCK) + 1), {SCHEDULER: "dh"}
    node, address = holding.node, stock.cluster_ip(family)
    try:
        node.put(*crowd.asking(stock, lab.pods, by_destination), file="dh.json")
        busy = node.wait_for_answer(lab.client, talk.TCP, address, 80).name
        others = [pod for pod in lab.pods if pod.name != busy]
        with Crowd(lab, stock, family) as clients:
            assert [busy] * 5 == clients.come(5)
            node.put(*crowd.asking(stock, others, by_destination), file="dh.json")
            node.wait_for(lambda: busy not in crowd.weights(node)[address])
            (now,) = set(clients.come(5))
            assert now in {pod.name for pod in others}
    finally:
        node.put(file="dh.json")
