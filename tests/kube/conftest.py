"""An API server for the tests of this folder, which is started once."""

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
    """Return a server with the agent's ServiceAccount and its rights."""
    with ApiServer() as server:
        with server.client() as client:
            for thing in manifests("rbac.yaml"):
                client.create(thing)
        server.wait_until_allowed(AGENT, "/api/v1/services")
        yield server
