"""Events, as a real API server takes them from the agent's ServiceAccount."""

from __future__ import annotations

import json

import pytest

from ipvs_agent.serve.events import EventSubject, Recorder, event_name
from ipvs_agent.sources.api_client import ApiClient

NAMESPACE = "events"
EVENTS = f"/apis/events.k8s.io/v1/namespaces/{NAMESPACE}/events"


@pytest.fixture(scope="module")
def admin(server):
    with server.client() as client:
        client.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        yield client


@pytest.fixture
def recorder(server, tmp_path):
    """Return a function that makes a recorder for a node; what they warn of fails the test."""
    path = tmp_path / "kubeconfig"
    path.write_text(json.dumps(server.kubeconfig()))
    warnings = []

    def for_node(name):
        return Recorder(ApiClient(str(path)), name, warnings.append)

    yield for_node
    assert [] == warnings


@pytest.fixture
def service(admin):
    """Return a function that makes a Service for one test, and returns what an Event says of it."""
    made = []

    def make(name):
        document = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"namespace": NAMESPACE, "name": name},
            "spec": {"ports": [{"port": 80}]},
        }
        made.append(admin.create(document))
        return EventSubject("Service", NAMESPACE, name, made[-1]["metadata"]["uid"])

    yield make
    for document in made:
        admin.delete(document)


def events_about(admin, subject):
    """What agents said; the API server tells of Services, too, when it repairs their addresses."""
    items = [item for item in admin.get(EVENTS)["items"] if item["regarding"]["uid"] == subject.uid]
    return [item for item in items if item["reportingController"] == "ipvs-agent"]


def test_two_agents_that_say_the_same_make_one_event(admin, service, recorder):
    web = service("web")
    recorders = [recorder("node-a"), recorder("node-b")]
    for each in recorders:
        each.post(web, "AddressTaken", "192.0.2.1:80/TCP is taken", action="Serve", near=True)
        assert each.send_due() is None

    (event,) = events_about(admin, web)
    assert ("AddressTaken", "Warning", "192.0.2.1:80/TCP is taken", "ipvs-agent-node-a") == (
        event["reason"],
        event["type"],
        event["note"],
        event["reportingInstance"],
    )
    assert [0, 0] == [each.dropped for each in recorders]


def test_what_differs_makes_another(admin, service, recorder):
    shop = service("shop")
    one = recorder("node-a")
    for note in ("first", "second"):
        one.post(shop, "AddressTaken", note, action="Serve", near=True)
    one.send_due()

    assert {"first", "second"} == {event["note"] for event in events_about(admin, shop)}


def test_kubectl_finds_it_among_the_events_of_the_service(admin, service, recorder):
    """It asks for them by fields of the core API, which shows the same Events."""
    old = service("old")
    one = recorder("node-a")
    one.post(old, "AddressTaken", "a note", action="Serve", near=True)
    one.send_due()

    selector = f"involvedObject.name=old,involvedObject.kind=Service,involvedObject.uid={old.uid}"
    found = admin.get(f"/api/v1/namespaces/{NAMESPACE}/events?fieldSelector={selector}")["items"]
    (event,) = (one for one in found if one["reportingComponent"] == "ipvs-agent")
    assert ("AddressTaken", "a note") == (event["reason"], event["message"])


def test_the_longest_of_everything_is_taken(admin, service, recorder):
    long = service("w" * 63)
    one = recorder(".".join(["n" * 61] * 4))
    one.post(long, "R" * 128, "é" * 2000, action="A" * 128, near=True)
    assert one.send_due() is None

    (event,) = events_about(admin, long)
    assert event_name(long, "R" * 128, event["note"]) == event["metadata"]["name"]
    assert (0, 1023) == (one.dropped, len(event["note"].encode()))
