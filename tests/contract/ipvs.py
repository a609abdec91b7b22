"""What every implementation of kernel.api.Ipvs does."""

from __future__ import annotations

import random

import msgspec
import pytest

from ipvs_agent import errors
from ipvs_agent.addresses import parse_address
from ipvs_agent.kernel.api import SyncDaemon, SyncRole, Timeouts
from ipvs_agent.model import ForwardingMethod, RealServer, VirtualServer
from ipvs_agent.operations import (
    AddRealServer,
    AddRealServers,
    AddVirtualServer,
    DeleteRealServer,
    SetRealServer,
)
from tests.contract.ipvs_real_servers import RealServersContract
from tests.contract.ipvs_tables import KEY, KEY6, POD, POD6, add, configured, kinds, random_table
from tests.contract.ipvs_virtual_servers import VirtualServersContract


class IpvsContract(VirtualServersContract, RealServersContract):
    """Needs a fixture `ipvs`, without any virtual server and with a network interface eth0."""

    # --- Batches ----------------------------------------------------------------------------------------

    def test_an_empty_batch_has_no_outcomes(self, ipvs):
        assert ipvs.apply([]) == []

    @pytest.mark.parametrize("seed", range(5))
    def test_any_table_reads_back_as_it_was_applied(self, ipvs, seed):
        table = random_table(random.Random(seed), 60)
        additions = [AddVirtualServer(virtual_server) for virtual_server in table]
        for number, (virtual_server, real_servers) in enumerate(table.items()):
            together = AddRealServers(virtual_server.key, tuple(sorted(real_servers)))
            additions += [together] if number % 2 else together.one_by_one()

        assert [None] * len(additions) == ipvs.apply(additions)

        assert table == configured(ipvs)

    def test_every_failure_in_a_large_batch_finds_its_operation(self, ipvs):
        operations, expected = [AddVirtualServer(VirtualServer(KEY, "rr"))], [None]
        for number in range(1, 1001):
            real_server = RealServer(POD, number)
            operations += [
                AddRealServer(KEY, real_server),
                AddRealServer(KEY6, RealServer(POD6, number)),
                SetRealServer(KEY, msgspec.structs.replace(real_server, weight=-number)),
                DeleteRealServer(KEY, POD, number + 2000),
                AddRealServer(KEY, msgspec.structs.replace(real_server, port=0)),
            ]
            second = None if number == 1 else errors.AlreadyExists
            expected += [None, errors.NoVirtualServer, errors.InvalidRequest, errors.NotFound, second]

        outcomes = ipvs.apply(operations)

        assert expected == kinds(outcomes)
        for operation, outcome in zip(operations, outcomes, strict=True):
            assert outcome is None or str(outcome).startswith(f"{operation}: ")

    def test_what_was_refused_of_an_operation_for_several_is_told_one_by_one(self, ipvs):
        ports = [1, 65536, 2, 1, 3]
        behind = tuple(RealServer(POD, port) for port in ports)
        missing = AddRealServers(KEY6, (RealServer(POD6, 1), RealServer(POD6, 2)))

        made, partly, none, last = ipvs.apply(
            [
                AddVirtualServer(VirtualServer(KEY, "rr")),
                AddRealServers(KEY, behind),
                missing,
                AddRealServer(KEY, RealServer(POD, 4)),
            ]
        )

        assert [None, errors.PartlyRefused, errors.PartlyRefused, None] == kinds([made, partly, none, last])
        assert [None, errors.InvalidRequest, None, errors.AlreadyExists, None] == kinds(partly.outcomes)
        assert [errors.NoVirtualServer] * 2 == kinds(none.outcomes)
        assert str(none) == f"{missing.one_by_one()[0]}: the virtual server is not there"
        assert [4, 3, 2, 1] == [observed.real_server.port for observed in ipvs.real_servers(KEY)]

    def test_a_number_that_no_message_can_hold_fails_alone(self, ipvs):
        add(ipvs, KEY)
        ports = [1, 65536, 2, 3, -1, 4]

        outcomes = ipvs.apply([AddRealServer(KEY, RealServer(POD, port)) for port in ports])

        bad = errors.InvalidRequest
        assert [None, bad, None, None, bad, None] == kinds(outcomes)
        assert {1, 2, 3, 4} == {observed.real_server.port for observed in ipvs.real_servers(KEY)}

    # --- Timeouts, counters and daemons -----------------------------------------------------------------

    def test_info_tells_version_and_table_size(self, ipvs):
        info = ipvs.info()

        assert (1, 2) == info.version[:2]
        assert info.connection_table_size.bit_count() == 1

    def test_timeouts_of_0_are_kept(self, ipvs):
        assert Timeouts(tcp=900, tcp_fin=120, udp=300) == ipvs.timeouts()

        ipvs.set_timeouts(Timeouts(tcp=0, tcp_fin=30, udp=0))
        assert Timeouts(tcp=900, tcp_fin=30, udp=300) == ipvs.timeouts()

        ipvs.set_timeouts(Timeouts(tcp=7200, tcp_fin=0, udp=60))
        assert Timeouts(tcp=7200, tcp_fin=30, udp=60) == ipvs.timeouts()

    def test_zero_needs_its_virtual_server(self, ipvs):
        add(ipvs, KEY)

        ipvs.zero(KEY)
        ipvs.zero()
        with pytest.raises(errors.NotFound):
            ipvs.zero(KEY6)

    def test_a_daemon_gets_what_it_does_not_ask_for_from_the_kernel(self, ipvs):
        ipvs.start_daemon(SyncDaemon(SyncRole.MASTER, "eth0", 7))

        group = parse_address("224.0.0.81")
        assert ipvs.daemons() == [SyncDaemon(SyncRole.MASTER, "eth0", 7, 1472, group, 8848, 1)]

    def test_both_daemons_run_with_what_they_ask_for(self, ipvs):
        master = SyncDaemon(SyncRole.MASTER, "eth0", 1, 1400, parse_address("224.0.0.99"), 9000, 3)
        backup = SyncDaemon(SyncRole.BACKUP, "eth0", 2, 1400, parse_address("224.0.0.98"), 9001, 2)

        ipvs.start_daemon(master)
        ipvs.start_daemon(backup)

        assert ipvs.daemons() == [master, backup]

    def test_a_daemon_runs_once_until_it_is_stopped(self, ipvs):
        daemon = SyncDaemon(SyncRole.BACKUP, "eth0", 1)
        ipvs.start_daemon(daemon)
        with pytest.raises(errors.AlreadyExists):
            ipvs.start_daemon(daemon)

        ipvs.stop_daemon(SyncRole.BACKUP)

        assert ipvs.daemons() == []
        with pytest.raises(errors.NotFound):
            ipvs.stop_daemon(SyncRole.BACKUP)

    @pytest.mark.parametrize(
        ("daemon", "reason"),
        [
            pytest.param(SyncDaemon(SyncRole.MASTER, "eth9", 1), "No such device", id="no such interface"),
            pytest.param(
                SyncDaemon(SyncRole.MASTER, "eth0", 1, group=POD),
                "Invalid argument",
                id="not a multicast group",
            ),
        ],
    )
    def test_daemons_that_cannot_run(self, ipvs, daemon, reason):
        with pytest.raises(errors.KernelError, match=reason):
            ipvs.start_daemon(daemon)

    def test_mixed_families_and_daemons_exclude_each_other(self, ipvs):
        tunnel = RealServer(POD6, 80, 1, ForwardingMethod.TUNNEL)
        daemon = SyncDaemon(SyncRole.BACKUP, "eth0", 1)
        add(ipvs, KEY, tunnel)
        with pytest.raises(errors.InvalidRequest):
            ipvs.start_daemon(daemon)

        ipvs.apply([DeleteRealServer(KEY, POD6, 80)])
        ipvs.start_daemon(daemon)

        assert [errors.InvalidRequest] == kinds(ipvs.apply([AddRealServer(KEY, tunnel)]))
