"""The node's own addresses, through rtnetlink."""

from __future__ import annotations

from collections.abc import Mapping

from ipvs_agent.addresses import Address
from ipvs_agent.kernel import rtnetlink
from ipvs_agent.kernel.netlink import NETLINK_ROUTE, NetlinkSocket
from ipvs_agent.operations import LINK

_IPV6_LOOPBACK = Address(bytes(15) + b"\1")


class NetlinkNodeAddresses:
    """The addresses in the network namespace of the thread that made this object."""

    def __init__(self) -> None:
        self._socket = NetlinkSocket(NETLINK_ROUTE)

    def close(self) -> None:
        """Close the netlink socket."""
        self._socket.close()

    def addresses(self) -> Mapping[str, frozenset[Address]]:
        """Return the addresses that clients may dial, by interface; IPv4 link-local ones are among them."""
        names = {link.index: link.name for link in rtnetlink.links(self._socket) if link.name != LINK}
        found: dict[str, set[Address]] = {}
        for address in rtnetlink.addresses(self._socket):
            # An interface may come between the two dumps; whoever asks will be told of it and ask again.
            if address.link in names and _can_be_dialled(address):
                found.setdefault(names[address.link], set()).add(address.address)
        return {name: frozenset(addresses) for name, addresses in found.items()}


def _can_be_dialled(found: rtnetlink.InterfaceAddress) -> bool:
    address = found.address
    if len(address) == 4:
        return address[0] != 127
    is_loopback = address == _IPV6_LOOPBACK
    is_tentative = bool(found.flags & rtnetlink.IFA_F_TENTATIVE)
    return not (is_loopback or is_tentative or rtnetlink.is_ipv6_link_local(address))
