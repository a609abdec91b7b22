"""Virtual and real servers for the tests of IPVS.

Clients' addresses: virtual servers in 10.96.0.0/16 and fd00:10:96::/112, real servers in 10.244.0.0/16 and
fd00:10:244::/64.
"""

from __future__ import annotations

import pytest

from ipvs_agent.addresses import Address, Family, parse_address
from ipvs_agent.model import (
    FULL_NETMASK,
    ForwardingMethod,
    Protocol,
    RealServer,
    ServiceFlags,
    VirtualServer,
    address_key,
    mark_key,
)
from ipvs_agent.operations import AddRealServer, AddVirtualServer

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
