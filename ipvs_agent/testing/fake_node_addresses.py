"""The node's own addresses, in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ipvs_agent.addresses import Address, parse_address
from ipvs_agent.operations import LINK


class FakeNodeAddresses:
    """Addresses by interface; none at first."""

    def __init__(self) -> None:
        self._addresses: dict[str, frozenset[Address]] = {}

    def assign(self, interface: str, addresses: Iterable[str]) -> None:
        """Give an interface addresses that clients can dial, in place of those it has."""
        if interface == LINK:
            raise ValueError(f"{LINK} holds VIPs, which are not the node's own addresses: use FakeVips")
        self._addresses[interface] = frozenset(parse_address(text) for text in addresses)

    def addresses(self) -> Mapping[str, frozenset[Address]]:
        """Return the addresses of every interface that has one."""
        return {interface: addresses for interface, addresses in self._addresses.items() if addresses}
