"""Clusters on a real API server."""

from __future__ import annotations

import os
from pathlib import Path

import yaml

from benchmarks import cluster, progress
from benchmarks.sizes import Size
from tests.kube.client import Client
from tools.lab.agent import ROOT


def client() -> Client:
    """Return an administrator's client of the server beside the machine."""
    config = yaml.safe_load(Path(os.environ["KUBECONFIG"]).read_text())
    server, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    return Client(server["server"], user["token"], Path(server["certificate-authority"]))


def prepare(server: Client, node_name: str, node_address: str) -> None:
    """Create what the agent may do, a node, and the namespace of the Services."""
    for manifest in ("serviceaccount.yaml", "rbac.yaml"):
        for thing in yaml.safe_load_all((ROOT / "deploy" / manifest).read_text()):
            server.create(thing)
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": node_name}}
    server.create(node | {"status": {"addresses": [{"type": "InternalIP", "address": node_address}]}})
    server.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "bench"}})


def grow(server: Client, before: Size | None, size: Size) -> None:
    """Bring a cluster to a size of as many Services at least; before: its size, None: nothing is there."""
    there = before.services if before is not None else 0
    keeps_slices = before is None or before.endpoints == size.endpoints
    numbers = range(there if keeps_slices else 0, size.services)
    for number in progress.over(numbers, len(numbers), f"creating {size}"):
        if before is not None and number < there:
            for endpoint_slice in cluster.endpoint_slices(number, before.endpoints):
                server.delete(endpoint_slice)
        else:
            server.create(cluster.service(number))
        for endpoint_slice in cluster.endpoint_slices(number, size.endpoints):
            server.create(endpoint_slice)
