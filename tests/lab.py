"""The lab in tests: its pods answer on port 8080 of every protocol, and an agent runs on its node."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time

import pytest

from tests import objects
from tools.lab import talk
from tools.lab.agent import Agent
from tools.lab.network import CLUSTER_CIDRS, Lab

PATIENCE = 120.0
"""Seconds that a wait may take: a busy machine may stand still for a while."""

CONFIG = f"""
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: ipvs
clusterCIDR: {",".join(CLUSTER_CIDRS)}
ipvs: {{syncPeriod: 1s}}
"""


@contextlib.contextmanager
def a_lab():
    """A lab whose pods answer."""
    with Lab() as lab:
        for pod in lab.pods:
            for protocol in (talk.TCP, talk.UDP, talk.SCTP):
                lab.serve(pod, protocol, 8080)
        yield lab


@pytest.fixture(scope="module")
def lab():
    with a_lab() as lab:
        yield lab


class Node:
    """The lab's node with what the agent there is given, and tools to look at its kernel."""

    def __init__(self, lab, folder, *arguments):
        self.lab = lab
        self.manifests = folder / "manifests"
        self.manifests.mkdir()
        self.log = folder / "log"
        self.config = folder / "config.yaml"
        self.config.write_text(CONFIG)
        self.agent = self.another_agent(*arguments)

    def another_agent(self, *arguments):
        """An agent for this node, told more by arguments."""
        return Agent(self.lab.node.namespace, self.manifests, self.config, log=self.log, arguments=arguments)

    def put(self, *objects_, file="objects.json"):
        """Have the manifests say just these objects."""
        objects.write(self.manifests / file, objects_)

    def run(self, *command):
        """Run a command on the node and return what it prints."""
        command = ("ip", "netns", "exec", self.lab.node.namespace, *command)
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout

    def virtual_servers(self):
        """The node's virtual servers and real servers, as ipvsadm lists them."""
        lines = self.run("ipvsadm", "-Sn").splitlines()
        return sorted(line.strip() for line in lines)

    def ask(self, client, protocol, address, port, **options):
        """Ask from a host of the lab."""
        return talk.ask(client.namespace, protocol, address, port, **options)

    def wait_for(self, condition):
        """Wait until a condition holds; one that raises OSError does not."""

        def attempt():
            assert condition()

        self.agent.wait_for(attempt, PATIENCE)

    def wait_for_answer(self, client, protocol, address, port):
        """Wait until somebody answers, and return the answer."""
        # Between the times at which TCP asks again, which are 1 and 3 seconds: what is sent to somebody who
        # begins to listen just then is not given up, and leaves no half of a connection behind.
        return self.agent.wait_for(lambda: self.ask(client, protocol, address, port, timeout=2.0), PATIENCE)

    def pods(self, names, client, address, port=80):
        """Ask eight times, and on until all of these pods have answered; return all that did.

        Where another client asks at the same time, our turns of round robin may all come to one pod.
        """
        deadline = time.monotonic() + PATIENCE
        seen = {self.ask(client, talk.TCP, address, port).name for _ in range(8)}
        while not seen >= names and time.monotonic() < deadline:
            seen.add(self.ask(client, talk.TCP, address, port).name)
        return seen

    def vip_addresses(self):
        """The addresses of the dummy interface, but for the one that keeps the routes."""
        (link,) = json.loads(self.run("ip", "-j", "addr", "show", "dev", "kube-ipvs0"))
        return {one["local"] for one in link["addr_info"]} - {"127.0.0.81"}

    def vip_routes(self):
        """What the agent's local routes lead to."""
        return set(self.vip_sources())

    def vip_sources(self):
        """What the agent's local routes lead to, with the source that each prefers."""
        shown = [
            self.run("ip", "-j", family, "route", "show", "table", "local", "proto", "81")
            for family in ("-4", "-6")
        ]
        return {route["dst"]: route.get("prefsrc") for text in shown for route in json.loads(text)}

    def leftovers(self):
        """What is left of the agent's objects."""
        found = [
            line for line in self.run("ipset", "list", "-n").splitlines() if line.startswith("IPVS-AGENT-")
        ]
        found += self.vip_routes()
        for tool in ("iptables-save", "ip6tables-save"):
            found += [line for line in self.run(tool).splitlines() if "IPVS-AGENT-" in line]
        return found


@pytest.fixture
def in_background():
    """Have something of tools/lab/asking.py work until the test ends, however that is."""
    with contextlib.ExitStack() as stack:
        yield stack.enter_context


@pytest.fixture
def node(lab, tmp_path):
    """A node without a running agent; what an agent leaves there is cleaned up."""
    node = Node(lab, tmp_path)
    yield node
    if node.log.exists():
        print(node.log.read_text())  # pytest shows it where the test failed
    if node.agent.is_running:
        node.agent.end()
    node.agent.command("cleanup")
    assert node.leftovers() == []


@pytest.fixture
def agent_log(node):
    """What the agent has logged so far."""
    return lambda: node.log.read_text() if node.log.exists() else ""
