"""Clusters on a real API server."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import yaml

from benchmarks import cluster, progress
from benchmarks.sizes import Size
from tests.kube import control
from tests.kube.client import Client, Object
from tools.lab.agent import ROOT

NAMESPACE = "bench"
_AT_ONCE = 500
"""Services, each with its slices, that are handed over at once."""


class Seeded(Protocol):
    """A server that is filled past its API (tests/kube/seed.py)."""

    def seed(self, things: Sequence[Object], /) -> None:
        """Make many objects."""

    def remove_slices(self, namespace: str, /) -> None:
        """Remove all slices of a namespace."""


class Beside:
    """The server beside the machine, which is filled from there."""

    def __init__(self) -> None:
        self._control = os.environ["IPVS_AGENT_KUBE_CONTROL"]

    def seed(self, things: Sequence[Object]) -> None:
        """Make many objects."""
        control.ask(self._control, "seed", things)

    def remove_slices(self, namespace: str) -> None:
        """Remove all slices of a namespace."""
        control.ask(self._control, "remove_slices", namespace)


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
    server.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})


def grow(server: Seeded, before: Size | None, size: Size) -> None:
    """Bring a cluster to a size of as many Services at least; before: its size, None: nothing is there."""
    there = before.services if before is not None else 0
    keeps_slices = before is None or before.endpoints == size.endpoints
    if not keeps_slices:
        server.remove_slices(NAMESPACE)
    numbers = range(there if keeps_slices else 0, size.services)
    parts = [numbers[begin : begin + _AT_ONCE] for begin in range(0, len(numbers), _AT_ONCE)]
    for part in progress.over(parts, len(parts), f"creating {size}, {_AT_ONCE} Services at once"):
        services = (cluster.service(number) for number in part if number >= there)
        slices = (one for number in part for one in cluster.endpoint_slices(number, size.endpoints))
        server.seed([*services, *slices])
