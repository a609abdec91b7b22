"""The loop on a node whose tools, modules or sets are not all there."""

from __future__ import annotations

import msgspec

from ipvs_agent.addresses import Family
from ipvs_agent.desired.sets import draft, sets_of
from ipvs_agent.testing.builders import endpoint, endpoint_slice, port, service
from ipvs_agent.testing.fake_ipvs import FakeIpvs
from ipvs_agent.testing.fake_kernel import FakeKernel
from tests.unit.benches import INSIDE, balanced
from tests.unit.test_reconciler import Bench

SIX = service("shop/six", port("fd00:10:96::80"))
BEHIND_SIX = endpoint_slice("shop/six", [endpoint("fd00:10:244:1::11", node="node-a")], family=Family.IPV6)


def without_ip6tables(kernel):
    kernel.iptables.usable = frozenset({Family.IPV4})


def test_a_family_whose_tools_fail_is_served_on_by_the_rules_that_it_has(caplog):
    caplog.set_level("INFO")
    bench = Bench(needs=INSIDE)
    bench.put(SIX, BEHIND_SIX).list_all()
    before = bench.tables(), bench.vips()
    without_ip6tables(bench.kernel)
    bench.pass_time(61)

    assert before == (bench.tables(), bench.vips())
    assert 1 == caplog.text.count("family is served by the rules it has")
    bench.kernel.iptables.usable = frozenset(Family)
    bench.pass_time(61)

    assert 1 == caplog.text.count("the tools of a family work again")


def test_so_it_is_after_a_restart():
    bench = Bench(needs=INSIDE)
    bench.put(SIX, BEHIND_SIX).list_all()
    before = bench.tables(), bench.vips(), bench.members()
    without_ip6tables(bench.kernel)
    restarted = Bench(bench.kernel, needs=INSIDE)
    restarted.put(SIX, BEHIND_SIX).list_all().pass_time(120)

    assert before == (restarted.tables(), restarted.vips(), restarted.members())


def test_a_family_whose_tools_work_at_last_is_served():
    kernel = FakeKernel()
    without_ip6tables(kernel)
    bench = Bench(kernel, needs=INSIDE)
    bench.put(SIX, BEHIND_SIX).list_all()
    assert {} == bench.tables()
    kernel.iptables.usable = frozenset(Family)
    bench.pass_time(31)

    assert "-t [fd00:10:96::80]:80" in bench.tables()


def test_a_draft_that_this_process_made_stays():
    bench = Bench(needs=INSIDE)
    mine = draft(sets_of(Family.IPV4)[-2])
    bench.kernel.ipsets.create(mine)
    bench.pass_time(61)

    assert mine.name in bench.kernel.ipsets.sets()


def test_without_the_scheduler_sh_a_mark_has_the_services_own():
    bench = Bench(FakeKernel(ipvs=FakeIpvs(schedulers=("rr",))), needs=INSIDE)
    asked = msgspec.structs.replace(balanced(), affinity_seconds=100)
    bench.put(asked, endpoint_slice(endpoints=[endpoint("10.244.2.13", node="node-b")])).list_all().pass_time(
        5
    )

    by_mark = [
        one.virtual_server for one in bench.kernel.ipvs.virtual_servers() if one.virtual_server.key.mark
    ]
    assert ["rr"] == [one.scheduler for one in by_mark]
