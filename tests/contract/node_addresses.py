"""What every implementation of kernel.api.NodeAddresses does."""

from __future__ import annotations

from ipvs_agent.addresses import parse_address


class NodeAddressesContract:
    """Needs a fixture `node_addresses` and, to give interfaces addresses, `assign(name, texts)`."""

    def test_a_node_without_addresses(self, node_addresses):
        assert {} == node_addresses.addresses()

    def test_addresses_are_told_by_interface(self, node_addresses, assign):
        assign("eth7", ["192.0.2.1", "2001:db8::1"])
        assign("eth8", ["198.51.100.1"])

        expected = {
            "eth7": frozenset({parse_address("192.0.2.1"), parse_address("2001:db8::1")}),
            "eth8": frozenset({parse_address("198.51.100.1")}),
        }
        assert expected == node_addresses.addresses()

    def test_an_interface_without_addresses_is_left_out(self, node_addresses, assign):
        assign("eth7", [])

        assert {} == node_addresses.addresses()
