"""The kernel's own listing of its table, /proc/net/ip_vs: much less than netlink tells, for much less.

A dump by netlink takes three system calls for each virtual server, and the mutex that every change needs.
This text takes one for every page of it and no mutex (ip_vs_info_seq_show in net/netfilter/ipvs/ip_vs_ctl.c).
It names no thresholds, tunnels or counters, and does not say of which family a virtual server by mark is.
Where other network namespaces have virtual servers too, the kernel skips some of ours between two pages: it
counts on over theirs, and begins the next page at as many of ours (ip_vs_info_seq_next, ip_vs_info_array).
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator

from ipvs_agent.addresses import Address
from ipvs_agent.model import METHOD_NAMES, Protocol, RealServer, VirtualServerKey, address_key
from ipvs_agent.observed import ObservedRealServer, Outlined

PATH = "/proc/thread-self/net/ip_vs"
"""That of the network namespace of the thread that opens it."""
BUFFER = 1 << 16
"""Octets to ask for at once. The kernel gives a page of them, or the lines of one virtual server where these
are more, and looks for its place at each call; Python would by itself ask for a kilobyte."""

_REAL_SERVER = "  -> "
"""How the line of a real server begins, and a title."""
_CONNECTIONS = 22
"""Characters at its end that are numbers of connections: "%-10d %-10d\\n"."""
_PROTOCOLS = {protocol.name: protocol for protocol in Protocol}
_METHODS = {name: method for method, name in METHOD_NAMES.items()}


def read(lines: Iterable[str]) -> Iterator[Outlined]:
    """Yield what the lines of the listing say; its titles and virtual servers by mark are passed over."""
    key: VirtualServerKey | None = None
    behind: list[str] = []
    for line in lines:
        if line.startswith(_REAL_SERVER):
            behind.append(line)
        else:
            if key is not None:
                yield outlined(key, behind)
            key, behind = _key(line), []
    if key is not None:
        yield outlined(key, behind)


def outlined(key: VirtualServerKey, lines: list[str]) -> Outlined:
    """Return what lines of the listing say of the real servers of a virtual server."""
    digest = hash("".join([line[:-_CONNECTIONS] for line in lines]))
    return Outlined(key, lines, digest, functools.partial(_real_servers, lines))


def _key(line: str) -> VirtualServerKey | None:
    words = line.split(maxsplit=2)
    protocol = _PROTOCOLS.get(words[0])
    return None if protocol is None else address_key(protocol, *_endpoint(words[1]))


def _real_servers(lines: list[str]) -> list[ObservedRealServer]:
    return [_real_server(line) for line in lines]


def _real_server(line: str) -> ObservedRealServer:
    _, endpoint, method, weight, active, inactive = line.split()
    address, port = _endpoint(endpoint)
    return ObservedRealServer(
        RealServer(address, port, int(weight), _METHODS[method]), int(active), int(inactive)
    )


def _endpoint(text: str) -> tuple[Address, int]:
    """Parse ADDRESS:PORT in hexadecimal digits; an IPv6 address is in brackets and has colons of its own."""
    digits = text[:-5]
    if len(digits) != 8:
        digits = digits[1:-1].replace(":", "")
    return Address(bytes.fromhex(digits)), int(text[-4:], 16)
