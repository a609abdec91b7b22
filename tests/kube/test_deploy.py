"""deploy/ as a real API server sees it."""

from __future__ import annotations

import pytest

from tests.kube.conftest import DEPLOY, manifests

FILES = sorted(path.name for path in DEPLOY.glob("*.yaml") if path.name != "kustomization.yaml")


def test_all_of_it_is_tried():
    kustomization = manifests("kustomization.yaml")[0]

    assert FILES == sorted(kustomization["resources"])


# rbac.yaml is accepted in earnest: the server of these tests is started with it (conftest.py).
@pytest.mark.parametrize("name", [name for name in FILES if name != "rbac.yaml"])
def test_it_is_accepted_in_a_dry_run(server, name):
    with server.client() as client:
        accepted = [client.create(thing, dry_run=True)["metadata"]["name"] for thing in manifests(name)]

    assert [thing["metadata"]["name"] for thing in manifests(name)] == accepted
