"""What load balancers hear of this node, and when its agent is not healthy."""

from __future__ import annotations

import msgspec
import pytest

from ipvs_agent.addresses import Family, parse_network
from ipvs_agent.errors import KernelError
from ipvs_agent.model import Node, ObjectName, Skipped, TrafficPolicy, VirtualServer
from ipvs_agent.operations import AddVip, AddVirtualServer
from ipvs_agent.reconcile.outlets import Outlets
from ipvs_agent.sources.changes import Kind, Rejected
from ipvs_agent.testing.builders import address, endpoint_slice, key, port, service
from ipvs_agent.testing.fake_kernel import FakeKernel
from tests.unit.benches import INSIDE, A, C, balanced, refuse, serving
from tests.unit.test_reconciler import Bench

V4, OTHER_V4 = "192.0.2.1", "203.0.113.1"
V6, OTHER_V6 = "2001:db8::1", "2001:db8:1::1"


class Board:
    """What load balancers were told."""

    def __init__(self):
        self.checks = {}
        self.said = 0
        self.addresses = ()

    def publish(self, service, check):
        self.said += 1
        self.checks[service] = check

    def listen_on(self, addresses):
        self.addresses = addresses


class TestHealth:
    WEB = ObjectName("shop", "web")

    def checked(self, *endpoints, **settings):
        board = Board()
        asked = msgspec.structs.replace(balanced(), health_check_node_port=32000)
        return board, serving(asked, *endpoints, outlets=Outlets(board), **settings)

    def test_a_service_with_a_port_for_it_is_published_and_others_are_not(self):
        board, bench = self.checked(A, C)
        bench.put(service("shop/other", port("10.96.0.81")))

        assert {self.WEB} == board.checks.keys()
        assert (32000, 1) == (board.checks[self.WEB].port, board.checks[self.WEB].local_endpoints)

    def test_only_changes_are_told(self):
        board, bench = self.checked(A, C)
        bench.put(endpoint_slice(endpoints=[A]))
        assert 1 == board.said
        bench.put(endpoint_slice(endpoints=[C]))
        assert (2, 0) == (board.said, board.checks[self.WEB].local_endpoints)
        bench.remove(msgspec.structs.replace(balanced(), health_check_node_port=32000))

        assert (3, None) == (board.said, board.checks[self.WEB])

    def test_nobody_is_told_to_send_clients_before_they_are_served(self):
        kernel, served = FakeKernel(), []
        board = Board()
        board.publish = lambda service, check: served.append(kernel.ipvs.virtual_servers())
        asked = msgspec.structs.replace(balanced(), health_check_node_port=32000)
        bench = Bench(kernel, outlets=Outlets(board), needs=INSIDE)
        bench.put(asked, endpoint_slice(endpoints=[A])).list_all()

        assert [kernel.ipvs.virtual_servers()] == served
        assert kernel.ipvs.virtual_servers()

    def test_everybody_is_told_to_send_none_before_they_are_not_served(self):
        board, bench = self.checked(A)
        heard = []
        board.publish = lambda service, check: heard.append((check and check.local_endpoints, bench.tables()))
        served = bench.tables()
        bench.put(endpoint_slice(endpoints=[C]))
        silent = bench.tables()
        assert silent != served
        bench.remove(msgspec.structs.replace(balanced(), health_check_node_port=32000))

        assert [(0, served), (None, silent)] == heard

    def test_it_is_heard_where_node_ports_are(self):
        everywhere, _ = self.checked(A)
        chosen, bench = self.checked(A, node_port_networks=(parse_network("192.0.2.0/24"),))
        bench.kernel.node_addresses.assign("eth0", ["192.0.2.1", "203.0.113.1"])
        bench.pass_time(31)

        assert everywhere.addresses is None
        assert (address("192.0.2.1"),) == chosen.addresses

    @pytest.mark.parametrize(
        ("texts", "expected"),
        [
            pytest.param(["192.0.2.0/24"], {V4, V6, OTHER_V6}, id="IPv4 alone says nothing of IPv6"),
            pytest.param(["2001:db8::/64"], {V4, OTHER_V4, V6}, id="IPv6 alone says nothing of IPv4"),
            pytest.param(["192.0.2.0/24", "2001:db8::/64"], {V4, V6}, id="both"),
            pytest.param(["10.0.0.0/8", "2001:db8::/64"], {V6}, id="none of the node's in IPv4"),
        ],
    )
    def test_a_family_of_which_no_network_is_named_is_served_everywhere(self, texts, expected):
        kernel = FakeKernel()
        kernel.node_addresses.assign("eth0", [V4, OTHER_V4, V6, OTHER_V6])
        asked = {"node_port_networks": tuple(map(parse_network, texts)), "needs": INSIDE}
        board = Board()
        bench = Bench(kernel, outlets=Outlets(board), **asked)
        bench.put(service("shop/web", port(node_port=30080), port("fd00:96::80", node_port=30080))).list_all()

        assert {address(text) for text in expected} == set(board.addresses)
        assert {f"-t [{text}]:30080" if ":" in text else f"-t {text}:30080" for text in expected} == {
            served for served in bench.tables() if served.endswith(":30080")
        }


class TestOfTheNode:
    """What is said of it at /healthz, and counted of it."""

    LEAVES = Node("node-a", is_leaving=True)

    def test_it_is_eligible_until_it_is_about_to_go(self):
        bench = serving(service(), A)
        bench.put(Node("node-a"))
        assert bench.reconciler.health().is_eligible
        bench.put(self.LEAVES, Node("node-b"))

        assert not bench.reconciler.health().is_eligible
        assert frozenset(Family) == bench.reconciler.health().families

    def test_nobody_says_so_before_the_nodes_are_listed(self):
        bench = Bench()
        assert not bench.reconciler.health().is_eligible
        bench.list_all()

        assert bench.reconciler.health().is_eligible

    @pytest.mark.parametrize("node", [Node("node-a"), LEAVES])
    def test_what_cannot_be_read_says_nothing_of_it(self, node):
        bench = serving(service(), A)
        bench.put(node)
        skipped = Skipped("Node node-a", "spec.taints", "Expected `array`")
        bench.tell(Rejected(Kind.NODE, ObjectName("", "node-a"), skipped))

        assert node.is_leaving is not bench.reconciler.health().is_eligible

    def test_services_without_local_endpoints_are_counted(self):
        told = {}

        class Metrics:
            def count_not_local(self, policy, family, count):
                told[policy, family] = count

        bench = serving(balanced(), C, outlets=Outlets(metrics=Metrics()))
        assert {(TrafficPolicy.EXTERNAL, Family.IPV4): 1} == told
        bench.remove(balanced())

        assert {(TrafficPolicy.EXTERNAL, Family.IPV4): 0} == told


class TestHealthy:
    def test_a_kernel_that_is_not_ready_for_long_makes_it_unhealthy_until_it_is(self):
        bench = serving(service(), A)
        write = bench.kernel.sysctls.write

        def refuse(name, value):
            raise KernelError("no")

        bench.kernel.sysctls.write = refuse
        bench.pass_time(85)
        assert bench.reconciler.health().is_healthy
        bench.pass_time(20)
        assert not bench.reconciler.health().is_healthy
        bench.kernel.sysctls.write = write
        bench.pass_time(31)

        assert bench.reconciler.health().is_healthy

    def test_one_service_that_fails_does_not_take_the_node_out_of_all_load_balancers(self):
        bench = serving(service(), A)
        refuse(bench.kernel.vips, lambda operation: isinstance(operation, AddVip))
        bench.put(service("shop/late", port("10.96.0.82"))).pass_time(200)
        assert "10.96.0.82" not in bench.vips()

        assert bench.reconciler.health().is_healthy

    def test_one_that_asks_for_a_virtual_server_of_others_does_not_either(self):
        bench = serving(service(), A)
        foreign = VirtualServer(key("198.51.100.9:80"), "wlc")
        assert [None] == bench.kernel.ipvs.apply([AddVirtualServer(foreign)])
        bench.put(service("shop/late", port("10.96.0.82", external_ips=["198.51.100.9"]))).pass_time(200)
        assert {} == bench.tables()["-t 198.51.100.9:80"]

        assert bench.reconciler.health().is_healthy

    def test_a_loop_that_hangs_is_unhealthy(self):
        bench = serving(service(), A)
        bench.now += 130

        assert not bench.reconciler.health().is_healthy
