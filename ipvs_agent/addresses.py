"""IP addresses as the kernel has them: 4 or 16 octets in network order.

Addresses are compared, hashed and packed millions of times and printed rarely, so inside the agent an
address is its octets; text is parsed once at the border and rendered only for people.
"""

from __future__ import annotations

import enum
import socket
from collections.abc import Mapping
from typing import NewType

import msgspec

Address = NewType("Address", bytes)
"""4 octets (IPv4) or 16 octets (IPv6), network order."""


class Family(enum.IntEnum):
    """An address family, by its number in the kernel."""

    IPV4 = socket.AF_INET
    IPV6 = socket.AF_INET6


FAMILY_NAMES: Mapping[Family, str] = {Family.IPV4: "IPv4", Family.IPV6: "IPv6"}
"""As Kubernetes spells them."""
UNSPECIFIED = (Address(bytes(4)), Address(bytes(16)))
"""0.0.0.0 and ::, which stand for all addresses of a node."""


class Network(msgspec.Struct, frozen=True, order=True, gc=False):
    """An address range: a base address without host bits, and the prefix length."""

    address: Address
    prefix: int

    def __str__(self) -> str:
        return f"{format_address(self.address)}/{self.prefix}"

    def __contains__(self, address: Address) -> bool:
        return len(address) == len(self.address) and masked(address, self.prefix) == self.address

    def halves(self) -> tuple[Network, Network]:
        """Return the two ranges that it is made of."""
        bits = len(self.address) * 8
        upper = int.from_bytes(self.address) | 1 << (bits - self.prefix - 1)
        return (
            Network(self.address, self.prefix + 1),
            Network(Address(upper.to_bytes(bits // 8)), self.prefix + 1),
        )


def family_of(address: Address) -> Family:
    """Return the family of an address."""
    return Family.IPV4 if len(address) == 4 else Family.IPV6


def parse_address(text: str) -> Address:
    """Parse an address in its usual text form, without zone, port or prefix.

    Raises ValueError for anything else.
    """
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    try:
        return Address(socket.inet_pton(family, text))
    except (OSError, ValueError):
        raise ValueError(f"{text!r} is not an IP address") from None


def split_endpoint(text: str) -> tuple[str, str]:
    """Split ADDRESS:PORT or [ADDRESS]:PORT into the texts of both, without a look at either."""
    host, _, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    return host, port


def format_address(address: Address) -> str:
    """Render an address in its canonical text form."""
    return socket.inet_ntop(socket.AF_INET if len(address) == 4 else socket.AF_INET6, address)


def masked(address: Address, prefix: int) -> Address:
    """Clear the host bits of an address."""
    bits = len(address) * 8
    number = int.from_bytes(address) >> (bits - prefix) << (bits - prefix)
    return Address(number.to_bytes(len(address)))


def parse_network(text: str) -> Network:
    """Parse ADDRESS/PREFIX; host bits are cleared. Raises ValueError."""
    base, slash, length = text.strip().partition("/")
    address = parse_address(base)
    if not slash or not length.isdecimal() or not length.isascii() or int(length) > len(address) * 8:
        raise ValueError(f"{text!r} is not a network in CIDR form")
    return Network(masked(address, int(length)), int(length))
