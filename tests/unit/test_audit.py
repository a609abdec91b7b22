"""Audits of large tables: in slices between changes; what happens meanwhile."""

from __future__ import annotations

import itertools

import pytest

from ipvs_agent.addresses import Family, parse_address
from ipvs_agent.desired import sets
from ipvs_agent.errors import KernelError
from ipvs_agent.kernel.api import Reading
from ipvs_agent.model import RealServer, SetMember, VirtualServer, VirtualServerKey
from ipvs_agent.operations import (
    AddMember,
    AddRealServer,
    AddVirtualServer,
    DeleteRealServer,
    DeleteVip,
    DeleteVirtualServer,
    SetRealServer,
    SetVirtualServer,
)
from ipvs_agent.reconcile import audit, foundation
from ipvs_agent.reconcile.messages import AddressesChanged
from ipvs_agent.sources.changes import Kind, Put
from ipvs_agent.testing.builders import endpoint, endpoint_slice, key, port, service
from ipvs_agent.testing.fake_kernel import FakeKernel
from tests.unit.benches import INSIDE, LB, marks
from tests.unit.test_reconciler import Bench

COUNT = 3 * audit.SLICE
PODS = [endpoint("10.244.1.11"), endpoint("10.244.1.12")]
FIRST, LAST = key("10.96.1.0:80"), key(f"10.96.{1 + (COUNT - 1) // 250}.{(COUNT - 1) % 250}:80")


def objects(number):
    name = f"a/s{number:04}"
    cluster_ip = f"10.96.{1 + number // 250}.{number % 250}"
    return service(name, port(cluster_ip=cluster_ip)), endpoint_slice(name, endpoints=PODS)


def large(**options):
    bench = Bench(**options)
    return bench.put(*(thing for number in range(COUNT) for thing in objects(number))).list_all()


def watched(bench):
    """How many virtual servers were read by the outline, and how many in full; both lists grow."""
    outlined, in_full = [], []
    ipvs = bench.kernel.ipvs
    outline, real_servers_of = ipvs.outline, ipvs.real_servers_of

    def watched_outline():
        outlined.append(0)
        for found in outline():
            outlined[-1] += 1
            yield found

    def watched_real_servers_of(keys):
        in_full.append(len(keys))
        return real_servers_of(keys)

    ipvs.outline, ipvs.real_servers_of = watched_outline, watched_real_servers_of
    return outlined, in_full


def test_the_slices_of_an_audit_are_spread_over_time():
    bench = large()
    outlined, in_full = watched(bench)

    bench.pass_time(30)
    assert ([audit.SLICE], []) == (outlined, in_full)
    bench.pass_time(7)
    assert ([2 * audit.SLICE], []) == (outlined, in_full)
    bench.pass_time(22)

    assert ([COUNT], [COUNT // audit.IN_FULL]) == (outlined, in_full)
    bench.pass_time(2)
    assert [COUNT, audit.SLICE] == outlined  # the next one began a sync period after the first


@pytest.mark.parametrize(
    ("laying", "slow_slice"),
    [pytest.param(12.0, 0.0, id="the foundation takes long"), pytest.param(0.0, 20.0, id="a slice does")],
)
def test_an_audit_is_over_when_the_next_one_is_due(monkeypatch, laying, slow_slice):
    bench = large()
    lay, read_outline, begun, slow = foundation.lay, audit.read_outline, [], [slow_slice]

    def slow_lay(*arguments):
        begun.append(bench.now)
        bench.now += laying
        return lay(*arguments)

    def slow_read(*arguments):
        bench.now += slow.pop() if slow else 0.0
        return read_outline(*arguments)

    monkeypatch.setattr(foundation, "lay", slow_lay)
    monkeypatch.setattr(audit, "read_outline", slow_read)
    bench.pass_time(95)

    apart = [after - before for before, after in itertools.pairwise(begun[:3])]
    assert [pytest.approx(30, abs=0.6)] * 2 == apart


def test_what_the_outline_does_not_say_is_found_within_so_many_audits():
    bench = large()
    capped = RealServer(PODS[0].address, PODS[0].port, upper_threshold=5)
    assert [None, None] == bench.kernel.ipvs.apply([SetRealServer(one, capped) for one in (FIRST, LAST)])

    bench.pass_time(31)
    assert capped in servers(bench, FIRST) + servers(bench, LAST)
    bench.pass_time(30 * (audit.IN_FULL + 1))

    assert capped not in servers(bench, FIRST) + servers(bench, LAST)


def test_caps_of_a_service_are_looked_at_in_every_audit():
    capped = service("a/capped", port("10.96.0.70"), annotations={"ipvs-agent.io/max-connections": "100"})
    bench = large().put(capped, endpoint_slice("a/capped", endpoints=PODS))
    one = key("10.96.0.70:80")
    open_again = RealServer(PODS[0].address, PODS[0].port)
    assert [None] == bench.kernel.ipvs.apply([SetRealServer(one, open_again)])

    bench.pass_time(60)

    assert {100} == {server.upper_threshold for server in servers(bench, one)}


def test_an_outline_that_cannot_be_read_has_all_read_in_full():
    bench = large()

    def broken():
        raise KernelError("no /proc")
        yield

    bench.kernel.ipvs.outline = broken
    lost = [DeleteRealServer(one, PODS[0].address, PODS[0].port) for one in (FIRST, LAST)]
    assert [None, None] == bench.kernel.ipvs.apply(lost)

    bench.pass_time(60)

    assert [2, 2] == [len(servers(bench, one)) for one in (FIRST, LAST)]


def taken_apart(bench):
    """What readings were taken apart: virtual servers, and sets by name; the list grows."""
    names = []
    outline, everybody = bench.kernel.ipvs.outline, bench.kernel.ipvs.reading
    reading = bench.kernel.ipsets.reading

    def watched_reading(name, found):
        return Reading(found.digest, lambda: names.append(name) or found.content())

    def watched_outline():
        for one in outline():
            yield one._replace(real_servers=lambda one=one: names.append(one.key) or one.real_servers())

    bench.kernel.ipvs.outline = watched_outline
    bench.kernel.ipvs.reading = lambda: watched_reading("virtual servers", everybody())
    bench.kernel.ipsets.reading = lambda name: watched_reading(name, reading(name))
    return names


def test_what_is_as_it_was_is_not_taken_apart_again():
    bench = large()
    names = taken_apart(bench)
    bench.pass_time(59)
    sets_of_it = {f"IPVS-AGENT-{number}-{purpose}" for number in (4, 6) for purpose in ("SERVICES", "VIPS")}
    assert COUNT == len([name for name in names if isinstance(name, VirtualServerKey)])
    assert {"virtual servers", *sets_of_it} <= {*names}

    names.clear()
    bench.pass_time(60)
    assert [] == names
    bench.put(endpoint_slice(f"a/s{COUNT - 1:04}", endpoints=PODS[:1])).pass_time(60)

    assert [LAST] == names


def test_what_others_undo_is_found_though_the_kernel_says_what_it_said_before():
    bench = Bench().put(*objects(0)).put(*objects(1)).list_all().pass_time(60)
    bench.put(endpoint_slice("a/s0001", endpoints=PODS[:1])).remove(objects(0)[0]).pass_time(10)
    whole = bench.tables(), bench.members()
    names = taken_apart(bench)
    drained = RealServer(PODS[1].address, PODS[1].port)
    member = SetMember("IPVS-AGENT-4-VIPS", FIRST.address)
    assert [None] == bench.kernel.ipvs.apply([AddRealServer(key("10.96.1.1:80"), drained)])
    assert [None] == bench.kernel.ipsets.apply([AddMember(member)])
    assert whole != (bench.tables(), bench.members())

    bench.pass_time(60)

    assert whole == (bench.tables(), bench.members())
    assert {key("10.96.1.1:80"), member.set_name} <= {*names}


def test_a_scheduler_that_others_set_back_is_found_though_the_kernel_says_what_it_said_before():
    bench = Bench().put(*objects(0)).list_all().pass_time(60)
    (before,) = bench.kernel.ipvs.virtual_servers()
    chosen = service("a/s0000", port(cluster_ip="10.96.1.0"), annotations={"ipvs-agent.io/scheduler": "lc"})
    bench.put(chosen).pass_time(10)
    assert [None] == bench.kernel.ipvs.apply([SetVirtualServer(before.virtual_server)])

    bench.pass_time(60)

    assert ["lc"] == [found.virtual_server.scheduler for found in bench.kernel.ipvs.virtual_servers()]


THEIRS = key("10.96.0.99:80")
ASKING = (service("shop/new", port("10.96.0.99")), endpoint_slice("shop/new", endpoints=PODS))


class TestOthersVirtualServer:
    """One that comes and goes between audits, so that the kernel says what it said before it came."""

    def come(self, bench):
        assert [None] == bench.kernel.ipvs.apply([AddVirtualServer(VirtualServer(THEIRS, "rr"))])

    def go(self, bench):
        assert [None] == bench.kernel.ipvs.apply([DeleteVirtualServer(THEIRS)])

    def others(self, bench):
        return [member for member in bench.members() if "OTHERS" in member]

    def test_one_that_an_audit_saw_is_given_up_when_it_is_gone(self):
        bench = Bench().put(*objects(0)).list_all().pass_time(65)
        self.come(bench)
        bench.pass_time(30)
        assert 1 == len(self.others(bench))
        self.go(bench)
        bench.pass_time(60)
        assert [] == self.others(bench)

        bench.put(*ASKING)

        assert str(THEIRS) in bench.tables()

    def test_one_that_was_in_the_way_of_a_service_is_given_up_when_it_is_gone(self):
        bench = Bench().put(*objects(0)).list_all().pass_time(65)
        self.come(bench)
        bench.put(*ASKING)
        assert {} == bench.tables()[str(THEIRS)]
        self.go(bench)

        bench.pass_time(60)

        assert 2 == len(bench.tables()[str(THEIRS)])

    def test_one_that_was_in_the_way_while_the_audit_read_is_given_up_when_it_is_gone(self):
        audited = Meanwhile()
        audited.begin_another()
        audited.read()
        self.come(audited.bench)
        audited.bench.put(*ASKING)
        audited.answer()
        self.go(audited.bench)

        audited.bench.pass_time(100)

        assert 2 == len(audited.bench.tables()[str(THEIRS)])

    def test_one_that_was_there_only_when_the_audit_read_is_seen_when_it_comes_back(self):
        audited = Meanwhile()
        audited.begin_another()
        self.come(audited.bench)
        audited.read()
        self.go(audited.bench)
        audited.answer()
        self.come(audited.bench)

        audited.bench.pass_time(100)

        assert 1 == len(self.others(audited.bench))

    def test_one_that_was_away_only_when_the_audit_read_is_given_up_when_it_goes(self):
        audited = Meanwhile()
        audited.read()
        self.come(audited.bench)
        audited.answer().pass_time(65)
        assert 1 == len(self.others(audited.bench))
        audited.begin()
        self.go(audited.bench)
        audited.read()
        self.come(audited.bench)
        audited.answer()
        self.go(audited.bench)

        audited.bench.pass_time(100)

        assert [] == self.others(audited.bench)

    def test_one_that_comes_back_is_seen_again(self):
        bench = Bench().put(*objects(0)).list_all().pass_time(65)
        self.come(bench)
        bench.pass_time(90)
        self.go(bench)
        bench.pass_time(30)
        assert [] == self.others(bench)
        self.come(bench)
        bench.pass_time(60)

        assert 1 == len(self.others(bench))


def test_an_order_that_did_not_count_is_found_at_once_when_it_does():
    pods = [endpoint(f"10.244.1.{host}") for host in (11, 12, 13)]
    bench = Bench().put(objects(0)[0], endpoint_slice("a/s0000", endpoints=pods)).list_all().pass_time(35)
    first, *_ = reversed(servers(bench, FIRST))
    others = [DeleteRealServer(FIRST, *first.endpoint), AddRealServer(FIRST, first)]
    assert [None, None] == bench.kernel.ipvs.apply(others)
    bench.pass_time(60)
    chosen = service("a/s0000", port(cluster_ip="10.96.1.0"), annotations={"ipvs-agent.io/scheduler": "mh"})
    bench.put(chosen).pass_time(70)

    assert [each.address for each in pods] == [each.address for each in reversed(servers(bench, FIRST))]


def test_a_set_that_changes_while_it_is_compared_is_not_taken_for_confirmed():
    audited = Meanwhile(service("a/gone", port("10.96.0.70")), endpoint_slice("a/gone", endpoints=PODS))
    bench = audited.bench
    audited.begin_another()
    audited.read()
    before = bench.kernel.ipsets.members("IPVS-AGENT-4-VIPS")
    bench.remove(service("a/gone", port("10.96.0.70"))).pass_time(5)
    audited.answer()
    whole = bench.tables(), bench.members()
    (gone,) = before - bench.kernel.ipsets.members("IPVS-AGENT-4-VIPS")
    assert [None] == bench.kernel.ipsets.apply([AddMember(gone)])

    bench.pass_time(100)

    assert whole == (bench.tables(), bench.members())


def test_members_of_a_set_that_is_gone_are_not_taken_for_there():
    kernel = FakeKernel()
    kernel.ipsets.create(sets.sets_of(Family.IPV4)[0])
    member = SetMember("IPVS-AGENT-6-VIPS", parse_address("fd00::1"))
    left = audit.Left({}, frozenset(), frozenset([member]), frozenset([member.set_name]), frozenset())

    found = audit.read_tables(kernel, left, audit.read_tables(kernel).digests)

    assert frozenset() == found.members


def test_a_scheduler_that_changes_while_it_is_compared_is_not_taken_for_confirmed():
    audited = Meanwhile()
    bench = audited.bench
    audited.begin_another()
    audited.read()
    (before,) = bench.kernel.ipvs.virtual_servers()
    bench.put(service(annotations={"ipvs-agent.io/scheduler": "lc"}))
    audited.answer()
    assert [None] == bench.kernel.ipvs.apply([SetVirtualServer(before.virtual_server)])

    bench.pass_time(100)

    assert ["lc"] == [found.virtual_server.scheduler for found in bench.kernel.ipvs.virtual_servers()]


def servers(bench, one):
    return [observed.real_server for observed in bench.kernel.ipvs.real_servers(one)]


def test_what_is_missed_in_the_middle_of_an_audit_has_another_follow_at_once():
    bench = large().pass_time(30)
    outlined, _ = watched(bench)
    lost = DeleteVip(FIRST.address)
    assert [None] == bench.kernel.vips.apply([lost])
    assert [None] == bench.kernel.ipvs.apply([DeleteVirtualServer(LAST)])

    bench.put(endpoint_slice(f"a/s{COUNT - 1:04}", endpoints=PODS[:1])).pass_time(5)

    assert "10.96.1.0" in bench.vips()
    assert [audit.SLICE] == outlined  # another audit has begun, and has time again


def test_real_servers_that_others_removed_come_back_from_every_slice():
    bench = large()
    lost = [DeleteRealServer(one, PODS[0].address, PODS[0].port) for one in (FIRST, LAST)]
    assert [None, None] == bench.kernel.ipvs.apply(lost)

    bench.pass_time(60)

    assert all(len(bench.tables()[str(one)]) == 2 for one in (FIRST, LAST))


def test_what_is_done_while_an_audit_reads_is_no_drift(caplog):
    bench = Bench()
    for number in (0, 1):
        bench.put(*objects(number))
    bench.list_all()
    jobs = []
    bench.worker.submit = jobs.append
    bench.pass_time(30)
    bench.remove(objects(0)[0]).put(*objects(2)).pass_time(2)
    bench.worker.submit = lambda job: job()

    assert 1 == len(jobs)
    jobs[0]()
    bench.settle()

    assert "changed by others" not in caplog.text
    assert {str(key(f"10.96.1.{host}:80")) for host in (1, 2)} == bench.tables().keys()


class Meanwhile:
    """A bench whose audit has read the kernel, and hands its answer over when the test says so."""

    def __init__(self, *things, **options):
        self.bench = Bench(**options)
        self.bench.put(service(), endpoint_slice(endpoints=PODS), *things).list_all()
        self._jobs = []
        self.bench.worker.submit = self._jobs.append
        self.bench.pass_time(31)

    def begin(self):
        """Have another audit begin, whose answer is kept back too."""
        self._jobs.clear()
        self.bench.worker.submit = self._jobs.append
        self.bench.pass_time(31)
        assert 1 == len(self._jobs)

    def begin_another(self):
        """Let this audit end, which confirms all that is there, and have another one begin."""
        self.read()
        self.answer().pass_time(35)
        self.begin()

    def read(self):
        """Have the worker read and compare; its answer is kept back."""
        self._jobs.pop(0)()
        self._answer = self.bench.reconciler._inbox.get()

    def answer(self):
        """Hand the answer over, and let the audit end."""
        self.bench.worker.submit = lambda job: job()
        self.bench.reconciler.tell(self._answer)
        return self.bench.settle()


NEW = (service("shop/new", port("10.96.0.90")), endpoint_slice("shop/new", endpoints=PODS))
NEW_KEY = key("10.96.0.90:80")


def test_a_virtual_server_that_others_had_when_the_audit_read_is_ours_since():
    audited = Meanwhile()
    kernel = audited.bench.kernel.ipvs
    assert [None] == kernel.apply([AddVirtualServer(VirtualServer(NEW_KEY, "rr"))])
    audited.read()
    assert [None] == kernel.apply([DeleteVirtualServer(NEW_KEY)])
    audited.bench.put(*NEW)

    bench = audited.answer()

    assert str(NEW_KEY) in bench.tables()
    assert "10.96.0.90" in bench.vips()


def test_a_virtual_server_that_went_and_came_back_while_the_audit_read_is_ours():
    audited = Meanwhile()
    bench = audited.bench.put(*NEW)
    dump = bench.kernel.ipvs.virtual_servers

    def dump_and_remove():
        bench.kernel.ipvs.virtual_servers = dump
        found = dump()
        bench.remove(NEW[1]).remove(NEW[0]).pass_time(2)
        return found

    bench.kernel.ipvs.virtual_servers = dump_and_remove
    audited.read()
    bench.put(*NEW)

    audited.answer()

    assert str(NEW_KEY) in bench.tables()


def test_a_mark_that_changes_while_the_audit_is_compared_stays():
    audited = Meanwhile(needs=INSIDE)
    bench = audited.bench
    balanced = {"node_port": 30080, "load_balancer_ips": [LB], "cluster_ip": "10.96.0.81"}
    lb = service("shop/lb", port(**balanced), external_local=True)
    bench.put(lb, endpoint_slice("shop/lb", endpoints=PODS))
    before = marks(bench)
    audited.read()
    renamed = service("shop/lb", port(**balanced, name="web"), external_local=True)
    bench.put(renamed, endpoint_slice("shop/lb", endpoints={"web": PODS}))
    after = marks(bench)
    assert before != after

    audited.answer().pass_time(100)

    assert after == marks(bench)


def test_what_came_and_went_while_the_audit_was_compared_is_no_drift(caplog):
    audited = Meanwhile()
    audited.bench.put(*NEW)
    audited.read()
    audited.bench.remove(NEW[1]).remove(NEW[0]).pass_time(2)

    audited.answer()

    assert "changed by others" not in caplog.text


def test_node_addresses_that_cannot_be_read_do_not_disturb_an_audit():
    bench = Bench()
    bench.put(service(), endpoint_slice(endpoints=PODS)).list_all()
    jobs = []
    bench.worker.submit = jobs.append
    bench.pass_time(31)
    addresses, reads = bench.kernel.node_addresses, []
    read = addresses.addresses

    def fail_once():
        reads.append(None)
        if len(reads) == 1:
            raise KernelError("no buffer space")
        return read()

    addresses.addresses = fail_once
    bench.reconciler.tell(AddressesChanged())
    bench.settle()
    jobs.pop()()
    bench.settle().pass_time(2)

    assert 2 == len(jobs)  # the audit, and another read of the addresses
    jobs.pop()()
    assert 2 == len(reads)


def test_after_the_loss_of_a_large_table_what_others_need_comes_first_and_changes_come_between():
    bench = large()
    dns = service("kube-system/kube-dns", port("10.96.250.10"))
    bench.put(dns, endpoint_slice("kube-system/kube-dns", endpoints=PODS))
    ipvs = bench.kernel.ipvs
    ipvs.apply([DeleteVirtualServer(one.virtual_server.key) for one in ipvs.virtual_servers()])
    added = []
    apply = ipvs.apply

    def watch(operations):
        operations = list(operations)
        added.extend(one.virtual_server.key for one in operations if isinstance(one, AddVirtualServer))
        if len(added) == audit.CLOSE_LOOKS:
            bench.reconciler.tell([Put(Kind.SERVICE, NEW[0]), Put(Kind.ENDPOINT_SLICE, NEW[1])])
        return apply(operations)

    ipvs.apply = watch

    bench.pass_time(31)

    assert key("10.96.250.10:80") == added[0]
    assert added.index(NEW_KEY) <= 2 * audit.CLOSE_LOOKS
    assert COUNT + 2 == len(bench.tables()) == len(set(added))


def test_after_the_loss_of_many_vips_changes_come_between():
    bench = large()
    vips = bench.kernel.vips
    vips.apply([DeleteVip(address) for address in vips.addresses()])
    batches = []
    apply = vips.apply

    def watch(operations):
        batches.append([one.address for one in operations])
        if len(batches) == 1:
            bench.reconciler.tell([Put(Kind.SERVICE, NEW[0]), Put(Kind.ENDPOINT_SLICE, NEW[1])])
        return apply(operations)

    vips.apply = watch

    bench.pass_time(31)

    assert audit.CLOSE_LOOKS >= max(map(len, batches))
    assert [NEW_KEY.address] in batches[:3]
    assert COUNT + 1 == len(vips.addresses())
