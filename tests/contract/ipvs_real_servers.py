"""What every implementation of kernel.api.Ipvs does with real servers."""

from __future__ import annotations

import random

import msgspec
import pytest

from ipvs_agent import errors
from ipvs_agent.addresses import parse_address
from ipvs_agent.model import ForwardingMethod, Protocol, RealServer, address_key
from ipvs_agent.observed import ObservedRealServer
from ipvs_agent.operations import AddRealServer, AddVirtualServer, DeleteRealServer, SetRealServer
from tests.contract.ipvs_tables import GUE, KEY, KEY6, KEYS, POD, POD6, add, kinds, pod_for, random_table


class RealServersContract:
    """Needs a fixture `ipvs`, without any virtual server."""

    @pytest.mark.parametrize("key", KEYS)
    def test_an_added_real_server_is_listed_without_connections(self, ipvs, key):
        real_server = RealServer(pod_for(key), 8080, 5, ForwardingMethod.DIRECT, 100, 80)
        add(ipvs, key, real_server)

        assert ipvs.real_servers(key) == [ObservedRealServer(real_server)]

    def test_real_servers_are_listed_newest_first(self, ipvs):
        add(ipvs, KEY, RealServer(POD, 1), RealServer(POD, 3), RealServer(POD, 2))

        assert [2, 3, 1] == [observed.real_server.port for observed in ipvs.real_servers(KEY)]

    @pytest.mark.parametrize("key", KEYS)
    def test_many_real_servers_are_listed_newest_first(self, ipvs, key):
        """The kernel needs several messages for them."""
        ports = [7 * number % 1009 for number in range(1, 1009)]
        add(ipvs, key, *(RealServer(pod_for(key), port) for port in ports))

        assert ports[::-1] == [observed.real_server.port for observed in ipvs.real_servers(key)]

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

    def test_real_servers_of_many_virtual_servers_at_once(self, ipvs):
        keys = [address_key(Protocol.TCP, parse_address(f"10.96.1.{host}"), 80) for host in range(1, 251)]
        for number, key in enumerate(keys[:-1]):
            add(ipvs, key, *(RealServer(POD, port) for port in range(1, 1 + number % 4)))

        found = ipvs.real_servers_of([KEY6, *keys])

        assert [ipvs.real_servers(key) for key in [KEY6, *keys]] == found
        assert [[3, 2, 1], []] == [
            [one.real_server.port for one in behind] for behind in (found[4], found[5])
        ]

    @pytest.mark.parametrize("seed", range(3))
    def test_the_outline_says_who_is_behind_each_address(self, ipvs, seed):
        table = random_table(random.Random(seed), 60)
        for virtual_server, real_servers in table.items():
            additions = [AddRealServer(virtual_server.key, each) for each in sorted(real_servers)]
            assert {None} == {*ipvs.apply([AddVirtualServer(virtual_server), *additions])}

        found = list(ipvs.outline())

        # Some may be missing where other tests have left virtual servers in other namespaces.
        by_address = {virtual_server.key for virtual_server in table if not virtual_server.key.mark}
        assert {outlined.key for outlined in found} <= by_address
        assert found
        for outlined in found:
            full = [observed.real_server for observed in ipvs.real_servers(outlined.key)]
            assert outlined.real_servers() == [
                ObservedRealServer(RealServer(each.address, each.port, each.weight, each.method))
                for each in full
            ]

    def test_the_outline_of_many_real_servers(self, ipvs):
        """More than the kernel writes at once."""
        behind = [RealServer(POD, port, weight=port % 3) for port in range(1, 1001)]
        add(ipvs, KEY, *behind)

        (outlined,) = ipvs.outline()

        assert KEY == outlined.key
        assert behind[::-1] == [observed.real_server for observed in outlined.real_servers()]

    def test_the_outline_has_another_digest_where_real_servers_have_changed(self, ipvs):
        one, other = RealServer(POD, 80), RealServer(POD, 81)
        add(ipvs, KEY, one, other)

        def digest_after(*operations):
            assert {None} >= {*ipvs.apply(operations)}
            (outlined,) = ipvs.outline()
            return outlined.digest

        at_first = digest_after()
        assert at_first == digest_after()
        heavier = digest_after(SetRealServer(KEY, RealServer(POD, 80, weight=2)))
        as_before = digest_after(SetRealServer(KEY, one))
        without = digest_after(DeleteRealServer(KEY, POD, 81))
        reordered = digest_after(
            AddRealServer(KEY, other), DeleteRealServer(KEY, POD, 80), AddRealServer(KEY, one)
        )

        assert at_first == as_before
        assert 4 == len({at_first, heavier, without, reordered})

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
