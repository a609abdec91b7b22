"""Real servers that are put in order under their connections: none of them is lost."""

from __future__ import annotations

import itertools
import threading

import pytest

from tests import objects
from tests.integration.packets import several_ports
from tests.integration.packets.several_ports import PORTS
from tools.lab import talk

VIPS = {4: "10.96.0.80", 6: "fd00:10:96::80"}
CONNECTIONS = 50
LOST = 60.0
"""Seconds without an answer after which a connection is lost: a busy machine may stand still for a while."""


@pytest.fixture(scope="module")
def pods(lab):
    """The lab's pods, which answer on several ports."""
    several_ports.answer(lab)
    return lab.pods


def put(node, pods, ports, scheduler, flags):
    """Have the node serve these ports of the pods, in both families."""
    web = objects.service("web", tuple(VIPS.values()))
    web["metadata"]["annotations"] = {
        "ipvs-agent.io/scheduler": scheduler,
        "ipvs-agent.io/scheduler-flags": flags,
    }
    slices = [
        objects.endpoint_slice("web", addresses, ((80, "TCP", number),), suffix=f"{number}-{family}")
        for number in ports
        for family, addresses in ((4, [pod.ipv4 for pod in pods]), (6, [pod.ipv6 for pod in pods]))
    ]
    node.put(web, *slices)


def listed(node, family):
    """The real servers without draining ones, in the kernel's order: the last added first."""
    vip = f"[{VIPS[6]}]:80" if family == 6 else f"{VIPS[4]}:80"
    lines = node.run("ipvsadm", "-Ln", "--nosort", "-t", vip).splitlines()
    words = [line.split() for line in lines if line.startswith("  -> ") and "Forward" not in line]
    return [word[1] for word in words if word[3] != "0"]


def canonical(pods, ports, family):
    """The same as it should be: the highest address first."""
    every = [
        f"[{pod.ipv6}]:{number}" if family == 6 else f"{pod.ipv4}:{number}"
        for pod, number in itertools.product(pods, ports)
    ]
    return every[::-1]


class Flowing:
    """Connections over which somebody asks without pause; a context manager, which ends it."""

    def __init__(self, client):
        self.connections = [
            (connection, talk.ask_on(connection).name)
            for vip in VIPS.values()
            for connection in [
                talk.connect(client.namespace, talk.TCP, vip, 80, timeout=LOST) for _ in range(CONNECTIONS)
            ]
        ]
        self.servers = {name for _, name in self.connections}
        self.failures = []
        self.rounds = 0
        self._is_ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def _run(self):
        while True:
            for number, (connection, name) in enumerate(self.connections):
                if self._is_ending.is_set():
                    return
                try:
                    answered = talk.ask_on(connection).name
                except OSError as error:
                    answered = repr(error)
                if answered != name:
                    self.failures.append(f"connection {number} to {name}: {answered}")
            self.rounds += 1

    def __exit__(self, *exception):
        self._is_ending.set()
        self._thread.join()
        for connection, _ in self.connections:
            connection.close()


@pytest.mark.long
@pytest.mark.parametrize("scheduler", ["sh", pytest.param("mh", marks=pytest.mark.sample)])
def test_connections_with_data_flowing_outlive_a_new_order(node, lab, pods, agent_log, scheduler):
    flags = f"{scheduler}-port,{scheduler}-fallback"
    put(node, pods, PORTS[1:3], scheduler, flags)
    node.agent.start()
    for vip in VIPS.values():
        node.wait_for_answer(lab.client, talk.TCP, vip, 80)
    with Flowing(lab.client) as flowing:
        assert len(flowing.servers) > 3

        # Those that come stand before the others, those that go drain, and return.
        for ports in (PORTS[:3], (PORTS[0], PORTS[2], PORTS[3]), PORTS[2:], PORTS):
            put(node, pods, ports, scheduler, flags)
            for family in VIPS:
                node.wait_for(
                    lambda family=family, ports=ports: listed(node, family) == canonical(pods, ports, family)
                )
            rounds = flowing.rounds
            node.wait_for(lambda rounds=rounds: flowing.failures or flowing.rounds > rounds + 2)
            assert [] == flowing.failures
        node.wait_for(lambda: node.run("cat", "/proc/sys/net/ipv4/vs/expire_nodest_conn") == "1\n")

    assert [] == flowing.failures
    assert agent_log().count("put in the scheduler's order") >= 2
    assert " failed=0 " in agent_log()


@pytest.mark.long
def test_a_single_sync_leaves_them_in_order(node, pods):
    for ports in (PORTS[1:3], PORTS[:3]):
        put(node, pods, ports, "mh", "mh-fallback")
        assert 0 == node.agent.run_once().returncode

        assert [canonical(pods, ports, family) for family in VIPS] == [
            listed(node, family) for family in VIPS
        ]
    assert "1\n" == node.run("cat", "/proc/sys/net/ipv4/vs/expire_nodest_conn")
