"""KubeSource against a real API server, as the user whose rights deploy/rbac.yaml gives."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from urllib.parse import parse_qsl, urlsplit

import pytest

from ipvs_agent.sources import api_client
from ipvs_agent.sources.changes import Kind, Listed, Put, Removed, Trouble
from ipvs_agent.sources.kube import KubeSource
from tests.kube.server import NOBODY

PATIENCE = 120.0
LABELS = {"test": "source"}
SILENCE = 5.0
"""For the test that waits for it; else a slow server would be trouble."""


class Told:
    """A sink that remembers what there is now, and everything that was said."""

    def __init__(self):
        self.changes = []
        self.present = {kind: set() for kind in Kind}
        self.listed = set()
        self._arrived = threading.Condition()

    def __call__(self, batch):
        with self._arrived:
            for change in batch:
                self._take(change)
            self._arrived.notify_all()

    def _take(self, change):
        self.changes.append(change)
        match change:
            case Put():
                self.present[change.kind].add(str(change.name))
            case Removed():
                self.present[change.kind].discard(str(change.name))
            case Listed():
                self.listed.add(change.kind)
                self.present[change.kind] &= {str(name) for name in change.names}

    def until(self, condition, what):
        """Wait until a condition of the sink holds."""
        with self._arrived:
            if not self._arrived.wait_for(lambda: condition(self), PATIENCE):
                raise AssertionError(f"not within {PATIENCE} s: {what}; troubles: {self.troubles()}")

    def until_all_listed(self):
        self.until(lambda told: told.listed == set(Kind), "all kinds are listed")

    def until_there(self, name):
        self.until(lambda told: name in told.present[Kind.SERVICE], f"{name} is there")

    def until_gone(self, name):
        self.until(lambda told: name not in told.present[Kind.SERVICE], f"{name} is gone")

    def troubles(self):
        return [change.message for change in self.changes if isinstance(change, Trouble)]


def service(name, **spec):
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": "default", "name": name, "labels": LABELS},
        "spec": {"ports": [{"port": 80}], **spec},
    }


def endpoint_slice(name, *addresses):
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "namespace": "default",
            "name": name,
            "labels": {**LABELS, "kubernetes.io/service-name": name},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address]} for address in addresses],
        "ports": [{"port": 8080}],
    }


@pytest.fixture
def asked(monkeypatch):
    """Return the list of queries that the client sends, by path, and how the answer is encoded."""
    queries = []
    send = api_client.ApiClient._send

    def record(client, url, body):
        parts = urlsplit(url)
        answer = send(client, url, body)
        encoding = answer.headers.get("Content-Encoding", "")
        queries.append((parts.path, dict(parse_qsl(parts.query)), encoding))
        return answer

    monkeypatch.setattr(api_client.ApiClient, "_send", record)
    return queries


@contextlib.contextmanager
def running(server, folder, told, **options):
    path = folder / "kubeconfig"
    path.write_text(json.dumps(server.kubeconfig()))
    source = KubeSource(str(path), "node-a", told, **options)
    source.start()
    try:
        yield
    finally:
        source.stop()


@contextlib.contextmanager
def existing(server, *things):
    with server.client() as client:
        for thing in things:
            client.create(thing)
        try:
            yield client
        finally:
            for thing in things:
                client.delete(thing)


class TestList:
    def test_a_server_with_watch_list_is_asked_for_nothing_else(self, server, asked, tmp_path):
        told = Told()
        with existing(server, service("a")), running(server, tmp_path, told):
            told.until_all_listed()

            # The server makes its own Service a while after it is ready.
            assert {"default/a"} == told.present[Kind.SERVICE] - {"default/kubernetes"}
            assert ["true"] * 3 == [query.get("sendInitialEvents") for _, query, _ in asked]
            assert [] == told.troubles()

    def test_a_server_without_watch_list_is_asked_for_its_cache(
        self, server_without_watch_list, asked, tmp_path
    ):
        told = Told()
        server = server_without_watch_list
        with existing(server, service("a")), running(server, tmp_path, told):
            told.until_all_listed()

            # The server makes its own Service a while after it is ready.
            assert {"default/a"} == told.present[Kind.SERVICE] - {"default/kubernetes"}
            lists = [query for _, query, _ in asked if "watch" not in query]
            assert ["0"] * 3 == [query["resourceVersion"] for query in lists]
            assert [] == told.troubles()

    def test_headless_services_are_left_out_by_the_server(self, server, tmp_path):
        told = Told()
        with existing(server, service("headless", clusterIP="None"), service("a")):
            with running(server, tmp_path, told):
                told.until_all_listed()

            names = [str(change.name) for change in told.changes if isinstance(change, (Put, Removed))]
            assert "default/headless" not in names

    @pytest.mark.parametrize(("is_streamed", "encodings"), [(True, set()), (False, {"gzip"})])
    def test_hundreds_of_services_with_their_slices(self, server, asked, is_streamed, encodings, tmp_path):
        names = [f"many-{number:03}" for number in range(300)]
        with server.client() as client:
            for name in names:
                client.create(service(name))
                client.create(endpoint_slice(name, "10.1.0.1", "10.1.0.2"))
            for _ in range(5):  # a busy machine may be slow once
                told = Told()
                begin = time.monotonic()
                with running(server, tmp_path, told, is_streamed=is_streamed):
                    told.until_all_listed()
                    took = time.monotonic() - begin
                if took < 5:
                    break
            client.delete_all(service(""))
            client.delete_all({**endpoint_slice(""), "metadata": service("")["metadata"]})

        assert {f"default/{name}" for name in names} <= told.present[Kind.SERVICE]
        assert {f"default/{name}" for name in names} <= told.present[Kind.ENDPOINT_SLICE]
        assert took < 5
        lists = [one for one in asked if "watch" not in one[1] and not one[0].endswith("nodes")]
        # What is long is compressed, but for watches.
        assert encodings == {encoding for _, _, encoding in lists}


class TestWatch:
    def test_objects_appear_change_and_vanish(self, server, tmp_path):
        told = Told()
        with running(server, tmp_path, told):
            told.until_all_listed()
            with existing(server, service("a")) as client:
                told.until_there("default/a")
                client.patch(service("a"), {"spec": {"ports": [{"port": 81}]}})
                told.until(lambda told: 81 in ports(told, "default/a"), "the port is 81")
            told.until_gone("default/a")

            assert [] == told.troubles()

    def test_the_own_node_and_no_other(self, server, tmp_path):
        told = Told()
        nodes = [
            {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}} for name in ("node-a", "node-b")
        ]
        with existing(server, *nodes), running(server, tmp_path, told):
            told.until_all_listed()

            assert {"/node-a"} == told.present[Kind.NODE]

    @pytest.mark.parametrize("which", ["server", "server_without_watch_list"])
    def test_a_server_that_is_killed_and_comes_back_loses_nothing(self, request, which, tmp_path):
        server = request.getfixturevalue(which)
        told = Told()
        with running(server, tmp_path, told), existing(server, service("a"), service("b")) as client:
            told.until_there("default/b")
            server.kill()
            told.until(lambda told: any(told.troubles()), "there is trouble")
            server.start()
            with existing(server, service("c")):
                told.until_there("default/c")
                client.patch(service("a"), {"spec": {"ports": [{"port": 81}]}})
                told.until(lambda told: 81 in ports(told, "default/a"), "the port is 81")

                assert {"default/a", "default/b", "default/c"} <= told.present[Kind.SERVICE]
                assert [] == [change for change in told.changes if isinstance(change, Removed)]
                told.until(lambda told: not told.troubles()[-1], "the trouble is over")

    def test_a_server_that_says_nothing_is_trouble_until_it_speaks_again(self, server, tmp_path):
        told = Told()
        with running(server, tmp_path, told, silence=SILENCE):
            told.until_all_listed()
            server.pause()
            try:
                told.until(lambda told: any(told.troubles()), "there is trouble")
            finally:
                server.resume()
            with existing(server, service("a")):
                told.until_there("default/a")


class TestAccess:
    def test_rights_that_are_missing_are_named(self, server, tmp_path):
        told = Told()
        path = tmp_path / "kubeconfig"
        path.write_text(json.dumps(server.kubeconfig(NOBODY)))
        source = KubeSource(str(path), "node-a", told)
        source.start()
        try:
            told.until(lambda told: len(set(told.troubles())) == len(Kind), "each kind has trouble")
        finally:
            source.stop()

        needs = {message.partition("RBAC must allow: ")[2] for message in told.troubles()}
        assert {"watch services", "watch endpointslices.discovery.k8s.io", "watch nodes"} == needs

    def test_a_certificate_that_is_not_trusted_is_named(self, server, server_without_watch_list, tmp_path):
        told = Told()
        config = server.kubeconfig()
        other = server_without_watch_list.kubeconfig()
        config["clusters"][0]["cluster"]["certificate-authority"] = other["clusters"][0]["cluster"][
            "certificate-authority"
        ]
        path = tmp_path / "kubeconfig"
        path.write_text(json.dumps(config))
        source = KubeSource(str(path), "node-a", told)
        source.start()
        try:
            told.until(lambda told: any(told.troubles()), "there is trouble")
        finally:
            source.stop()

        assert told.troubles()[0].startswith("TLS: [SSL: CERTIFICATE_VERIFY_FAILED]")


def ports(told, name):
    """Return the ports of a Service as last told."""
    puts = [change for change in told.changes if isinstance(change, Put) and change.kind is Kind.SERVICE]
    last = [change.object for change in puts if str(change.name) == name][-1]
    return {port.port for port in last.ports}
