"""Virtual servers of others, and what of theirs turns up in our sets."""

from __future__ import annotations

import msgspec
import pytest

from ipvs_agent.addresses import Family, parse_network
from ipvs_agent.desired.sets import sets_of
from ipvs_agent.desired.split import TAG, TAG_MASK, mark_of
from ipvs_agent.model import Protocol, RealServer, VirtualServer, mark_key
from ipvs_agent.operations import AddMember, AddRealServer, AddVirtualServer
from ipvs_agent.reconcile import cleanup
from ipvs_agent.sources.changes import Trouble
from ipvs_agent.testing.builders import address, endpoint_slice, key, port, service
from ipvs_agent.testing.fake_kernel import FakeKernel
from tests.unit.benches import INSIDE, LB, A, members_of, refuse
from tests.unit.test_reconciler import Bench

OURS = mark_of(1, Protocol.TCP)


def make_foreign(kernel, *keys):
    """Have somebody else make virtual servers, each with a real server."""
    for one in keys:
        server = AddVirtualServer(VirtualServer(one, "wlc"))
        assert [None, None] == kernel.ipvs.apply(
            [server, AddRealServer(one, RealServer(address("192.0.2.77"), 1))]
        )


class TestAtTheStart:
    PORTS = tuple(key(f"10.96.0.80:{number}") for number in range(9001, 9006))

    def test_one_on_a_vip_of_ours_is_let_in_though_a_source_is_in_trouble(self):
        kernel = FakeKernel()
        make_foreign(kernel, self.PORTS[0])
        bench = Bench(kernel, needs=INSIDE).put(service(), endpoint_slice(endpoints=[A]))
        bench.tell(Trouble("web.yaml", "line 3: broken"))

        assert {"10.96.0.80"} == members_of(bench, "VIPS")
        assert {"10.96.0.80,tcp:9001"} == members_of(bench, "OTHERS")

    def test_a_set_that_is_too_small_for_them_grows_before_they_are_written_to_it(self, caplog):
        kernel = FakeKernel()
        (others,) = (one for one in sets_of(Family.IPV4) if one.name == "IPVS-AGENT-4-OTHERS")
        kernel.ipsets.create(msgspec.structs.replace(others, capacity=2))
        make_foreign(kernel, *self.PORTS)
        bench = Bench(kernel).settle()

        assert len(self.PORTS) == len(members_of(bench, "OTHERS"))
        assert [] == [record.message for record in caplog.records if record.levelname in ("WARNING", "ERROR")]


class TestMarksThatOnlyLookLikeOurs:
    @pytest.mark.parametrize(
        "mark",
        [
            pytest.param(TAG, id="no index"),
            pytest.param(TAG | 1 << 16, id="no index, UDP"),
            *(pytest.param(OURS | 1 << bit, id=f"bit {bit}") for bit in range(16) if not TAG_MASK & 1 << bit),
        ],
    )
    def test_their_virtual_servers_are_left_alone(self, mark):
        kernel = FakeKernel()
        kernel.ipvs.apply([AddVirtualServer(VirtualServer(mark_key(Family.IPV4, mark), "wlc"))])
        bench = Bench(kernel, needs=INSIDE).list_all().pass_time(35)

        assert {f"-f {mark}": {}} == bench.tables()
        assert () == cleanup.plan(kernel).virtual_servers


class TestMadeWhileOursWaits:
    """Ours is in the ledger already and waits for its restriction."""

    KEY = key(f"{LB}:80")

    @pytest.mark.parametrize("period", [30, 300], ids=["seen by an audit", "seen by a retry"])
    def test_it_is_not_taken_over(self, period):
        bench = Bench(needs=INSIDE, sync_period=period).list_all()
        asked = service(
            "shop/web", port(load_balancer_ips=[LB]), source_ranges=(parse_network("203.0.113.0/24"),)
        )
        heal = refuse(
            bench.kernel.ipsets,
            lambda operation: isinstance(operation, AddMember) and "RESTRICTED" in operation.member.set_name,
        )
        bench.put(asked, endpoint_slice(endpoints=[A]))
        make_foreign(bench.kernel, self.KEY)
        bench.pass_time(35)
        heal()
        bench.pass_time(60)

        assert {"192.0.2.77:1": 1} == bench.tables()[f"-t {LB}:80"]
        assert "wlc" == bench.kernel.ipvs.virtual_server(self.KEY).virtual_server.scheduler
        assert f"{LB},tcp:80" in members_of(bench, "OTHERS")
