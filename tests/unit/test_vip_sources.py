"""From where the node dials VIPs that are routes: the address of its own by which the cluster knows it."""

from __future__ import annotations

import logging

import pytest

from ipvs_agent.addresses import format_address
from ipvs_agent.model import NO_SOURCE, Node, ObjectName, VipMode
from ipvs_agent.operations import AddVip, SetVip
from ipvs_agent.reconcile import vip_forms
from ipvs_agent.reconcile.messages import AddressesChanged, AddressGone, VipsRead
from ipvs_agent.sources.changes import Kind, Removed
from ipvs_agent.testing.builders import address
from ipvs_agent.testing.fake_kernel import FakeKernel
from tests.unit.benches import refuse
from tests.unit.test_reconciler import Bench
from tests.unit.test_vip_forms import BOTH, VIPS, forms, steps, web

# node: 192.0.2.1, 2001:db8::1, and the bridge of its pods 10.244.1.1 | VIPs: 10.96.0.1, fd00:10:96::2

OWN = ("192.0.2.1", "2001:db8::1", "10.244.1.1")
OTHERS = ("192.0.2.9", "2001:db8::9")


def a_node(*texts):
    return Node("node-a", addresses=tuple(map(address, texts)))


def kernel_of(*texts):
    kernel = FakeKernel()
    kernel.node_addresses.assign("eth0", texts)
    return kernel


def serving(*texts, node=None, things=BOTH, **settings):
    """A bench on a node with these addresses, known to the cluster as `node` says."""
    bench = Bench(kernel_of(*texts), **({"vip_mode": VipMode.ROUTES} | settings))
    return bench.put(*([node] if node else []), *things).list_all()


def restarted(bench, *things, **settings):
    return Bench(bench.kernel, **({"vip_mode": VipMode.ROUTES} | settings)).put(*things)


def have(bench, *texts):
    """Have the node get other addresses in place of its own, and the agent hear of it."""
    bench.kernel.node_addresses.assign("eth0", texts)
    bench.reconciler.tell(AddressesChanged())
    return bench.settle()


def sources(bench):
    """What each VIP that is a route prefers."""
    routes = bench.inner.vips.routes()
    return {format_address(vip): source and format_address(source) for vip, source in routes.items()}


def refuse_source(bench, text):
    """Have the kernel refuse an address that the node has, as one in a VRF; return what ends that."""
    vips = bench.inner.vips
    own = vips._own_addresses
    vips._own_addresses = lambda: own() - {address(text)}

    def heal():
        vips._own_addresses = own

    return heal


def verbs(bench, position):
    """What was done to VIPs from some batch on, by name."""
    batches = bench.inner.vips.batches[position:]
    return {type(operation).__name__ for batch in batches for operation in batch}


def of(ipv4, ipv6):
    """What BOTH prefer where it is these; "" for nothing."""
    return {"10.96.0.1": ipv4 or NO_SOURCE, "fd00:10:96::2": ipv6 or NO_SOURCE}


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        pytest.param(a_node("192.0.2.1", "2001:db8::1"), of("192.0.2.1", "2001:db8::1"), id="both families"),
        pytest.param(a_node("2001:db8::1"), of("", "2001:db8::1"), id="one family"),
        pytest.param(a_node("192.0.2.7", "192.0.2.1"), of("192.0.2.1", ""), id="the first that it has"),
        pytest.param(a_node(*OTHERS), of("", ""), id="none that it has"),
        pytest.param(a_node(), of("", ""), id="none named"),
        pytest.param(None, of("", ""), id="no Node object"),
    ],
)
def test_it_is_the_nodes_own_address_that_the_cluster_knows(node, expected):
    bench = serving(*OWN, node=node)

    assert expected == sources(bench)
    assert {"AddVip"} == {verb for verb, _, _ in steps(bench)}


def test_addresses_have_none():
    bench = serving(*OWN, node=a_node(*OWN), vip_mode=VipMode.ADDRESSES)

    assert (VIPS, set()) == forms(bench)
    assert {NO_SOURCE} == {operation.source for batch in bench.inner.vips.batches for operation in batch}


class TestChanges:
    @pytest.fixture
    def bench(self):
        bench = serving(*OWN, *OTHERS, node=a_node(*OWN))
        assert of("192.0.2.1", "2001:db8::1") == sources(bench)
        return bench

    def test_it_follows_the_node_object_and_no_route_goes(self, bench):
        position = len(bench.inner.vips.batches)
        bench.put(a_node(*OTHERS))

        assert of(*OTHERS) == sources(bench)
        assert {"SetVip"} == verbs(bench, position)

    def test_one_that_goes_is_not_preferred_any_more(self, bench):
        have(bench, *OTHERS)
        assert of("", "") == sources(bench)

        have(bench, *OTHERS, *OWN)
        assert of("192.0.2.1", "2001:db8::1") == sources(bench)

    def test_one_that_has_just_gone_is_left_before_the_node_is_read_again(self, bench):
        bench.reconciler.tell(AddressGone(address("10.244.1.1")))
        assert of("192.0.2.1", "2001:db8::1") == sources(bench.settle())

        bench.reconciler.tell(AddressGone(address("192.0.2.1")))
        assert of("", "2001:db8::1") == sources(bench.settle())

        have(bench, *OWN)  # it was there twice, or is back
        assert of("192.0.2.1", "2001:db8::1") == sources(bench)

    def test_one_that_goes_gives_way_to_the_next(self, bench):
        bench.put(a_node("192.0.2.1", "192.0.2.9", "2001:db8::1", "2001:db8::9"))
        have(bench, *OTHERS)

        assert of(*OTHERS) == sources(bench)

    def test_other_addresses_that_come_and_go_change_nothing(self, bench):
        position = len(bench.inner.vips.batches)
        have(bench, *OWN)
        have(bench, *OWN, "203.0.113.9")

        assert [] == bench.inner.vips.batches[position:]

    def test_without_a_node_object_there_is_none(self, bench):
        bench.tell(Removed(Kind.NODE, ObjectName("", "node-a")))

        assert of("", "") == sources(bench)

    def test_a_service_that_comes_has_it_from_the_beginning(self, bench):
        position = len(bench.inner.vips.batches)
        bench.put(*web(3))

        (batch,) = bench.inner.vips.batches[position:]
        assert [("192.0.2.1", AddVip)] == [(format_address(one.source), type(one)) for one in batch]


def test_many_follow_slice_by_slice(monkeypatch):
    for bound in ("_LEAST", "_SLICE"):
        monkeypatch.setattr(vip_forms, bound, 2)
    many = [thing for number in range(1, 8) for thing in web(number)]
    bench = serving(*OWN, *OTHERS, node=a_node(*OWN), things=many)
    position = len(bench.inner.vips.batches)
    bench.put(a_node(*OTHERS))

    assert {"192.0.2.9"} == set(sources(bench).values())
    batches = [batch for batch in bench.inner.vips.batches[position:] if batch]
    assert [2, 2, 2, 1] == [len(batch) for batch in batches]


class TestRestart:
    def test_what_is_there_is_taken_over(self):
        bench = serving(*OWN, node=a_node(*OWN))
        position = len(bench.inner.vips.batches)

        after = restarted(bench, a_node(*OWN), *BOTH).list_all()

        assert of("192.0.2.1", "2001:db8::1") == sources(after)
        assert [] == steps(after, position)

    def test_routes_without_one_get_it(self):
        bench = serving(*OWN)
        after = restarted(bench, a_node(*OWN), *BOTH).list_all()

        assert of("192.0.2.1", "2001:db8::1") == sources(after)

    def test_until_the_node_is_known_it_stays(self):
        bench = serving(*OWN, node=a_node(*OWN))
        after = restarted(bench, *BOTH).pass_time(40)
        assert of("192.0.2.1", "2001:db8::1") == sources(after)

        after.list_all()
        assert of("", "") == sources(after)

    def test_one_that_was_lost_meanwhile_goes(self):
        bench = serving(*OWN, node=a_node(*OWN))
        bench.kernel.node_addresses.assign("eth0", OTHERS)

        after = restarted(bench, a_node(*OTHERS), *BOTH).list_all()

        assert of(*OTHERS) == sources(after)

    @pytest.mark.parametrize("is_back", [False, True], ids=["to addresses", "to routes"])
    def test_a_move_between_addresses_and_routes(self, is_back):
        modes = [VipMode.ADDRESSES, VipMode.ROUTES][:: 1 if is_back else -1]
        bench = serving(*OWN, node=a_node(*OWN), vip_mode=modes[0])

        after = restarted(bench, a_node(*OWN), *BOTH, vip_mode=modes[1]).list_all()

        assert (of("192.0.2.1", "2001:db8::1") if is_back else {}) == sources(after)


@pytest.mark.parametrize(
    "harm",
    [
        pytest.param([SetVip(address(vip), NO_SOURCE) for vip in VIPS], id="none"),
        pytest.param([SetVip(address("10.96.0.1"), address("10.244.1.1"))], id="another"),
    ],
)
def test_what_others_prefer_is_made_good_by_the_audit(harm):
    bench = serving(*OWN, node=a_node(*OWN))

    bench.inner.vips.apply(harm)
    bench.pass_time(31)

    assert of("192.0.2.1", "2001:db8::1") == sources(bench)


def test_what_the_kernel_took_when_an_address_went_for_a_moment_is_made_good_by_the_audit():
    bench = serving(*OWN, node=a_node(*OWN))
    bench.kernel.node_addresses.assign("eth0", ())
    bench.inner.vips.lose_sources()
    have(bench, *OWN)
    assert of("192.0.2.1", "") == sources(bench)

    bench.pass_time(31)

    assert of("192.0.2.1", "2001:db8::1") == sources(bench)


def test_a_vip_that_comes_before_the_loss_is_heard_of_is_served_without_it():
    bench = serving(*OWN, node=a_node(*OWN))
    bench.kernel.node_addresses.assign("eth0", ("2001:db8::1",))
    bench.put(*web(3))

    assert {"10.96.0.1": NO_SOURCE, "10.96.0.3": NO_SOURCE} | of("", "2001:db8::1") == sources(bench)
    have(bench, "2001:db8::1")
    have(bench, *OWN)
    assert {"10.96.0.3": "192.0.2.1"} | of("192.0.2.1", "2001:db8::1") == sources(bench)


class TestGoneAndBack:
    """The address is back before the agent has read that it was gone."""

    @pytest.fixture
    def bench(self):
        return serving(*OWN, node=a_node(*OWN[:2]))

    def gone(self, bench):
        bench.kernel.node_addresses.assign("eth0", OWN[1:])
        bench.reconciler.tell(AddressGone(address(OWN[0])))
        return bench.settle()

    def test_and_the_node_object_changed_meanwhile(self, bench, caplog):
        self.gone(bench).put(Node("node-a", zone="east", addresses=tuple(map(address, OWN[:2]))))
        assert of("", OWN[1]) == sources(bench)
        assert "refuses to prefer" not in caplog.text

        have(bench, *OWN)

        assert of(OWN[0], OWN[1]) == sources(bench)

    def test_and_an_audit_had_read_it_before(self, bench, caplog):
        held = []
        bench.reconciler._audits._tell = held.append
        bench.pass_time(31)  # an audit begins and reads; its answer is under way
        bench.reconciler._audits._tell = bench.reconciler.tell
        self.gone(bench)
        (laid,) = held
        bench.reconciler.tell(laid)
        assert of("", OWN[1]) == sources(bench.settle())
        assert "refuses to prefer" not in caplog.text

        have(bench, *OWN)

        assert of(OWN[0], OWN[1]) == sources(bench)


def test_an_address_taken_over_from_others_goes_once():
    bench = Bench(kernel_of(*OWN, *OTHERS))
    bench.inner.vips.ensure_link()
    bench.inner.vips.apply([AddVip(address(vip)) for vip in VIPS])
    after = restarted(bench, a_node(*OWN), *BOTH).list_all().pass_time(2)
    assert (set(), VIPS) == forms(after)
    position = len(after.inner.vips.batches)

    after.put(a_node(*OTHERS))

    assert of(*OTHERS) == sources(after)
    assert {"SetVip"} == verbs(after, position)


def test_addresses_of_others_that_come_and_go_do_not_have_a_refused_one_asked_for_again(caplog):
    bench = serving(*OWN)
    refuse_source(bench, "192.0.2.1")
    bench.put(a_node(*OWN))
    position = len(bench.inner.vips.batches)

    for number in range(3):
        have(bench, *OWN, f"203.0.113.{number}")

    assert [] == [batch for batch in bench.inner.vips.batches[position:] if batch]
    assert 1 == caplog.text.count("refuses to prefer")


def test_a_change_that_the_kernel_refuses_for_a_while_is_done_once_it_is(monkeypatch, caplog):
    for bound in ("_LEAST", "_SLICE"):
        monkeypatch.setattr(vip_forms, bound, 1)
    bench = serving(*OWN, *OTHERS, node=a_node(*OWN))
    heal = refuse(bench.inner.vips, lambda operation: isinstance(operation, SetVip))
    caplog.set_level(logging.INFO)
    bench.put(a_node(*OTHERS)).pass_time(10)
    assert of("192.0.2.1", "2001:db8::1") == sources(bench)
    assert "what had failed is done" not in caplog.text

    heal()
    bench.pass_time(40)

    assert of(*OTHERS) == sources(bench)
    assert "what had failed is done" in caplog.text


def test_a_change_of_source_while_an_audit_compares_is_nobody_elses(caplog):
    bench, jobs = serving(*OWN, *OTHERS, node=a_node(*OWN)), []
    bench.worker.submit = jobs.append
    bench.pass_time(31)
    bench.put(a_node(*OTHERS))
    bench.worker.submit = lambda job: job()
    (read_and_compare,) = jobs
    read_and_compare()
    bench.pass_time(5)

    assert of(*OTHERS) == sources(bench)
    assert "changed by others" not in caplog.text


def test_another_family_that_changes_does_not_have_a_refused_one_asked_for_again():
    bench = serving(*OWN, *OTHERS)
    refuse_source(bench, "192.0.2.1")
    bench.put(a_node(*OWN))
    position = len(bench.inner.vips.batches)

    bench.put(a_node("192.0.2.1", "2001:db8::9"))

    asked = [one for batch in bench.inner.vips.batches[position:] for one in batch]
    assert [SetVip(address("fd00:10:96::2"), address("2001:db8::9"))] == asked
    assert of("", "2001:db8::9") == sources(bench)


def test_a_refused_one_is_said_once_and_tried_again_when_the_node_gets_it_again(caplog):
    many = [thing for number in range(1, 8) for thing in web(number)]
    bench = serving(*OWN, node=a_node(), things=many)
    heal = refuse_source(bench, "192.0.2.1")
    bench.put(a_node("192.0.2.1"))
    assert {NO_SOURCE} == set(sources(bench).values())
    assert ["192.0.2.1"] == [
        line.rpartition("source=")[2] for line in caplog.messages if "refuses to prefer" in line
    ]
    assert "operation failed" not in caplog.text

    heal()
    have(bench, *OWN[1:])
    have(bench, *OWN)

    assert {"192.0.2.1"} == set(sources(bench).values())


def test_what_is_read_after_the_loss_of_the_link_says_nothing_of_sources(caplog):
    bench = serving(*OWN, *OTHERS, node=a_node(*OWN))
    found = frozenset(bench.reconciler._keeper.achieved.vips)
    bench.put(a_node(*OTHERS))

    bench.reconciler.tell(VipsRead(found))
    bench.pass_time(1)

    assert of(*OTHERS) == sources(bench)
    assert "changed by others" not in caplog.text


def test_one_that_the_kernel_refuses_is_not_asked_for_without_pause():
    """As an address in a VRF, which the node has and the routes' table does not know."""
    bench = serving(*OWN)
    refuse_source(bench, "192.0.2.1")
    bench.put(a_node(*OWN))

    assert of("", "2001:db8::1") == sources(bench)
    done = len(bench.inner.vips.batches)
    bench.pass_time(120)
    assert of("", "2001:db8::1") == sources(bench)
    assert done == len(bench.inner.vips.batches)
