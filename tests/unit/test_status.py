"""The listings in listings/ were printed by ipvsadm itself, from the table that is built here."""

from __future__ import annotations

import functools
import random
from pathlib import Path

import pytest

from ipvs_agent.addresses import Address, Family, parse_address
from ipvs_agent.model import ForwardingMethod, Protocol, RealServer, VirtualServer, address_key, mark_key
from ipvs_agent.observed import IpvsInfo, ObservedRealServer, ObservedVirtualServer
from ipvs_agent.operations import AddRealServer, AddVirtualServer
from ipvs_agent.status import FORMATS, text
from ipvs_agent.status.order import sort_real_servers, sort_virtual_servers
from ipvs_agent.testing.fake_ipvs import FakeIpvs

LISTINGS = Path(__file__).parent / "listings"
INFO = IpvsInfo((1, 2, 1), 4096)


def tcp(address, port):
    return address_key(Protocol.TCP, parse_address(address), port)


def udp(address, port):
    return address_key(Protocol.UDP, parse_address(address), port)


def sctp(address, port):
    return address_key(Protocol.SCTP, parse_address(address), port)


def real(address, port, weight=1, method=ForwardingMethod.MASQUERADE, active=0, inactive=0):
    return ObservedRealServer(RealServer(parse_address(address), port, weight, method), active, inactive)


API_SERVERS = [
    real("10.244.10.200", 6443, active=2, inactive=1),
    real("10.244.2.3", 6443, weight=65535, active=1234567890, inactive=4294967295),
]
DNS_SERVERS = [
    real("fd00:10:244:1::1234", 53),
    real("fd00:10:244::2", 53, weight=0, active=12, inactive=34567),
]
FAR_SERVERS = [
    real("10.244.1.9", 0, method=ForwardingMethod.LOCAL),
    real("10.244.1.8", 0, method=ForwardingMethod.DIRECT),
    real("10.244.1.7", 0, method=ForwardingMethod.TUNNEL),
    real("10.244.1.6", 0, method=ForwardingMethod.TUNNEL),
    real("10.244.1.5", 0, method=ForwardingMethod.TUNNEL),
]

TABLE = [
    (VirtualServer(udp("10.96.0.10", 53), "rr"), API_SERVERS),
    (VirtualServer(tcp("10.96.0.1", 443), "rr", 0x1, 10800), API_SERVERS),
    (VirtualServer(tcp("192.168.100.200", 30000), "sh", 0x18), API_SERVERS),
    (VirtualServer(tcp("10.96.0.20", 80), "mh", 0x8), API_SERVERS),
    (VirtualServer(tcp("10.96.0.21", 80), "wrr", 0x28), API_SERVERS),
    (VirtualServer(sctp("10.96.0.30", 38412), "wlc", 0x1, 360, 0xFFFFFF00), API_SERVERS),
    (VirtualServer(udp("10.96.0.40", 5060), "rr", 0x5, 300, persistence_engine="sip"), API_SERVERS),
    (VirtualServer(udp("fd00:10:96::a", 53), "rr"), DNS_SERVERS),
    (VirtualServer(tcp("fd00:10:96::b", 443), "lc", 0x1, 60, 64), DNS_SERVERS),
    (VirtualServer(mark_key(Family.IPV4, 1234), "rr"), FAR_SERVERS),
    (VirtualServer(mark_key(Family.IPV6, 77), "mh", 0x18), []),
]
ENTRIES = [(ObservedVirtualServer(virtual_server), servers) for virtual_server, servers in TABLE]


def line(virtual_server):
    """Return the line of a virtual server in the default listing."""
    return listing((ObservedVirtualServer(virtual_server), [])).splitlines()[-1]


def listing(*entries, info=None):
    """Return the default listing of virtual servers with their real servers."""
    form = FORMATS["default"]
    blocks = [(observed, text.block(form, servers)) for observed, servers in entries]
    return "".join(text.render(form, blocks, info))


class TestDefaultListing:
    def test_long_ones_are_whole(self):
        entries = [
            (ObservedVirtualServer(VirtualServer(tcp(f"10.96.{n >> 8}.{n & 255}", 80), "rr")), [])
            for n in range(1, 1002)
        ]
        lines = listing(*entries).splitlines()

        assert [f"TCP  10.96.{n >> 8}.{n & 255}:80 rr" for n in range(1, 1002)] == lines[-1001:]

    def test_the_whole_table(self):
        assert (LISTINGS / "Ln.txt").read_text() == listing(*ENTRIES, info=INFO)

    def test_a_single_virtual_server_has_no_version_line(self):
        assert (LISTINGS / "Ln_t.txt").read_text() == listing(ENTRIES[1])

    def test_an_empty_table_is_three_lines(self):
        lines = (LISTINGS / "Ln.txt").read_text().splitlines(keepends=True)

        assert "".join(lines[:3]) == listing(info=INFO)

    @pytest.mark.parametrize(
        ("expected", "virtual_server"),
        [
            pytest.param("TCP  10.96.0.1:0 none", VirtualServer(tcp("10.96.0.1", 0), ""), id="no scheduler"),
            pytest.param(
                "TCP  10.96.0.1:0 sh ()",
                VirtualServer(tcp("10.96.0.1", 0), "sh", 0x20),
                id="a flag without a name",
            ),
            pytest.param(
                "FWM  -1 rr", VirtualServer(mark_key(Family.IPV4, 2**32 - 1), "rr"), id="mark beyond 31 bits"
            ),
            pytest.param(
                "TCP  10.96.0.1:0 rr persistent 60 mask 0.0.0.0",
                VirtualServer(tcp("10.96.0.1", 0), "rr", 0x1, 60, 0),
                id="all clients are one",
            ),
            pytest.param(
                "UDP  10.96.0.1:53 rr ops",
                VirtualServer(udp("10.96.0.1", 53), "rr", 0x4, 60, 0xFFFF0000, "sip"),
                id="persistence that is off is not shown",
            ),
        ],
    )
    def test_lines_of_virtual_servers(self, expected, virtual_server):
        assert expected == line(virtual_server)


class TestFromTheKernelsListing:
    """Whatever it says of real servers comes out as if it had been taken apart."""

    @pytest.mark.parametrize("seed", range(20))
    @pytest.mark.parametrize(
        "prefix", [pytest.param("0af4", id="near"), pytest.param("", id="far"), pytest.param("fd", id="IPv6")]
    )
    def test_any_real_servers(self, prefix, seed):
        source = random.Random(seed)
        size = 4 if prefix != "fd" else 16
        ipvs, key = FakeIpvs(), tcp("10.96.0.1" if size == 4 else "fd00:10:96::1", 80)
        ipvs.apply([AddVirtualServer(VirtualServer(key, "wrr"))])
        for _ in range(source.randrange(12)):
            address = bytes.fromhex(prefix) + source.randbytes(size - len(prefix) // 2)
            server = RealServer(
                Address(address[:-1] + b"\1"),
                source.randrange(65536),
                source.choice([0, 1, 65535]),
                source.choice(
                    [ForwardingMethod.MASQUERADE, ForwardingMethod.TUNNEL, ForwardingMethod.DIRECT]
                ),
            )
            ipvs.apply([AddRealServer(key, server)])
        form = FORMATS["default"]

        (outlined,) = ipvs.outline()

        assert text.block(form, ipvs.real_servers(key)) == text.block_of(form, outlined)


def difference(one, other):
    """Compare 32-bit numbers as C does with `int r = one - other`."""
    wrapped = (one - other) & 0xFFFFFFFF
    return wrapped - 2**32 if wrapped & 2**31 else wrapped


def merge_sorted(numbers):
    """Sort as glibc does: halves, the second with the odd one out, the first preferred where equal."""
    if len(numbers) < 2:
        return numbers
    middle = len(numbers) // 2
    left, right = merge_sorted(numbers[:middle]), merge_sorted(numbers[middle:])
    merged = []
    while left and right:
        merged.append((left if difference(left[0], right[0]) <= 0 else right).pop(0))
    return merged + left + right


def sorted_addresses(addresses):
    servers = [real(address, 80) for address in addresses]
    return [observed.real_server.address for observed in sort_real_servers(servers)]


class TestOrder:
    @pytest.mark.parametrize(
        "addresses",
        [
            pytest.param(["10.0.0.1", "10.0.0.2"], id="near"),
            pytest.param(["192.168.0.1", "10.0.0.1"], id="the difference wraps"),
            pytest.param(["172.16.0.1", "192.168.0.1", "10.0.0.1"], id="all private ranges"),
            pytest.param(["10.0.0.1", "10.0.0.2", "138.0.0.0"], id="just below half the circle"),
            pytest.param(["fd00::1", "2001:db8::1", "2001:db8::2"], id="IPv6"),
            pytest.param(["fd00::c0a8:1", "fd00::0a00:1"], id="the last word of IPv6 wraps"),
        ],
    )
    def test_addresses_in_order_stay_and_others_come_to_it(self, addresses):
        expected = [parse_address(address) for address in addresses]

        assert expected == sorted_addresses(addresses)
        assert expected == sorted_addresses(addresses[::-1])

    @pytest.mark.parametrize("seed", range(30))
    def test_where_the_comparison_is_no_order_the_outcome_is_that_of_merge_sort(self, seed):
        rng = random.Random(seed)
        numbers = [rng.randrange(2**32) for _ in range(rng.randrange(2, 40))]
        octets = [Address(number.to_bytes(4)) for number in numbers]
        servers = [ObservedRealServer(RealServer(address, 80)) for address in octets]

        outcome = [int.from_bytes(each.real_server.address) for each in sort_real_servers(servers)]

        assert merge_sorted(numbers) == outcome

    @pytest.mark.parametrize("seed", range(10))
    def test_where_it_is_an_order_any_sort_agrees(self, seed):
        rng = random.Random(seed)
        origin = rng.randrange(2**32)
        numbers = [(origin + rng.randrange(2**31)) % 2**32 for _ in range(50)]
        servers = [ObservedRealServer(RealServer(Address(number.to_bytes(4)), 80)) for number in numbers]

        outcome = [int.from_bytes(each.real_server.address) for each in sort_real_servers(servers)]

        assert sorted(numbers, key=functools.cmp_to_key(difference)) == outcome

    def test_ports_decide_between_equal_addresses(self):
        servers = [real("10.0.0.1", port) for port in (443, 80, 8080)]

        assert [80, 443, 8080] == [each.real_server.port for each in sort_real_servers(servers)]

    def test_virtual_servers_are_sorted_by_mark_family_protocol_address_and_port(self):
        keys = [
            mark_key(Family.IPV4, 2**32 - 1),
            tcp("10.96.0.1", 80),
            tcp("10.96.0.1", 443),
            tcp("10.96.0.2", 80),
            udp("10.96.0.1", 80),
            sctp("10.96.0.1", 80),
            tcp("fd00::1", 80),
            udp("fd00::1", 53),
            mark_key(Family.IPV4, 1),
            mark_key(Family.IPV6, 1),
            mark_key(Family.IPV4, 2),
        ]
        entries = [(ObservedVirtualServer(VirtualServer(key, "rr")), []) for key in keys]
        random.Random(3).shuffle(entries)

        assert keys == [observed.virtual_server.key for observed, _servers in sort_virtual_servers(entries)]
