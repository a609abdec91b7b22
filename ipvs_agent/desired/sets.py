"""The ipsets: what they are called, and which question each of them answers.

The name of a family's set holds the digit 4 or 6. SERVICES is also the ledger: a virtual server is ours if
and only if its address, protocol and port are in it, and it is put there before the virtual server is made.
"""

from __future__ import annotations

from collections.abc import Container, Iterable

from ipvs_agent.addresses import Address, Family, family_of
from ipvs_agent.model import IpSet, SetMember, SetType, VirtualServerKey, address_key
from ipvs_agent.model import Protocol as Transport

PREFIX = "IPVS-AGENT"
"""Every set and chain of ours begins so, and nothing that begins so is anybody else's."""


class Purpose:
    """What a set says of its members."""

    SERVICES = "SERVICES"
    """A virtual server of ours is there."""
    CLUSTER = "CLUSTER"
    """Clients outside the cluster are masqueraded."""
    EXTERNAL = "EXTERNAL"
    """All clients are masqueraded."""
    VIPS = "VIPS"
    """The address is a VIP: what is not in SERVICES is refused there."""
    HAIRPIN = "HAIRPIN"
    """An endpoint that may be its own client: such flows are masqueraded."""


_TYPES = {
    Purpose.SERVICES: SetType.HASH_IP_PORT,
    Purpose.CLUSTER: SetType.HASH_IP_PORT,
    Purpose.EXTERNAL: SetType.HASH_IP_PORT,
    Purpose.VIPS: SetType.HASH_IP,
    Purpose.HAIRPIN: SetType.HASH_IP_PORT_IP,
}


def set_name(purpose: str, family: Family) -> str:
    """Return the name of a set."""
    return _NAMES[purpose, family]


def sets_of(family: Family) -> list[IpSet]:
    """Return all sets of a family."""
    return [IpSet(set_name(purpose, family), kind, family) for purpose, kind in _TYPES.items()]


def port_member(purpose: str, key: VirtualServerKey) -> SetMember:
    """Return the member for a virtual server's address, protocol and port."""
    return SetMember(_NAMES[purpose, key.family], key.address, key.protocol, key.port)


def vip_member(family: Family, address: Address) -> SetMember:
    """Return the member for a VIP."""
    return SetMember(_NAMES[Purpose.VIPS, family], address)


def is_vip(address: Address, members: Container[SetMember]) -> bool:
    """Tell whether set members name an address as a VIP of ours."""
    return vip_member(family_of(address), address) in members


def hairpin_member(family: Family, protocol: int, address: Address, port: int) -> SetMember:
    """Return the member for an endpoint that may be its own client."""
    return SetMember(_NAMES[Purpose.HAIRPIN, family], address, protocol, port, address)


def ledger_keys(members: Iterable[SetMember]) -> set[VirtualServerKey]:
    """Return the virtual servers that the ledger names as ours."""
    return {key for member in members if (key := ledger_key(member)) is not None}


def ledger_key(member: SetMember) -> VirtualServerKey | None:
    """Return the virtual server that a member of the ledger names; None for a member of another set."""
    if member.set_name not in _LEDGERS:
        return None
    return address_key(Transport(member.protocol), member.address, member.port)


def names_vip(member: SetMember) -> bool:
    """Tell whether a member names its address as a VIP of ours."""
    return member.set_name in _VIP_SETS


_NAMES = {
    (purpose, family): f"{PREFIX}-{digit}-{purpose}"
    for purpose in _TYPES
    for family, digit in ((Family.IPV4, "4"), (Family.IPV6, "6"))
}
_LEDGERS = {_NAMES[Purpose.SERVICES, family] for family in Family}
_VIP_SETS = {_NAMES[Purpose.VIPS, family] for family in Family}
