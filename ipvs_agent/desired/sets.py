"""The ipsets: what they are called, and which question each of them answers.

The name of a family's set holds the digit 4 or 6. SERVICES is also the ledger: a virtual server by address is
ours if and only if its address, protocol and port are in it, and it is put there before the virtual server is
made. A virtual server by mark is ours by its mark (desired/split.py).
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator

import msgspec

from ipvs_agent.addresses import Address, Family, Network, family_of
from ipvs_agent.desired import split
from ipvs_agent.model import IpSet, SetMember, SetType, VirtualServerKey, address_key
from ipvs_agent.model import Protocol as Transport

PREFIX = "IPVS-AGENT"
"""Every set and chain of ours begins so and with a hyphen, and nothing that does is anybody else's."""


class Purpose:
    """What a set says of its members."""

    SERVICES = "SERVICES"
    """A virtual server of ours is there."""
    CLUSTER = "CLUSTER"
    """Clients outside the cluster are masqueraded."""
    EXTERNAL = "EXTERNAL"
    """All clients are masqueraded."""
    MARKS = "MARKS"
    """Clients inside the cluster get this packet mark, by which IPVS has a virtual server for them."""
    NOLOCAL = "NOLOCAL"
    """Clients outside the cluster are not answered: they are for endpoints of this node, and it has none."""
    RESTRICTED = "RESTRICTED"
    """Only clients that ALLOWED names are answered."""
    ALLOWED = "ALLOWED"
    """Clients in the range may dial the restricted address."""
    VIPS = "VIPS"
    """The address is a VIP: what is in neither SERVICES nor OTHERS is refused there."""
    OTHERS = "OTHERS"
    """A virtual server that is not ours is there."""
    HAIRPIN = "HAIRPIN"
    """An endpoint that may be its own client: such flows are masqueraded."""


_TYPES = {
    Purpose.SERVICES: SetType.HASH_IP_PORT,
    Purpose.CLUSTER: SetType.HASH_IP_PORT,
    Purpose.EXTERNAL: SetType.HASH_IP_PORT,
    Purpose.MARKS: SetType.HASH_IP_PORT,
    Purpose.NOLOCAL: SetType.HASH_IP_PORT,
    Purpose.RESTRICTED: SetType.HASH_IP_PORT,
    Purpose.ALLOWED: SetType.HASH_IP_PORT_NET,
    Purpose.VIPS: SetType.HASH_IP,
    Purpose.OTHERS: SetType.HASH_IP_PORT,
    Purpose.HAIRPIN: SetType.HASH_IP_PORT_IP,
}

MANNERS = frozenset(
    {
        *(Purpose.CLUSTER, Purpose.EXTERNAL, Purpose.MARKS),
        *(Purpose.NOLOCAL, Purpose.RESTRICTED, Purpose.ALLOWED),
    }
)
"""What is said of how a virtual server is reached, and not of whether it is there."""

HEALTH = IpSet(f"{PREFIX}-HEALTH", SetType.BITMAP_PORT, None)
"""TCP ports on which this node tells load balancers of its endpoints; on all of its addresses."""


def set_name(purpose: str, family: Family) -> str:
    """Return the name of a set."""
    return _NAMES[purpose, family]


def sets_of(family: Family) -> list[IpSet]:
    """Return the sets that a family needs; HEALTH serves both."""
    return [
        IpSet(set_name(purpose, family), kind, family, has_marks=purpose == Purpose.MARKS)
        for purpose, kind in _TYPES.items()
    ] + [HEALTH]


def is_our_name(name: str) -> bool:
    """Tell whether a set or a chain of this name is ours."""
    return name.startswith(f"{PREFIX}-")


def draft(ip_set: IpSet) -> IpSet:
    """Return the set that is filled beside another one to take its place."""
    return msgspec.structs.replace(ip_set, name=ip_set.name + _DRAFT)


def is_draft(name: str) -> bool:
    """Tell whether a set was to take the place of one of ours."""
    return is_our_name(name) and name.endswith(_DRAFT)


def port_member(purpose: str, key: VirtualServerKey) -> SetMember:
    """Return the member for a virtual server's address, protocol and port."""
    return SetMember(_NAMES[purpose, key.family], key.address, key.protocol, key.port)


def mark_member(key: VirtualServerKey, mark: int) -> SetMember:
    """Return the member that has clients inside the cluster served by a virtual server by mark."""
    return SetMember(_NAMES[Purpose.MARKS, key.family], key.address, key.protocol, key.port, mark=mark)


def allowed_members(key: VirtualServerKey, networks: Iterable[Network]) -> Iterator[SetMember]:
    """Yield the members for the ranges that may dial an address; ipset knows no /0, so that is two halves."""
    name = _NAMES[Purpose.ALLOWED, key.family]
    for network in networks:
        for part in network.halves() if network.prefix == 0 else (network,):
            yield SetMember(name, key.address, key.protocol, key.port, part.address, part.prefix)


def allowed_host(key: VirtualServerKey, client: Address) -> SetMember:
    """Return the member for a single client that may dial an address."""
    return next(allowed_members(key, [Network(client, len(client) * 8)]))


def vip_member(family: Family, address: Address) -> SetMember:
    """Return the member for a VIP."""
    return SetMember(_NAMES[Purpose.VIPS, family], address)


def is_vip(address: Address, members: Container[SetMember]) -> bool:
    """Tell whether set members name an address as a VIP of ours."""
    return vip_member(family_of(address), address) in members


def hairpin_member(family: Family, protocol: int, address: Address, port: int) -> SetMember:
    """Return the member for an endpoint that may be its own client."""
    return SetMember(_NAMES[Purpose.HAIRPIN, family], address, protocol, port, address)


def health_member(port: int) -> SetMember:
    """Return the member for a port on which load balancers ask for this node's endpoints."""
    return SetMember(HEALTH.name, port=port)


def ours(present: Iterable[VirtualServerKey], members: Iterable[SetMember]) -> set[VirtualServerKey]:
    """Return those of some virtual servers that are ours."""
    ledger = {key for member in members if (key := ledger_key(member)) is not None}
    return {key for key in present if key in ledger or split.is_ours(key)}


def ledger_key(member: SetMember) -> VirtualServerKey | None:
    """Return the virtual server that a member of the ledger names; None where it names none."""
    return _key(member) if member.set_name in _LEDGERS else None


def marks(members: Iterable[SetMember]) -> dict[VirtualServerKey, int]:
    """Return the packet marks that set members give, by what the client dials."""
    return {key: member.mark for member in members if member.mark and (key := _key(member)) is not None}


def purpose_of(member: SetMember) -> str:
    """Return what the set of a member says of it."""
    return _PURPOSES.get(member.set_name, "")


def dialled(member: SetMember) -> VirtualServerKey:
    """Return what a member with a port is about: an address and port of a transport protocol."""
    return VirtualServerKey(family_of(member.address), member.protocol, member.address, member.port)


def names_vip(member: SetMember) -> bool:
    """Tell whether a member names its address as a VIP of ours."""
    return member.set_name in _VIP_SETS


def restricts(member: SetMember) -> bool:
    """Tell whether a member shuts out clients that nobody names as allowed."""
    return member.set_name in _RESTRICTED_SETS


def _key(member: SetMember) -> VirtualServerKey | None:
    # The kernel's sets take any protocol, so others can put there what no virtual server can be.
    if member.protocol not in _TRANSPORTS:
        return None
    return address_key(Transport(member.protocol), member.address, member.port)


_TRANSPORTS = frozenset(Transport)


_DRAFT = "-NEW"
_NAMES = {
    (purpose, family): f"{PREFIX}-{digit}-{purpose}"
    for purpose in _TYPES
    for family, digit in ((Family.IPV4, "4"), (Family.IPV6, "6"))
}
_PURPOSES = {name: purpose for (purpose, _), name in _NAMES.items()}
_LEDGERS = {_NAMES[Purpose.SERVICES, family] for family in Family}
_VIP_SETS = {_NAMES[Purpose.VIPS, family] for family in Family}
_RESTRICTED_SETS = {_NAMES[Purpose.RESTRICTED, family] for family in Family}
