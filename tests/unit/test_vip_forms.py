"""VIPs as addresses and as local routes, and how they move from one to the other."""

from __future__ import annotations

import itertools

import pytest

from ipvs_agent.addresses import format_address
from ipvs_agent.errors import KernelError
from ipvs_agent.model import VipForm, VipMode
from ipvs_agent.operations import AddVip, DeleteVip
from ipvs_agent.reconcile import vip_forms
from ipvs_agent.reconcile.messages import LinkLost
from ipvs_agent.sources.changes import Kind, Listed, Put
from ipvs_agent.testing.builders import address, endpoint, endpoint_slice, port, service
from tests.unit.benches import refuse
from tests.unit.test_reconciler import Bench

A, A6 = endpoint("10.244.1.11", node="node-a"), endpoint("fd00:10:244:1::11", node="node-a")


def web(number, *, vip=None):
    """A Service of that number, with its endpoints, in the family of its VIP."""
    vip = vip or f"10.96.0.{number}"
    behind = [A6] if ":" in vip else [A]
    name = f"shop/web-{number}"
    return service(name, port(vip)), endpoint_slice(name, endpoints=behind)


def serving(*things, **settings):
    return Bench(**settings).put(*things).list_all()


def restarted(bench, *things, **settings):
    return Bench(bench.kernel, **settings).put(*things).list_all()


def forms(bench):
    """The VIPs that are addresses, and those that are routes."""
    vips = bench.inner.vips
    return tuple({format_address(one) for one in found} for found in (vips.addresses(), vips.routes()))


def steps(bench, position=0):
    """What was done to VIPs from some batch on."""
    batches = bench.inner.vips.batches[position:]
    return [
        (type(operation).__name__, format_address(operation.address), operation.form)
        for batch in batches
        for operation in batch
    ]


KINDS_OF_WEB = (Kind.SERVICE, Kind.ENDPOINT_SLICE)
BOTH = (*web(1), *web(2, vip="fd00:10:96::2"))
VIPS = {"10.96.0.1", "fd00:10:96::2"}


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        pytest.param(VipMode.ADDRESSES, (VIPS, set()), id="addresses"),
        pytest.param(VipMode.ROUTES, (set(), VIPS), id="routes"),
        pytest.param(VipMode.AUTO, (VIPS, set()), id="few"),
    ],
)
def test_each_mode_has_its_form(mode, expected):
    bench = serving(*BOTH, vip_mode=mode)

    assert expected == forms(bench)
    for thing in BOTH:
        bench.remove(thing)
    bench.pass_time(2)
    assert (set(), set()) == forms(bench)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(VipMode.ADDRESSES, VipMode.ROUTES, id="to routes"),
        pytest.param(VipMode.ROUTES, VipMode.ADDRESSES, id="to addresses"),
    ],
)
def test_an_agent_with_another_mode_moves_all_vips_and_makes_before_it_breaks(before, after):
    bench = serving(*BOTH, vip_mode=before)
    expected = forms(bench)[::-1]
    position = len(bench.inner.vips.batches)

    bench = restarted(bench, *BOTH, vip_mode=after)

    assert expected == forms(bench)
    done = steps(bench, position)
    for vip in VIPS:
        assert ["AddVip", "DeleteVip"] == [verb for verb, of, _ in done if of == vip]


def test_what_moves_leaves_its_form_only_once_all_is_listed():
    bench = serving(*BOTH, vip_mode=VipMode.ADDRESSES)

    half = Bench(bench.kernel, vip_mode=VipMode.ROUTES).put(*BOTH)
    assert (VIPS, set()) == forms(half)

    half.list_all()
    assert (set(), VIPS) == forms(half)


def test_a_single_sync_ends_with_all_vips_moved(monkeypatch):
    for bound in ("_LEAST", "_SLICE"):
        monkeypatch.setattr(vip_forms, bound, 1)
    bench = serving(*BOTH, vip_mode=VipMode.ADDRESSES)
    once = Bench(bench.kernel, vip_mode=VipMode.ROUTES)
    once.settle = lambda: once
    once.put(*BOTH).list_all()

    assert once.reconciler.run_once()

    assert (set(), VIPS) == forms(once)


def test_many_move_slice_by_slice_and_other_changes_come_between(monkeypatch):
    for bound in ("_LEAST", "_SLICE"):
        monkeypatch.setattr(vip_forms, bound, 2)
    many = [thing for number in range(1, 8) for thing in web(number)]
    bench = serving(*many, vip_mode=VipMode.ADDRESSES)
    moving = Bench(bench.kernel, vip_mode=VipMode.ROUTES)
    moving.settle = lambda: moving
    moving.put(*many).list_all()
    left = []
    while not left or left[-1]:
        moving.reconciler.catch_up()
        left.append(len(forms(moving)[0]))

    assert [5, 3, 1, 0] == left[-4:]


class Slow(Bench):
    """A bench on a kernel that takes its time for each VIP that comes or goes, and notes when."""

    def __init__(self, seconds):
        super().__init__(vip_mode=VipMode.AUTO)
        self.turns = []
        """When the kernel was busy with VIPs, without a rest between."""
        apply = self.kernel.vips.apply

        def slow(operations):
            began = self.turns.pop()[0] if self.turns and self.turns[-1][1] == self.now else self.now
            self.now += seconds * len(operations)
            self.turns.append((began, self.now))
            return apply(operations)

        self.kernel.vips.apply = slow

    def settle(self):
        self.reconciler.catch_up()
        return self


@pytest.mark.parametrize("seconds", [0.00002, 0.0001, 0.001])
def test_a_slice_takes_some_milliseconds_and_then_everybody_else_has_as_long(monkeypatch, seconds):
    monkeypatch.setattr(vip_forms, "MOST_ADDRESSES", 200)
    bench = Slow(seconds)
    bench.put(*(thing for number in range(1, 201) for thing in web(number))).list_all()
    bench.put(*web(201))
    bench.turns.clear()
    while forms(bench)[0]:
        bench.now += 0.0005
        bench.settle()

    took = [end - began for began, end in bench.turns]
    rests = [later[0] - sooner[1] for sooner, later in itertools.pairwise(bench.turns)]
    assert max(took) <= max(0.010, 2.1 * vip_forms._LEAST * seconds)
    assert all(rest > before - 1e-9 for before, rest in zip(took, rests, strict=False))


def test_what_kept_the_routes_goes_after_the_last_of_them():
    bench = serving(*BOTH, vip_mode=VipMode.ROUTES)
    assert bench.inner.vips.has_keeper

    bench = restarted(bench, *BOTH, vip_mode=VipMode.ADDRESSES)
    assert not bench.inner.vips.has_keeper


def test_an_agent_killed_before_that_has_the_next_one_do_it():
    bench = serving(*BOTH, vip_mode=VipMode.ADDRESSES)
    bench.inner.vips.has_keeper = True

    restarted(bench, *BOTH, vip_mode=VipMode.ADDRESSES)

    assert not bench.inner.vips.has_keeper


def test_addresses_of_kube_proxy_become_routes_at_once_and_others_stay(caplog):
    before = Bench(vip_mode=VipMode.ADDRESSES)
    others = "10.96.7.7"
    before.inner.vips.ensure_link()
    before.inner.vips.apply([AddVip(address(vip)) for vip in (*sorted(VIPS), others)])

    bench = restarted(before, *BOTH, vip_mode=VipMode.ROUTES).pass_time(5)

    assert ({others}, VIPS) == forms(bench)
    assert "changed by others" not in caplog.text


@pytest.fixture(params=[VipMode.ROUTES, VipMode.AUTO])
def without_set(request):
    """An address of others, and an agent that the kernel refuses to name it as a VIP."""
    before = Bench()
    before.inner.vips.ensure_link()
    before.inner.vips.apply([AddVip(address("10.96.0.1"))])
    refuse(before.inner.ipsets, lambda operation: operation.member.set_name.endswith("-VIPS"))
    return Bench(before.kernel, vip_mode=request.param)


def test_an_address_of_others_whose_route_never_came_stays_theirs(without_set):
    bench = without_set.put(*web(1)).list_all()
    bench.remove(web(1)[0]).pass_time(40)

    assert ({"10.96.0.1"}, set()) == forms(bench)


def test_while_its_route_cannot_come_it_is_not_asked_for_without_pause(without_set):
    bench, keeper = without_set, without_set.reconciler._keeper
    turns, move = [], keeper.move_vips
    keeper.move_vips = lambda: turns.append(bench.now) or move()

    bench.put(*web(1)).list_all().pass_time(10)

    assert len(turns) < 5


def test_a_single_sync_ends_though_a_route_cannot_come(without_set):
    bench = without_set
    things = web(1)
    bench.reconciler.tell([Put(kind, one) for kind, one in zip(KINDS_OF_WEB, things, strict=True)])
    for kind in Kind:
        names = [one.name for its, one in zip(KINDS_OF_WEB, things, strict=True) if its is kind]
        bench.reconciler.tell([Listed(kind, frozenset(names))])

    assert not bench.reconciler.run_once()


def test_an_audit_in_the_midst_of_taking_over_finds_nothing_that_others_changed(monkeypatch, caplog):
    for bound in ("_LEAST", "_SLICE"):
        monkeypatch.setattr(vip_forms, bound, 1)
    many = [thing for number in range(1, 30) for thing in web(number)]
    before = Bench()
    before.inner.vips.ensure_link()
    before.inner.vips.apply([AddVip(address(f"10.96.0.{number}")) for number in range(1, 30)])
    bench = Bench(before.kernel, vip_mode=VipMode.ROUTES).put(*many)
    bench.reconciler.tell(
        [Listed(kind, frozenset(name for its, name in bench.objects if its is kind)) for kind in Kind]
    )
    bench.reconciler.catch_up()
    assert 1 < len(forms(bench)[0]) < 30
    bench.now += 31  # an audit is due before all have moved
    bench.pass_time(5)

    assert (set(), 29) == (forms(bench)[0], len(forms(bench)[1]))
    assert "changed by others" not in caplog.text


class TestAuto:
    @pytest.fixture(autouse=True)
    def three_are_many(self, monkeypatch):
        monkeypatch.setattr(vip_forms, "MOST_ADDRESSES", 2)

    def test_many_at_the_start_are_never_addresses(self):
        bench = serving(*web(1), *web(2), *web(3))

        assert (set(), {"10.96.0.1", "10.96.0.2", "10.96.0.3"}) == forms(bench)
        assert {VipForm.ROUTE} == {form for _, _, form in steps(bench)}

    def test_the_one_that_is_too_many_moves_the_others(self):
        bench = serving(*web(1), *web(2))
        assert ({"10.96.0.1", "10.96.0.2"}, set()) == forms(bench)

        bench.put(*web(3))

        assert (set(), {"10.96.0.1", "10.96.0.2", "10.96.0.3"}) == forms(bench)

    def test_fewer_do_not_move_them_back_and_neither_does_a_restart(self):
        bench = serving(*web(1), *web(2), *web(3))
        bench.remove(web(3)[0]).pass_time(2)
        assert (set(), {"10.96.0.1", "10.96.0.2"}) == forms(bench)

        bench = restarted(bench, *web(1)).pass_time(2)

        assert (set(), {"10.96.0.1"}) == forms(bench)

    def test_many_that_were_there_as_addresses_move(self):
        bench = serving(*web(1), *web(2))

        bench = restarted(bench, *web(1), *web(2), *web(3))

        assert (set(), {"10.96.0.1", "10.96.0.2", "10.96.0.3"}) == forms(bench)


@pytest.mark.parametrize(
    "harm",
    [
        pytest.param(lambda vips: vips.take_down(), id="link down"),
        pytest.param(lambda vips: vips.remove_link(), id="link removed"),
        pytest.param(lambda vips: vips.apply([DeleteVip(address("10.96.0.1"), VipForm.ROUTE)]), id="route"),
        pytest.param(lambda vips: vips.apply([AddVip(address("10.96.0.1"))]), id="address beside it"),
    ],
)
def test_what_others_do_to_routes_is_made_good_by_the_audit(harm):
    bench = serving(*BOTH, vip_mode=VipMode.ROUTES)

    harm(bench.inner.vips)
    bench.pass_time(31)

    assert (set(), VIPS) == forms(bench)


@pytest.mark.parametrize("mode", [VipMode.ROUTES, VipMode.ADDRESSES])
def test_what_goes_with_the_link_is_made_again_at_once(mode):
    bench = serving(*BOTH, vip_mode=mode)
    expected = forms(bench)
    for harm in (bench.inner.vips.take_down, bench.inner.vips.remove_link):
        harm()
        bench.reconciler.tell(LinkLost())
        bench.settle()

        assert expected == forms(bench)


def test_a_route_of_an_earlier_agent_that_nobody_wants_goes():
    bench = Bench(vip_mode=VipMode.ADDRESSES)
    bench.inner.vips.apply([AddVip(address("10.96.0.9"), VipForm.ROUTE), AddVip(address("203.0.113.9"))])

    bench = restarted(bench, *BOTH, vip_mode=VipMode.ADDRESSES)

    assert (VIPS | {"203.0.113.9"}, set()) == forms(bench)


def test_a_vip_keeps_its_address_until_it_has_its_route():
    bench = serving(*BOTH, vip_mode=VipMode.ADDRESSES)
    heal = refuse(bench.inner.vips, lambda operation: isinstance(operation, AddVip))

    moving = restarted(bench, *BOTH, vip_mode=VipMode.ROUTES).pass_time(5)
    assert (VIPS, set()) == forms(moving)

    heal()
    moving.pass_time(31)
    assert (set(), VIPS) == forms(moving)


def test_a_refused_route_is_not_asked_for_without_pause():
    bench = serving(*BOTH, vip_mode=VipMode.ADDRESSES)
    asked = []

    def refuse_all(batch):
        asked.extend(batch)
        return [KernelError(f"{operation}: no") for operation in batch]

    bench.inner.vips.apply = refuse_all
    restarted(bench, *BOTH, vip_mode=VipMode.ROUTES).settle()

    # Once by its Service, and once more when all is listed.
    assert 2 * len(VIPS) == len(asked)
