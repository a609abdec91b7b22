"""What every implementation of kernel.api.Ipvs does with virtual servers."""

from __future__ import annotations

import msgspec
import pytest

from ipvs_agent import errors
from ipvs_agent.addresses import Family
from ipvs_agent.model import FULL_NETMASK, Protocol, RealServer, ServiceFlags, VirtualServer
from ipvs_agent.observed import ObservedVirtualServer
from ipvs_agent.operations import AddRealServer, AddVirtualServer, DeleteVirtualServer, SetVirtualServer
from tests.contract.ipvs_tables import KEY, KEY6, KEYS, MARK, MARK6, POD, add, configured, kinds


class VirtualServersContract:
    """Needs a fixture `ipvs`, without any virtual server."""

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

    def test_a_reading_has_another_digest_where_virtual_servers_have_changed(self, ipvs):
        def digest_after(*operations):
            assert {None} >= {*ipvs.apply(operations)}
            return ipvs.reading().digest

        first, second = VirtualServer(KEY, "rr"), VirtualServer(KEY6, "rr")
        empty = digest_after()
        one = digest_after(AddVirtualServer(first))
        again = digest_after(AddRealServer(KEY, RealServer(POD, 80)))
        both = digest_after(AddVirtualServer(second))
        other = digest_after(SetVirtualServer(VirtualServer(KEY, "rr", ServiceFlags.ONE_PACKET)))
        without = digest_after(SetVirtualServer(first), DeleteVirtualServer(KEY6))

        assert one == again == without
        assert 4 == len({empty, one, both, other})
        assert ipvs.virtual_servers() == ipvs.reading().content()

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
