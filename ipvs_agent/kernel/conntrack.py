"""The connection tracking table, through nfnetlink."""

from __future__ import annotations

import errno
from collections.abc import Iterable

from ipvs_agent.addresses import Address, Family
from ipvs_agent.errors import KernelError, MissingModule
from ipvs_agent.kernel.api import FlowMatch
from ipvs_agent.kernel.netlink import (
    NETLINK_NETFILTER,
    NFGENMSG,
    NLA_F_NESTED,
    Message,
    NetlinkSocket,
    attribute,
    attributes,
    kernel_error,
)
from ipvs_agent.kernel.replies import ReplyReader, number, octets

_GET = 1 << 8 | 1  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_GET
_DELETE = 1 << 8 | 2

# CTA_* of linux/netfilter/nfnetlink_conntrack.h: of a flow,
_ORIGINAL = 1
_REPLY = 2
_STATUS = 3
_ID = 12
# of each of its directions,
_IP = 1
_TRANSPORT = 2
# of their addresses,
_IPV4_SOURCE, _IPV4_DESTINATION = 1, 2
_IPV6_SOURCE, _IPV6_DESTINATION = 3, 4
# and of their ports.
_PROTOCOL = 1
_DESTINATION_PORT = 3

_LED_BY_NAT = 1 << 5  # IPS_DST_NAT; IPVS alters who answers without it

_Flow = tuple[int, bytes | None, bytes | None, bytes | None]
"""Protocol, destination, its port in network order and who answers; None: does not matter."""


class NetlinkConntrack:
    """The flows tracked in the network namespace of the thread that made this object."""

    def __init__(self) -> None:
        self._socket = NetlinkSocket(NETLINK_NETFILTER)
        self._reader = ReplyReader(
            NFGENMSG.size,
            number((_ORIGINAL, _TRANSPORT, _PROTOCOL)),
            octets((_ORIGINAL, _IP, _IPV4_DESTINATION), (_ORIGINAL, _IP, _IPV6_DESTINATION)),
            octets((_ORIGINAL, _TRANSPORT, _DESTINATION_PORT)),
            octets((_REPLY, _IP, _IPV4_SOURCE), (_REPLY, _IP, _IPV6_SOURCE)),
            octets((_STATUS,)),
        )

    def close(self) -> None:
        """Close the netlink socket."""
        self._socket.close()

    def delete(self, matches: Iterable[FlowMatch]) -> int:
        """Delete the entries that match any of the given ones, in one walk; return how many there were."""
        by_family: dict[Family, _Wanted] = {}
        for match in matches:
            by_family.setdefault(match.family, _Wanted()).add(match)
        return sum(self._delete(family, wanted) for family, wanted in by_family.items())

    def _delete(self, family: Family, wanted: _Wanted) -> int:
        header = NFGENMSG.pack(family, 0, 0)
        requests = [
            Message(_DELETE, 0, header + _identity(answer))
            for answer in self._dump(header)
            if wanted.has(*self._reader.read(answer))
        ]
        refusals = [refusal for refusal in self._socket.send(requests) if refusal is not None]
        for refusal in refusals:
            if refusal.number != errno.ENOENT:  # a flow may end on its own meanwhile
                raise kernel_error("conntrack -D", refusal)
        return len(requests) - len(refusals)

    def _dump(self, header: bytes) -> list[bytes]:
        try:
            return self._socket.dump(Message(_GET, 0, header))
        except KernelError as error:
            if error.number != errno.EINVAL:  # what nfnetlink answers for a subsystem that it cannot load
                raise
            raise MissingModule(
                "conntrack -L: `modprobe nf_conntrack_netlink` must work (CONFIG_NF_CT_NETLINK)", error.number
            ) from error


class _Wanted:
    """Flows that are looked for, in as many sets as there are combinations of fields that matter."""

    def __init__(self) -> None:
        self._by_fields: dict[tuple[bool, bool, bool], dict[_Flow, frozenset[Address]]] = {}
        """With the answering addresses that each match spares."""

    def add(self, match: FlowMatch) -> None:
        port = match.destination_port.to_bytes(2) if match.destination_port else None
        flow = (match.protocol, match.destination, port, match.reply_source)
        fields = (match.destination is not None, port is not None, match.reply_source is not None)
        flows = self._by_fields.setdefault(fields, {})
        flows[flow] = flows.get(flow, match.spared) & match.spared

    def has(self, protocol: int, destination: bytes, port: bytes, reply_source: bytes, status: bytes) -> bool:
        """Tell whether a flow is looked for."""
        is_led_by_nat = bool(int.from_bytes(status) & _LED_BY_NAT)
        for (by_destination, by_port, by_reply_source), flows in self._by_fields.items():
            spared = flows.get(
                (
                    protocol,
                    destination if by_destination else None,
                    port if by_port else None,
                    reply_source if by_reply_source else None,
                )
            )
            if spared is not None and (is_led_by_nat or reply_source not in spared):
                return True
        return False


def _identity(answer: bytes) -> bytes:
    """Return what tells a flow from all others; without the id, a new one of the same ports would go too."""
    parts = attributes(answer, NFGENMSG.size)
    # Without a zone the kernel looks in the zone 0: flows of other zones are somebody else's.
    return attribute(_ORIGINAL | NLA_F_NESTED, parts[_ORIGINAL]) + attribute(_ID, parts[_ID])
