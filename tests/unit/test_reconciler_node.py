"""The loop and the node around it: its Node object, its addresses, flows and sets."""

from __future__ import annotations

import msgspec
import pytest

from ipvs_agent.addresses import Family, parse_network
from ipvs_agent.desired.sets import sets_of
from ipvs_agent.errors import KernelError
from ipvs_agent.model import Node, ObjectName, Protocol
from ipvs_agent.operations import AddVirtualServer
from ipvs_agent.reconcile.foundation import Needs
from ipvs_agent.reconcile.messages import AddressesChanged
from ipvs_agent.sources.changes import Kind, Removed
from ipvs_agent.testing.builders import address, endpoint, endpoint_slice, key, port, service
from ipvs_agent.testing.fake_conntrack import FakeFlow
from ipvs_agent.testing.fake_kernel import FakeKernel
from tests.unit.benches import INSIDE, LB, A, C, balanced, members_of, restart, rules, serving
from tests.unit.test_reconciler import Bench


def a_node(*networks):
    return Node("node-a", pod_networks=tuple(parse_network(text) for text in networks))


class TestNodeObject:
    def test_by_node_cidr_nothing_is_served_until_the_node_says_where_its_pods_are(self):
        bench = serving(service(), detects_by_node=True, needs=Needs())
        bench.put(a_node())
        assert {} == bench.tables()
        bench.put(a_node("10.244.1.0/24"))

        assert {"10.244.1.11:8080": 1, "10.244.2.13:8080": 1} == bench.tables()["-t 10.96.0.80:80"]

    @pytest.mark.parametrize("network", ["10.244.1.0/24", "10.244.7.0/24"])
    def test_by_node_cidr_the_rules_follow_the_node(self, network):
        bench = serving(service(), detects_by_node=True, needs=Needs())
        bench.put(a_node("10.244.9.0/24"))
        bench.put(a_node(network))

        assert f"! -s {network} -m set --match-set IPVS-AGENT-4-CLUSTER dst,dst" in rules(bench)
        assert "10.244.9.0/24" not in rules(bench)

    def test_by_node_cidr_a_restart_keeps_the_rules_until_the_node_is_known(self):
        bench = serving(balanced(), C, detects_by_node=True, needs=Needs())
        bench.put(a_node("10.244.1.0/24"))
        known = rules(bench)
        assert "10.244.1.0/24" in known
        after = restart(bench, detects_by_node=True, needs=Needs()).pass_time(40)
        assert (known, {f"{LB},tcp:80"}) == (rules(after), members_of(after, "NOLOCAL"))
        after.put(a_node("10.244.7.0/24"))

        assert "10.244.7.0/24" in rules(after)
        assert "10.244.1.0/24" not in rules(after)

    def test_by_node_cidr_the_rules_stay_when_the_node_goes(self):
        bench = serving(balanced(), C, detects_by_node=True, needs=Needs())
        bench.put(a_node("10.244.1.0/24"))
        known = rules(bench)
        bench.tell(Removed(Kind.NODE, ObjectName("", "node-a"))).pass_time(31)

        assert "10.244.1.0/24" in known
        assert known == rules(bench)

    def test_a_node_that_says_nothing_new_costs_nothing(self):
        bench = serving(service())
        bench.put(a_node("10.244.1.0/24"))
        restored, batches = len(bench.kernel.iptables.restored), len(bench.kernel.ipvs.batches)
        bench.put(msgspec.structs.replace(a_node("10.244.1.0/24"), addresses=(address("192.0.2.1"),)))

        assert (restored, batches) == (len(bench.kernel.iptables.restored), len(bench.kernel.ipvs.batches))


class TestAddresses:
    def bench(self, **settings):
        bench = serving(service("shop/web", port(node_port=30080, external_ips=["192.0.2.9"])), **settings)
        return self.with_addresses(bench, "192.0.2.1")

    def with_addresses(self, bench, *texts):
        bench.kernel.node_addresses.assign("eth0", texts)
        bench.reconciler.tell(AddressesChanged())
        return bench.settle()

    def test_node_ports_follow_them(self):
        bench = self.bench()
        assert "-t 192.0.2.1:30080" in bench.tables()
        self.with_addresses(bench, "192.0.2.2").pass_time(5)

        assert "-t 192.0.2.2:30080" in bench.tables()
        assert "-t 192.0.2.1:30080" not in bench.tables()

    def test_an_external_address_that_becomes_the_nodes_own_is_served_and_not_bound(self):
        bench = self.bench()
        assert "192.0.2.9" in bench.vips()
        self.with_addresses(bench, "192.0.2.1", "192.0.2.9")

        assert "192.0.2.9" not in bench.vips()
        assert "-t 192.0.2.9:80" in bench.tables()

    def test_a_service_with_a_cluster_ip_alone_is_not_compiled_again(self):
        bench = serving(service())
        batches = len(bench.kernel.ipvs.batches)
        self.with_addresses(bench, "192.0.2.1")

        assert batches == len(bench.kernel.ipvs.batches)

    def test_an_address_of_the_api_server_is_never_bound(self):
        bench = self.bench()
        bench.put(
            service("default/kubernetes", port("10.96.0.1", 443, name="https")),
            endpoint_slice("default/kubernetes", {"https": [endpoint("192.0.2.9", 6443)]}),
        )

        assert "192.0.2.9" not in bench.vips()


class TestTheFirstRound:
    def test_the_api_server_is_served_before_older_services_that_fill_a_round(self):
        bench = Bench()
        older = [service(f"shop/s{n}", port(f"10.96.{2 + n // 250}.{1 + n % 250}")) for n in range(500)]
        api_server = service("default/kubernetes", port("10.96.0.1", 443), created="2026-02-01T00:00:00Z")
        bench.put(*older, api_server).list_all()
        (first, *_) = (batch for batch in bench.kernel.ipvs.batches if batch)

        assert key("10.96.0.1:443") in {
            one.virtual_server.key for one in first if isinstance(one, AddVirtualServer)
        }


class TestOlderFlows:
    VIP = key("10.96.0.80:80", Protocol.UDP)

    def flow(self, reply_source, vip=VIP):
        return FakeFlow(vip.protocol, vip.address, vip.port, address(reply_source))

    def test_those_that_never_passed_a_new_virtual_server_are_removed(self):
        bench = Bench()
        past, through = self.flow("10.96.0.80"), self.flow("10.244.1.11")
        bench.kernel.conntrack.flows = [past, through]
        bench.put(service("shop/web", port(protocol=Protocol.UDP)), endpoint_slice(endpoints=[A]))
        bench.list_all().pass_time(1)

        assert [through] == bench.kernel.conntrack.flows

    def test_those_of_an_iptables_mode_that_has_led_them_to_the_same_endpoint_are_removed_too(self):
        """Nothing else would end them when the endpoint goes."""
        bench = Bench()
        led = msgspec.structs.replace(self.flow("10.244.1.11"), is_led_by_nat=True)
        bench.kernel.conntrack.flows = [led]
        bench.put(service("shop/web", port(protocol=Protocol.UDP)), endpoint_slice(endpoints=[A]))
        bench.list_all().pass_time(1)

        assert [] == bench.kernel.conntrack.flows

    def test_those_that_passed_behind_a_mark_are_left_alone(self):
        bench = Bench(needs=INSIDE)
        flow = self.flow("10.244.2.13", key(f"{LB}:80", Protocol.UDP))
        bench.kernel.conntrack.flows = [flow]
        bench.put(balanced(protocol=Protocol.UDP), endpoint_slice(endpoints=[A, C])).list_all().pass_time(2)

        assert [flow] == bench.kernel.conntrack.flows

    def test_one_walk_does_for_many_virtual_servers_and_none_where_none_is_new(self):
        bench = Bench()
        walks = []
        delete = bench.kernel.conntrack.delete
        bench.kernel.conntrack.delete = lambda matches: walks.append(len(matches)) or delete(matches)
        bench.put(*(service(f"shop/s{n}", port(f"10.96.1.{n}", protocol=Protocol.UDP)) for n in range(1, 9)))
        bench.list_all().pass_time(2)
        assert [8] == walks
        bench.put(service("shop/tcp", port("10.96.2.1")), endpoint_slice("shop/s1", endpoints=[A]))
        bench.pass_time(2)

        assert [8] == walks

    def test_a_walk_that_fails_disturbs_nothing(self, caplog):
        bench = Bench()

        def refuse(matches):
            raise KernelError("conntrack -L: no")

        bench.kernel.conntrack.delete = refuse
        bench.put(service("shop/web", port(protocol=Protocol.UDP)), endpoint_slice(endpoints=[A]))
        bench.list_all().pass_time(1)

        assert {"-u 10.96.0.80:80": {"10.244.1.11:8080": 1}} == bench.tables()
        assert "conntrack -L: no" in caplog.text


class TestSetsThatGrow:
    HAIRPIN = "IPVS-AGENT-4-HAIRPIN"

    def bench(self):
        """A node whose hairpin set was made for four members; one is there."""
        kernel = FakeKernel()
        (hairpin,) = [one for one in sets_of(Family.IPV4) if one.name == self.HAIRPIN]
        kernel.ipsets.create(msgspec.structs.replace(hairpin, capacity=4))
        return serving(service(), A, kernel=kernel)

    def crowd(self):
        """A slice of nine endpoints on this node."""
        return endpoint_slice(endpoints=[endpoint(f"10.244.1.{n}", node="node-a") for n in range(11, 20)])

    def test_a_set_that_would_be_too_small_is_replaced_by_a_larger_one(self):
        bench = self.bench()
        bench.put(self.crowd())

        assert 16 == bench.kernel.ipsets.sets()[self.HAIRPIN].capacity
        assert 9 == len(bench.kernel.ipsets.members(self.HAIRPIN))
        assert [] == [name for name in bench.kernel.ipsets.sets() if name.endswith("-NEW")]

    def test_a_draft_of_an_agent_that_was_killed_is_no_obstacle(self):
        bench = self.bench()
        draft = bench.kernel.ipsets.sets()[self.HAIRPIN]
        bench.kernel.ipsets.create(msgspec.structs.replace(draft, name=f"{self.HAIRPIN}-NEW"))
        bench.put(self.crowd())

        assert 16 == bench.kernel.ipsets.sets()[self.HAIRPIN].capacity

    def test_while_it_cannot_grow_what_fits_is_served_and_the_rest_is_tried_again(self, caplog):
        bench = self.bench()
        create = bench.kernel.ipsets.create

        def refuse(ip_set):
            raise KernelError(f"ipset create {ip_set.name}: no")

        bench.kernel.ipsets.create = refuse
        bench.put(self.crowd())
        assert f"{self.HAIRPIN}-NEW: no" in caplog.text
        assert 9 == len(bench.tables()["-t 10.96.0.80:80"])
        bench.kernel.ipsets.create = create
        bench.pass_time(60)

        assert 9 == len(bench.kernel.ipsets.members(self.HAIRPIN))

    def test_one_that_somebody_lists_grows_when_he_has_done(self, caplog):
        """As the worker does in an audit, and anybody with `ipset list`."""
        bench = self.bench()
        bench.kernel.ipsets.listed = {self.HAIRPIN}
        bench.put(self.crowd())
        assert "somebody is listing the set" in caplog.text
        assert 9 == len(bench.tables()["-t 10.96.0.80:80"])
        assert 4 == len(bench.kernel.ipsets.members(self.HAIRPIN))
        bench.kernel.ipsets.listed = set()
        bench.pass_time(1)

        assert 16 == bench.kernel.ipsets.sets()[self.HAIRPIN].capacity
        assert 9 == len(bench.kernel.ipsets.members(self.HAIRPIN))
        assert [] == [name for name in bench.kernel.ipsets.sets() if name.endswith("-NEW")]
