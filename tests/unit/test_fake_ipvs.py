from __future__ import annotations

import pytest

from ipvs_agent import errors
from ipvs_agent.kernel.api import SyncDaemon, SyncRole, Timeouts
from ipvs_agent.model import RealServer, VirtualServer, address_key
from ipvs_agent.observed import Counters, ObservedRealServer, ObservedVirtualServer
from ipvs_agent.operations import (
    AddRealServer,
    AddVirtualServer,
    DeleteRealServer,
    DeleteVirtualServer,
    SetVirtualServer,
)
from ipvs_agent.testing.fake_ipvs import FakeIpvs
from tests.contract.ipvs import IpvsContract
from tests.contract.ipvs_tables import KEY, POD, add, kinds

TRAFFIC = Counters(connections=3, packets_in=20, bytes_out=12345)
REAL_SERVER = RealServer(POD, 80)


class TestFakeIpvs(IpvsContract):
    @pytest.fixture
    def ipvs(self):
        return FakeIpvs()

    def test_batches_are_kept_for_tests_to_look_at(self, ipvs):
        batches = [[AddVirtualServer(VirtualServer(KEY, "rr"))], [DeleteVirtualServer(KEY)]]
        for batch in batches:
            ipvs.apply(batch)

        assert batches == ipvs.batches

    def test_it_has_the_schedulers_that_it_is_told(self):
        ipvs = FakeIpvs(schedulers=("wrr",))

        outcomes = ipvs.apply([AddVirtualServer(VirtualServer(KEY, name)) for name in ("rr", "wrr")])

        assert [errors.UnknownScheduler, None] == kinds(outcomes)

    def test_connections_and_traffic_read_back(self, ipvs):
        add(ipvs, KEY, REAL_SERVER)

        ipvs.set_connections(KEY, REAL_SERVER.endpoint, active=1, inactive=2, persistent=3)
        ipvs.set_counters(KEY, TRAFFIC)
        ipvs.set_counters(KEY, TRAFFIC, REAL_SERVER.endpoint)

        assert ipvs.virtual_servers() == [ObservedVirtualServer(VirtualServer(KEY, "rr"), TRAFFIC)]
        assert ipvs.real_servers(KEY) == [ObservedRealServer(REAL_SERVER, 1, 2, 3, TRAFFIC)]

    @pytest.mark.parametrize("key", [None, KEY])
    def test_zero_clears_traffic_and_keeps_connections(self, ipvs, key):
        add(ipvs, KEY, REAL_SERVER)
        ipvs.set_connections(KEY, REAL_SERVER.endpoint, active=1)
        ipvs.set_counters(KEY, TRAFFIC)
        ipvs.set_counters(KEY, TRAFFIC, REAL_SERVER.endpoint)

        ipvs.zero(key)

        assert ipvs.virtual_server(KEY).counters == Counters()
        assert ipvs.real_servers(KEY) == [ObservedRealServer(REAL_SERVER, active=1)]

    def test_a_real_server_that_comes_back_has_its_connections_and_traffic(self, ipvs):
        add(ipvs, KEY, REAL_SERVER)
        ipvs.set_connections(KEY, REAL_SERVER.endpoint, active=4)
        ipvs.set_counters(KEY, TRAFFIC, REAL_SERVER.endpoint)

        ipvs.apply([DeleteRealServer(KEY, POD, 80), AddRealServer(KEY, RealServer(POD, 80, weight=0))])

        assert ipvs.real_servers(KEY) == [
            ObservedRealServer(RealServer(POD, 80, weight=0), active=4, counters=TRAFFIC)
        ]

    def test_under_a_new_virtual_server_it_has_only_its_connections(self, ipvs):
        add(ipvs, KEY, REAL_SERVER)
        ipvs.set_connections(KEY, REAL_SERVER.endpoint, active=4)
        ipvs.set_counters(KEY, TRAFFIC, REAL_SERVER.endpoint)

        ipvs.apply([DeleteVirtualServer(KEY)])
        add(ipvs, KEY, REAL_SERVER)

        assert ipvs.real_servers(KEY) == [ObservedRealServer(REAL_SERVER, active=4)]

    def test_thresholds_end_where_newer_kernels_end_them(self, ipvs):
        add(ipvs, KEY)

        outcomes = ipvs.apply(
            [
                AddRealServer(KEY, RealServer(POD, 1, upper_threshold=2**31 - 1)),
                AddRealServer(KEY, RealServer(POD, 2, upper_threshold=2**31)),
            ]
        )

        assert [None, errors.InvalidRequest] == kinds(outcomes)

    @pytest.mark.parametrize(
        "act",
        [
            pytest.param(
                lambda ipvs: ipvs.apply([SetVirtualServer(VirtualServer(KEY, "rr", timeout=2**23))]),
                id="persistence that overflows ticks",
            ),
            pytest.param(
                lambda ipvs: ipvs.apply([AddRealServer(KEY, RealServer(POD, 80, method=4))]),
                id="forwarding method",
            ),
            pytest.param(
                lambda ipvs: ipvs.apply([AddVirtualServer(VirtualServer(address_key(1, POD, 80), "rr"))]),
                id="protocol",
            ),
            pytest.param(lambda ipvs: ipvs.set_timeouts(Timeouts(2**23, 0, 0)), id="timeout"),
            pytest.param(
                lambda ipvs: ipvs.start_daemon(SyncDaemon(SyncRole.MASTER, "eth0", 1, max_length=9000)),
                id="sync message of a jumbo frame",
            ),
        ],
    )
    def test_what_is_not_modelled_is_refused_loudly(self, ipvs, act):
        add(ipvs, KEY)

        with pytest.raises(NotImplementedError):
            act(ipvs)
