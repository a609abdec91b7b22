"""VIPs as local routes: who is answered, and who is refused."""

from __future__ import annotations

import pytest

from tests.integration.packets import test_services as services
from tests.integration.packets.stock import (
    GATEWAYS,
    Client,
    Stock,
    client,
    families,
    is_refused,
    is_silent,
    node_object,
    pods,
    running,
    sources,
)
from tests.lab import Node
from tools.lab import talk

pytestmark = pytest.mark.long

LOCAL, LOCAL_ELSEWHERE, CLIENT_ONLY, NODE_IN = map(Stock, range(1, 5))
CLIENT_RANGE = ["192.0.2.100/32", "2001:db8::100/128"]
NODE_RANGE = ["192.0.2.1/32", "2001:db8::1/128"]


@pytest.fixture(scope="module")
def stock_node(lab, tmp_path_factory):
    """A node whose agent makes VIPs routes."""
    node = Node(lab, tmp_path_factory.mktemp("node"), "--vip-mode", "routes")
    local = {"externalTrafficPolicy": "Local"}
    node.put(
        node_object(lab),
        *services.web(lab),
        *LOCAL.objects(lab, lab.pods, **local),
        *LOCAL_ELSEWHERE.objects(lab, [lab.c], **local),
        *CLIENT_ONLY.objects(lab, lab.pods, (talk.TCP,), loadBalancerSourceRanges=CLIENT_RANGE),
        *NODE_IN.objects(lab, lab.pods, (talk.TCP,), loadBalancerSourceRanges=NODE_RANGE),
    )
    with running(node):
        for family in (4, 6):
            node.wait_for_answer(lab.client, talk.TCP, NODE_IN.cluster_ip(family), 80)
            node.wait_for_answer(lab.client, talk.TCP, services.VIPS[family], 80)
        yield node


@pytest.fixture(scope="module")
def routes(stock_node):
    """All of its routes, once they are there."""
    return stock_node.vip_routes()


class TestReachability(services.TestReachability):
    """All that a cluster IP and a NodePort do as an address."""

    @pytest.fixture
    def node(self, stock_node):
        return stock_node


class TestRouteMode:
    @pytest.fixture
    def node(self, stock_node, routes):
        stock_node.wait_for(lambda: routes == stock_node.vip_routes())
        return stock_node

    def test_there_are_no_addresses(self, node):
        assert set() == node.vip_addresses()
        assert {*services.VIPS.values(), LOCAL.balancer(4), LOCAL.balancer(6)} < node.vip_routes()

    @families
    @pytest.mark.parametrize("protocol", [talk.TCP, talk.UDP])
    @pytest.mark.parametrize("who", ["node", "a", "client"])
    def test_other_ports_are_refused(self, node, lab, family, protocol, who):
        assert is_refused(node, client(lab, who), protocol, services.VIPS[family], 81)

    @families
    def test_external_policy_local(self, node, lab, family):
        """Clients outside are seen as who they are; those inside reach every endpoint."""
        outside, address = client(lab, "client"), LOCAL.balancer(family)
        own = outside.address(family)
        lan = lab.node.ipv4 if family == 4 else lab.node.ipv6
        inside = {"a": GATEWAYS[family], "b": GATEWAYS[family], "c": lan}

        assert {"a": own, "b": own} == sources(node, outside, talk.TCP, address, 80, {"a", "b"})
        for who in ("a", "node"):
            assert inside == sources(node, client(lab, who), talk.TCP, address, 80, set(inside))

    @families
    def test_external_policy_local_without_an_endpoint_here(self, node, lab, family):
        address = LOCAL_ELSEWHERE.balancer(family)

        assert is_silent(node, client(lab, "client"), talk.TCP, address, 80)
        for who in ("a", "b", "node"):
            assert {"c"} == pods(node, client(lab, who), talk.TCP, address, 80, {"c"}, at_least=2)

    @families
    def test_the_node_is_in_a_range_by_any_of_its_addresses(self, node, lab, family):
        """It need not be the one that the range names, and may be another one tomorrow."""
        address = NODE_IN.balancer(family)
        bridge = Client(lab.node._replace(ipv4=GATEWAYS[4], ipv6=GATEWAYS[6]), is_bound=True)

        for asker in (client(lab, "node"), bridge):
            assert {"a", "b", "c"} == pods(node, asker, talk.TCP, address, 80, {"a", "b", "c"})
        assert is_silent(node, client(lab, "client"), talk.TCP, address, 80)

    @families
    def test_the_node_off_range_is_not_answered(self, node, lab, family):
        with pytest.raises((TimeoutError, PermissionError)):
            node.ask(lab.node, talk.TCP, CLIENT_ONLY.balancer(family), 80, timeout=1.0)

    @families
    def test_a_client_in_range_is_answered(self, node, lab, family):
        address = CLIENT_ONLY.balancer(family)
        assert {"a", "b", "c"} == pods(node, client(lab, "client"), talk.TCP, address, 80, {"a", "b", "c"})
        assert is_silent(node, client(lab, "a"), talk.TCP, address, 80)

    def test_what_goes_with_the_link_is_made_again(self, node, lab):
        node.run("ip", "link", "set", "kube-ipvs0", "down")

        for address in services.VIPS.values():
            assert node.wait_for_answer(lab.client, talk.TCP, address, 80)

    def test_the_last_address_that_others_put_there_takes_no_route_with_it(self, node, lab):
        before = node.vip_routes()
        node.run("ip", "addr", "add", "203.0.113.9/32", "dev", "kube-ipvs0")
        node.run("ip", "addr", "del", "203.0.113.9/32", "dev", "kube-ipvs0")

        assert before == node.vip_routes()
        for address in services.VIPS.values():
            assert node.ask(lab.client, talk.TCP, address, 80)

    def test_what_is_flushed_is_made_again(self, node, lab):
        node.run("ip", "addr", "flush", "dev", "kube-ipvs0")

        for address in services.VIPS.values():
            assert node.wait_for_answer(lab.client, talk.TCP, address, 80)

    def test_addresses_of_the_node_that_come_and_go_take_no_route_with_them(self, node, lab):
        before = node.vip_routes()
        for _ in range(3):
            node.run("ip", "addr", "add", "203.0.113.9/32", "dev", "cni0")
            node.run("ip", "addr", "add", "fd00:10:96:1::9/128", "dev", "cni0", "nodad")
            for address in services.VIPS.values():
                assert node.ask(lab.node, talk.TCP, address, 80)
            node.run("ip", "addr", "del", "203.0.113.9/32", "dev", "cni0")
            node.run("ip", "addr", "del", "fd00:10:96:1::9/128", "dev", "cni0")
            assert before == node.vip_routes()
            for address in services.VIPS.values():
                assert node.ask(lab.node, talk.TCP, address, 80)
