"""Health-check node ports: load balancers ask a node for its own endpoints of a Service."""

from __future__ import annotations

import contextlib
import json
from typing import NamedTuple

import pytest

from tests.integration.packets.configured import configured
from tests.integration.packets.stock import Stock, client, families, is_refused, node_object
from tools.lab import talk

pytestmark = pytest.mark.long

TWO_LOCAL, NONE_LOCAL, TERMINATING, COMES, GOES = map(Stock, range(1, 6))
FIELDS = "ipvs: {syncPeriod: 1s}\n"
TERMINATES = {"conditions": {"ready": False, "serving": True, "terminating": True}}


class Health(NamedTuple):
    """What a load balancer learns."""

    status: int
    weight: str
    body: dict[str, object]


def port(stock):
    return 32000 + stock.number


def checked(stock, lab, pods, **spec):
    """A Service with a health-check node port."""
    spec = {"externalTrafficPolicy": "Local", "healthCheckNodePort": port(stock), **spec}
    return stock.objects(lab, pods, (talk.TCP,), **spec)


def get(lab, who, address, stock):
    """Ask for the health of a Service."""
    host = client(lab, who).host
    with talk.connect(host.namespace, talk.TCP, address, port(stock)) as sock:
        sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")
        answer = b"".join(iter(lambda: sock.recv(4096), b""))
    head, _, body = answer.decode().partition("\r\n\r\n")
    first, *lines = head.split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    weight = headers["X-Load-Balancing-Endpoint-Weight"]
    return Health(int(first.split()[1]), weight, json.loads(body))


def expected(stock, count):
    """What is said of a Service with so many local endpoints."""
    service = {"namespace": "shop", "name": stock.name}
    body = {"service": service, "localEndpoints": count, "serviceProxyHealthy": True}
    return Health(200 if count else 503, str(count), body)


def addresses(lab, stock, family):
    """Where load balancers ask: at the node, and at their own address for the Service."""
    return (lab.node.ipv4 if family == 4 else lab.node.ipv6, stock.balancer(family))


def is_closed(node, lab, address, stock):
    return is_refused(node, client(lab, "client"), talk.TCP, address, port(stock))


@pytest.fixture(scope="module")
def node(lab, tmp_path_factory):
    """A node whose agent answers for Services with and without endpoints there."""
    objects = [
        node_object(lab),
        *checked(TWO_LOCAL, lab, lab.pods),
        *checked(NONE_LOCAL, lab, [lab.c]),
        *checked(TERMINATING, lab, []),
        *TERMINATING.slices(lab, [lab.a], (talk.TCP,), **TERMINATES),
    ]
    with configured(lab, tmp_path_factory.mktemp("node"), FIELDS, *objects) as node:
        for family in (4, 6):
            node.wait_for_answer(lab.client, talk.TCP, TERMINATING.balancer(family), 80)
            # One with endpoints is said last, when the kernel has all of them.
            for stock in (NONE_LOCAL, TERMINATING, TWO_LOCAL):
                for address in addresses(lab, stock, family):
                    node.wait_for(lambda address=address, stock=stock: get(lab, "client", address, stock))
        yield node


@families
class TestAnswers:
    @pytest.mark.sample
    @pytest.mark.parametrize("who", ["client", "c", "a", "node"])
    def test_with_local_endpoints(self, node, lab, family, who):
        for address in addresses(lab, TWO_LOCAL, family):
            assert expected(TWO_LOCAL, 2) == get(lab, who, address, TWO_LOCAL)

    def test_without_a_local_endpoint(self, node, lab, family):
        for address in addresses(lab, NONE_LOCAL, family):
            assert expected(NONE_LOCAL, 0) == get(lab, "client", address, NONE_LOCAL)

    def test_an_endpoint_that_terminates_serves_and_does_not_count(self, node, lab, family):
        for address in addresses(lab, TERMINATING, family):
            assert expected(TERMINATING, 0) == get(lab, "client", address, TERMINATING)
        assert "a" == node.ask(lab.client, talk.TCP, TERMINATING.balancer(family), 80).name


@families
def test_endpoints_come_and_go(node, lab, family):
    for pods, count in (([lab.c], 0), ([lab.a, lab.c], 1), (lab.pods, 2), ([], 0), ([lab.b], 1)):
        node.put(*checked(COMES, lab, pods), file="comes.json")
        for address in addresses(lab, COMES, family):
            wanted = expected(COMES, count)
            node.wait_for(lambda address=address, wanted=wanted: wanted == get(lab, "client", address, COMES))


@families
@pytest.mark.parametrize("how", ["the Service goes", "its policy is Cluster", "it is no load balancer's"])
def test_the_port_closes(node, lab, family, how):
    lan = addresses(lab, GOES, family)[0]
    node.put(*checked(GOES, lab, [lab.a]), file="goes.json")
    node.wait_for(lambda: get(lab, "client", lan, GOES))
    left = {
        "the Service goes": [],
        "its policy is Cluster": GOES.objects(lab, [lab.a], externalTrafficPolicy="Cluster"),
        "it is no load balancer's": checked(GOES, lab, [lab.a], type="NodePort"),
    }
    node.put(*left[how], file="goes.json")
    node.wait_for(lambda: is_closed(node, lab, lan, GOES))
    node.wait_for(lambda: f"\n{port(GOES)}" not in node.run("ipset", "list", "IPVS-AGENT-HEALTH"))


@pytest.fixture
def closed_input(node):
    """The node's filter takes nothing but what is established, and IPv6's neighbours."""
    rules = {
        "iptables": [["-m", "conntrack", "--ctstate", "ESTABLISHED"]],
        "ip6tables": [["-m", "conntrack", "--ctstate", "ESTABLISHED"], ["-p", "icmpv6"]],
    }
    with contextlib.ExitStack() as stack:
        for tool, matches in rules.items():
            for match in matches:
                node.run(tool, "-w", "-I", "INPUT", *match, "-j", "ACCEPT")
                stack.callback(node.run, tool, "-w", "-D", "INPUT", *match, "-j", "ACCEPT")
            node.run(tool, "-w", "-P", "INPUT", "DROP")
            stack.callback(node.run, tool, "-w", "-P", "INPUT", "ACCEPT")
        yield


@pytest.mark.sample
@families
@pytest.mark.usefixtures("closed_input")
def test_a_filter_that_drops_all_else_lets_it_pass(node, lab, family):
    for stock, count in ((TWO_LOCAL, 2), (NONE_LOCAL, 0)):
        for address in addresses(lab, stock, family):
            assert expected(stock, count) == get(lab, "client", address, stock)
    with pytest.raises(TimeoutError):  # what is nobody's port is dropped, so the policy does work
        talk.ask(lab.client.namespace, talk.TCP, addresses(lab, GOES, family)[0], 32099, timeout=1.0)
