"""loadBalancerSourceRanges in the loop: what fails half-way opens to nobody and shuts out nobody else."""

from __future__ import annotations

import msgspec
import pytest

from ipvs_agent.addresses import parse_network
from ipvs_agent.model import Protocol
from ipvs_agent.operations import (
    AddMember,
    DeleteMember,
    DeleteRealServer,
    DeleteVirtualServer,
    SetRealServer,
)
from ipvs_agent.sources.changes import Trouble
from ipvs_agent.testing.builders import endpoint_slice, key, port, service
from tests.unit.benches import INSIDE, LB, A, C, connect, members_of, refuse, serving
from tests.unit.test_reconciler import Bench

SERVER = f"-t {LB}:80"


def restricted(*ranges, protocol=Protocol.TCP):
    asked = port(protocol=protocol, load_balancer_ips=[LB])
    return service("shop/web", asked, source_ranges=tuple(parse_network(text) for text in ranges))


def lets_in(*ranges):
    return {f"{LB},tcp:80,{text}" for text in ranges}


def adds(purpose):
    return lambda operation: isinstance(operation, AddMember) and purpose in operation.member.set_name


def deletes(purpose):
    return lambda operation: isinstance(operation, DeleteMember) and purpose in operation.member.set_name


def takes_away_real_servers(operation):
    return isinstance(operation, SetRealServer | DeleteRealServer | DeleteVirtualServer)


SHUT = restricted("203.0.113.0/24")
OPEN = msgspec.structs.replace(SHUT, source_ranges=())


class TestNothingOpens:
    def test_a_virtual_server_waits_for_its_restriction(self):
        bench = Bench(needs=INSIDE)
        heal = refuse(bench.kernel.ipsets, adds("RESTRICTED"))
        bench.put(SHUT, endpoint_slice(endpoints=[A])).list_all()
        assert SERVER not in bench.tables()
        heal()
        bench.pass_time(60)

        assert {"10.244.1.11:8080": 1} == bench.tables()[SERVER]

    def test_one_that_drains_is_not_opened_before_it_is_restricted_again(self):
        bench = serving(SHUT, A)
        connect(bench, key(f"{LB}:80"), A)
        bench.remove(SHUT)
        assert {"10.244.1.11:8080": 0} == bench.tables()[SERVER]
        heal = refuse(bench.kernel.ipsets, adds("RESTRICTED"))
        bench.put(SHUT, endpoint_slice(endpoints=[A, C]))
        assert {"10.244.1.11:8080": 0} == bench.tables()[SERVER]
        heal()
        bench.pass_time(60)

        assert {"10.244.1.11:8080": 1, "10.244.2.13:8080": 1} == bench.tables()[SERVER]

    @pytest.mark.parametrize("protocol", [Protocol.TCP, Protocol.UDP])
    def test_one_that_goes_stays_shut_while_its_real_servers_cannot_be_taken_away(self, protocol):
        asked = restricted("203.0.113.0/24", protocol=protocol)
        bench = serving(asked, A)
        heal = refuse(bench.kernel.ipvs, takes_away_real_servers)
        bench.remove(asked)
        assert {f"{LB},{protocol.name.lower()}:80"} == members_of(bench, "RESTRICTED")
        heal()
        bench.pass_time(60)

        assert ({}, set()) == (bench.tables(), members_of(bench, "RESTRICTED"))


class TestNobodyElseIsShutOut:
    def test_who_was_let_in_stays_let_in_while_the_restriction_cannot_go(self):
        bench = serving(SHUT, A)
        heal = refuse(bench.kernel.ipsets, deletes("RESTRICTED"))
        bench.put(OPEN)
        assert {f"{LB},tcp:80"} == members_of(bench, "RESTRICTED")
        assert lets_in("203.0.113.0/24") == members_of(bench, "ALLOWED")
        heal()
        bench.pass_time(60)

        assert set() == members_of(bench, "RESTRICTED") | members_of(bench, "ALLOWED")

    def test_who_was_let_in_stays_let_in_while_the_next_range_cannot_come(self):
        bench = serving(SHUT, A)
        heal = refuse(bench.kernel.ipsets, adds("ALLOWED"))
        bench.put(restricted("192.0.2.0/24"))
        assert lets_in("203.0.113.0/24") == members_of(bench, "ALLOWED")
        heal()
        bench.pass_time(60)

        assert lets_in("192.0.2.0/24") == members_of(bench, "ALLOWED")

    def test_an_open_one_is_not_shut_before_it_is_known_whom_to_let_in(self):
        bench = serving(OPEN, A)
        heal = refuse(bench.kernel.ipsets, adds("ALLOWED"))
        bench.put(SHUT)
        assert set() == members_of(bench, "RESTRICTED")
        heal()
        bench.pass_time(60)

        assert {f"{LB},tcp:80"} == members_of(bench, "RESTRICTED")


class TestASourceInTrouble:
    def bench(self, asked):
        return (
            Bench(needs=INSIDE)
            .tell(Trouble("web.yaml", "line 3: broken"))
            .put(asked, endpoint_slice(endpoints=[A]))
        )

    def test_ranges_that_were_narrowed_are_narrow_at_once(self):
        bench = self.bench(restricted("0.0.0.0/0"))
        assert lets_in("0.0.0.0/1", "128.0.0.0/1") == members_of(bench, "ALLOWED")
        bench.put(restricted("192.0.2.0/24"))

        assert lets_in("192.0.2.0/24") == members_of(bench, "ALLOWED")

    def test_a_restriction_that_was_lifted_is_gone_at_once(self):
        bench = self.bench(SHUT)
        bench.put(OPEN)

        assert set() == members_of(bench, "RESTRICTED") | members_of(bench, "ALLOWED")
