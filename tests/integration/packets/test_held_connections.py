"""Connections are held under each scheduler while pods and schedulers change and the agent is killed."""

from __future__ import annotations

import contextlib
import signal
from collections import Counter

import pytest

from ipvs_agent.schedulers import SCHEDULERS
from tests.integration.packets import crowd
from tests.integration.packets.crowd import SCHEDULER, Crowd
from tests.integration.packets.stock import Stock, running
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
                crowd.service(stock, {SCHEDULER: name, **(more or {})}, **spec)
                for stock, name in zip(STOCK.values(), asked, strict=True)
            ),
            *(
                crowd.endpoints(
                    STOCK[place[0]], place[1], [pod for pod in self.pods if pod.name != gone.get(place)]
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
            stack.enter_context(clients).come_from(HELD if name != "ovf" else range(1, 6))
        yield holding


def test_a_drained_pod_keeps_them_and_gets_no_new_ones(holding):
    busiest = holding.busiest(DRAINING)
    holding.serve(without=busiest)
    holding.node.wait_for(lambda: set(holding.weights(busiest).values()) == {0})

    assert not [place for place, pods in holding.reached(DRAINING).items() if busiest[place] in pods]
    assert {} == holding.lost()
    holding.serve()
    holding.node.wait_for(lambda: set(holding.weights(busiest).values()) == {1})
    assert {} == holding.lost()


def test_a_kill_does_not_wake_what_drains(holding):
    """What left or returned while no agent was there is put right by the next one."""
    busiest = holding.busiest(DRAINING)
    holding.serve(without=busiest)
    holding.node.wait_for(lambda: set(holding.weights(busiest).values()) == {0})
    holding.kill()
    assert {} == holding.lost()
    holding.start()

    assert {0} == set(holding.weights(busiest).values())
    assert not [place for place, pods in holding.reached(DRAINING).items() if busiest[place] in pods]
    assert {} == holding.lost()
    holding.kill()
    holding.serve()
    holding.start()
    assert {1} == set(holding.weights(busiest).values())
    assert {} == holding.lost()


@pytest.mark.parametrize("step", [1, 5])
def test_a_new_scheduler_keeps_them(holding, step):
    """Each Service takes the scheduler of another; a pod that drains gets no new connection there either."""
    asked = [*NAMES[step:], *NAMES[:step]]
    now = dict(zip(NAMES, asked, strict=True))
    draining = [(name, family) for name, family in PLACES if now[name] not in ("dh", "ovf")]
    busiest = holding.busiest(draining)
    holding.serve(without=busiest, asked=asked)
    holding.node.wait_for(lambda: set(holding.weights(busiest).values()) == {0})
    holding.node.wait_for(lambda: holding.schedulers() == asked)

    assert not [place for place, pods in holding.reached(draining).items() if busiest[place] in pods]
    assert {} == holding.lost()
    holding.serve()
    holding.node.wait_for(lambda: set(holding.weights(busiest).values()) == {1})
    holding.node.wait_for(lambda: holding.schedulers() == NAMES)
    assert {} == holding.lost()


@pytest.mark.parametrize(
    ("annotations", "spec"),
    [
        pytest.param({"ipvs-agent.io/scheduler-flags": "flag-1,flag-2"}, {}, id="flags"),
        pytest.param({"ipvs-agent.io/scheduler-flags": "none"}, {}, id="no flags"),
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
