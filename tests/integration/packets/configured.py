"""Nodes with a configuration of their own, for tests of what its fields do."""

from __future__ import annotations

import contextlib

from tests.integration.packets.stock import running
from tests.lab import Node
from tools.lab.agent import Agent

_HEAD = """
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: ipvs
"""


@contextlib.contextmanager
def configured(lab, folder, fields, *objects, arguments=()):
    """Run an agent with these lines of a configuration on these objects; what it leaves is cleaned up."""
    node = Node(lab, folder)
    node.agent = Agent(lab.node.namespace, node.manifests, node.config, log=node.log, arguments=arguments)
    node.config.write_text(_HEAD + fields)
    node.put(*objects)
    with running(node):
        yield node
    assert node.leftovers() == []


def words(address, device):
    """An address as ip takes it; an IPv6 address is used at once."""
    return [f"{address}/128", "dev", device, "nodad"] if ":" in address else [f"{address}/32", "dev", device]


@contextlib.contextmanager
def has_address(node, address):
    """Give the node one more address."""
    node.run("ip", "addr", "add", *words(address, "eth0"))
    try:
        yield
    finally:
        node.run("ip", "addr", "del", *words(address, "eth0"))
