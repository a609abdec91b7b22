"""externalTrafficPolicy Local for everyone: one address, served differently inside and outside the cluster.

Clients outside reach the virtual server by address, which has this node's endpoints alone. Clients inside,
and the node itself, get a packet mark, and IPVS looks for a virtual server by mark first: that one has the
endpoints of the whole cluster. IPVS compares the whole mark, so ours is written whole, as the last thing that
the mangle table does before IPVS takes the packet.

A mark is made of an index in its upper 16 bits and of a tag in its lower 14, which tells ours from others';
bits 14 and 15 stay free, since kube-proxy and the kubelet use them by default, and so do bits 8 to 11: Cilium
writes them in filter OUTPUT, which what IPVS sends on passes before the tag has done its work.
"""

from __future__ import annotations

from ipvs_agent.model import Protocol, VirtualServerKey

TAG = 0x1051
TAG_MASK = 0x30FF
OF_OTHERS = 0x0F00
"""What others may write between IPVS and our last rule."""
INDICES = range(1, 0x8000)
"""What tells the marks of one transport protocol apart."""

_INDEX_SHIFT = 17
_BELOW_PROTOCOL = 0xFFFF
_UDP = 1 << 16
"""The kernel does not say which protocol a virtual server by mark is for, and drains need to know."""


def mark_of(index: int, protocol: Protocol) -> int:
    """Return a mark."""
    return index << _INDEX_SHIFT | (_UDP if protocol is Protocol.UDP else 0) | TAG


def is_ours(key: VirtualServerKey) -> bool:
    """Tell whether a virtual server is one by a mark of ours; others may not make one just so."""
    return key.mark & _BELOW_PROTOCOL == TAG and key.mark >> _INDEX_SHIFT in INDICES


def is_for(key: VirtualServerKey, protocol: int) -> bool:
    """Tell whether a virtual server is one by a mark of ours for a transport protocol."""
    return is_ours(key) and is_udp(key) == (protocol == Protocol.UDP)


def is_udp(key: VirtualServerKey) -> bool:
    """Tell whether a virtual server, by address or by a mark of ours, takes UDP."""
    return key.protocol == Protocol.UDP or (is_ours(key) and bool(key.mark & _UDP))
