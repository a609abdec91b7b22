"""The loop on a node whose tools, modules or sets are not all there."""

from __future__ import annotations

import msgspec
import pytest

from ipvs_agent.addresses import Family
from ipvs_agent.desired.sets import draft, sets_of
from ipvs_agent.reconcile.foundation import Needs
from ipvs_agent.schedulers import SCHEDULERS
from ipvs_agent.schedulers.annotations import Choice
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


# --- Schedulers ---------------------------------------------------------------------------------------------


def without(name, *, says_so=True):
    """A kernel without a scheduler; says_so: it has a list of those that it has."""
    kernel = FakeKernel(ipvs=FakeIpvs(schedulers=[one for one in SCHEDULERS if one != name]))
    kernel.modules.missing.add(f"ip_vs_{name}")
    kernel.modules.has_list = says_so
    return kernel


def give(bench, name):
    """Have somebody install and load a scheduler."""
    bench.kernel.ipvs._schedulers = SCHEDULERS
    bench.kernel.modules.missing.clear()
    bench.kernel.modules.loaded.add(f"ip_vs_{name}")


def asking(name):
    return service("shop/asking", port("10.96.0.90"), annotations={"ipvs-agent.io/scheduler": name})


def schedulers(bench):
    found = [one.virtual_server for one in bench.inner.ipvs.virtual_servers()]
    return {str(one.key).split()[1]: one.scheduler for one in found}


@pytest.mark.parametrize("says_so", [True, False], ids=["and says so", "and refuses it"])
class TestAKernelWithoutAScheduler:
    def test_the_configurations_gives_way_to_one_that_is_there(self, says_so, caplog):
        needs = Needs(scheduler_module="ip_vs_mh")
        bench = Bench(without("mh", says_so=says_so), scheduler=Choice("mh", 0x18), needs=needs)
        bench.put(service(), asking("lc"), endpoint_slice(endpoints=[endpoint("10.244.1.11")])).list_all()

        assert {"10.96.0.80:80": "rr", "10.96.0.90:80": "lc"} == schedulers(bench)
        (line,) = caplog.messages
        assert (
            "this kernel lacks the scheduler of the configuration, rr is used scheduler=mh module=ip_vs_mh"
            == line
        )
        give(bench, "mh")
        bench.pass_time(31)

        assert {"10.96.0.80:80": "mh", "10.96.0.90:80": "lc"} == schedulers(bench)

    def test_a_services_is_said_once_and_taken_as_soon_as_it_is_there(self, says_so, caplog):
        bench = Bench(without("twos", says_so=says_so)).put(service(), asking("twos")).list_all()

        assert {"10.96.0.80:80": "rr", "10.96.0.90:80": "rr"} == schedulers(bench)
        (line,) = caplog.messages
        assert "this kernel has no scheduler twos, so rr is used" in line
        give(bench, "twos")
        bench.pass_time(31)

        assert {"10.96.0.80:80": "rr", "10.96.0.90:80": "twos"} == schedulers(bench)


def test_what_has_failed_and_is_done_is_named_as_people_write_it(caplog):
    caplog.set_level("INFO")
    Bench(without("twos", says_so=False)).put(asking("twos")).list_all().pass_time(5)

    done = [message for message in caplog.messages if message.startswith("what had failed is done")]
    assert ['"-t 10.96.0.90:80"', "10.96.0.90"] == [message.split("first=")[1] for message in done]
