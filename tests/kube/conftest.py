"""API servers for the tests of this folder; each kind of server is started once."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.kube.server import AGENT, ApiServer

DEPLOY = Path(__file__).parents[2] / "deploy"


def manifests(name):
    """Return the objects of a file of deploy/."""
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


@pytest.fixture(scope="session")
def server():
    """Return a server that knows WatchList, with the agent's ServiceAccount and its rights."""
    with ApiServer() as server:
        _give_rights(server)
        yield server


@pytest.fixture(scope="session")
def server_without_watch_list():
    """Return a server that refuses WatchList, as on the etcd of Debian 12."""
    with ApiServer(watch_list=False) as server:
        _give_rights(server)
        yield server


def _give_rights(server):
    with server.client() as client:
        for thing in manifests("rbac.yaml"):
            client.create(thing)
    server.wait_until_allowed(AGENT, "/api/v1/services")
