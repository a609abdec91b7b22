"""/healthz and /livez of the node, and its metrics: what is said, and what it is said of."""

from __future__ import annotations

import builtins
import contextlib
import datetime
import json
import socket
from http import HTTPStatus
from http.client import HTTPConnection
from types import SimpleNamespace
from typing import ClassVar

import pytest

from ipvs_agent.addresses import Family, parse_address
from ipvs_agent.cli.outlets import RunningOutlets
from ipvs_agent.config import AgentConfig
from ipvs_agent.config.values import Listen
from ipvs_agent.model import Node, NodeHealth, ObjectName, TrafficPolicy
from ipvs_agent.reconcile.figures import Figures
from ipvs_agent.reconcile.health import Health
from ipvs_agent.reconcile.outlets import Outlets
from ipvs_agent.serve import http
from ipvs_agent.serve.events import NullRecorder
from ipvs_agent.serve.healthz import Healthz
from ipvs_agent.serve.metrics import Metrics
from ipvs_agent.sources.changes import Kind
from ipvs_agent.sources.decode import decode
from tests.unit.test_health_checks import free_ports, until

NOON = datetime.datetime(2026, 11, 27, 12, tzinfo=datetime.UTC)
BOTH = frozenset(Family)
AT_NOON, BEFORE = "2026-11-27T12:00:00Z", "2026-11-27T11:58:30Z"


def answer(respond, path):
    """Return the status, headers and body of an answer."""
    text = respond(http.parse(f"GET {path} HTTP/1.1\r\n\r\n".encode())).decode()
    head, _, body = text.partition("\r\n\r\n")
    first, *lines = head.split("\r\n")
    return int(first.split()[1]), dict(line.split(": ", 1) for line in lines), body


class TestHealthz:
    """As TestHealthzServer and TestLivezServer of kube-proxy."""

    @pytest.mark.parametrize(
        ("is_healthy", "is_eligible", "healthz", "livez"),
        [
            pytest.param(True, True, 200, 200, id="all is well"),
            pytest.param(True, False, 503, 200, id="the node is about to go"),
            pytest.param(False, True, 503, 503, id="the agent does not do its work"),
            pytest.param(False, False, 503, 503, id="neither"),
        ],
    )
    def test_the_status_of_either_page(self, is_healthy, is_eligible, healthz, livez):
        asked = []
        health = NodeHealth(is_healthy, is_eligible)
        pages = Healthz(lambda: health, lambda *request: asked.append(request), lambda: NOON)

        assert healthz == answer(pages.respond, "/healthz")[0]
        assert livez == answer(pages.respond, "/livez?verbose")[0]
        assert [("/healthz", healthz), ("/livez", livez)] == asked

    @pytest.mark.parametrize(
        ("health", "path", "expected"),
        [
            pytest.param(
                NodeHealth(is_healthy=True, age=90.0, families=BOTH),
                "/healthz",
                {
                    "lastUpdated": AT_NOON,
                    "currentTime": AT_NOON,
                    "nodeEligible": True,
                    "healthy": True,
                    "status": {
                        "IPv4": {"lastUpdated": BEFORE, "healthy": True},
                        "IPv6": {"lastUpdated": BEFORE, "healthy": True},
                    },
                },
                id="healthy",
            ),
            pytest.param(
                NodeHealth(False, False, 90.0, frozenset({Family.IPV4})),
                "/livez",
                {
                    "lastUpdated": BEFORE,
                    "currentTime": AT_NOON,
                    "healthy": False,
                    "status": {"IPv4": {"lastUpdated": BEFORE, "healthy": False}},
                },
                id="late",
            ),
        ],
    )
    def test_the_body_is_kube_proxys(self, health, path, expected):
        pages = Healthz(lambda: health, lambda *_: None, lambda: NOON)
        _, headers, body = answer(pages.respond, path)

        assert ("application/json", "nosniff") == (headers["Content-Type"], headers["X-Content-Type-Options"])
        assert expected == json.loads(body)
        assert list(expected) == list(json.loads(body))

    def test_there_is_no_other_page(self):
        asked = []
        pages = Healthz(
            lambda: NodeHealth(is_healthy=True), lambda *request: asked.append(request), lambda: NOON
        )

        assert (404, "404 page not found\n") == answer(pages.respond, "/")[::2]
        assert (404, "404 page not found\n") == answer(pages.respond, "http://healthz/livez/")[::2]
        assert not asked

    def test_a_page_may_be_asked_for_by_its_whole_address(self):
        pages = Healthz(lambda: NodeHealth(True, is_eligible=False), lambda *_: None, lambda: NOON)

        assert 200 == answer(pages.respond, "http://node:10256/livez?verbose")[0]
        assert 503 == answer(pages.respond, "HTTP://[fd00::1]/healthz")[0]


class TestWhere:
    """On which ports of the node the pages are."""

    LOCAL = (parse_address("127.0.0.1"),)

    @staticmethod
    def ask(port, path):
        def answer():
            with contextlib.closing(HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
                try:
                    connection.request("GET", path)
                    return connection.getresponse().status
                except ConnectionError:
                    return None

        return until(answer)

    def running(self, healthz, metrics):
        config = AgentConfig(healthz=Listen(healthz, self.LOCAL), metrics=Listen(metrics, self.LOCAL))
        return RunningOutlets(NullRecorder(), config).running(lambda: NodeHealth(is_healthy=True))

    def test_they_are_where_the_configuration_says(self):
        healthz, metrics = free_ports(2)
        with self.running(healthz, metrics):
            assert 200 == self.ask(healthz, "/livez")
            assert 200 == self.ask(metrics, "/proxyMode")

    def test_a_port_that_another_has_is_said(self, caplog):
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            taken = other.getsockname()[1]
            with self.running(0, taken):
                until(lambda: f"metrics is not heard port={taken}" in caplog.text)


class TestNode:
    """Which nodes are for new connections."""

    LEAVES: ClassVar = {"spec": {"taints": [{"key": "a"}, {"key": "ToBeDeletedByClusterAutoscaler"}]}}
    DELETED: ClassVar = {"metadata": {"name": "node-a", "deletionTimestamp": "2026-11-27T12:00:00Z"}}

    @pytest.mark.parametrize(
        ("more", "expected"),
        [
            pytest.param({}, False, id="a node"),
            pytest.param({"spec": {"taints": None}}, False, id="null"),
            pytest.param({"spec": {"taints": [{"key": "other"}, {}]}}, False, id="other taints"),
            pytest.param(LEAVES, True, id="the autoscaler will remove it"),
            pytest.param(DELETED, True, id="somebody has deleted it"),
        ],
    )
    def test_which_leave(self, more, expected):
        document = {"metadata": {"name": "node-a"}, **more}

        assert expected is decode(Kind.NODE, json.dumps(document).encode()).object.is_leaving

    def test_one_that_leaves_or_has_gone_is_not_eligible(self):
        health = Health(Outlets().health, 30.0, lambda: 0.0)
        told = [health.now().is_eligible]
        for node in (None, Node("a"), Node("a", is_leaving=True), Node("a"), None):
            health.note_node(node)
            told.append(health.now().is_eligible)

        # First nobody knows; then there is none, as among most manifests.
        assert [False, True, True, False, True, False] == told

    def test_when_the_kernel_was_last_as_it_should_be(self):
        now = SimpleNamespace(time=1000.0)
        health = Health(Outlets().health, 30.0, lambda: now.time)
        health.note(is_behind=False)
        now.time += 10
        health.note(is_behind=True)
        now.time += 59
        health.note(is_behind=True)
        assert (True, 69.0) == (health.now().is_healthy, health.now().age)
        now.time += 1

        assert (False, 70.0) == (health.now().is_healthy, health.now().age)


class TestFigures:
    WEB, SHOP = ObjectName("default", "web"), ObjectName("default", "shop")
    INTERNAL_4, EXTERNAL_4 = ((policy, Family.IPV4) for policy in TrafficPolicy)

    def test_services_are_counted_once_by_policy_and_family(self):
        told = {}
        figures = Figures(SimpleNamespace(count_not_local=lambda *one: told.update({one[:2]: one[2]})))
        figures.note(self.WEB, frozenset({self.INTERNAL_4, self.EXTERNAL_4}))
        figures.note(self.SHOP, frozenset({self.EXTERNAL_4}))
        figures.note(self.SHOP, frozenset({self.EXTERNAL_4}))
        assert {self.INTERNAL_4: 1, self.EXTERNAL_4: 2} == told
        told.clear()
        figures.note(self.WEB, frozenset({self.INTERNAL_4}))
        assert {self.EXTERNAL_4: 1} == told
        figures.note(self.WEB, frozenset())
        figures.note(self.SHOP, frozenset())

        assert {self.INTERNAL_4: 0, self.EXTERNAL_4: 0} == told


class TestMetrics:
    @pytest.fixture
    def metrics(self):
        return Metrics()

    @pytest.mark.parametrize("error", [ImportError("no module"), OSError(24, "Too many open files")])
    def test_without_its_library_nothing_else_is_disturbed(self, metrics, monkeypatch, error):
        def refuse(name, *arguments):
            if name == "prometheus_client":
                raise error
            return import_(name, *arguments)

        import_ = builtins.__import__
        monkeypatch.setattr(builtins, "__import__", refuse)

        assert (500, f"prometheus-client: {error}\n") == answer(metrics.respond, "/metrics")[::2]
        assert 200 == answer(metrics.respond, "/healthz")[0]

    def test_what_is_counted_is_shown(self, metrics):
        metrics.count_not_local(TrafficPolicy.EXTERNAL, Family.IPV6, 3)
        for status in (200, 503, 200):
            metrics.count_asked("/healthz", HTTPStatus(status))
        status, headers, body = answer(metrics.respond, "/metrics")

        assert (200, "text/plain; ") == (status, headers["Content-Type"][:12])
        lines = body.splitlines()
        gauge = "kubeproxy_sync_proxy_rules_no_local_endpoints_total"
        assert f'{gauge}{{ip_family="IPv6",traffic_policy="external"}} 3.0' in lines
        assert f'{gauge}{{ip_family="IPv4",traffic_policy="internal"}} 0.0' in lines
        assert 'kubeproxy_proxy_healthz_total{code="200"} 2.0' in lines
        assert 'kubeproxy_proxy_healthz_total{code="503"} 1.0' in lines
        assert not [line for line in lines if line.startswith("kubeproxy_proxy_livez_total{")]
        assert any(line.startswith("process_resident_memory_bytes ") for line in lines)

    def test_a_second_look_sees_what_has_changed(self, metrics):
        answer(metrics.respond, "/metrics")
        metrics.count_asked("/livez", HTTPStatus.OK)

        assert 'kubeproxy_proxy_livez_total{code="200"} 1.0' in answer(metrics.respond, "/metrics")[2]

    @pytest.mark.parametrize(
        ("path", "status", "body"),
        [("/healthz", 200, "ok"), ("/proxyMode", 200, "ipvs"), ("/debug", 404, "404 page not found\n")],
    )
    def test_the_other_pages(self, metrics, path, status, body):
        assert (status, body) == answer(metrics.respond, path)[::2]
