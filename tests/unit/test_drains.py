"""How long real servers drain: as their connections last, or as long as they may."""

from __future__ import annotations

import pytest

from ipvs_agent.errors import KernelError
from ipvs_agent.observed import Counters
from ipvs_agent.operations import DeleteRealServer, SetVirtualServer
from ipvs_agent.testing.builders import endpoint, endpoint_slice, key, port, service
from tests.unit.benches import refuse
from tests.unit.test_reconciler import VIP, Bench

A, B, C = (endpoint(f"10.244.1.1{number}", node="node-a") for number in (1, 2, 3))
HOUR = 3600
TIMEOUT = {"ipvs-agent.io/drain-timeout": "90s"}
LIMITED = service(annotations=TIMEOUT)


def serving(a_service, *endpoints, **settings):
    """A bench that serves these endpoints, each of which has a connection."""
    bench = Bench(**settings).put(a_service, endpoint_slice(endpoints=endpoints)).list_all()
    for one in endpoints:
        connect(bench, one)
    return bench


def connect(bench, to, *, active=1, inactive=0, packets=0):
    """Give a real server connections, and packets that it has seen up to now."""
    where = (to.address, to.port)
    bench.kernel.ipvs.set_connections(VIP, where, active=active, inactive=inactive)
    bench.kernel.ipvs.set_counters(VIP, Counters(packets_in=packets), where)


def behind(bench):
    """The weights behind the Service's address, by the last number of the pod's address."""
    return {
        server.real_server.address[-1] - 10: server.real_server.weight
        for server in bench.inner.ipvs.real_servers(VIP)
    }


def seconds_until(bench, condition, at_most=100):
    """How long it takes, in small steps."""
    began = bench.now
    while not condition():
        assert bench.now - began < at_most
        bench.now += 0.125
        bench.settle()
    return bench.now - began


# --- Limits -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("annotations", "settings", "seconds"),
    [
        pytest.param(TIMEOUT, {}, 90, id="the Service's"),
        pytest.param({}, {"drain_seconds": 20.0}, 20, id="the configuration's"),
        pytest.param(TIMEOUT, {"drain_seconds": 20.0}, 90, id="the Service's before the configuration's"),
        pytest.param({"ipvs-agent.io/drain-timeout": "0s"}, {}, 0, id="none at all"),
    ],
)
def test_a_connection_holds_its_real_server_no_longer_than_its_limit(annotations, settings, seconds, caplog):
    bench = serving(service(annotations=annotations), A, B, **settings)
    caplog.set_level("INFO")
    bench.put(endpoint_slice(endpoints=[B]))

    assert seconds <= seconds_until(bench, lambda: behind(bench) == {2: 1}) <= seconds + 0.5
    assert 1 == caplog.text.count("drain timeout, ended connections=1")


def test_a_drain_does_not_begin_before_the_round_that_begins_it_gets_there():
    first = serving(service(), A, B)
    bench = Bench(first.kernel, drain_seconds=5.0).put(service(), endpoint_slice(endpoints=[A]))
    planner = bench.reconciler._planner
    plan = planner.plan

    def slow(*arguments):
        bench.now += 12.0  # as at a start with tens of thousands of Services
        return plan(*arguments)

    planner.plan = slow
    bench.list_all()
    planner.plan = plan

    assert {1: 1, 2: 0} == behind(bench)
    assert 4.0 <= seconds_until(bench, lambda: behind(bench) == {1: 1}) <= 6.0


def test_counters_stand_still_from_when_they_were_read():
    bench = serving(service(), A, B)
    connect(bench, A, active=0, inactive=1, packets=7)
    bench.put(endpoint_slice(endpoints=[B]))
    ipvs = bench.kernel.ipvs
    real_servers, read = ipvs.real_servers, []

    def late(key):
        if not read:
            bench.now += 3.0  # what else the round had to do came first
        read.append(bench.now)
        return real_servers(key)

    ipvs.real_servers = late
    seconds_until(bench, lambda: behind(bench) == {2: 1})

    assert 5.0 <= read[-1] - read[0]


def test_without_a_limit_it_stays_for_hours():
    bench = serving(service(), A, B).put(endpoint_slice(endpoints=[B]))
    bench.now += 24 * HOUR

    assert {1: 0, 2: 1} == behind(bench.pass_time(20))


def test_each_real_server_has_its_own_time():
    bench = serving(LIMITED, A, B, C)
    bench.put(endpoint_slice(endpoints=[B, C])).pass_time(60)
    bench.put(endpoint_slice(endpoints=[C])).pass_time(31)
    assert {2: 0, 3: 1} == behind(bench)

    assert 58 <= seconds_until(bench, lambda: behind(bench) == {3: 1}) <= 60


def test_one_that_has_returned_has_all_its_time_again():
    bench = serving(LIMITED, A, B)
    for _ in range(3):
        bench.put(endpoint_slice(endpoints=[B])).pass_time(60)
        bench.put(endpoint_slice(endpoints=[A, B])).pass_time(2)

    assert {1: 1, 2: 1} == behind(bench)


def test_a_limit_that_comes_later_counts_from_the_start_of_the_drain():
    bench = serving(service(), A, B).put(endpoint_slice(endpoints=[B])).pass_time(60)
    bench.put(LIMITED)

    assert 29 <= seconds_until(bench, lambda: behind(bench) == {2: 1}) <= 30.5


def test_a_deleted_service_lingers_no_longer_than_it_said():
    bench = serving(LIMITED, A).remove(LIMITED).pass_time(88)
    assert {1: 0} == behind(bench)
    bench.pass_time(4)

    assert ({}, set(), set()) == (bench.tables(), bench.vips(), bench.members())


def test_what_an_earlier_agent_left_lingering_has_the_configurations_limit_from_the_start():
    bench = serving(LIMITED, A).remove(LIMITED).pass_time(60)
    restarted = Bench(bench.kernel, drain_seconds=20.0).list_all().pass_time(19)
    assert {1: 0} == behind(restarted)

    assert {} == restarted.pass_time(2).tables()


def test_a_real_server_that_the_kernel_will_not_remove_is_not_tried_again_without_pause():
    bench = serving(LIMITED, A, B).put(endpoint_slice(endpoints=[B]))
    tried = set()

    def note(operation):
        if isinstance(operation, DeleteRealServer):
            tried.add(bench.now)
        return isinstance(operation, DeleteRealServer)

    heal = refuse(bench.kernel.ipvs, note)
    bench.pass_time(120)
    assert 5 <= len(tried) <= 10
    heal()

    assert {2: 1} == behind(bench.pass_time(5))


# --- Connections --------------------------------------------------------------------------------------------


def test_where_no_packets_are_counted_what_is_half_closed_stays_until_it_ends():
    bench = serving(service(), A, B)
    bench.kernel.sysctls.values["net/ipv4/vs/run_estimation"] = "0"
    connect(bench, A, active=0, inactive=1)
    bench.put(endpoint_slice(endpoints=[B])).pass_time(600)
    assert {1: 0, 2: 1} == behind(bench)
    connect(bench, A, active=0, inactive=0)

    assert {2: 1} == behind(bench.pass_time(10))


def test_a_kernel_whose_counting_cannot_be_switched_off_counts():
    bench = serving(service(), A, B)
    del bench.kernel.sysctls.values["net/ipv4/vs/run_estimation"]
    connect(bench, A, active=0, inactive=1)
    bench.put(endpoint_slice(endpoints=[B])).pass_time(20)

    assert {2: 1} == behind(bench)


@pytest.mark.parametrize("age", [0, 10, HOUR], ids=["at once", "after seconds", "after an hour"])
@pytest.mark.parametrize("inactive", [0, 1], ids=["nothing left", "in TIME_WAIT"])
def test_a_real_server_is_gone_ten_seconds_after_its_last_connection(age, inactive):
    bench = serving(service(), A, B).put(endpoint_slice(endpoints=[B]))
    bench.now += age
    bench.pass_time(5 if age else 0)
    connect(bench, A, active=0, inactive=inactive, packets=100)

    assert seconds_until(bench, lambda: behind(bench) == {2: 1}) < 10


@pytest.mark.parametrize("inactive", [0, 1], ids=["nothing left", "in TIME_WAIT"])
def test_a_service_without_an_active_connection_is_gone_within_five_seconds(inactive):
    bench = serving(service(), A)
    connect(bench, A, active=0, inactive=inactive, packets=100)
    bench.remove(service())

    assert seconds_until(bench, lambda: not (bench.tables() or bench.vips())) < 5


def test_one_that_drains_beside_an_old_drain_is_looked_at_as_soon():
    bench = serving(service(), A, B, C).put(endpoint_slice(endpoints=[B, C]))
    bench.now += HOUR
    bench.pass_time(10)
    connect(bench, B, active=0)
    bench.put(endpoint_slice(endpoints=[C]))

    assert seconds_until(bench, lambda: behind(bench) == {1: 0, 3: 1}) <= 0.5


def test_a_half_closed_transfer_holds_its_real_server_while_data_flows_and_no_longer():
    """The kernel does not count it as active."""
    bench = serving(service(), A, B).put(endpoint_slice(endpoints=[B]))
    for packets in range(0, 6000, 100):
        connect(bench, A, active=0, inactive=1, packets=packets)
        bench.pass_time(4)
    assert {1: 0, 2: 1} == behind(bench)

    assert 1 <= seconds_until(bench, lambda: behind(bench) == {2: 1}) <= 6


def test_one_that_was_still_before_it_returned_is_not_taken_for_still_when_it_leaves_again():
    bench = serving(service(), A, B, C).put(endpoint_slice(endpoints=[B]))  # c drains all the time
    connect(bench, A, active=0, inactive=1, packets=7)
    bench.pass_time(3)
    bench.put(endpoint_slice(endpoints=[A, B])).pass_time(10)
    bench.put(endpoint_slice(endpoints=[B]))

    assert 5 <= seconds_until(bench, lambda: 1 not in behind(bench)) <= 5.5


def test_an_endpoint_that_returned_while_no_agent_ran_has_its_weight_back_at_once():
    bench = serving(service(), A, B).put(endpoint_slice(endpoints=[B]))
    assert {1: 0, 2: 1} == behind(bench)
    restarted = Bench(bench.kernel).put(service(), endpoint_slice(endpoints=[A, B])).list_all()

    assert {1: 1, 2: 1} == behind(restarted)


# --- Addresses that go from one Service to another ----------------------------------------------------------

LC = {"ipvs-agent.io/scheduler": "lc"}
NEXT = service("shop/next", annotations=LC, created="2026-03-01T00:00:00Z")


def taken_over():
    """Another Service has come for the address of one that is gone but for its connections."""
    bench = serving(service(), A).remove(service()).pass_time(3)
    assert {1: 0} == behind(bench)
    return bench.put(NEXT, endpoint_slice("shop/next", [B]))


def test_the_next_service_has_the_address_and_the_connections_of_the_last_one_live_on():
    bench = taken_over()
    assert {1: 0, 2: 1} == behind(bench)
    assert "lc" == bench.kernel.ipvs.virtual_server(VIP).virtual_server.scheduler
    assert {1: 0, 2: 1} == behind(bench.pass_time(20))
    connect(bench, A, active=0)
    bench.pass_time(5)

    assert {2: 1} == behind(bench)
    assert {"10.96.0.80"} == bench.vips()


def test_when_it_goes_too_it_lingers_as_it_was_and_not_as_the_one_before():
    bench = taken_over()
    connect(bench, B)
    done = len(bench.kernel.ipvs.batches)
    bench.remove(NEXT).pass_time(10)
    assert {1: 0, 2: 0} == behind(bench)
    assert not [
        operation
        for batch in bench.kernel.ipvs.batches[done:]
        for operation in batch
        if isinstance(operation, SetVirtualServer)
    ]
    for one in (A, B):
        connect(bench, one, active=0)
    bench.pass_time(10)

    assert ({}, set(), set()) == (bench.tables(), bench.vips(), bench.members())


# --- Schedulers under which nothing drains ------------------------------------------------------------------

HASH = {"ipvs-agent.io/scheduler": "sh"}


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        pytest.param({}, {"ipvs-agent.io/scheduler": "dh"}, ("dh", 0), id="dh"),
        pytest.param(HASH, {"ipvs-agent.io/scheduler": "dh"}, ("dh", 0), id="from one table to another"),
        pytest.param(HASH, HASH | {"ipvs-agent.io/scheduler-flags": "none"}, ("sh", 0), id="no fallback"),
    ],
)
class TestASchedulerUnderWhichNothingDrains:
    """It is waited for by what drains, and by what begins to drain with it."""

    def test_it_comes_when_the_last_connection_has_ended(self, before, after, expected):
        bench = serving(service(annotations=before), A, B, C).put(endpoint_slice(endpoints=[B, C]))
        was = how(bench)
        bench.put(service(annotations=after)).pass_time(60)
        assert (was, {1: 0, 2: 1, 3: 1}) == (how(bench), behind(bench))
        connect(bench, A, active=0)
        bench.pass_time(20)

        assert (expected, {2: 1, 3: 1}) == (how(bench), behind(bench))

    def test_endpoints_that_go_with_the_change_are_drained(self, before, after, expected):
        bench = serving(service(annotations=before), A, B, C)
        bench.put(service(annotations=after), endpoint_slice(endpoints=[B, C])).pass_time(60)
        assert {1: 0, 2: 1, 3: 1} == behind(bench)
        connect(bench, A, active=0)

        assert expected == how(bench.pass_time(20))

    def test_it_comes_when_what_drained_returns(self, before, after, expected):
        bench = serving(service(annotations=before), A, B).put(endpoint_slice(endpoints=[B]))
        bench.put(service(annotations=after)).pass_time(10)
        bench.put(endpoint_slice(endpoints=[A, B])).pass_time(1)

        assert (expected, {1: 1, 2: 1}) == (how(bench), behind(bench))

    def test_it_comes_at_the_limit_of_the_drain(self, before, after, expected):
        bench = serving(service(annotations=before | TIMEOUT), A, B).put(endpoint_slice(endpoints=[B]))
        bench.put(service(annotations=after | TIMEOUT)).pass_time(80)
        assert {1: 0, 2: 1} == behind(bench)

        assert (expected, {2: 1}) == (how(bench.pass_time(15)), behind(bench))

    def test_the_next_agent_waits_too(self, before, after, expected):
        bench = serving(service(annotations=before), A, B).put(endpoint_slice(endpoints=[B]))
        was = how(bench)
        restarted = Bench(bench.kernel)
        restarted.put(service(annotations=after), endpoint_slice(endpoints=[B])).list_all().pass_time(10)
        assert (was, {1: 0, 2: 1}) == (how(bench), behind(bench))
        connect(bench, A, active=0)

        assert expected == how(restarted.pass_time(20))

    def test_where_nothing_drains_it_comes_at_once(self, before, after, expected):
        bench = serving(service(annotations=before), A, B).put(service(annotations=after))

        assert expected == how(bench)


class TestWeightsWhileASchedulerIsWaitedFor:
    """They are those for the scheduler that is there: a weight may be a share, a rank or a capacity."""

    @pytest.mark.parametrize("before", ["ovf", "wrr"])
    def test_what_serves_keeps_its_own_and_what_comes_has_as_much(self, before):
        asked = {"ipvs-agent.io/scheduler": before, "ipvs-agent.io/weights": "other=200"}
        bench = serving(service(annotations=asked), A, B, C).put(endpoint_slice(endpoints=[B, C]))
        bench.put(service(annotations={"ipvs-agent.io/scheduler": "dh"})).pass_time(60)
        assert (before, {1: 0, 2: 200, 3: 200}) == (how(bench)[0], behind(bench))
        another = endpoint("10.244.1.14")
        bench.put(endpoint_slice(endpoints=[B, another])).pass_time(1)

        assert {1: 0, 2: 200, 3: 0, 4: 200} == behind(bench)

    def test_a_table_that_is_full_is_shared_anew(self):
        asked = {"ipvs-agent.io/scheduler": "sh", "ipvs-agent.io/weights": "other=200"}
        bench = serving(service(annotations=asked), A, B).put(endpoint_slice(endpoints=[B]))
        assert {1: 0, 2: 200} == behind(bench)
        bench.put(service(annotations={"ipvs-agent.io/scheduler": "dh"}), endpoint_slice(endpoints=[B, C]))

        assert {1: 0, 2: 128, 3: 128} == behind(bench.pass_time(1))

    def test_they_change_with_the_scheduler(self):
        asked = {"ipvs-agent.io/scheduler": "ovf", "ipvs-agent.io/weights": "other=200"}
        bench = serving(service(annotations=asked), A, B).put(endpoint_slice(endpoints=[B]))
        bench.put(service(annotations={"ipvs-agent.io/scheduler": "dh"})).pass_time(10)
        connect(bench, A, active=0)
        bench.pass_time(20)

        assert (("dh", 0), {2: 1}) == (how(bench), behind(bench))


def how(bench):
    """The scheduler and flags that the Service's address has."""
    found = bench.inner.ipvs.virtual_server(VIP).virtual_server
    return found.scheduler, found.flags


# --- Cost ---------------------------------------------------------------------------------------------------


def test_a_drain_reads_its_own_virtual_server_and_nothing_else():
    bench = serving(service(), A, B)
    others = [service(f"a/s{number}", port(f"10.97.0.{number}")) for number in range(1, 101)]
    bench.put(*others, *(endpoint_slice(str(one.name), [C]) for one in others))
    reads = watch(bench)
    bench.put(endpoint_slice(endpoints=[B])).pass_time(25)

    assert {("real_servers", VIP)} == set(reads)
    assert len(reads) <= 20


def test_a_look_at_many_drains_is_one_read_for_each():
    ports = [port(f"10.97.0.{number}") for number in range(1, 51)]
    services = [service(f"a/s{number}", one) for number, one in enumerate(ports)]
    bench = Bench().put(*services, *(endpoint_slice(str(one.name), [A]) for one in services)).list_all()
    keys = [key(f"10.97.0.{number}:80") for number in range(1, 51)]
    for one in keys:
        bench.kernel.ipvs.set_connections(one, (A.address, A.port), active=1)
    for one in services:
        bench.remove(one)
    reads = watch(bench)
    bench.now += 0.25
    bench.settle()

    assert sorted(("real_servers", one) for one in keys) == sorted(reads)


def watch(bench):
    """Note every read of virtual and real servers from now on."""
    reads = []

    def noting(method):
        real = getattr(bench.kernel.ipvs, method)

        def read(*arguments):
            reads.append((method, *arguments))
            return real(*arguments)

        setattr(bench.kernel.ipvs, method, read)

    for method in ("virtual_servers", "virtual_server", "real_servers"):
        noting(method)
    return reads


def test_a_read_that_fails_is_tried_again():
    bench = serving(service(), A, B)
    other = key("10.97.0.1:80")
    bench.put(service("a/other", port("10.97.0.1")), endpoint_slice("a/other", [A, B]))
    real = bench.kernel.ipvs.real_servers_of

    def failing(keys):
        if VIP in keys:
            raise KernelError("no")
        return real(keys)

    bench.kernel.ipvs.real_servers_of = failing
    bench.put(endpoint_slice(endpoints=[B]), endpoint_slice("a/other", [B]))
    connect(bench, A, active=0)
    bench.pass_time(3)

    # Another one that is looked at in the same moment has gone on.
    assert {1: 0, 2: 1} == behind(bench)
    assert 1 == len(bench.inner.ipvs.real_servers(other))

    bench.kernel.ipvs.real_servers_of = real

    assert {2: 1} == behind(bench.pass_time(2))


@pytest.mark.parametrize(
    ("count", "batches"),
    [pytest.param(60, [60], id="one batch"), pytest.param(150, [100, 50], id="others come in between")],
)
def test_what_is_due_at_once_goes_together(count, batches):
    services = [service(f"a/s{number}", port(f"10.97.0.{number}")) for number in range(count)]
    bench = Bench().put(*services, *(endpoint_slice(str(one.name), [A, B]) for one in services)).list_all()
    bench.now += 0.01
    bench.put(*(endpoint_slice(str(one.name), [B]) for one in services[: count // 2]))
    bench.now += 0.03
    bench.put(*(endpoint_slice(str(one.name), [B]) for one in services[count // 2 :]))
    removed = []
    real = bench.kernel.ipvs.apply

    def noting(operations):
        removed.append(sum(isinstance(one, DeleteRealServer) for one in operations))
        return real(operations)

    bench.kernel.ipvs.apply = noting
    bench.now += 0.3
    bench.settle()

    assert batches == list(filter(None, removed))
