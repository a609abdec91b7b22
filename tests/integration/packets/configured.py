"""Nodes with a configuration of their own, for tests of what its fields do."""

from __future__ import annotations

import contextlib

from tests.integration.packets.stock import running
from tests.lab import Node

_HEAD = """
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: ipvs
"""


@contextlib.contextmanager
def configured(lab, folder, fields, *objects):
    """Run an agent with these lines of a configuration on these objects; what it leaves is cleaned up."""
    node = Node(lab, folder)
    node.config.write_text(_HEAD + fields)
    node.put(*objects)
    with running(node):
        yield node
    assert node.leftovers() == []
