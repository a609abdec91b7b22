"""Audits of large tables: in slices between changes; what happens meanwhile."""

from __future__ import annotations

from ipvs_agent.operations import DeleteRealServer, DeleteVip, DeleteVirtualServer
from ipvs_agent.reconcile import audit
from ipvs_agent.testing.builders import endpoint, endpoint_slice, key, port, service
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
    """The numbers of virtual servers whose real servers were read, a list that grows."""
    read = []
    real = bench.kernel.ipvs.real_servers_of

    def real_servers_of(keys):
        read.append(len(keys))
        return real(keys)

    bench.kernel.ipvs.real_servers_of = real_servers_of
    return read


def test_the_slices_of_an_audit_are_spread_over_time():
    bench = large()
    read = watched(bench)

    bench.pass_time(30)
    assert [audit.SLICE] == read
    bench.pass_time(3)

    assert [audit.SLICE] * 3 == read


def test_what_is_missed_in_the_middle_of_an_audit_has_another_follow_at_once():
    bench = large().pass_time(30)
    read = watched(bench)
    lost = DeleteVip(FIRST.address)
    assert [None] == bench.kernel.vips.apply([lost])
    assert [None] == bench.kernel.ipvs.apply([DeleteVirtualServer(LAST)])

    bench.put(endpoint_slice(f"a/s{COUNT - 1:04}", endpoints=PODS[:1])).pass_time(5)

    assert "10.96.1.0" in bench.vips()
    assert read.count(audit.SLICE) == 2 + 3  # the rest of the first, and the second


def test_real_servers_that_others_removed_come_back_from_every_slice():
    bench = large()
    lost = [DeleteRealServer(one, PODS[0].address, PODS[0].port) for one in (FIRST, LAST)]
    assert [None, None] == bench.kernel.ipvs.apply(lost)

    bench.pass_time(35)

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
