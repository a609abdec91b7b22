"""What every implementation of kernel.api.Ipvs does.

Clients' addresses: virtual servers in 10.96.0.0/16 and fd00:10:96::/112, real servers in 10.244.0.0/16 and
fd00:10:244::/64.
"""

from __future__ import annotations

import random

import msgspec
import pytest

from ipvs_agent import errors
from ipvs_agent.addresses import Address, Family, parse_address
from ipvs_agent.kernel.api import SyncDaemon, SyncRole, Timeouts
from ipvs_agent.model import (
    FULL_NETMASK,
    ForwardingMethod,
    ObservedRealServer,
    ObservedVirtualServer,
    Protocol,
    RealServer,
    ServiceFlags,
    VirtualServer,
    address_key,
    mark_key,
)
from ipvs_agent.operations import (
    AddRealServer,
    AddVirtualServer,
    DeleteRealServer,
    DeleteVirtualServer,
    SetRealServer,
    SetVirtualServer,
)

KEY = address_key(Protocol.TCP, parse_address("10.96.0.1"), 443)
KEY6 = address_key(Protocol.UDP, parse_address("fd00:10:96::a"), 53)
MARK = mark_key(Family.IPV4, 77)
MARK6 = mark_key(Family.IPV6, 77)
KEYS = [pytest.param(key, id=str(key)) for key in (KEY, KEY6, MARK, MARK6)]

POD = parse_address("10.244.0.1")
POD6 = parse_address("fd00:10:244::1")
GUE, GRE = 1, 2


def pod_for(key):
    return POD if key.family is Family.IPV4 else POD6


def kinds(outcomes):
    return [outcome and type(outcome) for outcome in outcomes]


def add(ipvs, key=KEY, *real_servers, **fields):
    """Make a virtual server with real servers."""
    operations = [AddVirtualServer(VirtualServer(key, "rr", **fields))]
    operations += [AddRealServer(key, real_server) for real_server in real_servers]
    assert [None] * len(operations) == ipvs.apply(operations)


def configured(ipvs):
    """Return the configuration of everything that is there."""
    return {
        observed.virtual_server: {each.real_server for each in ipvs.real_servers(observed.virtual_server.key)}
        for observed in ipvs.virtual_servers()
    }


def random_table(rng, count):
    """Return virtual servers with real servers, of every shape that the kernel takes."""
    table = {}
    for number in range(1, count + 1):
        family = rng.choice(list(Family))
        if rng.random() < 0.2:
            key = mark_key(family, number)
        else:
            size = 4 if family is Family.IPV4 else 12
            prefix = b"" if family is Family.IPV4 else b"\xfd\0\0\1"
            address = Address(prefix + rng.randbytes(size))
            key = address_key(rng.choice(list(Protocol)), address, rng.randrange(65536))
        persistent = rng.random() < 0.3
        longest = 128 if family is Family.IPV6 else 32
        prefix_length = rng.randrange(1, longest)
        netmask = prefix_length if family is Family.IPV6 else -1 << (32 - prefix_length) & 0xFFFFFFFF
        virtual_server = VirtualServer(
            key,
            rng.choice(["rr", "wrr", "lc", "wlc", "sh", "mh", "fo", ""]),
            rng.choice([0, 0x4, 0x8, 0x10, 0x20, 0x38]) | persistent * ServiceFlags.PERSISTENT,
            rng.randrange(1, 86400) if persistent else 0,
            netmask if persistent else FULL_NETMASK,
        )
        table[virtual_server] = {
            each.endpoint: each for each in (random_real_server(rng, family) for _ in range(rng.randrange(6)))
        }
    return {virtual_server: set(real_servers.values()) for virtual_server, real_servers in table.items()}


def random_real_server(rng, service_family):
    method = rng.choice(list(ForwardingMethod))
    family = rng.choice(list(Family)) if method is ForwardingMethod.TUNNEL else service_family
    address = bytes([10, 244]) + rng.randbytes(2)
    if family is Family.IPV6:
        address = parse_address("fd00:10:244::")[:8] + rng.randbytes(8)
    upper = rng.choice([0, 100, 2**31 - 1])
    tunnel = rng.choice([0, GUE, GRE]) if method is ForwardingMethod.TUNNEL else 0
    return RealServer(
        Address(address),
        rng.randrange(65536),
        rng.choice([0, 1, 65535, 2**31 - 1]),
        method,
        upper,
        rng.randrange(upper + 1),
        tunnel,
        rng.randrange(1, 65536) if tunnel == GUE else 0,
        rng.randrange(4) if tunnel else 0,
    )


class IpvsContract:
    """Needs a fixture `ipvs`, without any virtual server and with a network interface eth0."""

    # --- Virtual servers --------------------------------------------------------------------------------

    def test_at_first_there_is_nothing(self, ipvs):
        assert ipvs.virtual_servers() == []

    @pytest.mark.parametrize("key", KEYS)
    def test_an_added_virtual_server_is_listed_without_traffic(self, ipvs, key):
        add(ipvs, key)

        assert ipvs.virtual_servers() == [ObservedVirtualServer(VirtualServer(key, "rr"))]

    @pytest.mark.parametrize("key", KEYS)
    def test_an_added_virtual_server_can_be_read_alone(self, ipvs, key):
        add(ipvs, key)

        assert ipvs.virtual_server(key) == ObservedVirtualServer(VirtualServer(key, "rr"))

    def test_a_missing_virtual_server_is_not_found(self, ipvs):
        with pytest.raises(errors.NotFound, match=r"-t 10\.96\.0\.1:443"):
            ipvs.virtual_server(KEY)

    def test_families_and_protocols_and_marks_are_apart(self, ipvs):
        keys = {KEY, msgspec.structs.replace(KEY, protocol=Protocol.UDP), KEY6, MARK, MARK6}
        for key in keys:
            add(ipvs, key)

        assert keys == {observed.virtual_server.key for observed in ipvs.virtual_servers()}

    @pytest.mark.parametrize("key", KEYS)
    def test_a_second_add_says_that_it_exists(self, ipvs, key):
        add(ipvs, key)

        (outcome,) = ipvs.apply([AddVirtualServer(VirtualServer(key, "wrr"))])

        assert isinstance(outcome, errors.AlreadyExists)
        assert ipvs.virtual_server(key).virtual_server.scheduler == "rr"

    @pytest.mark.parametrize("key", KEYS)
    def test_what_is_missing_is_neither_changed_nor_deleted(self, ipvs, key):
        outcomes = ipvs.apply([SetVirtualServer(VirtualServer(key, "rr")), DeleteVirtualServer(key)])

        assert [errors.NotFound, errors.NotFound] == kinds(outcomes)

    @pytest.mark.parametrize("operation", [AddVirtualServer, SetVirtualServer])
    def test_an_unknown_scheduler_is_named_with_its_module(self, ipvs, operation):
        add(ipvs, KEY6)
        key = KEY if operation is AddVirtualServer else KEY6

        (outcome,) = ipvs.apply([operation(VirtualServer(key, "nonsense"))])

        assert isinstance(outcome, errors.UnknownScheduler)
        assert str(outcome).endswith(": this kernel has no scheduler nonsense (module ip_vs_nonsense)")

    def test_a_scheduler_name_beyond_15_characters_is_invalid(self, ipvs):
        outcomes = ipvs.apply([AddVirtualServer(VirtualServer(KEY, "sixteen-letters-"))])

        assert [errors.InvalidRequest] == kinds(outcomes)

    def test_an_unknown_persistence_engine_is_refused_by_name(self, ipvs):
        virtual_server = VirtualServer(KEY, "rr", 1, 300, persistence_engine="nonsense")

        (outcome,) = ipvs.apply([AddVirtualServer(virtual_server)])

        assert isinstance(outcome, errors.UnknownScheduler)
        assert "no persistence engine nonsense (module ip_vs_pe_nonsense)" in str(outcome)

    def test_a_virtual_server_without_scheduler_reads_back_as_such(self, ipvs):
        ipvs.apply([AddVirtualServer(VirtualServer(KEY, ""))])

        assert ipvs.virtual_server(KEY).virtual_server == VirtualServer(KEY, "")

    @pytest.mark.parametrize("key", KEYS)
    def test_a_change_replaces_the_whole_configuration(self, ipvs, key):
        netmask = 64 if key.family is Family.IPV6 else 0xFFFFFF00
        before = VirtualServer(key, "sh", 0x1 | 0x8 | 0x10, 300, netmask)
        after = VirtualServer(key, "mh", ServiceFlags.ONE_PACKET | ServiceFlags.SCHEDULER_3)
        ipvs.apply([AddVirtualServer(before)])
        assert ipvs.virtual_server(key).virtual_server == before

        assert ipvs.apply([SetVirtualServer(after)]) == [None]

        assert ipvs.virtual_server(key).virtual_server == after

    def test_a_change_keeps_the_real_servers(self, ipvs):
        add(ipvs, KEY, RealServer(POD, 80))

        ipvs.apply([SetVirtualServer(VirtualServer(KEY, "wrr"))])

        assert configured(ipvs) == {VirtualServer(KEY, "wrr"): {RealServer(POD, 80)}}

    def test_the_kernels_own_flag_never_reads_back(self, ipvs):
        add(ipvs, KEY, flags=ServiceFlags.HASHED)

        assert ipvs.virtual_server(KEY).virtual_server.flags == 0

    @pytest.mark.parametrize(
        ("key", "netmask"),
        [pytest.param(KEY, 0xFFFFFFFF, id="/32"), pytest.param(KEY6, 128, id="/128")],
    )
    def test_a_netmask_of_single_clients_reads_back_as_the_full_one(self, ipvs, key, netmask):
        add(ipvs, key, flags=1, timeout=60, netmask=netmask)

        assert ipvs.virtual_server(key).virtual_server.netmask == FULL_NETMASK

    @pytest.mark.parametrize("netmask", [0, 129])
    def test_an_ipv6_netmask_is_a_prefix_length_from_1_to_128(self, ipvs, netmask):
        outcomes = ipvs.apply([AddVirtualServer(VirtualServer(KEY6, "rr", netmask=netmask))])

        assert [errors.InvalidRequest] == kinds(outcomes)

    def test_a_deleted_virtual_server_takes_its_real_servers_with_it(self, ipvs):
        add(ipvs, KEY, RealServer(POD, 80))

        outcomes = ipvs.apply([DeleteVirtualServer(KEY), AddVirtualServer(VirtualServer(KEY, "rr"))])

        assert outcomes == [None, None]
        assert ipvs.real_servers(KEY) == []

    def test_flush_removes_everything(self, ipvs):
        add(ipvs, KEY, RealServer(POD, 80))
        add(ipvs, MARK6)

        ipvs.flush()

        assert configured(ipvs) == {}

    # --- Real servers -----------------------------------------------------------------------------------

    @pytest.mark.parametrize("key", KEYS)
    def test_an_added_real_server_is_listed_without_connections(self, ipvs, key):
        real_server = RealServer(pod_for(key), 8080, 5, ForwardingMethod.DIRECT, 100, 80)
        add(ipvs, key, real_server)

        assert ipvs.real_servers(key) == [ObservedRealServer(real_server)]

    def test_real_servers_are_listed_newest_first(self, ipvs):
        add(ipvs, KEY, RealServer(POD, 1), RealServer(POD, 3), RealServer(POD, 2))

        assert [2, 3, 1] == [observed.real_server.port for observed in ipvs.real_servers(KEY)]

    def test_a_change_keeps_a_real_servers_place(self, ipvs):
        add(ipvs, KEY, RealServer(POD, 1), RealServer(POD, 3), RealServer(POD, 2))

        ipvs.apply([SetRealServer(KEY, RealServer(POD, 1, weight=9))])

        assert [(2, 1), (3, 1), (1, 9)] == [
            (observed.real_server.port, observed.real_server.weight) for observed in ipvs.real_servers(KEY)
        ]

    def test_a_real_server_that_comes_back_is_the_newest(self, ipvs):
        add(ipvs, KEY, RealServer(POD, 1), RealServer(POD, 2))

        ipvs.apply([DeleteRealServer(KEY, POD, 1), AddRealServer(KEY, RealServer(POD, 1))])

        assert [1, 2] == [observed.real_server.port for observed in ipvs.real_servers(KEY)]

    def test_a_missing_virtual_server_has_an_empty_list_of_real_servers(self, ipvs):
        assert ipvs.real_servers(KEY) == []

    def test_without_a_virtual_server_there_is_no_operation_on_real_servers(self, ipvs):
        real_server = RealServer(POD, 80)

        outcomes = ipvs.apply(
            [
                AddRealServer(KEY, real_server),
                SetRealServer(KEY, real_server),
                DeleteRealServer(KEY, POD, 80),
            ]
        )

        assert [errors.NoVirtualServer] * 3 == kinds(outcomes)

    def test_a_second_add_of_a_real_server_says_that_it_exists(self, ipvs):
        add(ipvs, KEY, RealServer(POD, 80))

        (outcome,) = ipvs.apply([AddRealServer(KEY, RealServer(POD, 80, weight=7))])

        assert isinstance(outcome, errors.AlreadyExists)
        assert ipvs.real_servers(KEY) == [ObservedRealServer(RealServer(POD, 80))]

    def test_a_missing_real_server_is_neither_changed_nor_deleted(self, ipvs):
        add(ipvs, KEY)

        outcomes = ipvs.apply([SetRealServer(KEY, RealServer(POD, 80)), DeleteRealServer(KEY, POD, 80)])

        assert [errors.NotFound, errors.NotFound] == kinds(outcomes)

    @pytest.mark.parametrize("operation", [AddRealServer, SetRealServer])
    @pytest.mark.parametrize(
        "change",
        [
            pytest.param({"weight": -1}, id="negative weight"),
            pytest.param({"weight": 2**31}, id="weight beyond 31 bits"),
            pytest.param({"upper_threshold": 1, "lower_threshold": 2}, id="lower threshold above upper"),
            pytest.param({"method": ForwardingMethod.TUNNEL, "tunnel_type": GUE}, id="GUE without port"),
        ],
    )
    def test_invalid_values_of_a_real_server(self, ipvs, operation, change):
        add(ipvs, KEY, RealServer(POD, 80))
        port = 81 if operation is AddRealServer else 80

        outcomes = ipvs.apply([operation(KEY, msgspec.structs.replace(RealServer(POD, port), **change))])

        assert [errors.InvalidRequest] == kinds(outcomes)
        assert ipvs.real_servers(KEY) == [ObservedRealServer(RealServer(POD, 80))]

    @pytest.mark.parametrize(
        "address",
        [
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "127.255.255.255",
            "::",
            "ff02::1",
            "fe80::1",
            "::ffff:10.244.0.1",
        ],
    )
    def test_addresses_that_cannot_be_real_servers(self, ipvs, address):
        key = KEY6 if ":" in address else KEY
        add(ipvs, key)

        outcomes = ipvs.apply([AddRealServer(key, RealServer(parse_address(address), 80))])

        assert [errors.InvalidRequest] == kinds(outcomes)

    @pytest.mark.parametrize("address", ["127.0.0.1", "240.0.0.1", "::1", "fd00:10:244::1"])
    def test_unusual_addresses_that_can_be_real_servers(self, ipvs, address):
        key = KEY6 if ":" in address else KEY
        add(ipvs, key)

        assert ipvs.apply([AddRealServer(key, RealServer(parse_address(address), 80))]) == [None]

    @pytest.mark.parametrize(
        ("method", "outcome"),
        [
            pytest.param(ForwardingMethod.TUNNEL, None, id="tunnel"),
            pytest.param(ForwardingMethod.MASQUERADE, errors.InvalidRequest, id="masquerade"),
            pytest.param(ForwardingMethod.DIRECT, errors.InvalidRequest, id="direct"),
        ],
    )
    def test_only_tunnels_lead_to_the_other_family(self, ipvs, method, outcome):
        add(ipvs, KEY)
        add(ipvs, KEY6)

        outcomes = ipvs.apply(
            [
                AddRealServer(KEY, RealServer(POD6, 80, 1, method)),
                AddRealServer(KEY6, RealServer(POD, 80, 1, method)),
            ]
        )

        assert [outcome, outcome] == kinds(outcomes)

    def test_a_real_server_of_the_other_family_can_be_changed_and_deleted(self, ipvs):
        before = RealServer(POD6, 80, 1, ForwardingMethod.TUNNEL)
        after = msgspec.structs.replace(before, weight=0)
        add(ipvs, KEY, before)

        assert ipvs.apply([SetRealServer(KEY, after)]) == [None]
        assert ipvs.real_servers(KEY) == [ObservedRealServer(after)]
        assert ipvs.apply([DeleteRealServer(KEY, POD6, 80)]) == [None]
        assert ipvs.real_servers(KEY) == []

    # --- Batches ----------------------------------------------------------------------------------------

    def test_an_empty_batch_has_no_outcomes(self, ipvs):
        assert ipvs.apply([]) == []

    @pytest.mark.parametrize("seed", range(5))
    def test_any_table_reads_back_as_it_was_applied(self, ipvs, seed):
        table = random_table(random.Random(seed), 60)
        additions = [AddVirtualServer(virtual_server) for virtual_server in table]
        for virtual_server, real_servers in table.items():
            additions += [AddRealServer(virtual_server.key, each) for each in sorted(real_servers)]

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

    def test_a_number_that_no_message_can_hold_fails_alone(self, ipvs):
        add(ipvs, KEY)
        ports = [1, 65536, 2, 3, -1, 4]

        outcomes = ipvs.apply([AddRealServer(KEY, RealServer(POD, port)) for port in ports])

        bad = errors.InvalidRequest
        assert [None, bad, None, None, bad, None] == kinds(outcomes)
        assert {1, 2, 3, 4} == {observed.real_server.port for observed in ipvs.real_servers(KEY)}

    # --- The rest ---------------------------------------------------------------------------------------

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
