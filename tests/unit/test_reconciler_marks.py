"""Packet marks of Services with externalTrafficPolicy Local: whose they are, for as long as they are used."""

from __future__ import annotations

import msgspec
import pytest

from ipvs_agent.addresses import Family
from ipvs_agent.desired.split import mark_of
from ipvs_agent.model import Protocol, VirtualServer, mark_key
from ipvs_agent.operations import AddMember, AddVirtualServer, DeleteMember
from ipvs_agent.reconcile.messages import AddressesChanged
from ipvs_agent.sources.changes import Kind, Listed, Trouble
from ipvs_agent.testing.builders import endpoint_slice
from tests.unit.benches import (
    INSIDE,
    LB,
    A,
    C,
    balanced,
    by_marks,
    connect,
    marks,
    members_of,
    refuse,
    restart,
    serving,
)
from tests.unit.test_reconciler import Bench

LATER = "2026-02-01T00:00:00Z"
OTHER = "198.51.100.8"


class TestWhoHasWhich:
    def test_a_port_has_one_mark_for_all_its_addresses_and_a_virtual_server_by_it(self):
        bench = serving(balanced(external_ips=["198.51.100.8"]))

        (mark,) = set(marks(bench).values())
        assert {f"{LB}:80", "198.51.100.8:80"} == marks(bench).keys()
        assert {"10.244.1.11:8080": 1, "10.244.2.13:8080": 1} == bench.tables()[f"-f {mark}"]
        assert {"10.244.1.11:8080": 1} == bench.tables()[f"-t {LB}:80"]

    def test_a_mark_is_not_given_again_while_a_virtual_server_goes_by_it(self):
        bench = serving(balanced())
        (old,) = set(marks(bench).values())
        (by_mark,) = by_marks(bench)
        connect(bench, by_mark, C)
        bench.remove(balanced())
        bench.put(balanced("shop/next", cluster_ip="10.96.0.81"))

        assert f"-f {old}" in bench.tables()
        assert old not in marks(bench).values()

    def test_a_single_sync_leaves_nothing_of_a_service_that_has_no_connections(self):
        bench = serving(balanced())
        once = restart(bench)
        once.settle = lambda: once
        once.list_all()

        assert once.reconciler.run_once()
        assert ({}, set()) == (once.tables(), once.inner.vips.addresses())

    def test_datagrams_are_not_drained_behind_a_mark_either(self):
        bench = serving(balanced(protocol=Protocol.UDP))
        (mark,) = set(marks(bench).values())
        bench.put(endpoint_slice(endpoints=[A]))

        assert {"10.244.1.11:8080": 1} == bench.tables()[f"-f {mark}"]

    def test_an_address_that_changes_hands_gets_the_mark_of_its_new_owner(self):
        older = balanced("shop/older", cluster_ip="10.96.0.81")
        younger = balanced("shop/younger", created=LATER)
        bench = serving(older)
        bench.put(younger, endpoint_slice("shop/younger", endpoints=[C]))
        (first,) = set(marks(bench).values())
        bench.remove(older)

        (second,) = set(marks(bench).values())
        assert first != second
        assert {"10.244.2.13:8080": 1} == bench.tables()[f"-f {second}"]

    def test_a_service_without_the_policy_has_none(self):
        bench = serving(balanced())
        bench.put(msgspec.structs.replace(balanced(), external_local=False))

        assert {} == marks(bench)
        assert {"10.244.1.11:8080": 1, "10.244.2.13:8080": 1} == bench.tables()[f"-t {LB}:80"]

    def test_a_mark_is_not_given_again_while_the_set_still_leads_there(self):
        old = balanced(protocol=Protocol.UDP)
        bench = serving(old)
        known = marks(bench)
        refuse(
            bench.kernel.ipsets,
            lambda operation: isinstance(operation, DeleteMember) and "MARKS" in operation.member.set_name,
        )
        bench.remove(old)
        assert known == marks(bench)
        new = balanced("shop/new", cluster_ip="10.96.0.99", load_balancer_ips=[OTHER], protocol=Protocol.UDP)
        after = restart(bench).list_all().put(new)

        assert known.items() < marks(after).items()
        assert 2 == len(set(marks(after).values()))


class TestAfterARestart:
    """The next agent reads the marks back, and never gives one to another port."""

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

    @pytest.mark.parametrize("message", ["", "line 3: broken"], ids=["sources listed", "a source in trouble"])
    def test_the_younger_of_two_that_ask_for_one_address_does_not_get_the_mark_of_the_older(self, message):
        older = balanced("shop/z-older", cluster_ip="10.96.0.81", node_port=0)
        younger = balanced(
            "shop/a-younger", created=LATER, cluster_ip="10.96.0.82", node_port=0, external_ips=[LB, OTHER]
        )
        things = (
            younger,
            older,
            endpoint_slice("shop/z-older", [A]),
            endpoint_slice("shop/a-younger", [C]),
        )
        bench = Bench(needs=INSIDE).put(*things).list_all()
        known = marks(bench)
        assert {f"{LB}:80", f"{OTHER}:80"} == known.keys()
        after = restart(bench, *things)
        if message:
            after.tell(Trouble("web.yaml", message))
        else:
            after.list_all()

        assert known == marks(after)
        assert {"10.244.1.11:8080": 1} == after.tables()[f"-f {known[f'{LB}:80']}"]

    def test_nor_does_it_where_the_older_needs_no_mark_any_more(self):
        older = balanced("shop/older", cluster_ip="10.96.0.81", node_port=0)
        younger = balanced(
            "shop/younger", created=LATER, cluster_ip="10.96.0.82", node_port=0, external_ips=[OTHER]
        )
        bench = Bench(needs=INSIDE).put(older, younger).list_all()
        known = marks(bench)
        after = restart(bench, younger, msgspec.structs.replace(older, external_local=False)).list_all()

        assert {f"{OTHER}:80": known[f"{OTHER}:80"]} == marks(after)

    def test_a_service_keeps_the_mark_of_its_node_port_and_not_that_of_an_address_it_has_newly_got(self):
        bench = Bench(needs=INSIDE)
        bench.kernel.node_addresses.assign("eth0", ["192.0.2.1"])
        bench.reconciler.tell(AddressesChanged())
        older = balanced("shop/older", cluster_ip="10.96.0.81", node_port=0)
        bench.put(older, self.younger(), endpoint_slice("shop/older", [A])).list_all()
        known = marks(bench)
        after = restart(bench, self.younger(LB)).list_all()

        assert known["192.0.2.1:30099"] == marks(after)["192.0.2.1:30099"]

    def younger(self, *external_ips):
        fields = {"node_port": 30099, "external_ips": external_ips, "load_balancer_ips": []}
        return balanced("shop/younger", created=LATER, cluster_ip="10.96.0.82", **fields)

    def test_a_mark_that_is_not_ours_is_not_read_back(self):
        bench = serving(balanced())
        (member,) = bench.kernel.ipsets.members("IPVS-AGENT-4-MARKS")
        bench.kernel.ipsets.apply([AddMember(msgspec.structs.replace(member, mark=7))])
        after = restart(bench, balanced(), endpoint_slice(endpoints=[A, C])).list_all()

        assert 7 not in marks(after).values()
        assert "-f 7" not in after.tables()

    def test_clients_outside_are_let_in_where_a_local_endpoint_has_come_though_a_source_is_in_trouble(self):
        bench = serving(balanced(), C)
        assert {f"{LB},tcp:80"} == members_of(bench, "NOLOCAL")
        after = restart(bench, balanced(), endpoint_slice(endpoints=[A, C]))
        after.tell(Listed(Kind.SERVICE, frozenset({balanced().name})), Trouble("slices", "Connection reset"))

        assert set() == members_of(after, "NOLOCAL")
        assert {"10.244.1.11:8080": 1} == after.tables()[f"-t {LB}:80"]


class TestWhatOthersDo:
    @pytest.mark.parametrize("mark", [7, 0], ids=["another mark", "no mark"])
    def test_a_mark_that_others_changed_is_repaired(self, mark):
        bench = serving(balanced())
        (member,) = bench.kernel.ipsets.members("IPVS-AGENT-4-MARKS")
        bench.kernel.ipsets.apply([AddMember(msgspec.structs.replace(member, mark=mark))])
        bench.pass_time(31)

        assert {member} == bench.kernel.ipsets.members("IPVS-AGENT-4-MARKS")

    def test_a_virtual_server_by_a_mark_of_ours_is_ours_whoever_made_it(self):
        bench = Bench(needs=INSIDE).list_all()
        by_mark = mark_key(Family.IPV4, mark_of(1, Protocol.TCP))
        bench.kernel.ipvs.apply([AddVirtualServer(VirtualServer(by_mark, "wlc"))])
        bench.put(balanced(), endpoint_slice(endpoints=[A, C])).pass_time(40)

        (mark,) = set(marks(bench).values())
        assert by_mark.mark == mark
        assert {"10.244.1.11:8080": 1, "10.244.2.13:8080": 1} == bench.tables()[f"-f {mark}"]
        assert "rr" == bench.kernel.ipvs.virtual_server(by_mark).virtual_server.scheduler
