"""What is written past the server, beside what it makes itself."""

from __future__ import annotations

import pytest

NAMESPACE = "seeds"
SERVICES = f"/api/v1/namespaces/{NAMESPACE}/services"
SLICES = f"/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices"
ADDRESSES = "/apis/networking.k8s.io/v1/ipaddresses"
CACHED = "?resourceVersion=0"
FIRST, SECOND = "10.99.0.1", "10.99.0.2"


@pytest.fixture(scope="module")
def admin(server):
    with server.client() as client:
        client.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        yield client


def service(name, address):
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": NAMESPACE, "name": name, "uid": "not the server's"},
        "spec": {
            "clusterIP": address,
            "clusterIPs": [address],
            "ports": [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}],
        },
    }


def endpoint_slice(name, *addresses):
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "namespace": NAMESPACE,
            "name": name,
            "labels": {"kubernetes.io/service-name": name},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}} for address in addresses],
    }


@pytest.fixture
def web(admin):
    """Yield a Service and its slice, which are removed when whoever made them is done."""
    things = [service("web", SECOND), endpoint_slice("web", "10.1.0.1", "10.1.0.2")]
    yield things
    for thing in things:
        admin.delete(thing)


@pytest.fixture
def first(admin):
    """Yield what is made before them."""
    things = [service("first", FIRST), endpoint_slice("first", "10.1.0.3")]
    yield things
    for thing in things:
        admin.delete(thing)


def read(admin, path):
    """Return an object of the server's cache, without what no two objects share."""
    found = admin.get(f"{path}{CACHED}")
    for name in ("uid", "creationTimestamp", "resourceVersion"):
        assert found["metadata"].pop(name)
    for managed in found["metadata"]["managedFields"]:
        assert managed.pop("time")
    return found


def items(admin, path):
    return admin.get(f"{path}{CACHED}")["items"]


def test_it_reads_as_if_it_had_been_created(server, admin, first, web):
    paths = (f"{SERVICES}/web", f"{SLICES}/web", f"{ADDRESSES}/{SECOND}")
    for thing in web:
        admin.wait_for_revision(thing, int(admin.create(thing)["metadata"]["resourceVersion"]))
    created = [read(admin, path) for path in paths]
    for thing in web:
        admin.delete(thing)

    server.seed([*first, *web])

    assert created == [read(admin, path) for path in paths]


def test_each_object_has_a_uid_of_its_own(server, admin, first, web):
    server.seed([*first, *web])

    uids = [one["metadata"]["uid"] for path in (SERVICES, SLICES, ADDRESSES) for one in items(admin, path)]
    assert len(uids) == len(set(uids))


def test_slices_in_place_of_others_are_there_alone(server, admin):
    server.seed([endpoint_slice(name, "10.1.0.1") for name in ("a", "b", "c")])

    server.remove_slices(NAMESPACE)
    server.seed([endpoint_slice(name, "10.1.0.2") for name in ("b", "c", "d")])

    found = {one["metadata"]["name"]: one["endpoints"][0]["addresses"] for one in items(admin, SLICES)}
    assert {"b": ["10.1.0.2"], "c": ["10.1.0.2"], "d": ["10.1.0.2"]} == found
    server.remove_slices(NAMESPACE)


def test_many_are_there_at_once_and_the_server_does_not_mend_them(server, admin):
    many = [service(f"many-{number}", f"10.99.1.{number}") for number in range(1, 250)]
    server.seed(many)

    names = {one["metadata"]["name"] for one in items(admin, SERVICES)}
    assert {one["metadata"]["name"] for one in many} == names
    for thing in many:
        admin.delete(thing)
    left = [one["spec"]["parentRef"] for one in admin.get(ADDRESSES)["items"]]
    assert NAMESPACE not in {parent["namespace"] for parent in left}
    # It tells of each that it finds without its address, as it does where it hears of both at once.
    assert len(many) / 10 > len(admin.get(f"/apis/events.k8s.io/v1/namespaces/{NAMESPACE}/events")["items"])
