"""What both sides say of their node at /healthz and /livez, and when the autoscaler is about to remove it."""

from __future__ import annotations

import contextlib
import json
import time
from http.client import HTTPConnection, HTTPException

import pytest

from tools.lab import talk

PATIENCE = 120.0
PORT = 10256
NODE = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-a"}}
LEAVES = [{"key": "ToBeDeletedByClusterAutoscaler", "value": "1", "effect": "NoSchedule"}]


def get(side, path):
    """Return what a load balancer sees of a page, None while there is none."""
    with (
        talk.inside(side.lab.client.namespace),
        contextlib.closing(HTTPConnection(side.lab.node.ipv4, PORT, timeout=10)) as connection,
    ):
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
        except (OSError, HTTPException):
            return None
        kinds = answer.headers["Content-Type"], answer.headers["X-Content-Type-Options"]
        return answer.status, kinds, shape(answer.read().decode())


def shape(body):
    """Return a body without its times, its fields in their order."""
    if not body.startswith("{"):
        return body
    hide = {"lastUpdated": "TIME", "currentTime": "TIME"}
    return json.dumps(
        json.loads(body, object_hook=lambda found: {name: hide.get(name, found[name]) for name in found})
    )


@pytest.fixture(scope="module")
def both(new_sides):
    with new_sides({}) as both:
        yield both


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("taints", "status"), [([], 200), (LEAVES, 503), (None, 200)])
def test_both_sides_do_the_same(both, api, taints, status):
    api.patch(NODE, {"spec": {"taints": taints}})
    deadline = time.monotonic() + PATIENCE
    while True:
        theirs, ours = (get(side, "/healthz") for side in both)
        if theirs == ours and theirs is not None and theirs[0] == status and "IPv6" in theirs[2]:
            break
        assert time.monotonic() < deadline, (theirs, ours)
        time.sleep(0.1)

    for path in ("/livez", "/"):
        theirs, ours = (get(side, path) for side in both)
        assert theirs == ours
