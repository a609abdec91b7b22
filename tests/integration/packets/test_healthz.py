"""Whether a node's agent works, as load balancers and the kubelet ask, and what those see who watch many."""

from __future__ import annotations

import http.client
import json
import socket

import pytest

from tests.integration.packets.configured import configured
from tests.integration.packets.stock import Stock, client, families, is_refused, node_object
from tools.lab import talk

WEB = Stock(1)
HEALTHZ, METRICS = 10256, 10249
FIELDS = 'ipvs: {syncPeriod: 1s}\nhealthzBindAddress: ""\nmetricsBindAddress: ""\n'
LEAVES = [{"key": "ToBeDeletedByClusterAutoscaler", "value": "1", "effect": "NoSchedule"}]


def get(host, address, port, path):
    """Return the status and body of a page."""
    with talk.inside(host.namespace), socket.create_connection((address, port), 10) as sock:
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n".encode())
        answer = http.client.HTTPResponse(sock)
        answer.begin()
        return answer.status, answer.read().decode()


def node_address(lab, family):
    return lab.node.ipv4 if family == 4 else lab.node.ipv6


@pytest.fixture(scope="module")
def node(lab, tmp_path_factory):
    local = WEB.objects(lab, lab.pods, (talk.TCP,), externalTrafficPolicy="Local")
    with configured(lab, tmp_path_factory.mktemp("node"), FIELDS, *local) as node:
        node.put(node_object(lab), file="node.json")
        for family in (4, 6):
            node.wait_for_answer(lab.client, talk.TCP, WEB.balancer(family), 80)
        yield node


@families
class TestHealthz:
    @pytest.mark.parametrize("who", ["client", "a", "node"])
    def test_a_node_that_works_says_so(self, node, lab, family, who):
        address = node_address(lab, family)
        status, body = get(getattr(lab, who), address, HEALTHZ, "/healthz")
        said = json.loads(body)

        assert (200, True, True) == (status, said["healthy"], said["nodeEligible"])
        assert {"IPv4", "IPv6"} == said["status"].keys()
        assert said["lastUpdated"] == said["currentTime"]
        assert 200 == get(getattr(lab, who), address, HEALTHZ, "/livez")[0]
        assert 404 == get(getattr(lab, who), address, HEALTHZ, "/metrics")[0]

    def test_no_address_of_a_service_does(self, node, lab, family):
        for address in (WEB.cluster_ip(family), WEB.balancer(family)):
            assert is_refused(node, client(lab, "a"), talk.TCP, address, HEALTHZ)

    def test_a_node_that_is_about_to_go_is_not_eligible(self, node, lab, family):
        address, leaving = node_address(lab, family), node_object(lab)
        leaving["spec"]["taints"] = LEAVES
        node.put(leaving, file="node.json")
        try:
            node.wait_for(lambda: 503 == get(lab.client, address, HEALTHZ, "/healthz")[0])
            said = json.loads(get(lab.client, address, HEALTHZ, "/healthz")[1])
            assert (True, False) == (said["healthy"], said["nodeEligible"])
            assert 200 == get(lab.client, address, HEALTHZ, "/livez")[0]
            # What it has goes on being served, new connections that come nevertheless too.
            assert node.ask(lab.client, talk.TCP, WEB.balancer(family), 80).name in {"a", "b"}
        finally:
            node.put(node_object(lab), file="node.json")
        node.wait_for(lambda: 200 == get(lab.client, address, HEALTHZ, "/healthz")[0])


class TestMetrics:
    NOT_LOCAL = "kubeproxy_sync_proxy_rules_no_local_endpoints_total"

    def scrape(self, lab):
        status, body = get(lab.node, "127.0.0.1", METRICS, "/metrics")
        assert 200 == status
        samples = (line.rsplit(" ", 1) for line in body.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, value in samples}

    def not_local(self, lab):
        return {
            (family, policy): self.scrape(lab)[
                f'{self.NOT_LOCAL}{{ip_family="{family}",traffic_policy="{policy}"}}'
            ]
            for family in ("IPv4", "IPv6")
            for policy in ("internal", "external")
        }

    def test_services_without_local_endpoints_are_counted(self, node, lab):
        node.wait_for(lambda: {0} == {*self.not_local(lab).values()})  # the first one may take long
        elsewhere = WEB.objects(
            lab, [lab.c], (talk.TCP,), externalTrafficPolicy="Local", internalTrafficPolicy="Local"
        )
        node.put(*elsewhere)
        node.wait_for(lambda: {1} == {*self.not_local(lab).values()})
        node.put(*WEB.objects(lab, lab.pods, (talk.TCP,), externalTrafficPolicy="Local"))
        node.wait_for(lambda: {0} == {*self.not_local(lab).values()})

    def test_requests_for_the_nodes_health_are_counted(self, node, lab):
        name = 'kubeproxy_proxy_livez_total{code="200"}'
        get(lab.client, lab.node.ipv4, HEALTHZ, "/livez")
        before = self.scrape(lab)[name]
        get(lab.client, lab.node.ipv6, HEALTHZ, "/livez")

        assert before + 1 == self.scrape(lab)[name]

    def test_they_are_for_the_node_alone(self, node, lab):
        assert (200, "ipvs") == get(lab.node, "::1", METRICS, "/proxyMode")
        for family in (4, 6):
            assert is_refused(node, client(lab, "client"), talk.TCP, node_address(lab, family), METRICS)
