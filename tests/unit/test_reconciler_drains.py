"""What stays for its connections: real servers, and addresses whose connections are behind a mark."""

from __future__ import annotations

import msgspec
import pytest

from ipvs_agent.operations import AddRealServer, DeleteVip
from ipvs_agent.testing.builders import address, endpoint, endpoint_slice, key, port, service
from tests.unit.benches import (
    LB,
    A,
    C,
    balanced,
    by_marks,
    connect,
    members_of,
    refuse,
    restart,
    serving,
)

B = endpoint("10.244.1.12", node="node-a")
OTHER = "198.51.100.8"
HOUR = 3600


def test_a_drained_real_server_goes_though_another_one_cannot_come():
    bench = serving(service(), A, B)
    refuse(
        bench.kernel.ipvs,
        lambda operation: isinstance(operation, AddRealServer) and operation.real_server.address == C.address,
    )
    bench.put(endpoint_slice(endpoints=[B, C])).pass_time(20)

    assert {"10.244.1.12:8080": 1} == bench.tables()["-t 10.96.0.80:80"]


def test_a_service_that_returned_and_saw_the_drain_end_leaves_nothing_when_it_goes_again():
    web, balanced_one = service("shop/web", port("10.96.0.90")), balanced("shop/other")
    bench = serving(web, A).put(balanced_one)
    connect(bench, key("10.96.0.90:80"), A)
    bench.remove(web).pass_time(2)
    bench.put(web, endpoint_slice(endpoints=[])).pass_time(2)
    connect(bench, key("10.96.0.90:80"), A, active=0)
    bench.pass_time(20)
    assert {} == bench.tables()["-t 10.96.0.90:80"]
    bench.remove(balanced_one).pass_time(20)  # what drains is looked through when a mark goes
    bench.remove(web).pass_time(20)

    assert ({}, set(), set()) == (bench.tables(), bench.vips(), bench.members())


def test_clients_outside_hear_nothing_while_the_last_local_endpoint_drains_and_are_served_when_it_returns():
    bench = serving(balanced())
    connect(bench, key(f"{LB}:80"), A)
    bench.put(endpoint_slice(endpoints=[C])).pass_time(20)
    assert {f"{LB},tcp:80"} == members_of(bench, "NOLOCAL")
    assert {"10.244.1.11:8080": 0} == bench.tables()[f"-t {LB}:80"]
    bench.put(endpoint_slice(endpoints=[A, C])).pass_time(20)

    assert set() == members_of(bench, "NOLOCAL")
    assert {"10.244.1.11:8080": 1} == bench.tables()[f"-t {LB}:80"]


class TestADeletedService:
    """Its last connection is behind its mark."""

    def bench(self):
        bench = serving(balanced(), C)
        (by_mark,) = by_marks(bench)
        connect(bench, by_mark, C)
        return bench.remove(balanced()).pass_time(5)

    def test_the_address_stays_as_long_as_connections_behind_its_mark_do(self):
        bench = self.bench().pass_time(30)
        assert LB in bench.vips()
        assert {LB} == members_of(bench, "VIPS")
        (by_mark,) = by_marks(bench)
        connect(bench, by_mark, C, active=0)
        bench.pass_time(30)

        assert (set(), {}) == (bench.vips(), bench.tables())

    def test_it_stays_longer_than_patience_as_nobody_else_has_its_mark(self):
        bench = self.bench()
        bench.now += HOUR
        bench.pass_time(60)

        assert LB in bench.vips()

    def test_it_stays_over_a_restart(self):
        bench = restart(self.bench()).list_all().pass_time(5)
        assert {LB} == bench.vips()
        (by_mark,) = by_marks(bench)
        connect(bench, by_mark, C, active=0)
        bench.pass_time(30)

        assert (set(), {}) == (bench.vips(), bench.tables())

    def test_it_is_bound_again_where_others_took_it_away(self):
        bench = self.bench()
        bench.kernel.vips.apply([DeleteVip(address(LB))])
        bench.pass_time(61)

        assert LB in bench.vips()


@pytest.mark.parametrize("with_address", [False, True], ids=["behind its mark", "behind both"])
def test_a_deleted_service_whose_connections_are_all_closing_is_gone_within_five_seconds(with_address):
    bench = serving(balanced())
    places = [(by_mark, C) for by_mark in by_marks(bench)] + [(key(f"{LB}:80"), A)] * with_address
    for where, to in places:
        bench.kernel.ipvs.set_connections(where, (to.address, to.port), active=0, inactive=1)
    bench.remove(balanced())
    for _ in range(39):
        bench.now += 0.125
        bench.settle()

    assert ({}, set()) == (bench.tables(), bench.vips())


class TestAnAddressThatLeavesItsService:
    """The Service lives on with another address, and a connection is behind the mark that they shared."""

    BEFORE = balanced(external_ips=[OTHER])
    AFTER = balanced(external_ips=[OTHER], load_balancer_ips=[])

    def bench(self, *endpoints):
        bench = serving(self.BEFORE, *(endpoints or (C,)))
        (by_mark,) = by_marks(bench)
        connect(bench, by_mark, C)
        return bench

    @pytest.mark.parametrize("endpoints", [(C,), (A, C)], ids=["no local endpoint", "an idle local endpoint"])
    def test_it_stays_as_long_as_connections_behind_the_mark_do(self, endpoints):
        bench = self.bench(*endpoints).put(self.AFTER).pass_time(15)
        assert LB in bench.vips()
        (by_mark,) = by_marks(bench)
        connect(bench, by_mark, C, active=0)
        bench.pass_time(60)

        assert LB not in bench.vips()

    def test_it_stays_over_a_restart(self):
        bench = self.bench().put(self.AFTER).pass_time(5)
        bench = restart(bench, self.AFTER, endpoint_slice(endpoints=[C])).list_all().pass_time(60)
        assert LB in bench.vips()
        (by_mark,) = by_marks(bench)
        connect(bench, by_mark, C, active=0)
        bench.pass_time(60)

        assert LB not in bench.vips()

    def test_it_stays_though_it_left_while_no_agent_ran(self):
        bench = restart(self.bench(), self.AFTER, endpoint_slice(endpoints=[C])).list_all().pass_time(60)

        assert LB in bench.vips()

    def test_a_cluster_ip_never_led_to_a_mark_and_goes_at_a_restart(self):
        gone = service("shop/gone", port("10.96.0.90"))
        bench = self.bench().put(gone)
        bench = restart(bench, self.BEFORE, endpoint_slice(endpoints=[C])).list_all().pass_time(1)

        assert {"10.96.0.80", LB, OTHER} == bench.vips()

    def test_it_stays_too_when_the_service_goes_a_moment_later(self):
        bench = self.bench().put(self.AFTER).remove(self.AFTER).pass_time(5)

        assert LB in bench.vips()

    def test_it_does_not_stay_for_ever_for_connections_that_may_have_come_in_on_the_other(self):
        bench = self.bench().put(self.AFTER).pass_time(5)
        bench.now += HOUR
        bench.pass_time(60)

        assert {OTHER, "10.96.0.80"} == bench.vips()


class TestAPolicyThatChanges:
    """From Local to Cluster, with a connection behind the mark."""

    CLUSTER = msgspec.structs.replace(balanced(), external_local=False)
    WITHOUT = msgspec.structs.replace(balanced(load_balancer_ips=[]), external_local=False)

    def bench(self):
        bench = serving(balanced(), C)
        (by_mark,) = by_marks(bench)
        connect(bench, by_mark, C)
        return bench.put(self.CLUSTER)

    def test_the_address_stays_when_it_leaves_the_service_later(self):
        bench = self.bench()
        bench.put(self.WITHOUT).pass_time(20)

        assert LB in bench.vips()

    def test_so_it_does_over_a_restart_before_that(self):
        bench = restart(self.bench(), self.CLUSTER, endpoint_slice(endpoints=[C])).list_all().pass_time(5)
        bench.put(self.WITHOUT).pass_time(20)
        assert LB in bench.vips()
        (by_mark,) = by_marks(bench)
        connect(bench, by_mark, C, active=0)
        bench.pass_time(60)

        assert LB not in bench.vips()

    def test_and_over_one_after_it(self):
        bench = self.bench().put(self.WITHOUT).pass_time(5)
        bench = restart(bench, self.WITHOUT, endpoint_slice(endpoints=[C])).list_all().pass_time(20)

        assert LB in bench.vips()

    def test_and_back_again_it_stays_for_the_first_mark_when_the_service_goes(self):
        bench = self.bench().put(balanced()).pass_time(20)
        assert 2 == len(by_marks(bench))
        bench.remove(balanced()).pass_time(20)

        assert LB in bench.vips()

    def test_there_and_back_over_a_restart_too(self):
        bench = self.bench().put(balanced()).pass_time(20)
        bench = restart(bench, balanced(), endpoint_slice(endpoints=[C])).list_all().pass_time(5)
        bench.remove(balanced()).pass_time(20)

        assert LB in bench.vips()
