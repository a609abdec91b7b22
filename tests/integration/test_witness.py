"""What the agent's own netlink code makes, as an independent library reads it."""

from __future__ import annotations

import pyroute2
import pytest

from ipvs_agent.kernel.ipvs import NetlinkIpvs
from ipvs_agent.model import Protocol, ServiceFlags, VirtualServer, address_key
from ipvs_agent.operations import AddRealServer, AddVirtualServer
from ipvs_agent.testing.builders import address, real_server

VIRTUAL_SERVER = VirtualServer(
    address_key(Protocol.TCP, address("10.96.0.80"), 80), "wrr", ServiceFlags.PERSISTENT, timeout=300
)
REAL_SERVER = real_server("10.244.1.11:8080", weight=7)


@pytest.fixture
def made(namespace):
    """Make a virtual server with a real server."""
    operations = [AddVirtualServer(VIRTUAL_SERVER), AddRealServer(VIRTUAL_SERVER.key, REAL_SERVER)]
    ipvs = NetlinkIpvs()
    assert [None, None] == ipvs.apply(operations)
    ipvs.close()


def test_pyroute2_reads_what_was_made(made):
    with pyroute2.IPVS() as witness:
        (service,) = map(pyroute2.IPVSService.from_message, witness.service("dump"))
        (server,) = map(pyroute2.IPVSDest.from_message, witness.dest("dump", service=service))

    assert ("10.96.0.80", 80, "wrr") == tuple(service[field] for field in ("addr", "port", "sched_name"))
    assert ("10.244.1.11", 8080, 7) == tuple(server[field] for field in ("addr", "port", "weight"))
