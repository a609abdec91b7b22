"""What the rest of the agent asks of the kernel.

Each Protocol has two implementations: the real one beside this module, and a fake as strict as the kernel in
ipvs_agent.testing; tests/contract/ holds both to the same behaviour.

A batch (`apply`) runs in the order given, in as few messages as possible. Its answer is as long as the batch:
None where the operation was done, else why not; PartlyRefused where the operation stands for several. What
fails never stops what is behind it. Every other method raises KernelError.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

import msgspec

from ipvs_agent.addresses import Address, Family
from ipvs_agent.errors import KernelError
from ipvs_agent.model import IpSet, SetMember, VirtualServerKey
from ipvs_agent.observed import IpvsInfo, NativeChain, ObservedRealServer, ObservedVirtualServer, Outlined
from ipvs_agent.operations import IpvsOperation, SetOperation, VipOperation

Outcomes = list[KernelError | None]
"""The answer to a batch: for each operation None, or why it failed."""


_T = TypeVar("_T")


class Reading(NamedTuple, Generic[_T]):
    """What the kernel said of something, taken apart only where that is asked for."""

    digest: int
    """Another number where the kernel said something else; for comparisons within this process."""
    content: Callable[[], _T]


class Timeouts(msgspec.Struct, frozen=True):
    """Idle timeouts of connections, in seconds; 0 in a request keeps the present one."""

    tcp: int
    tcp_fin: int
    udp: int


class SyncRole(enum.IntEnum):
    """The roles of the connection synchronisation daemon (IP_VS_STATE_*)."""

    MASTER = 1
    BACKUP = 2


class SyncDaemon(msgspec.Struct, frozen=True):
    """A connection synchronisation daemon; 0 and None leave a value to the kernel."""

    role: SyncRole
    interface: str
    sync_id: int
    max_length: int = 0
    group: Address | None = None
    port: int = 0
    ttl: int = 0


class Ipvs(Protocol):
    """Virtual servers and real servers, through the generic netlink family IPVS."""

    def apply(self, operations: Sequence[IpvsOperation]) -> Outcomes:
        """Run a batch."""

    def virtual_servers(self) -> list[ObservedVirtualServer]:
        """Return all virtual servers of this network namespace, in the kernel's order."""

    def reading(self) -> Reading[list[ObservedVirtualServer]]:
        """Read all virtual servers as `virtual_servers` does; counters leave the digest alone."""

    def virtual_server(self, key: VirtualServerKey) -> ObservedVirtualServer:
        """Return one virtual server; NotFound where there is none."""

    def real_servers(self, key: VirtualServerKey) -> list[ObservedRealServer]:
        """Return the real servers of a virtual server, newest first; empty where there is no such server."""

    def real_servers_of(self, keys: Sequence[VirtualServerKey]) -> list[list[ObservedRealServer]]:
        """Return the real servers of each of several virtual servers, as `real_servers` does."""

    def outline(self) -> Iterator[Outlined]:
        """Yield the virtual servers by address with their real servers, newest first, at little cost.

        Thresholds, tunnels, persistent connections and counters are left out, as 0. What comes is right, but
        some may not come: ask for those by their keys. The table is read while one iterates, and where it
        changes meanwhile, a virtual server may come twice.
        """

    def info(self) -> IpvsInfo:
        """Return version and size of the connection table."""

    def timeouts(self) -> Timeouts:
        """Return the idle timeouts."""

    def set_timeouts(self, timeouts: Timeouts) -> None:
        """Set the idle timeouts that are not 0."""

    def daemons(self) -> list[SyncDaemon]:
        """Return the running synchronisation daemons."""

    def start_daemon(self, daemon: SyncDaemon) -> None:
        """Start a synchronisation daemon."""

    def stop_daemon(self, role: SyncRole) -> None:
        """Stop a synchronisation daemon; NotFound where none runs in that role."""

    def zero(self, key: VirtualServerKey | None = None) -> None:
        """Set the counters of a virtual server and its real servers, or of all, to zero."""

    def flush(self) -> None:
        """Remove every virtual server, whoever made it. For tests; the agent never calls it."""


class Vips(Protocol):
    """The VIPs on the dummy interface kube-ipvs0: its addresses, and local routes of ours.

    One address can be there in both forms, and goes on being served while it has one of them.
    """

    def ensure_link(self) -> None:
        """Make the interface where it is missing; one that exists is left as it is."""

    def link_is_ours(self) -> bool:
        """Tell whether the interface is there and was made by `ensure_link`, of this process or another."""

    def remove_link(self) -> None:
        """Remove the interface with its addresses; NotFound where there is none."""

    def addresses(self) -> set[Address]:
        """Return the interface's addresses but IPv6 link-local ones; empty where there is no interface."""

    def routes(self) -> dict[Address, Address]:
        """Return the addresses that have a local route of ours, with the source that it prefers.

        A source that the node has lost may still be there, or not.
        """

    def has_other_routes(self) -> bool:
        """Tell whether somebody else has made routes by the interface, which would go with it."""

    def apply(self, operations: Sequence[VipOperation]) -> Outcomes:
        """Run a batch; without the interface every operation is NotFound.

        A source that is no address of the node is refused (NotAnAddress).
        The interface is set up where an IPv6 route needs that. No routes are lost with its last address.
        """

    def tidy(self) -> None:
        """Remove from the interface what was there for IPv4 routes only, where there is none left."""


class NodeAddresses(Protocol):
    """The node's own addresses."""

    def addresses(self) -> Mapping[str, frozenset[Address]]:
        """Return the addresses of every interface but kube-ipvs0, by interface.

        Loopback, link-local and tentative IPv6 addresses are left out: no client can dial them.
        """


class IpSets(Protocol):
    """The kernel's ipsets, through nfnetlink."""

    def sets(self) -> dict[str, IpSet | None]:
        """Return all sets of this network namespace by name; None for one of a type that is not ours."""

    def create(self, ip_set: IpSet) -> None:
        """Make an empty set; AlreadyExists where the name is taken."""

    def destroy(self, name: str) -> None:
        """Remove a set; NotFound where there is none, Busy where a rule refers to it."""

    def flush(self, name: str) -> None:
        """Remove all members of a set; NotFound where there is no such set."""

    def swap(self, one: str, other: str) -> None:
        """Exchange the names of two sets of one type and family: members, marks and capacity go along.

        Busy while somebody, in any process, is listing one of them.
        """

    def members(self, name: str) -> set[SetMember]:
        """Return the members of a set; NotFound where there is no such set."""

    def reading(self, name: str) -> Reading[set[SetMember]]:
        """Read the members of a set as `members` does.

        The order in which the kernel lists them is in the digest: a set that was read twice and not changed
        in between has one digest, others with the same members may have another.
        """

    def apply(self, operations: Sequence[SetOperation]) -> Outcomes:
        """Run a batch. Adding what is there and deleting what is not there are done, not failures."""


class Rules(msgspec.Struct, frozen=True):
    """The rules that one of the node's iptables tools prints."""

    flavour: str
    """What the names of its tools have behind ip6tables or iptables: -nft, -legacy, or nothing."""
    family: Family
    saved: str
    """All tables, as iptables-save prints them."""


class Iptables(Protocol):
    """The packet filter of one or both families, through the node's iptables tools."""

    def save(self, family: Family) -> str:
        """Return the rules of all tables, as iptables-save prints them."""

    def restore(self, family: Family, text: str, flavour: str | None = None) -> None:
        """Apply iptables-restore input without flushing what it does not name; all of a table or nothing.

        flavour: one of those in `all_rules`; None for the one that the node uses.
        """

    def all_rules(self) -> list[Rules]:
        """Return the rules of every flavour and family that can be read; for this nothing is written."""

    def families(self) -> frozenset[Family]:
        """Return the families whose tools work on this node; never empty, or MissingModule is raised.

        Each call asks those again that did not work.
        """

    def refusals(self) -> Mapping[Family, str]:
        """Return for each family that is not among `families` why its tools do not work."""

    def switched_off(self) -> frozenset[Family]:
        """Return the families that the node does not have, whatever its tools say."""

    def supports_random_fully(self) -> bool:
        """Tell whether MASQUERADE takes --random-fully, which is taken for granted until rules are refused.

        From then on it is known.
        """


class Nftables(Protocol):
    """The rules that nftables has beside those of iptables' tools; they are only looked at."""

    def chains(self) -> list[NativeChain]:
        """Return the chains of IPv4, IPv6 and both, in no order; none where the kernel has no nftables."""


class FlowMatch(msgspec.Struct, frozen=True):
    """Which conntrack entries: all fields that are set must match."""

    family: Family
    protocol: int
    destination: Address | None = None
    """The address that the client dialled."""
    destination_port: int = 0
    """The port that the client dialled."""
    reply_source: Address | None = None
    """The address that answers."""
    spared: frozenset[Address] = frozenset()
    """Flows that one of these answers are left alone, unless NAT has led them there: they never pass IPVS."""


class Conntrack(Protocol):
    """The connection tracking table."""

    def delete(self, matches: Iterable[FlowMatch]) -> int:
        """Delete the entries that match any of the given ones, in one walk; return how many there were."""


class Sysctls(Protocol):
    """Kernel settings under /proc/sys, by names such as net/ipv4/vs/conntrack."""

    def read(self, name: str) -> str:
        """Return a setting without the line's end; NotFound where the kernel has none of that name."""

    def write(self, name: str, value: str) -> None:
        """Set a setting, where it differs; a read-only /proc is fine as long as nothing differs."""


class Modules(Protocol):
    """Kernel modules."""

    def load(self, *names: str) -> None:
        """Make sure that modules are there, loaded or built in; MissingModule says how to get one."""

    def try_to_load(self, *names: str) -> None:
        """Load what the kernel has of some modules, without a word where it has not."""

    def has(self, *names: str) -> bool:
        """Tell whether all of some modules are loaded or built in."""

    def may_have(self, name: str) -> bool:
        """Tell whether a module is there or can be loaded, as far as the kernel's lists say."""


class Kernel(Protocol):
    """All of the above, for one network namespace; to be used by one thread at a time."""

    @property
    def ipvs(self) -> Ipvs:
        """Return virtual servers and real servers."""

    @property
    def vips(self) -> Vips:
        """Return the addresses of the dummy interface."""

    @property
    def node_addresses(self) -> NodeAddresses:
        """Return the node's own addresses."""

    @property
    def ipsets(self) -> IpSets:
        """Return the ipsets."""

    @property
    def iptables(self) -> Iptables:
        """Return the packet filter."""

    @property
    def nftables(self) -> Nftables:
        """Return the rules that only nftables has."""

    @property
    def conntrack(self) -> Conntrack:
        """Return the connection tracking table."""

    @property
    def sysctls(self) -> Sysctls:
        """Return the kernel settings."""

    @property
    def modules(self) -> Modules:
        """Return the kernel modules."""
