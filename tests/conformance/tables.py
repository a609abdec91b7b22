"""What a node has in its kernel, in words in which both sides can be compared."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from tests.conformance.cases import FIRST_NODE_PORT, NODE_PORTS, Target
from tests.conformance.lan import API

_PROTOCOLS = {"-t": "tcp", "-u": "udp", "--sctp-service": "sctp"}
_CONNECTION_FIELDS = 6
"""Protocol, time, state, client, what it dialled, and the real server."""
Kept = Mapping[tuple[str, Target], str]
"""Real servers, by a client's address and what it dials."""
_SLOT_V4 = re.compile(r"(?:10\.96|172\.2[01])\.(\d+)\.\d+")
_SLOT_V6 = re.compile(r"(?:fd00:10:96|2001:db8:2[01])::(\d+)[0-9a-f]")


class VirtualServer(NamedTuple):
    """A virtual server."""

    options: str
    """Scheduler, persistence and flags, as ipvsadm spells them."""
    servers: frozenset[str]
    """Real servers that take new connections, with all that ipvsadm says of them."""
    draining: frozenset[str] = frozenset()
    """Real servers of weight 0."""
    inside: frozenset[str] | None = None
    """The real servers of clients inside the cluster, where a packet mark gives them others."""
    inside_options: str = ""
    """The options of the virtual server by mark."""

    def __str__(self) -> str:
        text = f"{self.options} -> {_listed(self.servers)}"
        if self.draining:
            text += f", draining {_listed(self.draining)}"
        if self.inside is None:
            return text
        return f"{text}, inside {self.inside_options} -> {_listed(self.inside)}"


class Tables(NamedTuple):
    """The tables of one node."""

    virtual_servers: Mapping[Target, VirtualServer]
    vips: frozenset[str]
    """The addresses of kube-ipvs0."""


class _Found:
    """A virtual server while its lines are read."""

    def __init__(self) -> None:
        self.options = ""
        self.servers: set[str] = set()
        self.draining: set[str] = set()


def parse(ipvsadm: str, marks: str, vips: Iterable[str], api_address: str) -> Tables:
    """Read what `ipvsadm -Sn` and `ipset save` print."""
    by_address: dict[Target, _Found] = {}
    by_mark: dict[tuple[int, bool], _Found] = {}
    for line in ipvsadm.splitlines():
        verb, option, where, *rest = line.split()
        if option == "-f":
            found = by_mark.setdefault((int(where), "-6" in rest), _Found())
        else:
            target = Target(_PROTOCOLS[option], *_endpoint(where, api_address))
            found = by_address.setdefault(target, _Found())
        text = " ".join(word for word in rest if word != "-6")
        if verb == "-A":
            found.options = text
        else:
            server = text.removeprefix("-r ")
            (found.draining if server.endswith(" -w 0") else found.servers).add(server)
    inside = _marks(marks, api_address)
    virtual_servers = {}
    for target, found in by_address.items():
        mark = inside.get(target)
        row = VirtualServer(found.options, frozenset(found.servers), frozenset(found.draining))
        if mark is not None:
            behind = by_mark.get((mark, ":" in target.address), _Found())
            row = row._replace(inside=frozenset(behind.servers), inside_options=behind.options)
        virtual_servers[target] = row
    return Tables(virtual_servers, frozenset(vips))


def kept(connections: str, api_address: str) -> Kept:
    """Read from what `ipvsadm -Lnc` prints at which real server session affinity keeps clients."""
    found = {}
    for line in connections.splitlines():
        words = line.split()
        # The template of a client's connections has none of its ports.
        if len(words) == _CONNECTION_FIELDS and words[3].endswith(":0"):
            client, _ = _endpoint(words[3], api_address)
            target = Target(words[0].lower(), *_endpoint(words[4], api_address))
            found[client, target] = words[5]
    return found


def slot_of(target: Target) -> int | None:
    """Return the slot that an address and port belong to."""
    slot = slot_of_address(target.address)
    if slot is None and target.port >= FIRST_NODE_PORT:
        return (target.port - FIRST_NODE_PORT) // NODE_PORTS
    return slot


def slot_of_address(address: str) -> int | None:
    """Return the slot that an address belongs to."""
    match = (_SLOT_V6 if ":" in address else _SLOT_V4).fullmatch(address)
    return int(match[1]) if match else None


def _marks(saved: str, api_address: str) -> dict[Target, int]:
    found = {}
    for line in saved.splitlines():
        if line.startswith("add "):
            _, _, member, _, mark = line.split()[:5]
            address, port = member.split(",")
            protocol, number = port.split(":")
            name = API if address == api_address else address
            found[Target(protocol, name, int(number))] = int(mark.split("/")[0], 16)
    return found


def _endpoint(text: str, api_address: str) -> tuple[str, int]:
    address, _, port = text.rpartition(":")
    address = address.strip("[]")
    return (API if address == api_address else address, int(port))


def _listed(servers: frozenset[str]) -> str:
    return " ".join(sorted(server.replace(" -m -w 1", "") for server in servers)) or "nobody"
