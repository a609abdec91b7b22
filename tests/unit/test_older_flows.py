"""UDP flows from before their virtual server: the walk that removes them is made until it has been done."""

from __future__ import annotations

from ipvs_agent.errors import KernelError
from ipvs_agent.model import Protocol
from ipvs_agent.sources.changes import Kind, Listed, Put
from ipvs_agent.testing.builders import address, endpoint, endpoint_slice, key, port, service
from ipvs_agent.testing.fake_conntrack import FakeFlow
from tests.unit.benches import INSIDE, LB, balanced
from tests.unit.test_reconciler import Bench

A, B = endpoint("10.244.1.11", node="node-a"), endpoint("10.244.1.12", node="node-a")
THERE = endpoint("10.244.2.13", node="node-b")
WEB = service("shop/web", port(protocol=Protocol.UDP))
NEXT = service("shop/next", port("10.96.0.90", protocol=Protocol.UDP))
FAILS = "go on past it"
DONE = "removed flows"


def flow(reply_source, vip="10.96.0.80"):
    dialled = key(f"{vip}:80", Protocol.UDP)
    return FakeFlow(dialled.protocol, dialled.address, dialled.port, address(reply_source))


PAST = flow("10.96.0.80")


class Table:
    """The flows of a kernel that refuses to walk them until it is healed."""

    def __init__(self, bench, *flows):
        self._conntrack = bench.kernel.conntrack
        self._delete = self._conntrack.delete
        self._conntrack.flows = list(flows)
        self._conntrack.delete = self._walk
        self.is_failing = True
        self.walks = []

    @property
    def flows(self):
        return self._conntrack.flows

    def heal(self):
        self.is_failing = False

    def _walk(self, matches):
        self.walks.append({match.destination for match in matches})
        if self.is_failing:
            raise KernelError("conntrack -L: no")
        return self._delete(matches)


def failing(*flows, bench=None):
    """A node with a new virtual server, where the flows from before it cannot be walked."""
    bench = bench or Bench()
    table = Table(bench, *flows)
    bench.put(WEB, endpoint_slice(endpoints=[A])).list_all().pass_time(1)
    assert table.walks
    return bench, table


def test_a_walk_that_failed_is_made_again_until_it_succeeds():
    bench, table = failing(PAST)
    bench.pass_time(10)
    assert [PAST] == table.flows
    table.heal()
    bench.pass_time(31)
    assert [] == table.flows
    walks = len(table.walks)
    bench.pass_time(120)

    assert walks == len(table.walks)


def test_walks_that_fail_are_made_ever_more_rarely_and_said_once(caplog):
    bench, table = failing()
    bench.pass_time(599)

    assert 20 <= len(table.walks) <= 60
    assert 1 == caplog.text.count(FAILS)


def test_the_walk_that_succeeds_at_last_is_said_and_the_next_failure_too(caplog):
    caplog.set_level("INFO")
    bench, table = failing()
    bench.pass_time(10)
    table.heal()
    bench.pass_time(60)
    assert 1 == caplog.text.count(DONE)
    table.is_failing = True
    bench.put(NEXT).pass_time(10)

    assert 2 == caplog.text.count(FAILS)
    assert 1 == caplog.text.count(DONE)


def test_a_virtual_server_that_comes_meanwhile_is_in_the_next_walk():
    bench, table = failing()
    bench.put(NEXT).pass_time(31)

    assert {address("10.96.0.80"), address("10.96.0.90")} == table.walks[-1]


def test_one_that_is_gone_is_looked_for_no_longer_and_delays_no_other(caplog):
    bench, table = failing(PAST)
    bench.pass_time(60)
    walks = len(table.walks)
    bench.remove(WEB).pass_time(120)
    assert walks == len(table.walks)
    bench.put(NEXT).pass_time(1)

    assert {address("10.96.0.90")} == table.walks[walks]
    assert 2 == caplog.text.count(FAILS)


def test_flows_of_endpoints_that_have_come_since_are_left_alone():
    through = flow("10.244.1.12")
    bench, table = failing(PAST, through)
    bench.put(endpoint_slice(endpoints=[A, B]))
    table.heal()
    bench.pass_time(31)

    assert [through] == table.flows


def test_so_are_those_behind_a_mark():
    bench, table = failing(bench=Bench(needs=INSIDE))
    past, through = flow(LB, LB), flow("10.244.2.13", LB)
    table.flows.extend((past, through))
    bench.put(balanced("shop/outside", cluster_ip="10.96.0.90", protocol=Protocol.UDP))
    bench.put(endpoint_slice("shop/outside", endpoints=[A])).pass_time(31)
    bench.put(endpoint_slice("shop/outside", endpoints=[A, THERE]))
    table.heal()
    bench.pass_time(31)

    assert [through] == table.flows


class TestASingleSync:
    """A process that ends has nobody to make the walk later."""

    def told(self, *flows, kernel=None):
        bench = Bench(kernel)
        table = Table(bench, *flows)
        names = {Kind.SERVICE: [WEB.name], Kind.ENDPOINT_SLICE: [endpoint_slice().name], Kind.NODE: []}
        bench.reconciler.tell(
            [
                Put(Kind.SERVICE, WEB),
                Put(Kind.ENDPOINT_SLICE, endpoint_slice(endpoints=[A])),
                *(Listed(kind, frozenset(listed)) for kind, listed in names.items()),
            ]
        )
        return bench, table

    def test_it_makes_the_walk_before_it_ends(self):
        bench, table = self.told(PAST)
        table.heal()

        assert bench.reconciler.run_once()
        assert ([], 1) == (table.flows, len(table.walks))

    def test_it_has_not_achieved_all_where_the_walk_fails(self):
        bench, table = self.told(PAST)

        assert not bench.reconciler.run_once()
        assert 1 == len(table.walks)

    def test_it_walks_for_nothing_where_no_virtual_server_is_new(self):
        first, _ = self.told()
        first.reconciler.run_once()
        bench, table = self.told(kernel=first.kernel)

        assert bench.reconciler.run_once()
        assert [] == table.walks
