"""A restart while a source is in trouble: what an earlier agent left goes on as it was."""

from __future__ import annotations

import pytest

from ipvs_agent.errors import KernelError
from ipvs_agent.sources.changes import Kind, Listed, Remark, Trouble
from ipvs_agent.testing.builders import endpoint, endpoint_slice, port, service
from ipvs_agent.testing.fake_kernel import FakeKernel
from tests.unit.benches import INSIDE, LB, A, C, balanced, by_marks, marks, members_of, restart
from tests.unit.test_reconciler import Bench

B = endpoint("10.244.1.12", node="node-a")
LATER = "2026-06-01T00:00:00Z"
TROUBLE = Trouble("https://api/endpointslices", "Connection reset")
UNDIVIDED = {"needs": type(INSIDE)()}


def listed(*things):
    """What says that these are all Services."""
    return Listed(Kind.SERVICE, frozenset(one.name for one in things))


class TestAnEndpointOfThisNodeIsYetToCome:
    local, remote = endpoint_slice(endpoints=[A], suffix="1"), endpoint_slice(endpoints=[C], suffix="2")

    def before(self, **options):
        return Bench(**options).put(balanced(node_port=0), self.local, self.remote).list_all()

    @pytest.mark.parametrize("options", [{"needs": INSIDE}, UNDIVIDED], ids=["divided", "undivided"])
    def test_clients_outside_are_served_by_those_that_were_there(self, options):
        before = self.before(**options)
        served = before.tables()
        after = restart(before, balanced(node_port=0), self.remote, **options)
        after.tell(listed(balanced()), TROUBLE)

        assert served == after.tables()
        assert set() == members_of(after, "NOLOCAL")

    def test_what_is_new_is_answered_as_far_as_is_known(self):
        after = restart(Bench(needs=INSIDE), balanced(node_port=0), self.remote)
        after.tell(listed(balanced()), TROUBLE)

        assert {f"{LB},tcp:80"} == members_of(after, "NOLOCAL")

    def test_nobody_is_answered_once_all_is_known_and_there_is_none(self):
        after = restart(self.before(needs=INSIDE), balanced(node_port=0), self.remote)
        after.tell(listed(balanced()), TROUBLE)
        after.list_all()

        assert {f"{LB},tcp:80"} == members_of(after, "NOLOCAL")

    def test_those_that_were_not_answered_are_not_refused(self):
        before = Bench(needs=INSIDE).put(balanced(node_port=0), self.remote).list_all()
        after = restart(before, balanced(node_port=0), self.remote).tell(listed(balanced()), TROUBLE)

        assert {f"{LB},tcp:80"} == members_of(after, "NOLOCAL")


class TestAnOlderServiceIsYetToCome:
    @pytest.fixture(params=[False, True], ids=["Cluster", "Local"])
    def services(self, request):
        fields = {"external_local": request.param}
        old = service("shop/old", port("10.96.0.81", load_balancer_ips=[LB]), **fields)
        addresses = {"load_balancer_ips": [LB], "node_port": 30082}
        young = service("shop/young", port("10.96.0.82", **addresses), created=LATER, **fields)
        return old, young

    def restarted(self, old, young):
        slices = endpoint_slice("shop/old", [A]), endpoint_slice("shop/young", [B])
        before = self.bench().put(old, young, *slices).list_all()
        after = Bench(before.kernel, needs=INSIDE)
        return before, after.put(young, *slices).tell(TROUBLE)

    def bench(self):
        bench = Bench(needs=INSIDE)
        bench.kernel.node_addresses.assign("eth0", ["192.0.2.1"])
        return bench.pass_time(31)

    def test_its_address_stays_with_it(self, services):
        before, after = self.restarted(*services)
        after.put(endpoint_slice("shop/young", [B, C]))

        assert {"10.244.1.11:8080": 1} == after.tables()[f"-t {LB}:80"]
        assert marks(before) == marks(after)
        assert [] == [key for key in by_marks(after) if key not in by_marks(before)]

    def test_what_only_one_service_can_have_follows_its_endpoints(self, services):
        _, after = self.restarted(*services)
        after.put(endpoint_slice("shop/young", [A, B]))

        for text in ("-t 10.96.0.82:80", "-t 192.0.2.1:30082"):
            assert {"10.244.1.11:8080": 1, "10.244.1.12:8080": 1} == after.tables()[text]

    def test_all_is_as_before_when_it_has_come(self, services):
        before, after = self.restarted(*services)
        served = before.tables(), marks(before)
        after.put(services[0]).tell(listed(*services))
        assert served == (after.tables(), marks(after))
        after.list_all().pass_time(5)

        assert served == (after.tables(), marks(after))

    def test_the_younger_has_the_address_when_all_are_known_and_it_is_gone(self, services):
        _, after = self.restarted(*services)
        after.list_all().pass_time(10)

        assert {"10.244.1.12:8080": 1} == after.tables()[f"-t {LB}:80"]


def test_a_remark_on_a_file_is_said_and_is_no_trouble(caplog):
    bench = Bench().put(service(), endpoint_slice(endpoints=[A]))
    bench.tell(Remark("web.json", "line 7: object: has no kind, and is passed over"))
    assert {} == bench.tables()
    bench.list_all()

    assert bench.reconciler.run_once()
    lines = [(one.levelname, one.message) for one in caplog.records if "web.json" in one.message]
    said = 'skipped object="web.json: line 7: object: has no kind, and is passed over"'
    assert [("WARNING", said)] == lines


def test_rules_of_nftables_that_cannot_be_read_keep_nobody_from_being_served(monkeypatch, caplog):
    caplog.set_level("INFO")
    kernel = FakeKernel()

    def refuse():
        raise KernelError("netlink dump: no")

    with monkeypatch.context() as patch:
        patch.setattr(kernel.nftables, "chains", refuse)
        bench = Bench(kernel).put(service(), endpoint_slice(endpoints=[endpoint("10.244.1.11")])).list_all()
        assert {"10.244.1.11:8080": 1} == bench.tables()["-t 10.96.0.80:80"]
        bench.pass_time(90)
    bench.pass_time(90)

    said = [record.getMessage() for record in caplog.records if "nftables" in record.getMessage()]
    assert [
        'rules of nftables that change marks go unseen error="netlink dump: no"',
        "rules of nftables can be read again",
    ] == said
