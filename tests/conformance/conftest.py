"""Both sides, with a real API server beside the machine: python -m tests.kube run -- COMMAND."""

from __future__ import annotations

import contextlib
import os
import random
from pathlib import Path

import pytest
import yaml

from tests.conformance import sides
from tests.conformance.arena import Arena
from tests.conformance.lan import ZONE
from tests.kube.client import Client
from tools.lab.agent import ROOT
from tools.lab.network import CLUSTER_CIDRS


def pytest_addoption(parser):
    parser.addoption("--seed", type=int, help="of the random cases; both of CI's by default")
    parser.addoption("--cases", type=int, default=100, help="how many random cases")


def node(name, addresses, pod_cidrs, zone):
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": zone},
        },
        "spec": {"podCIDR": pod_cidrs[0], "podCIDRs": list(pod_cidrs)},
        "status": {"addresses": [{"type": "InternalIP", "address": one} for one in addresses]},
    }


@pytest.fixture(scope="session")
def api():
    """An administrator's client of the server, on which there are the nodes and the agent's rights."""
    assert "KUBECONFIG" in os.environ, "there is no API server: run this by `make conformance`"
    sides.prepare_machine()
    config = yaml.safe_load(Path(os.environ["KUBECONFIG"]).read_text())
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    with Client(cluster["server"], user["token"], Path(cluster["certificate-authority"])) as client:
        for manifest in ("serviceaccount.yaml", "rbac.yaml"):
            for thing in yaml.safe_load_all((ROOT / "deploy" / manifest).read_text()):
                client.create(thing)
        client.create(
            node("node-a", ("192.0.2.1", "2001:db8::1"), ("10.244.1.0/24", "fd00:10:244:1::/64"), ZONE)
        )
        client.create(
            node("node-b", ("192.0.2.2", "2001:db8::2"), ("10.244.2.0/24", "fd00:10:244:2::/64"), "zone-2")
        )
        yield client


@pytest.fixture(scope="session")
def arena(api, tmp_path_factory):
    """Both sides, running."""
    folder = tmp_path_factory.mktemp("sides")
    with contextlib.ExitStack() as stack:
        both = sides.both(folder, {"clusterCIDR": ",".join(CLUSTER_CIDRS)})
        for side in both:
            stack.enter_context(side.running())
        yield Arena(both, api, random.Random(0))
