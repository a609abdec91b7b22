"""Real servers that are put in order: which are moved, when, and what becomes of their connections."""

from __future__ import annotations

import errno
import itertools
import random

import msgspec
import pytest

from ipvs_agent.addresses import format_address
from ipvs_agent.errors import KernelError
from ipvs_agent.model import Frontend, Protocol, VirtualServer
from ipvs_agent.operations import AddRealServer, DeleteRealServer, SetRealServer
from ipvs_agent.reconcile import rebuild
from ipvs_agent.reconcile.achieved import Held
from ipvs_agent.reconcile.messages import Stop
from ipvs_agent.reconcile.rebuild import misplaced
from ipvs_agent.sources.changes import Kind, Listed, Put
from ipvs_agent.testing.builders import endpoint, endpoint_slice, key, name, port, real_server, service
from ipvs_agent.testing.fake_kernel import FakeKernel
from ipvs_agent.testing.faulty import FaultyKernel
from tests.unit import tables
from tests.unit.benches import connect, refuse
from tests.unit.test_reconciler import KINDS, VIP, Bench, KilledError, kill_at, revive

EXPIRE = "net/ipv4/vs/expire_nodest_conn"
PODS = [endpoint(f"10.244.1.{number}") for number in range(10, 20)]
A, B, C, D = PODS[:4]


def serving(*endpoints, scheduler="mh", kernel=None, **options):
    """A bench that serves a Service over these endpoints."""
    bench = Bench(kernel, **options)
    bench.put(hashed(scheduler), endpoint_slice(endpoints=endpoints))
    return bench.list_all()


def hashed(scheduler="mh", *ports):
    return service("shop/web", *ports, annotations={"ipvs-agent.io/scheduler": scheduler})


def order(bench, of=VIP):
    """The addresses of the real servers in the order in which they were added."""
    listed = bench.inner.ipvs.real_servers(of)
    return [format_address(one.real_server.address) for one in reversed(listed)]


def addresses(*endpoints):
    return [format_address(one.address) for one in endpoints]


def moves(bench):
    """The messages that the kernel got since it was asked last, those that say who is there or not."""
    batches, bench.inner.ipvs.batches = bench.inner.ipvs.batches, []
    listed = [operation for batch in batches for operation in batch]
    return [str(one) for one in listed if isinstance(one, AddRealServer | DeleteRealServer)]


def written(bench):
    return [value for name, value in bench.inner.sysctls.written if name == EXPIRE]


class TestMisplaced:
    @pytest.mark.parametrize(
        ("wanted", "held", "moved"),
        [
            ("", "", ""),
            ("abc", "abc", ""),
            ("abc", "acb", "c"),
            ("abc", "cab", "c"),
            ("abc", "bac", "bc"),
            ("abc", "bca", "bc"),
            ("abc", "cba", "bc"),
            ("abcd", "abdc", "d"),
            ("abcd", "acbd", "cd"),
            ("abc", "xaybzc", ""),
            ("abc", "xcyazb", "c"),
            ("abcd", "db", "d"),
            ("ab", "", ""),
        ],
    )
    def test_what_is_not_a_beginning_of_the_order_is_moved(self, wanted, held, moved):
        servers = {name: real_server(f"10.244.0.{ord(name)}:80") for name in "abcdxyz"}
        virtual_server = VirtualServer(VIP, "sh")
        frontend = Frontend(virtual_server, tuple(servers[name] for name in wanted), (), ())
        holding = Held(virtual_server, {servers[name].endpoint: servers[name] for name in held})

        assert [servers[name] for name in moved] == misplaced(frontend, holding)

    @pytest.mark.parametrize(
        ("scheduler", "weights", "wanted", "held", "moved"),
        [
            pytest.param("sh", {"a": 127, "b": 128}, "ab", "axb", "", id="room beside it"),
            pytest.param("sh", {"a": 128, "b": 128}, "ab", "axb", "ab", id="no room beside it"),
            pytest.param("sh", {"a": 128, "b": 128}, "ab", "xab", "", id="behind it already"),
            pytest.param("sh", {"a": 128, "b": 128}, "ab", "xba", "b", id="behind it in disorder"),
            pytest.param("sh", {"a": 0, "b": 255}, "ab", "abx", "ab", id="0 has a place, too"),
            pytest.param("sh", {"a": 127, "b": 127}, "ab", "axbyz", "ab", id="three of them"),
            pytest.param("mh", {"a": 1000, "b": 2000}, "ab", "abx", "ab", id="as heavy as any"),
            pytest.param("mh", {"a": 1, "b": 1}, "ab", "axb", "", id="as light as all"),
            pytest.param("dh", {"a": 300, "b": 300}, "ab", "axb", "", id="weights that mean nothing"),
        ],
    )
    def test_draining_ones_take_no_place_away(self, scheduler, weights, wanted, held, moved):
        servers = {
            name: real_server(f"10.244.0.{ord(name)}:80", weight=weights.get(name, 0)) for name in "abxyz"
        }
        virtual_server = VirtualServer(VIP, scheduler)
        frontend = Frontend(virtual_server, tuple(servers[name] for name in wanted), (), ())
        holding = Held(virtual_server, {servers[name].endpoint: servers[name] for name in held})

        assert [servers[name] for name in moved] == misplaced(frontend, holding)

    @pytest.mark.parametrize(
        ("wanted", "held", "moved"),
        [
            ("", "", ""),
            ("", "x", ""),
            ("abc", "abc", ""),
            ("abc", "bac", ""),
            ("abc", "cab", "c"),
            ("abc", "acbx", "c"),
            ("abc", "abcx", ""),
            ("abc", "ab", ""),
            ("a", "a", ""),
        ],
    )
    @pytest.mark.parametrize("scheduler", ["rr", "lc"])
    def test_under_those_that_begin_at_the_head_it_alone_is_moved(self, scheduler, wanted, held, moved):
        servers = {
            name: real_server(f"10.244.0.{ord(name)}:80", weight=0 if name == "x" else 1) for name in "abcx"
        }
        virtual_server = VirtualServer(VIP, scheduler)
        frontend = Frontend(virtual_server, tuple(servers[name] for name in wanted), (), ())
        holding = Held(virtual_server, {servers[name].endpoint: servers[name] for name in held})

        assert [servers[name] for name in moved] == misplaced(frontend, holding)

    def test_a_head_of_weight_0_is_none(self):
        one, other = real_server("10.244.0.1:80", weight=0), real_server("10.244.0.2:80")
        virtual_server = VirtualServer(VIP, "wrr")
        holding = Held(virtual_server, {each.endpoint: each for each in (one, other)})

        assert [] == misplaced(Frontend(virtual_server, (other, one), (), ()), holding)

    @pytest.mark.parametrize(
        ("scheduler", "weights", "is_moved"),
        [
            pytest.param("fo", (1, 1, 3), False, id="fo, the last added has less"),
            pytest.param("fo", (1, 3, 3), True, id="fo, it has as much"),
            pytest.param("ovf", (1, 1, 3), False, id="ovf, the last added has less"),
            pytest.param("wlc", (1, 1, 3), True, id="wlc, whatever it has"),
        ],
    )
    def test_ranks_come_before_who_is_first(self, scheduler, weights, is_moved):
        last, other, head = (
            real_server(f"10.244.0.{number}:80", weight=weight) for number, weight in enumerate(weights)
        )
        virtual_server = VirtualServer(VIP, scheduler)
        holding = Held(virtual_server, {each.endpoint: each for each in (head, last, other)})

        assert [head] * is_moved == misplaced(Frontend(virtual_server, (last, other, head), (), ()), holding)

    @pytest.mark.parametrize("scheduler", ["", "unheard-of"])
    def test_nothing_is_moved_where_nobody_knows_what_the_list_does(self, scheduler):
        one, other = real_server("10.244.0.1:80"), real_server("10.244.0.2:80")
        virtual_server = VirtualServer(VIP, scheduler)
        holding = Held(virtual_server, {each.endpoint: each for each in (other, one)})

        assert [] == misplaced(Frontend(virtual_server, (one, other), (), ()), holding)


def test_what_is_added_at_once_is_added_in_order():
    bench = serving(C, A, D, B)

    assert addresses(A, B, C, D) == order(bench)
    moves(bench)
    bench.pass_time(10)
    assert ([], "1") == (moves(bench), bench.inner.sysctls.values[EXPIRE])


def test_an_addition_moves_only_what_belongs_before_it_in_the_list():
    bench = serving(A, B, D)
    bench.put(endpoint_slice(endpoints=[A, B, C, D]))
    moves(bench)
    bench.pass_time(5)

    assert addresses(A, B, C, D) == order(bench)
    assert [
        "ipvsadm -d -t 10.96.0.80:80 -r 10.244.1.13:8080",
        "ipvsadm -a -t 10.96.0.80:80 -r 10.244.1.13:8080 -m -w 1",
    ] == moves(bench)


def test_flows_do_not_expire_from_some_time_before_the_burst_until_it_is_done():
    bench = serving(B, C)
    seen = []
    apply = bench.kernel.ipvs.apply

    def applying(batch):
        seen.extend(bench.kernel.sysctls.values[EXPIRE] for one in batch if isinstance(one, DeleteRealServer))
        return apply(batch)

    bench.kernel.ipvs.apply = applying
    bench.put(endpoint_slice(endpoints=[A, B, C]))
    bench.inner.sysctls.written.clear()
    bench.now += 2.0
    bench.settle()
    assert (addresses(B, C, A), "0") == (order(bench), bench.inner.sysctls.values[EXPIRE])
    bench.now += 0.5
    bench.settle()

    assert addresses(A, B, C) == order(bench)
    assert (["0", "0"], ["0", "1"]) == (seen, written(bench))


def test_what_becomes_due_meanwhile_does_not_hasten_the_burst():
    bench = serving(B, C)
    other = hashed("sh", port("10.96.0.90"))
    bench.put(msgspec.structs.replace(other, name=name("shop/other")))
    bench.put(endpoint_slice("shop/other", [B, C]))
    bench.put(endpoint_slice(endpoints=[A, B, C]))
    bench.now += 0.2
    bench.put(endpoint_slice("shop/other", [A, B, C]))
    bench.now += 1.8
    bench.settle()
    bench.now += 0.2
    bench.settle()
    assert addresses(B, C, A) == order(bench) == order(bench, key("10.96.0.90:80"))
    bench.now += 0.3
    bench.settle()

    assert addresses(A, B, C) == order(bench) == order(bench, key("10.96.0.90:80"))


def test_a_disorder_that_ends_by_itself_is_left_alone():
    bench = serving(B, C)
    bench.put(endpoint_slice(endpoints=[A, B, C]))
    bench.inner.sysctls.written.clear()
    bench.put(endpoint_slice(endpoints=[B, C])).pass_time(10)

    assert [] == written(bench)


def test_connections_are_kept():
    bench = serving(B, C)
    connect(bench, VIP, B, 7)
    connect(bench, VIP, C, 8)
    bench.put(endpoint_slice(endpoints=[A, B, C])).pass_time(5)

    assert [(A, 0), (B, 7), (C, 8)] == [
        (endpoint(format_address(one.real_server.address)), one.active)
        for one in reversed(bench.inner.ipvs.real_servers(VIP))
    ]


def test_a_draining_one_stays_where_it_is():
    bench = serving(A, B, C)
    connect(bench, VIP, B)
    bench.put(endpoint_slice(endpoints=[A, C])).pass_time(5)
    bench.put(endpoint_slice(endpoints=[C, D])).pass_time(5)
    moves(bench)
    bench.pass_time(10)

    assert addresses(B, C, D) == order(bench)
    assert [] == moves(bench)
    assert {"10.244.1.11:8080": 0, "10.244.1.12:8080": 1, "10.244.1.13:8080": 1} == bench.tables()[str(VIP)]


def test_nobody_is_left_without_a_place_because_of_those_that_drain():
    pods = [endpoint(f"10.244.{number // 200}.{number % 200 + 1}") for number in range(256)]
    bench = serving(*pods, scheduler="sh")
    for one in pods[100:150]:
        connect(bench, VIP, one)
    new = [endpoint(f"10.244.9.{number + 1}") for number in range(50)]
    bench.put(endpoint_slice(endpoints=[*pods[:100], *pods[150:], *new])).pass_time(20)
    listed = [one.real_server for one in bench.inner.ipvs.real_servers(VIP)]

    assert 306 == len(listed)
    served = set(tables.filled("sh", listed))
    assert {one.endpoint for one in listed if one.weight} == served
    moves(bench)
    bench.pass_time(60)
    assert [] == moves(bench)


def test_changes_that_do_not_end_are_not_waited_for_longer_than_half_a_minute():
    bench = serving(B, C)
    bench.put(endpoint_slice(endpoints=[A, B, C]))
    for number in range(29):
        bench.put(endpoint_slice(endpoints=[A, B, C, PODS[4 + number % 2]])).pass_time(1)
        assert addresses(B, C, A) == order(bench)[:3]
    for number in range(4):
        bench.put(endpoint_slice(endpoints=[A, B, C, PODS[4 + number % 2]])).pass_time(1)

    assert addresses(A, B, C) == order(bench)[:3]
    assert "1" == bench.inner.sysctls.values[EXPIRE]


def test_many_are_moved_in_several_bursts_and_reported_once(caplog):
    caplog.set_level("INFO")
    pods = [endpoint(f"10.244.0.{number + 1}") for number in range(81)]
    bench = serving(*pods[1:])
    bench.inner.ipvs.batches.clear()
    bench.put(endpoint_slice(endpoints=pods)).pass_time(5)

    assert addresses(*pods) == order(bench)
    assert [1, 64, 64, 32] == [len(batch) for batch in bench.inner.ipvs.batches]
    assert 1 == caplog.text.count("real servers put in the scheduler's order moved=80 failed=0")


def test_flows_expire_again_for_a_while_where_it_takes_long():
    pods = [endpoint(f"10.244.0.{number + 1}") for number in range(201)]
    bench = serving(*pods[1:])
    bench.put(endpoint_slice(endpoints=pods))
    bench.inner.sysctls.written.clear()
    apply = bench.kernel.ipvs.apply

    def applying(batch):
        bench.now += 0.7
        return apply(batch)

    bench.kernel.ipvs.apply = applying
    spans = []
    for _ in range(300):
        bench.now += 0.1
        bench.settle()
        spans.append(bench.inner.sysctls.values[EXPIRE])

    assert addresses(*pods) == order(bench)
    assert ["0", "1"] * 3 == written(bench)
    lengths = [len(list(group)) / 10 for _, group in itertools.groupby(spans)]
    assert lengths[2] == lengths[4] == pytest.approx(5, abs=0.1)


def changing(count, pods, *, apart):
    """A bench of so many Services, behind each of which a real server comes that belongs first."""
    names = [f"shop/s{number}" for number in range(count)]
    vips = [key(f"10.96.1.{number + 1}:80") for number in range(count)]
    bench = Bench()
    for named, vip in zip(names, vips, strict=True):
        asked = hashed("mh", port(format_address(vip.address)))
        bench.put(msgspec.structs.replace(asked, name=name(named)), endpoint_slice(named, pods[1:]))
    bench.list_all()
    bench.inner.ipvs.batches.clear()
    bench.inner.sysctls.written.clear()
    for named in names:
        bench.now += apart
        bench.put(endpoint_slice(named, pods))
    return bench, vips


def test_the_loop_looks_at_other_things_between_bursts_however_many_services_change_apart():
    pods = [endpoint(f"10.244.0.{number + 1}") for number in range(41)]
    bench, vips = changing(20, pods, apart=0.1)
    most = 0
    for _ in range(200):
        bench.now += 0.05
        bench.inner.ipvs.batches.clear()
        bench.reconciler.catch_up()
        moved = [
            one for batch in bench.inner.ipvs.batches for one in batch if isinstance(one, DeleteRealServer)
        ]
        most = max(most, len(moved))

    assert [addresses(*pods)] * 20 == [order(bench, vip) for vip in vips]
    assert 32 == most


def test_what_becomes_due_after_a_burst_shares_the_next_one():
    bench, vips = changing(20, [A, B, C], apart=0.4)
    bench.pass_time(10)

    assert [addresses(A, B, C)] * 20 == [order(bench, vip) for vip in vips]
    assert ["0", "1"] * 2 == written(bench)


def test_very_many_are_moved_only_when_it_has_been_quiet_for_longer(monkeypatch):
    monkeypatch.setattr(rebuild, "_MANY", 2)
    bench = serving(B, C, D)
    bench.put(endpoint_slice(endpoints=[A, B, C, D])).pass_time(20)
    assert addresses(B, C, D, A) == order(bench)
    bench.pass_time(12)

    assert addresses(A, B, C, D) == order(bench)


def test_changes_behind_very_many_are_not_waited_for_longer_than_five_minutes(monkeypatch):
    monkeypatch.setattr(rebuild, "_MANY", 2)
    bench = serving(B, C, D)
    bench.put(endpoint_slice(endpoints=[A, B, C, D]))
    for number in range(298):
        bench.put(endpoint_slice(endpoints=[A, B, C, D, PODS[4 + number % 2]])).pass_time(1)
    assert addresses(B, C, D, A) == order(bench)[:4]
    for number in range(6):
        bench.put(endpoint_slice(endpoints=[A, B, C, D, PODS[4 + number % 2]])).pass_time(1)

    assert addresses(A, B, C, D) == order(bench)[:4]


def test_what_an_agent_before_left_in_disorder_is_put_in_order():
    bench = serving(B, C)
    bench.put(endpoint_slice(endpoints=[A, B, C]))
    assert addresses(B, C, A) == order(bench)
    bench.inner.sysctls.values[EXPIRE] = "0"  # it was killed before its burst
    after = serving(A, B, C, kernel=bench.kernel)

    assert "1" == bench.inner.sysctls.values[EXPIRE]
    after.pass_time(5)
    assert addresses(A, B, C) == order(after)


def test_one_that_was_away_when_its_agent_was_killed_comes_back_in_order():
    bench = serving(A, C)
    bench.put(endpoint_slice(endpoints=[A, B, C])).pass_time(2)
    kill_at(bench.kernel, 0)
    with pytest.raises(KilledError):
        bench.pass_time(1)
    revive(bench.kernel)
    assert addresses(A, B) == order(bench)
    after = serving(A, B, C, kernel=bench.kernel)

    assert addresses(A, B, C) == order(after)
    assert "1" == bench.inner.sysctls.values[EXPIRE]


def test_what_an_agent_before_left_in_order_is_left_alone():
    bench = serving(A, B, C)
    moves(bench)
    bench.inner.sysctls.written.clear()
    serving(C, B, A, kernel=bench.kernel).pass_time(10)

    assert ([], []) == (moves(bench), written(bench))


def test_a_change_to_a_scheduler_that_fills_a_table_puts_them_in_order():
    bench = serving(*PODS, scheduler="rr")
    assert addresses(*PODS) != order(bench)
    bench.put(hashed("sh")).pass_time(5)

    assert addresses(*PODS) == order(bench)


def test_datagrams_are_balanced_in_order_too():
    bench = Bench()
    bench.put(hashed("sh", port(protocol=Protocol.UDP)), endpoint_slice(endpoints=[B, C])).list_all()
    bench.put(endpoint_slice(endpoints=[A, B, C])).pass_time(5)

    assert addresses(A, B, C) == order(bench, key("10.96.0.80:80", Protocol.UDP))


def test_a_weight_that_others_changed_meanwhile_is_made_good_and_kept():
    bench = serving(B, C)
    bench.put(endpoint_slice(endpoints=[A, B, C]))
    bench.inner.ipvs.apply([SetRealServer(VIP, real_server("10.244.1.11:8080", weight=9))])
    bench.pass_time(40)

    assert addresses(A, B, C) == order(bench)
    assert {1} == set(bench.tables()[str(VIP)].values())


def test_an_order_that_others_changed_is_found_by_the_audit():
    bench = serving(A, B, C)
    again = real_server("10.244.1.10:8080")
    bench.inner.ipvs.apply([DeleteRealServer(VIP, *again.endpoint), AddRealServer(VIP, again)])
    assert addresses(B, C, A) == order(bench)
    bench.pass_time(40)

    assert addresses(A, B, C) == order(bench)


def test_an_order_that_does_not_count_is_no_drift(caplog):
    bench = serving(A, B, C, scheduler="rr")
    first = bench.inner.ipvs.real_servers(VIP)[-1].real_server
    bench.inner.ipvs.apply([DeleteRealServer(VIP, *first.endpoint), AddRealServer(VIP, first)])
    moves(bench)
    bench.pass_time(40)

    assert [] == moves(bench)
    assert "changed by others" not in caplog.text


def test_one_that_cannot_come_back_is_tried_again_before_its_flows_expire():
    bench = serving(B, C)
    bench.put(endpoint_slice(endpoints=[A, B, C]))
    heal = refuse(bench.kernel.ipvs, lambda operation: isinstance(operation, AddRealServer))
    bench.pass_time(5)
    assert addresses(A) == order(bench)
    assert "0" == bench.inner.sysctls.values[EXPIRE]
    heal()
    seen = []
    apply = bench.kernel.ipvs.apply

    def applying(batch):
        seen.extend(bench.kernel.sysctls.values[EXPIRE] for one in batch if isinstance(one, AddRealServer))
        return apply(batch)

    bench.kernel.ipvs.apply = applying
    bench.pass_time(2)

    assert ["0", "0"] == seen
    assert addresses(A, B, C) == order(bench)
    assert "1" == bench.inner.sysctls.values[EXPIRE]


def test_flows_do_not_expire_where_the_kernel_deleted_some_without_an_answer():
    bench = serving(B, C)
    bench.put(endpoint_slice(endpoints=[A, B, C]))
    apply, since = bench.kernel.ipvs.apply, []

    def silent(batch):
        """Deletes and says nothing; for a second nothing can be added."""
        if not since and any(isinstance(one, DeleteRealServer) for one in batch):
            since.append(bench.now)
            apply([one for one in batch if isinstance(one, DeleteRealServer)])
            return [KernelError("no answer", errno.EINTR) for _ in batch]
        is_full = since and bench.now < since[0] + 1
        return [
            KernelError("no memory", errno.ENOMEM)
            if is_full and isinstance(one, AddRealServer)
            else apply([one])[0]
            for one in batch
        ]

    bench.kernel.ipvs.apply = silent
    while len(order(bench)) < 3 or not since:
        bench.now += 0.1
        bench.settle()
        assert len(order(bench)) == 3 or bench.inner.sysctls.values[EXPIRE] == "0"

    bench.pass_time(20)
    assert (addresses(A, B, C), "1") == (order(bench), bench.inner.sysctls.values[EXPIRE])


def test_nothing_else_is_moved_while_one_cannot_come_back(monkeypatch):
    monkeypatch.setattr(rebuild, "_BURST", 1)
    bench = serving(B, C)
    bench.put(endpoint_slice(endpoints=[A, B, C]))
    heal = refuse(bench.kernel.ipvs, lambda operation: isinstance(operation, AddRealServer))
    bench.pass_time(6)
    assert addresses(C, A) == order(bench)
    heal()
    bench.pass_time(30)

    assert addresses(A, B, C) == order(bench)


def test_flows_expire_at_last_where_one_does_not_come_back():
    bench = serving(B, C)
    bench.put(endpoint_slice(endpoints=[A, B, C]))
    heal = refuse(bench.kernel.ipvs, lambda operation: isinstance(operation, AddRealServer))
    bench.pass_time(9)
    assert addresses(A) == order(bench)
    assert "1" == bench.inner.sysctls.values[EXPIRE]
    heal()
    bench.pass_time(40)

    assert addresses(A, B, C) == order(bench)


def test_one_that_nobody_asks_for_any_more_is_not_waited_for():
    bench = serving(B, C)
    bench.put(endpoint_slice(endpoints=[A, B, C]))
    refuse(bench.kernel.ipvs, lambda operation: isinstance(operation, AddRealServer))
    bench.pass_time(4)
    assert "0" == bench.inner.sysctls.values[EXPIRE]
    bench.put(endpoint_slice(endpoints=[A])).pass_time(1)

    assert "1" == bench.inner.sysctls.values[EXPIRE]


def test_one_that_cannot_be_deleted_stays_and_is_tried_again():
    bench = serving(B, C)
    bench.put(endpoint_slice(endpoints=[A, B, C]))
    heal = refuse(bench.kernel.ipvs, lambda operation: isinstance(operation, DeleteRealServer))
    bench.pass_time(5)
    assert addresses(B, C, A) == order(bench)
    heal()
    bench.pass_time(10)

    assert addresses(A, B, C) == order(bench)


def test_nothing_is_moved_where_flows_would_expire(caplog):
    bench = serving(B, C)
    moves(bench)
    bench.inner.sysctls.read_only = True
    bench.put(endpoint_slice(endpoints=[A, B, C])).pass_time(100)

    assert addresses(B, C, A) == order(bench)
    assert 1 == len(moves(bench))
    assert 1 == caplog.text.count("cannot be put in the scheduler's order")
    bench.inner.sysctls.read_only = False
    bench.pass_time(40)
    assert addresses(A, B, C) == order(bench)


def test_changes_meanwhile_do_not_have_it_tried_more_often():
    bench = serving(B, C)
    bench.inner.sysctls.read_only = True
    tries = []
    write = bench.inner.sysctls.write

    def writing(name, value):
        tries.extend([value] if (name, value) == (EXPIRE, "0") else [])
        write(name, value)

    bench.inner.sysctls.write = writing
    for number in range(300):
        bench.now += 0.2
        bench.put(endpoint_slice(endpoints=[A, B, C, D][: 3 + number % 2]))
    bench.pass_time(60)

    assert 3 <= len(tries) <= 5


class TestRunOnce:
    def test_it_does_not_wait_for_the_time_to_move_a_head(self):
        kernel = serving(PODS[4], scheduler="lc").kernel
        bench, is_complete = self.again(kernel, hashed("lc"), endpoint_slice(endpoints=PODS))

        assert is_complete
        assert order(bench)[-1] != order(serving(*PODS, scheduler="lc"))[-1]

    @pytest.fixture(autouse=True)
    def without_waiting(self, monkeypatch):
        for constant in ("_QUIET", "_SETTLING"):
            monkeypatch.setattr(rebuild, constant, 0.0)

    def again(self, kernel, *things):
        bench = Bench(kernel)
        bench.reconciler.tell([Put(KINDS[type(thing)], thing) for thing in things])
        for kind in Kind:
            names = frozenset(thing.name for thing in things if KINDS[type(thing)] is kind)
            bench.reconciler.tell([Listed(kind, names)])
        return bench, bench.reconciler.run_once()

    def test_it_ends_in_order(self):
        bench, is_complete = self.again(
            serving(B, C).kernel, hashed("mh"), endpoint_slice(endpoints=[A, B, C])
        )

        assert (True, addresses(A, B, C)) == (is_complete, order(bench))

    def test_it_does_not_say_that_all_was_achieved_where_flows_would_expire(self):
        kernel = serving(B, C).kernel
        kernel.sysctls.read_only = True
        bench, is_complete = self.again(kernel, hashed("mh"), endpoint_slice(endpoints=[A, B, C]))

        assert (False, addresses(B, C, A)) == (is_complete, order(bench))

    def test_what_is_refused_of_one_keeps_no_other_from_its_order(self, monkeypatch):
        monkeypatch.setattr(rebuild, "_BURST", 1)
        first, other = (
            msgspec.structs.replace(hashed("mh", port(address)), name=name(named))
            for named, address in (("shop/a", "10.96.0.80"), ("shop/b", "10.96.0.90"))
        )
        bench = Bench()
        bench.put(first, other, *(endpoint_slice(str(one.name), [B, C]) for one in (first, other))).list_all()
        refuse(bench.kernel.ipvs, lambda one: isinstance(one, DeleteRealServer) and one.key == VIP)
        slices = [endpoint_slice(str(one.name), [A, B, C]) for one in (first, other)]
        bench, is_complete = self.again(bench.kernel, first, other, *slices)

        assert [addresses(B, C, A), addresses(A, B, C)] == [order(bench), order(bench, key("10.96.0.90:80"))]
        assert not is_complete


def test_flows_expire_again_even_if_that_is_refused_at_first():
    bench = serving(B, C)
    bench.put(endpoint_slice(endpoints=[A, B, C]))
    bench.now += 2
    bench.settle()
    assert "0" == bench.inner.sysctls.values[EXPIRE]
    bench.inner.sysctls.read_only = True
    bench.now += 1
    bench.settle()
    assert (addresses(A, B, C), "0") == (order(bench), bench.inner.sysctls.values[EXPIRE])
    bench.inner.sysctls.read_only = False
    bench.pass_time(2)

    assert "1" == bench.inner.sysctls.values[EXPIRE]


def test_the_foundation_is_not_laid_between_the_end_of_expiry_and_the_burst():
    bench = serving(B, C)
    bench.now += 27.9
    bench.put(endpoint_slice(endpoints=[A, B, C]))
    bench.now += 2
    bench.settle()
    bench.inner.sysctls.written.clear()
    bench.now += 0.2  # the audit is due now
    bench.settle()
    assert [] == written(bench)
    bench.inner.vips.remove_link()
    bench.pass_time(2)

    assert addresses(A, B, C) == order(bench)
    assert ["1"] == written(bench)
    assert bench.inner.vips.link_is_ours()


def test_the_end_of_expiry_waits_for_the_foundation():
    jobs = []
    bench = serving(B, C)
    bench.worker.submit = jobs.append
    bench.now += 29
    bench.put(endpoint_slice(endpoints=[A, B, C])).pass_time(10)
    assert (addresses(B, C, A), "1") == (order(bench), bench.inner.sysctls.values[EXPIRE])
    while jobs:
        jobs.pop()()
        bench.settle()
    bench.pass_time(3)

    assert addresses(A, B, C) == order(bench)


@pytest.mark.parametrize("moment", [0.0, 0.1, 0.2, 0.3, 0.4])
def test_audits_that_take_nearly_all_of_their_period_do_not_keep_it_waiting(moment):
    bench = serving(B, C, sync_period=1.0)
    jobs = []

    def submit(job):
        jobs.append((bench.now + (0.9 if bench.reconciler._audits.is_laying else 0.0), job))

    bench.worker.submit = submit

    def pass_time(seconds):
        for _ in range(round(seconds / 0.05)):
            bench.now += 0.05
            while jobs and jobs[0][0] <= bench.now:
                jobs.pop(0)[1]()
                bench.settle()
            bench.settle()

    pass_time(3 + moment)
    bench.put(endpoint_slice(endpoints=[A, B, C]))
    pass_time(10)

    assert addresses(A, B, C) == order(bench)
    assert "1" == bench.inner.sysctls.values[EXPIRE]


def test_a_loop_that_comes_late_moves_something_all_the_same():
    bench = serving(B, C)
    bench.put(endpoint_slice(endpoints=[A, B, C]))
    bench.now += 2
    bench.settle()
    assert "0" == bench.inner.sysctls.values[EXPIRE]
    bench.now += 3
    bench.settle()

    assert addresses(A, B, C) == order(bench)


def test_an_agent_that_ends_lets_flows_expire():
    bench = serving(B, C)
    bench.put(endpoint_slice(endpoints=[A, B, C]))
    bench.now += 2
    bench.settle()
    assert "0" == bench.inner.sysctls.values[EXPIRE]
    bench.reconciler.tell(Stop())
    bench.reconciler.run()

    assert "1" == bench.inner.sysctls.values[EXPIRE]


class TestHeads:
    """Under schedulers that begin at the head of the list, which is another one on every node."""

    NODES = tuple(f"node-{number}" for number in range(12))
    PODS = PODS[:6]

    def at_once(self, scheduler, node):
        return serving(*self.PODS, scheduler=scheduler, node_name=node)

    def one_by_one(self, scheduler, node):
        bench = serving(self.PODS[0], scheduler=scheduler, node_name=node)
        for count in range(2, len(self.PODS) + 1):
            bench.put(endpoint_slice(endpoints=self.PODS[:count])).pass_time(3)
        return bench.pass_time(60)

    def rolled_out(self, scheduler, node):
        bench = serving(*PODS[6:10], scheduler=scheduler, node_name=node)
        connect(bench, VIP, PODS[9])
        for count in range(1, len(self.PODS) + 1):
            bench.put(endpoint_slice(endpoints=[*self.PODS[:count], *PODS[6 + count :]])).pass_time(7)
        return bench.pass_time(60)

    def changed_from_sh(self, scheduler, node):
        bench = serving(*self.PODS, scheduler="sh", node_name=node)
        return bench.put(hashed(scheduler)).pass_time(60)

    def killed_meanwhile(self, scheduler, node):
        bench = serving(*self.PODS[:5], scheduler=scheduler, node_name=node)
        bench.put(endpoint_slice(endpoints=self.PODS))
        return serving(*self.PODS, scheduler=scheduler, kernel=bench.kernel, node_name=node).pass_time(60)

    @pytest.mark.parametrize("scheduler", ["rr", "lc"])
    def test_whatever_came_when_it_is_one_of_the_nodes_own(self, scheduler):
        histories = (
            *(self.at_once, self.one_by_one, self.rolled_out),
            *(self.changed_from_sh, self.killed_meanwhile),
        )
        heads = [[self.head(history(scheduler, node)) for node in self.NODES] for history in histories]

        assert [heads[0]] * len(histories) == heads
        assert 4 <= len(set(heads[0]))

    def head(self, bench):
        """The first one of the kernel's list that takes connections."""
        listed = (one.real_server for one in bench.inner.ipvs.real_servers(VIP))
        return next(format_address(one.address) for one in listed if one.weight)

    def test_a_new_endpoint_has_one_moved_at_most(self):
        moved = []
        for node in self.NODES:
            bench = serving(*self.PODS[:5], scheduler="rr", node_name=node)
            bench.put(endpoint_slice(endpoints=self.PODS))
            moves(bench)
            bench.pass_time(120)
            moved.append(len(moves(bench)) // 2)

        assert {0, 1} == set(moved)

    def test_one_that_goes_has_one_moved_where_it_was_the_head_alone(self):
        for node in self.NODES:
            bench = serving(*self.PODS, scheduler="rr", node_name=node)
            was_head = self.head(bench) == format_address(self.PODS[0].address)
            bench.put(endpoint_slice(endpoints=self.PODS[1:])).pass_time(5)
            moves(bench)
            bench.pass_time(60)

            assert len(moves(bench)) <= 2 * was_head

    def test_a_rollout_has_it_moved_when_it_is_over(self):
        bench = serving(*PODS[:5], scheduler="rr")
        bench.inner.sysctls.written.clear()
        for count in range(1, 6):
            bench.put(endpoint_slice(endpoints=PODS[count : 5 + count])).pass_time(20)
        assert [] == written(bench)
        bench.pass_time(60)

        assert ["0", "1"] == written(bench)

    def test_its_connections_are_kept(self):
        bench = self.changed_from_sh("rr", "node-a")
        for one in self.PODS:
            connect(bench, VIP, one, 7)
        bench.put(hashed("sh")).pass_time(5)
        bench.put(hashed("rr")).pass_time(60)

        assert [7] * 6 == [one.active for one in bench.inner.ipvs.real_servers(VIP)]

    def test_it_does_not_hold_up_those_whose_table_is_filled_from_the_list(self):
        bench = serving(B, C, scheduler="rr")
        other = msgspec.structs.replace(hashed("sh", port("10.96.0.90")), name=name("shop/other"))
        bench.put(other, endpoint_slice("shop/other", [B, C]))
        bench.put(endpoint_slice(endpoints=[A, B, C, D])).pass_time(5)
        bench.put(endpoint_slice("shop/other", [A, B, C])).pass_time(4)

        assert addresses(A, B, C) == order(bench, key("10.96.0.90:80"))

    def test_weights_count_first(self):
        asked = {"ipvs-agent.io/scheduler": "wrr", "ipvs-agent.io/weights": "node:big=5"}
        pods = [msgspec.structs.replace(one, node="big") for one in PODS[:2]]
        heads = set()
        for node in self.NODES:
            bench = Bench(node_name=node)
            bench.put(service(annotations=asked), endpoint_slice(endpoints=[*PODS[2:], *pods])).list_all()
            heads.add(self.head(bench))

        assert set(addresses(*pods)) == heads


@pytest.mark.parametrize("seed", range(6))
def test_whatever_fails_and_changes_all_nodes_end_with_one_order(seed):
    rng = random.Random(seed)
    inner = FakeKernel()
    faulty = FaultyKernel(inner, rng, rate=0.0)
    bench = Bench(faulty, inner)
    bench.put(hashed("mh"), endpoint_slice(endpoints=PODS)).list_all()
    for _ in range(30):
        faulty.rate = rng.choice([0.0, 0.2])
        chosen = rng.sample(PODS, rng.randint(1, len(PODS)))
        bench.put(hashed(rng.choice(["mh", "sh", "dh"])), endpoint_slice(endpoints=chosen))
        bench.pass_time(rng.choice([0, 1, 3, 6]))
    faulty.rate = 0.0
    bench.put(hashed("mh"), endpoint_slice(endpoints=PODS[2:8])).pass_time(90)

    assert addresses(*PODS[2:8]) == order(bench)
    assert "1" == inner.sysctls.values[EXPIRE]
