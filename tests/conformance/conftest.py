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
from tests.conformance.lan import ZONE, ZONE_LABEL
from tests.kube.client import Client
from tools.lab.agent import ROOT
from tools.lab.network import CLUSTER_CIDRS

FIXED_SEED = 1
FRESH_SEED = random.SystemRandom().randrange(10**6)


def pytest_addoption(parser):
    parser.addoption("--seed", type=int, help="of the random cases; a fixed and a fresh one by default")
    parser.addoption("--cases", type=int, default=100, help="how many random cases of each seed")
    parser.addoption("--case", type=int, action="append", help="only the random case of this number")


def pytest_report_header(config):
    chosen, seeds = config.getoption("case"), " and ".join(map(str, _seeds(config)))
    what = f"the first {config.getoption('cases')}" if chosen is None else ", ".join(map(str, chosen))
    return f"random cases: {what} of seed {seeds}"


def pytest_generate_tests(metafunc):
    if "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", _seeds(metafunc.config))


def _seeds(config):
    given = config.getoption("seed")
    return (FIXED_SEED, FRESH_SEED) if given is None else (given,)


def node(name, addresses, pod_cidrs, zone):
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {"kubernetes.io/hostname": name, ZONE_LABEL: zone},
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
def new_sides(api, tmp_path_factory):
    """Makes and runs both sides, with what they are configured to do beside what is usual."""

    @contextlib.contextmanager
    def make(configuration):
        usual = {"clusterCIDR": ",".join(CLUSTER_CIDRS)}
        both = sides.both(tmp_path_factory.mktemp("sides"), {**usual, **configuration})
        with both[0].running(), both[1].running():
            yield both

    return make


@pytest.fixture(scope="session")
def arena(api, new_sides):
    """Where cases run."""
    with contextlib.closing(Arena(new_sides, api, random.Random(0))) as arena:
        yield arena
