"""The node's addresses on the real kernel."""

from __future__ import annotations

import contextlib
import subprocess

import pytest

from ipvs_agent.addresses import parse_address
from ipvs_agent.kernel.node_addresses import NetlinkNodeAddresses
from tests.contract.node_addresses import NodeAddressesContract


def ip(*words):
    subprocess.run(["ip", *words], check=True)


@pytest.fixture
def assign(namespace):
    def assign(name, texts):
        ip("link", "add", name, "type", "dummy")
        for text in texts:
            ip("addr", "add", text, "dev", name)

    return assign


class TestNetlinkNodeAddresses(NodeAddressesContract):
    @pytest.fixture
    def node_addresses(self, namespace):
        with contextlib.closing(NetlinkNodeAddresses()) as node_addresses:
            yield node_addresses

    def test_vips_are_not_the_nodes_own(self, node_addresses, assign):
        assign("kube-ipvs0", ["10.96.0.1", "fd00:96::1"])

        assert {} == node_addresses.addresses()

    def test_loopback_is_left_out_but_not_what_else_its_interface_holds(self, node_addresses):
        ip("addr", "add", "127.0.0.53/8", "dev", "lo")
        ip("addr", "add", "192.0.2.1/32", "dev", "lo")

        assert {"lo": frozenset({parse_address("192.0.2.1")})} == node_addresses.addresses()

    def test_link_local_addresses_are_left_out_in_ipv6_alone(self, node_addresses, assign):
        assign("eth7", ["169.254.20.10", "fe80::7"])

        assert {"eth7": frozenset({parse_address("169.254.20.10")})} == node_addresses.addresses()

    def test_an_address_that_may_be_a_duplicate_is_left_out_until_it_is_known(self, node_addresses):
        ip("link", "add", "eth7", "type", "veth", "peer", "name", "eth8")
        subprocess.run(["sysctl", "-qw", "net.ipv6.conf.eth7.dad_transmits=600"], check=True)
        ip("link", "set", "eth7", "up")
        ip("link", "set", "eth8", "up")
        ip("addr", "add", "2001:db8::1/64", "dev", "eth7")
        ip("addr", "add", "2001:db8::2/64", "dev", "eth7", "nodad")

        assert {"eth7": frozenset({parse_address("2001:db8::2")})} == node_addresses.addresses()

    def test_on_a_point_to_point_link_the_address_is_the_nearer_one(self, node_addresses, assign):
        assign("eth7", [])
        ip("addr", "add", "192.0.2.1", "peer", "192.0.2.2", "dev", "eth7")
        ip("addr", "add", "2001:db8::1", "peer", "2001:db8::2", "dev", "eth7")

        near = frozenset({parse_address("192.0.2.1"), parse_address("2001:db8::1")})
        assert {"eth7": near} == node_addresses.addresses()
