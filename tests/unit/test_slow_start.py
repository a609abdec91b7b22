"""Slow starts: whose weight grows, in which steps, and that nothing else is touched by them."""

from __future__ import annotations

import pytest

from ipvs_agent.operations import AddRealServer, AddVirtualServer, DeleteRealServer, SetRealServer
from ipvs_agent.reconcile.timers import RampStep
from ipvs_agent.schedulers import SCHEDULERS
from ipvs_agent.sources.changes import Trouble
from ipvs_agent.testing.builders import endpoint, endpoint_slice, key, port, service
from tests.unit.benches import connect, refuse
from tests.unit.test_reconciler import Bench

VIP = "-t 10.96.0.80:80"
A, B, C, D = (endpoint(f"10.244.1.{host}", node="node-a") for host in (11, 12, 13, 14))
"""The one that belongs at the head of the list is A."""


def asking(seconds="9s", scheduler="wrr", **annotations):
    """A Service whose endpoints start in steps of a second."""
    asked = {"scheduler": scheduler, "slow-start": seconds} | annotations
    return service(annotations={f"ipvs-agent.io/{name}": value for name, value in asked.items() if value})


def behind(*endpoints):
    return endpoint_slice(endpoints=endpoints)


def serving(*endpoints, **asked):
    return Bench().put(asking(**asked), behind(*endpoints)).list_all()


def weights(bench, virtual_server=VIP):
    """Weights by the last number of the address."""
    return {
        int(text.partition(":")[0].rpartition(".")[2]): weight
        for text, weight in bench.tables()[virtual_server].items()
    }


def written(bench):
    """What was written since the last time."""
    done = [operation for batch in bench.kernel.ipvs.batches for operation in batch]
    bench.kernel.ipvs.batches.clear()
    return done


def test_the_first_ones_are_there_at_once():
    assert {11: 10, 12: 10} == weights(serving(A, B))
    bench = serving().put(behind(A, B))

    assert {11: 10, 12: 10} == weights(bench)


def test_one_that_comes_later_grows_and_nothing_else_is_touched():
    bench = serving(B, C).put(behind(A, B, C))
    assert {11: 1, 12: 10, 13: 10} == weights(bench)
    written(bench)
    grown = []
    for _ in range(9):
        bench.pass_time(1)
        grown += [(type(one), one.real_server.endpoint, one.real_server.weight) for one in written(bench)]

    assert [(SetRealServer, (A.address, 8080), weight) for weight in range(2, 11)] == grown
    assert [] == written(bench.pass_time(60))


@pytest.mark.parametrize("seconds", ["1s", "7s", "60s", "1h"])
def test_it_is_complete_when_its_time_is_over_and_not_before(seconds):
    length = {"1s": 1, "7s": 7, "60s": 60, "1h": 3600}[seconds]
    bench = serving(A, seconds=seconds, weights="other=7").put(behind(A, B))
    bench.now += length - 0.1
    bench.settle()
    assert {11: 70, 12: 63} == weights(bench)
    bench.now += 0.1
    bench.settle()

    assert {11: 70, 12: 70} == weights(bench)


def next_step(bench):
    """When the next weight is due."""
    return min(due for due, _, task in bench.reconciler._timers._heap if isinstance(task, RampStep))


@pytest.mark.parametrize(("seconds", "moment"), [("9s", 1 / 3), ("7s", 1000.1), ("60s", 12345.678)])
def test_no_step_is_lost_in_division(seconds, moment):
    """The clock stands still between the timer and the step: one that is not taken would be due at once."""
    bench = Bench(sync_period=86400)
    bench.now = moment
    bench.put(asking(seconds), behind(B)).list_all().put(behind(A, B))
    for step in range(2, 11):
        bench.now = next_step(bench)
        bench.settle()

        assert step == weights(bench)[11]


def test_two_that_come_at_different_times_grow_by_themselves():
    bench = serving(A).put(behind(A, B)).pass_time(4).put(behind(A, B, C)).pass_time(2)
    assert {11: 10, 12: 7, 13: 3} == weights(bench)
    bench.pass_time(3)
    assert {11: 10, 12: 10, 13: 6} == weights(bench)
    bench.pass_time(4)

    assert {11: 10, 12: 10, 13: 10} == weights(bench)


def test_all_that_are_replaced_at_once_have_nobody_to_relieve_them():
    bench = serving(A)
    connect(bench, key("10.96.0.80:80"), A)

    assert {11: 0, 12: 10} == weights(bench.put(behind(B)))


def test_one_that_goes_while_it_grows_drains_as_any_other():
    bench = serving(A).put(behind(A, B)).pass_time(3)
    connect(bench, key("10.96.0.80:80"), B)
    bench.put(behind(A)).pass_time(4)
    assert {11: 10, 12: 0} == weights(bench)
    connect(bench, key("10.96.0.80:80"), B, active=0)
    bench.pass_time(20)

    assert {11: 10} == weights(bench)


def test_one_that_returns_while_it_drains_is_there_at_once():
    bench = serving(A, B)
    connect(bench, key("10.96.0.80:80"), B)
    bench.put(behind(A)).pass_time(2)

    assert {11: 10, 12: 10} == weights(bench.put(behind(A, B)))


def test_one_that_returns_when_it_is_gone_grows_again():
    bench = serving(A, B).put(behind(A)).pass_time(20)

    assert {11: 10, 12: 1} == weights(bench.put(behind(A, B)))


def test_an_agent_takes_those_that_it_finds_for_warm():
    bench = serving(A).put(behind(A, B)).pass_time(2)
    restarted = Bench(bench.kernel).put(asking(), behind(A, B, C)).list_all()

    assert {11: 10, 12: 10, 13: 10} == weights(restarted)
    assert {11: 10, 12: 10, 13: 10, 14: 1} == weights(restarted.put(behind(A, B, C, D)))


def test_before_everything_was_listed_nobody_is_new():
    bench = Bench().put(asking(), behind(A))
    bench.tell(Trouble("web.yaml", "line 3: broken"))
    bench.put(behind(A, B))

    assert {11: 10, 12: 10} == weights(bench.list_all())


def test_the_audit_takes_a_weight_that_grows_for_what_it_is():
    bench = serving(B, seconds="1h").put(behind(A, B))
    written(bench)

    assert [] == written(bench.pass_time(65))


def test_what_others_change_is_put_back_to_where_it_was_and_what_they_remove_does_not_start_anew():
    bench = serving(A, seconds="1h").put(behind(A, B)).pass_time(5)
    real_server = next(
        one.real_server
        for one in bench.kernel.ipvs.real_servers(key("10.96.0.80:80"))
        if one.real_server.address == B.address
    )
    changed = type(real_server)(B.address, 8080, 99)
    bench.kernel.ipvs.apply([SetRealServer(key("10.96.0.80:80"), changed)])
    assert {11: 10, 12: 1} == weights(bench.pass_time(31))
    bench.kernel.ipvs.apply([DeleteRealServer(key("10.96.0.80:80"), A.address, 8080)])

    assert {11: 10, 12: 1} == weights(bench.pass_time(31))


def test_other_changes_of_the_service_go_on_meanwhile():
    bench = serving(A, B).put(behind(A, B, C)).pass_time(3)
    bench.put(asking(weights="node:node-a=3"), behind(A, B, C))
    assert {11: 30, 12: 30, 13: 12} == weights(bench)
    bench.put(asking(weights="node:node-a=3"), behind(A, C)).pass_time(6)

    assert {11: 30, 13: 30} == weights(bench)


def test_a_shorter_time_counts_at_once():
    bench = serving(A, seconds="1h").put(behind(A, B)).pass_time(3).put(asking("9s"))
    assert {11: 10, 12: 4} == weights(bench)

    assert {11: 10, 12: 10} == weights(bench.pass_time(6))


def test_one_of_weight_none_stays_there():
    bench = serving(A, weights="other=0").put(behind(A, B))

    assert {11: 0, 12: 0} == weights(bench.pass_time(20))


def test_it_comes_and_goes_with_its_annotation_and_touches_no_other_service():
    other = service("shop/other", port("10.96.0.90"))
    bench = Bench().put(asking(seconds=""), behind(A, B), other, endpoint_slice("shop/other", endpoints=[A]))
    bench.list_all()
    written(bench)
    on = written(bench.put(asking()))
    off = written(bench.put(behind(A, B, C)).pass_time(2).put(asking(seconds="")).pass_time(20))

    assert [10, 10] == [one.real_server.weight for one in on]
    assert {11: 1, 12: 1, 13: 1} == weights(bench)
    assert {"-t 10.96.0.80:80"} == {str(one.key) for one in [*on, *off]}
    assert not any(isinstance(one, AddVirtualServer) for one in [*on, *off])


def test_where_it_cannot_be_added_it_comes_later_and_is_not_lost():
    bench = serving(A)
    heal = refuse(
        bench.kernel.ipvs,
        lambda operation: isinstance(operation, AddRealServer) and operation.real_server.address == B.address,
    )
    bench.put(behind(A, B)).pass_time(3)
    heal()

    assert {11: 10, 12: 10} == weights(bench.pass_time(40))


def test_when_the_service_goes_nothing_of_it_is_left():
    bench = serving(A).put(behind(A, B)).pass_time(2).remove(asking()).pass_time(40)

    assert {} == bench.tables()


@pytest.mark.parametrize("name", [name for name, one in SCHEDULERS.items() if not one.can_ramp])
def test_to_schedulers_whose_shares_do_not_grow_it_means_nothing(name):
    bench = serving(A, scheduler=name).put(behind(A, B))

    assert {11: 1, 12: 1} == weights(bench)


def test_these_are_the_schedulers_that_can():
    assert {"wrr", "wlc", "sed", "nq", "twos"} == {name for name, one in SCHEDULERS.items() if one.can_ramp}
