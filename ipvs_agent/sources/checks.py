"""What passes the border: names as the API has them, addresses and ports that can be served."""

from __future__ import annotations

import functools
import ipaddress
import re
import sys

from ipvs_agent.addresses import Address, parse_address

Fault = tuple[str, str]
"""The path of a field, and what is wrong with it."""


class UnusableError(Exception):
    """An object, or a part of one, cannot be used because of this field."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(field, reason)
        self.field = field
        self.reason = reason


_LABEL = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*")

SUSPECT_OCTETS = frozenset({0, 127, 169, *range(224, 256)})
"""What addresses of an unfit kind begin with, in either family; others need no closer look."""


def is_label(text: str) -> bool:
    """Return whether it is a DNS label, as names of Services, namespaces and ports are."""
    return _LABEL.fullmatch(text) is not None


def is_subdomain(text: str) -> bool:
    """Return whether it is a DNS subdomain, as names of Nodes and EndpointSlices are."""
    return len(text) <= 253 and _SUBDOMAIN.fullmatch(text) is not None


@functools.lru_cache(maxsize=16384)
def known_node(text: str) -> str:
    """Return the name of a node, the same object for the same name, or nothing where it cannot be one."""
    return text if is_subdomain(text) else ""


def fit_address(text: str) -> Address:
    """Parse an address that a Service or an endpoint can have; ValueError says why it cannot be one."""
    try:
        address = parse_address(text)
    except ValueError:
        raise ValueError(f"{quoted(text)} is not an IP address") from None
    kind = unfit_kind(address)
    if kind:
        raise ValueError(f"{text} is {kind}")
    return address


def unfit_kind(address: Address) -> str:
    """Return what kind of address it is where that kind cannot be served: it would never leave this node."""
    if address[0] not in SUSPECT_OCTETS:
        return ""
    ip = ipaddress.ip_address(bytes(address))
    kinds = {
        "an IPv4 address in IPv6 form": getattr(ip, "ipv4_mapped", None) is not None,
        "the unspecified address": ip.is_unspecified,
        "a loopback address": ip.is_loopback,
        "a link-local address": ip.is_link_local,
        "a multicast address": ip.is_multicast,
        "the broadcast address": ip == ipaddress.IPv4Address("255.255.255.255"),
    }
    return next((kind for kind, holds in kinds.items() if holds), "")


def port_number(field: str, number: int | None) -> int:
    """Return the number of a port; UnusableError where it is none."""
    if number is None:
        raise UnusableError(field, "is missing")
    if not 1 <= number <= 65535:
        raise UnusableError(field, f"{quoted(number)} is not a port (1 to 65535)")
    return number


def port_name(name: str | None) -> str:
    """Return the name of a port, empty for none; UnusableError where it cannot be one."""
    if name and not is_label(name):
        raise UnusableError("name", f"{quoted(name)} is not a name of the API")
    return sys.intern(name or "")


def quoted(value: object) -> str:
    """Quote a value for a log line: escaped, and short however long it is."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
