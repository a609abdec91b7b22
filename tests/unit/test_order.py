"""The order in which real servers are added."""

from __future__ import annotations

import itertools

import pytest

from ipvs_agent.desired.compile import compile_service
from ipvs_agent.desired.order import insertion_order
from ipvs_agent.schedulers import SCHEDULERS, Order
from ipvs_agent.testing.builders import endpoint, endpoint_slice, port, real_server, service
from tests.unit.test_compile import NODE, changed, compiled

HOSTS = tuple(f"10.244.0.{host}:8080" for host in (2, 9, 10, 11, 200))
SERVERS = tuple(map(real_server, HOSTS))
SPREAD = [one for one in SCHEDULERS.values() if one.order is not Order.CANONICAL]
ALIKE = [one for one in SCHEDULERS.values() if one.order is Order.CANONICAL]


def named(schedulers):
    return [pytest.param(scheduler, id=scheduler.name) for scheduler in schedulers]


@pytest.mark.parametrize("scheduler", named(SCHEDULERS.values()))
def test_what_was_heard_of_first_does_not_matter(scheduler):
    orders = {insertion_order(heard, scheduler, "seed") for heard in itertools.permutations(SERVERS)}

    assert 1 == len(orders)
    assert set(SERVERS) == set(*orders)


@pytest.mark.parametrize("scheduler", named(ALIKE))
def test_schedulers_for_which_the_list_decides_have_the_same_on_every_node(scheduler):
    assert {SERVERS} == {insertion_order(SERVERS, scheduler, f"node-{number}") for number in range(20)}


@pytest.mark.parametrize("scheduler", named(SPREAD))
def test_schedulers_that_spread_begin_at_any_real_server_on_some_node(scheduler):
    orders = [insertion_order(SERVERS, scheduler, f"node-{number}") for number in range(60)]

    assert set(SERVERS) == {order[-1] for order in orders}
    assert set(SERVERS) == {order[-2] for order in orders}


@pytest.mark.parametrize("scheduler", named(SPREAD))
def test_the_one_to_begin_at_has_one_of_the_highest_weights(scheduler):
    weighed = [real_server(host, weight=weight) for host, weight in zip(HOSTS, (1, 9, 9, 0, 2), strict=True)]
    orders = [insertion_order(weighed, scheduler, f"node-{number}") for number in range(20)]

    assert set(weighed[1:3]) == {order[-1] for order in orders}


@pytest.mark.parametrize("scheduler", named(SPREAD))
def test_one_that_goes_leaves_the_order_of_the_others(scheduler):
    before = insertion_order(SERVERS, scheduler, "node-a")

    for gone in before:
        left = [server for server in SERVERS if server is not gone]
        assert [each for each in before if each is not gone] == [*insertion_order(left, scheduler, "node-a")]


def test_none_and_a_single_one_have_an_order():
    rr = SCHEDULERS["rr"]

    assert ((), SERVERS[:1]) == (insertion_order([], rr, "seed"), insertion_order(SERVERS[:1], rr, "seed"))


class TestCompiled:
    ENDPOINTS = tuple(endpoint(f"10.244.1.{host}", node="node-a") for host in range(20, 10, -1))
    IN_ORDER = tuple(real_server(f"10.244.1.{host}:8080") for host in range(11, 21))

    def plan(self, node_name="node-a", scheduler="rr", **fields):
        annotations = {"ipvs-agent.io/scheduler": scheduler}
        a_service = service("shop/web", annotations=annotations, **fields)
        slices = [endpoint_slice(endpoints=self.ENDPOINTS)]
        return compiled(a_service, *slices, node=changed(NODE, name=node_name))

    def test_a_hash_has_the_same_order_on_every_node(self):
        plans = [self.plan(f"node-{number}", "mh") for number in range(9)]

        assert {self.IN_ORDER} == {plan.frontends[0].real_servers for plan in plans}

    def test_turns_begin_at_another_real_server_on_every_node(self):
        plans = [self.plan(f"node-{number}", "rr") for number in range(30)]

        assert 3 < len({plan.frontends[0].real_servers for plan in plans})

    def test_turns_of_ports_begin_at_different_real_servers(self):
        names = [f"port-{number}" for number in range(9)]
        ports = [port(number=80 + number, name=text) for number, text in enumerate(names)]
        behind = endpoint_slice(endpoints=dict.fromkeys(names, self.ENDPOINTS))
        plan = compiled(service("shop/web", *ports), behind)

        assert 3 < len({frontend.real_servers for frontend in plan.frontends})

    def test_a_mark_that_goes_by_a_hash_has_its_order_where_the_addresses_take_turns(self):
        a_service = service(
            "shop/web",
            port(load_balancer_ips=["198.51.100.7"]),
            external_local=True,
            affinity_seconds=60,
        )
        slices = [endpoint_slice(endpoints=self.ENDPOINTS)]
        plans = [
            compile_service(a_service, slices, changed(NODE, name=f"node-{number}"), {a_service.ports[0]: 9})
            for number in range(9)
        ]
        by_mark = [plan.frontends[-1] for plan in plans]

        assert {"sh"} == {frontend.virtual_server.scheduler for frontend in by_mark}
        assert {self.IN_ORDER} == {frontend.real_servers for frontend in by_mark}
