"""Packing and reading of IPVS messages; the replies in octets were given by Linux 6.1 (User-Mode Linux)."""

from __future__ import annotations

import struct

import pytest

from ipvs_agent.addresses import Family, parse_address
from ipvs_agent.kernel import ipvs_replies, ipvs_requests
from ipvs_agent.kernel.netlink import attribute, attributes
from ipvs_agent.model import (
    FULL_NETMASK,
    ForwardingMethod,
    Protocol,
    RealServer,
    VirtualServer,
    address_key,
    mark_key,
)
from ipvs_agent.observed import Counters, ObservedRealServer, ObservedVirtualServer
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
POD, POD6 = parse_address("10.244.0.1"), parse_address("fd00:10:244::1")

IDENTITIES = [
    pytest.param(
        KEY,
        {1: struct.pack("=H", 2), 2: struct.pack("=H", 6), 3: KEY.address, 4: struct.pack("!H", 443)},
        id="IPv4",
    ),
    pytest.param(
        KEY6,
        {1: struct.pack("=H", 10), 2: struct.pack("=H", 17), 3: KEY6.address, 4: struct.pack("!H", 53)},
        id="IPv6",
    ),
    pytest.param(MARK, {1: struct.pack("=H", 2), 5: struct.pack("=I", 77)}, id="mark"),
]


def unpacked(payload):
    """Return command, service attributes and real server attributes of a request."""
    command, version, reserved = struct.unpack_from("=BBH", payload)
    assert (version, reserved) == (1, 0)
    nests = attributes(payload, 4)
    assert len(payload) == 4 + sum(4 + len(nest) for nest in nests.values())
    return command, *(dict(attributes(nests[nest])) for nest in sorted(nests))


class TestRequests:
    @pytest.mark.parametrize(("key", "identity"), IDENTITIES)
    @pytest.mark.parametrize(("operation", "command"), [(AddVirtualServer, 1), (SetVirtualServer, 2)])
    def test_a_virtual_server(self, key, identity, operation, command):
        netmask = struct.pack("=I", 128) if key.family is Family.IPV6 else b"\xff\xff\xff\xff"

        (payload,) = ipvs_requests.pack([operation(VirtualServer(key, "wrr", 0x18, 60))])

        assert unpacked(payload) == (
            command,
            identity
            | {6: b"wrr\0", 7: struct.pack("=II", 0x18, 0xFFFFFFFF), 8: struct.pack("=I", 60), 9: netmask},
        )

    @pytest.mark.parametrize(("key", "identity"), IDENTITIES)
    def test_deleting_a_virtual_server_names_it_alone(self, key, identity):
        (payload,) = ipvs_requests.pack([DeleteVirtualServer(key)])

        assert unpacked(payload) == (3, identity)

    @pytest.mark.parametrize(
        ("virtual_server", "kind", "value"),
        [
            pytest.param(
                VirtualServer(KEY, "rr", netmask=0xFFFFFF00), 9, b"\xff\xff\xff\0", id="IPv4 netmask"
            ),
            pytest.param(VirtualServer(KEY6, "rr", netmask=64), 9, struct.pack("=I", 64), id="IPv6 mask"),
            pytest.param(VirtualServer(KEY, ""), 6, b"none\0", id="no scheduler"),
            pytest.param(VirtualServer(KEY, "rr", persistence_engine="sip"), 11, b"sip\0", id="engine"),
        ],
    )
    def test_further_attributes_of_a_virtual_server(self, virtual_server, kind, value):
        (payload,) = ipvs_requests.pack([AddVirtualServer(virtual_server)])

        _command, service = unpacked(payload)
        assert value == service[kind]

    @pytest.mark.parametrize(("key", "identity"), IDENTITIES)
    @pytest.mark.parametrize(("operation", "command"), [(AddRealServer, 5), (SetRealServer, 6)])
    @pytest.mark.parametrize(("address", "family"), [(POD, 2), (POD6, 10)])
    def test_a_real_server(self, key, identity, operation, command, address, family):
        real_server = RealServer(address, 8080, 7, ForwardingMethod.TUNNEL, 100, 80, 1, 5555, 2)

        (payload,) = ipvs_requests.pack([operation(key, real_server)])

        numbers = {3: 2, 4: 7, 5: 100, 6: 80}
        assert unpacked(payload) == (
            command,
            identity,
            {kind: struct.pack("=I", number) for kind, number in numbers.items()}
            | {1: address, 2: struct.pack("!H", 8080), 11: struct.pack("=H", family)}
            | {13: b"\1", 14: struct.pack("!H", 5555), 15: struct.pack("=H", 2)},
        )

    @pytest.mark.parametrize(("address", "family"), [(POD, 2), (POD6, 10)])
    def test_deleting_a_real_server_names_it_alone(self, address, family):
        (payload,) = ipvs_requests.pack([DeleteRealServer(KEY, address, 80)])

        command, _service, dest = unpacked(payload)
        assert (command, dest) == (
            7,
            {1: address, 2: struct.pack("!H", 80), 11: struct.pack("=H", family)},
        )

    def test_operations_in_a_row_are_packed_as_they_are_alone(self):
        """What neighbours share is packed once, and must be packed anew when command or key changes."""
        real_server = RealServer(POD, 80)
        operations = [
            AddVirtualServer(VirtualServer(KEY, "rr")),
            AddRealServer(KEY, real_server),
            AddRealServer(KEY, RealServer(POD, 81)),
            SetRealServer(KEY, real_server),
            AddVirtualServer(VirtualServer(KEY6, "rr")),
            SetRealServer(KEY, real_server),
            AddRealServer(MARK, real_server),
            AddRealServer(KEY, real_server),
            DeleteRealServer(KEY, POD, 80),
            DeleteVirtualServer(KEY),
            DeleteVirtualServer(MARK),
        ]

        assert [ipvs_requests.pack([operation])[0] for operation in operations] == ipvs_requests.pack(
            operations
        )

    @pytest.mark.parametrize(
        "real_server", [RealServer(POD, 65536), RealServer(POD, -1), RealServer(POD, 80, 2**31)]
    )
    def test_numbers_that_do_not_fit_are_refused(self, real_server):
        with pytest.raises((struct.error, OverflowError)):
            ipvs_requests.pack([AddRealServer(KEY, real_server)])


def stats(width, first):
    """Pack counters that count up from a number, as the kernel does: bytes are always 64 bits wide."""
    values = b""
    for kind in range(1, 11):
        wide = width == 8 or kind in (4, 5)
        if wide:
            values += attribute(11, b"")  # padding that the kernel inserts on some machines
        values += attribute(kind, struct.pack("=Q" if wide else "=I", first + kind))
    return values


BY_ADDRESS = (
    attribute(2, struct.pack("=H", 6)) + attribute(3, KEY.address + bytes(12)) + attribute(4, b"\1\xbb")
)


def service_reply(identity=BY_ADDRESS, *, family=2, scheduler=b"rr\0", netmask=b"\xff\xff\xff\xff", more=b""):
    body = attribute(1, struct.pack("=H", family)) + identity
    body += attribute(6, scheduler) + attribute(7, struct.pack("=II", 0x12, 0xFFFFFFFF))
    body += attribute(8, struct.pack("=I", 60)) + attribute(9, netmask)
    return struct.pack("=BBH", 1, 1, 0) + attribute(1, body + more)


def dest_reply(address, *, more=b"", weight=1):
    body = attribute(1, address.ljust(16, b"\0")) + attribute(2, struct.pack("!H", 8080))
    numbers = {3: 0x102, 4: weight, 5: 100, 6: 80, 7: 3, 8: 4, 9: 5}
    body += b"".join(attribute(kind, struct.pack("=I", number)) for kind, number in numbers.items())
    return struct.pack("=BBH", 5, 1, 0) + attribute(2, body + more)


def family(number):
    return attribute(11, struct.pack("=H", number))


class TestVirtualServerReplies:
    def test_by_address_without_the_kernels_own_flag(self):
        assert ipvs_replies.virtual_server(service_reply()) == ObservedVirtualServer(
            VirtualServer(KEY, "rr", 0x10, 60)
        )

    def test_by_mark(self):
        observed = ipvs_replies.virtual_server(service_reply(attribute(5, struct.pack("=I", 77))))

        assert MARK == observed.virtual_server.key

    @pytest.mark.parametrize(("expected", "length"), [(64, 64), (FULL_NETMASK, 128)])
    def test_ipv6_with_its_prefix_length(self, expected, length):
        identity = attribute(2, struct.pack("=H", 17)) + attribute(3, KEY6.address) + attribute(4, b"\0\x35")

        observed = ipvs_replies.virtual_server(
            service_reply(identity, family=10, netmask=struct.pack("=I", length))
        )

        assert VirtualServer(KEY6, "rr", 0x10, 60, expected) == observed.virtual_server

    def test_names_of_schedulers_and_engines(self):
        reply = service_reply(scheduler=b"lblcr\0", more=attribute(11, b"sip\0"))

        virtual_server = ipvs_replies.virtual_server(reply).virtual_server

        assert ("lblcr", "sip") == (virtual_server.scheduler, virtual_server.persistence_engine)

    def test_the_scheduler_none_is_none(self):
        assert ipvs_replies.virtual_server(service_reply(scheduler=b"none\0")).virtual_server.scheduler == ""

    def test_64_bit_counters_are_preferred(self):
        reply = service_reply(more=attribute(10, stats(4, 100)) + attribute(12, stats(8, 2**40)))

        assert Counters(*range(2**40 + 1, 2**40 + 11)) == ipvs_replies.virtual_server(reply).counters

    def test_old_kernels_have_32_bit_counters(self):
        reply = service_reply(more=attribute(10, stats(4, 100)))

        assert Counters(*range(101, 111)) == ipvs_replies.virtual_server(reply).counters

    def test_a_reply_of_linux_6_1(self):
        reply = bytes.fromhex(
            "010100005401010006000100020000000600020006000000140003000a60000100000000000000000000000006000400"
            "01bb000007000600727200000c00070003000000ffffffff080008002c01000008000900ffffff0060000a0008000100"
            "00000000080002000000000008000300000000000c000400000000000000000004000b000c0005000000000000000000"
            "080006000000000008000700000000000800080000000000080009000000000008000a0000000000a0000c000c000100"
            "000000000000000004000b000c000200000000000000000004000b000c000300000000000000000004000b000c000400"
            "000000000000000004000b000c000500000000000000000004000b000c000600000000000000000004000b000c000700"
            "000000000000000004000b000c000800000000000000000004000b000c000900000000000000000004000b000c000a00"
            "0000000000000000"
        )

        assert ipvs_replies.virtual_server(reply) == ObservedVirtualServer(
            VirtualServer(KEY, "rr", 0x1, 300, 0xFFFFFF00)
        )


class TestRealServerReplies:
    def test_a_tunnel(self):
        more = (
            attribute(13, b"\1")
            + attribute(14, struct.pack("!H", 5555))
            + attribute(15, struct.pack("=H", 2))
        )

        assert ipvs_replies.real_server(dest_reply(POD, more=more + family(2)), Family.IPV4) == (
            ObservedRealServer(RealServer(POD, 8080, 1, 2, 100, 80, 1, 5555, 2), 3, 4, 5)
        )

    @pytest.mark.parametrize("service_family", Family)
    def test_its_own_family_counts(self, service_family):
        four = ipvs_replies.real_server(dest_reply(POD, more=family(2)), service_family)
        six = ipvs_replies.real_server(dest_reply(POD6, more=family(10)), service_family)

        assert (POD, POD6) == (four.real_server.address, six.real_server.address)

    @pytest.mark.parametrize(("address", "service_family"), [(POD, Family.IPV4), (POD6, Family.IPV6)])
    def test_old_kernels_report_no_family_as_it_is_the_virtual_servers(self, address, service_family):
        observed = ipvs_replies.real_server(dest_reply(address), service_family)

        assert address == observed.real_server.address

    def test_replies_of_equal_length_and_different_shape_are_told_apart(self):
        """The layout that one reply taught must not be applied to one with attributes elsewhere."""
        one = dest_reply(POD, more=family(2) + attribute(13, b"\1"), weight=7)
        other = dest_reply(POD, more=attribute(13, b"\2") + family(2), weight=9)
        assert len(one) == len(other)

        for reply, weight, tunnel in [(one, 7, 1), (other, 9, 2), (one, 7, 1)]:
            real_server = ipvs_replies.real_server(reply, Family.IPV4).real_server
            assert (weight, tunnel) == (real_server.weight, real_server.tunnel_type)
            assert POD == real_server.address

    def test_counters(self):
        reply = dest_reply(POD, more=family(2) + attribute(10, stats(4, 1)) + attribute(12, stats(8, 2**33)))

        observed = ipvs_replies.real_server(reply, Family.IPV4)

        assert Counters(*range(2**33 + 1, 2**33 + 11)) == observed.counters
