"""The loop and the node around it: its Node object, addresses, packet marks, flows, sets, load balancers."""

from __future__ import annotations

import msgspec
import pytest

from ipvs_agent.addresses import Family, format_address, parse_network
from ipvs_agent.desired.sets import sets_of
from ipvs_agent.desired.shim import Masquerade
from ipvs_agent.errors import KernelError
from ipvs_agent.model import Node, ObjectName, Protocol
from ipvs_agent.operations import AddMember
from ipvs_agent.reconcile.foundation import Needs
from ipvs_agent.reconcile.messages import AddressesChanged
from ipvs_agent.reconcile.outlets import Outlets
from ipvs_agent.testing.builders import address, endpoint, endpoint_slice, key, port, service
from ipvs_agent.testing.fake_conntrack import FakeFlow
from ipvs_agent.testing.fake_kernel import FakeKernel
from tests.unit.test_reconciler import Bench

A, C = endpoint("10.244.1.11", node="node-a"), endpoint("10.244.2.13", node="node-b")
LB = "198.51.100.7"
INSIDE = Needs(masquerade=Masquerade(cluster_networks=(parse_network("10.244.0.0/16"),)))


def balanced(name="shop/web", **fields):
    """A Service with externalTrafficPolicy Local and a load balancer's address."""
    fields.setdefault("load_balancer_ips", [LB])
    return service(name, port(node_port=30080, **fields), external_local=True)


def serving(a_service, *endpoints, **options):
    options.setdefault("needs", INSIDE)
    bench = Bench(**options)
    bench.put(a_service, endpoint_slice(str(a_service.name), endpoints=endpoints or (A, C)))
    return bench.list_all()


def a_node(*networks):
    return Node("node-a", pod_networks=tuple(parse_network(text) for text in networks))


def marks(bench):
    """The marks of the set, by what clients dial."""
    return {
        f"{format_address(member.address)}:{member.port}": member.mark
        for member in bench.inner.ipsets.members("IPVS-AGENT-4-MARKS")
    }


def rules(bench):
    return bench.inner.iptables.save(Family.IPV4)


class TestMarks:
    def test_a_port_has_one_mark_for_all_its_addresses_and_a_virtual_server_by_it(self):
        bench = serving(balanced(external_ips=["198.51.100.8"]))

        (mark,) = set(marks(bench).values())
        assert {f"{LB}:80", "198.51.100.8:80"} == marks(bench).keys()
        assert {"10.244.1.11:8080": 1, "10.244.2.13:8080": 1} == bench.tables()[f"-f {mark}"]
        assert {"10.244.1.11:8080": 1} == bench.tables()[f"-t {LB}:80"]

    def test_a_restart_reads_them_back_whatever_comes_first(self):
        one = balanced("shop/one", cluster_ip="10.96.0.81", load_balancer_ips=["198.51.100.8"])
        two = balanced("shop/two", cluster_ip="10.96.0.82", load_balancer_ips=["198.51.100.9"])
        new = balanced("shop/new", cluster_ip="10.96.0.83", load_balancer_ips=["198.51.100.10"])
        before = Bench(needs=INSIDE)
        before.put(one, two)
        before.list_all()
        known = marks(before)
        after = Bench(before.kernel, needs=INSIDE)
        after.put(new, two, one)
        after.list_all()

        assert known == {dialled: marks(after)[dialled] for dialled in known}
        assert 3 == len(set(marks(after).values()))

    def test_a_mark_is_not_given_again_while_a_virtual_server_goes_by_it(self):
        bench = serving(balanced())
        (old,) = set(marks(bench).values())
        (by_mark,) = [one.virtual_server.key for one in bench.kernel.ipvs.virtual_servers()
                      if one.virtual_server.key.mark]  # fmt: skip
        bench.kernel.ipvs.set_connections(by_mark, (C.address, C.port), active=1)
        bench.remove(balanced())
        bench.put(balanced("shop/next", cluster_ip="10.96.0.81"))

        assert f"-f {old}" in bench.tables()
        assert old not in marks(bench).values()

    def test_datagrams_are_not_drained_behind_a_mark_either(self):
        bench = serving(balanced(protocol=Protocol.UDP))
        (mark,) = set(marks(bench).values())
        bench.put(endpoint_slice(endpoints=[A]))

        assert {"10.244.1.11:8080": 1} == bench.tables()[f"-f {mark}"]

    def test_the_address_stays_as_long_as_connections_behind_its_mark_do(self):
        bench = serving(balanced(), C)
        (by_mark,) = [one.virtual_server.key for one in bench.kernel.ipvs.virtual_servers()
                      if one.virtual_server.key.mark]  # fmt: skip
        bench.kernel.ipvs.set_connections(by_mark, (C.address, C.port), active=1)
        bench.remove(balanced()).pass_time(30)
        assert LB in bench.vips()
        assert f"IPVS-AGENT-4-VIPS {LB}" in bench.members()
        bench.kernel.ipvs.set_connections(by_mark, (C.address, C.port), active=0)
        bench.pass_time(30)

        assert (set(), {}) == (bench.vips(), bench.tables())

    def test_an_address_that_changes_hands_gets_the_mark_of_its_new_owner(self):
        older = balanced("shop/older", cluster_ip="10.96.0.81")
        younger = msgspec.structs.replace(balanced("shop/younger"), created="2026-02-01T00:00:00Z")
        bench = serving(older)
        bench.put(younger, endpoint_slice("shop/younger", endpoints=[C]))
        (first,) = set(marks(bench).values())
        bench.remove(older)

        (second,) = set(marks(bench).values())
        assert first != second
        assert {"10.244.2.13:8080": 1} == bench.tables()[f"-f {second}"]

    def test_a_mark_that_others_changed_is_repaired(self):
        bench = serving(balanced())
        (member,) = bench.kernel.ipsets.members("IPVS-AGENT-4-MARKS")
        bench.kernel.ipsets.apply([AddMember(msgspec.structs.replace(member, mark=7))])
        bench.pass_time(31)

        assert {member} == bench.kernel.ipsets.members("IPVS-AGENT-4-MARKS")

    def test_a_service_without_the_policy_has_none(self):
        bench = serving(balanced())
        bench.put(msgspec.structs.replace(balanced(), external_local=False))

        assert {} == marks(bench)
        assert {"10.244.1.11:8080": 1, "10.244.2.13:8080": 1} == bench.tables()[f"-t {LB}:80"]


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

    def test_it_is_heard_where_node_ports_are(self):
        everywhere, _ = self.checked(A)
        chosen, bench = self.checked(A, node_port_networks=(parse_network("192.0.2.0/24"),))
        bench.kernel.node_addresses.assign("eth0", ["192.0.2.1", "203.0.113.1"])
        bench.pass_time(31)

        assert everywhere.addresses is None
        assert (address("192.0.2.1"),) == chosen.addresses

    def test_a_kernel_that_is_not_ready_for_long_makes_it_unhealthy_until_it_is(self):
        bench = serving(service(), A)
        write = bench.kernel.sysctls.write

        def refuse(name, value):
            raise KernelError("no")

        bench.kernel.sysctls.write = refuse
        bench.pass_time(85)
        assert bench.reconciler.is_healthy()
        bench.pass_time(20)
        assert not bench.reconciler.is_healthy()
        bench.kernel.sysctls.write = write
        bench.pass_time(31)

        assert bench.reconciler.is_healthy()

    def test_one_service_that_fails_does_not_take_the_node_out_of_all_load_balancers(self):
        bench = serving(service(), A)
        bench.kernel.vips.apply = lambda batch: [KernelError("no")] * len(batch)
        bench.put(service("shop/late", port("10.96.0.82"))).pass_time(200)

        assert bench.reconciler.is_healthy()

    def test_a_loop_that_hangs_is_unhealthy(self):
        bench = serving(service(), A)
        bench.now += 130

        assert not bench.reconciler.is_healthy()


class TestRestrictions:
    def restricted(self):
        asked = port(protocol=Protocol.TCP, load_balancer_ips=[LB])
        return service("shop/web", asked, source_ranges=(parse_network("203.0.113.0/24"),))

    def test_a_virtual_server_waits_for_its_restriction(self):
        bench = Bench(needs=INSIDE)
        apply = self.refuse_restrictions(bench)
        bench.put(self.restricted(), endpoint_slice(endpoints=[A])).list_all()
        assert f"-t {LB}:80" not in bench.tables()
        bench.kernel.ipsets.apply = apply
        bench.pass_time(60)

        assert {"10.244.1.11:8080": 1} == bench.tables()[f"-t {LB}:80"]

    def test_one_that_drains_is_not_opened_before_it_is_restricted_again(self):
        bench = serving(self.restricted(), A)
        bench.kernel.ipvs.set_connections(key(f"{LB}:80"), (A.address, A.port), active=1)
        bench.remove(self.restricted())
        assert {"10.244.1.11:8080": 0} == bench.tables()[f"-t {LB}:80"]
        apply = self.refuse_restrictions(bench)
        bench.put(self.restricted(), endpoint_slice(endpoints=[A, C]))
        assert {"10.244.1.11:8080": 0} == bench.tables()[f"-t {LB}:80"]
        bench.kernel.ipsets.apply = apply
        bench.pass_time(60)

        assert {"10.244.1.11:8080": 1, "10.244.2.13:8080": 1} == bench.tables()[f"-t {LB}:80"]

    def refuse_restrictions(self, bench):
        """Have the kernel refuse members of RESTRICTED; return how it takes them again."""
        apply = bench.kernel.ipsets.apply

        def refuse(batch):
            outcomes = [KernelError("no") if "RESTRICTED" in str(one) else None for one in batch]
            taken = iter(apply([one for one, error in zip(batch, outcomes, strict=True) if error is None]))
            return [error or next(taken) for error in outcomes]

        bench.kernel.ipsets.apply = refuse
        return apply
