"""IPVS as the kernel has it, in memory; tests/contract/ipvs.py is run against both."""

from __future__ import annotations

import dataclasses
import errno
import functools
import ipaddress
import struct
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence

import msgspec

from ipvs_agent.addresses import Address, Family, family_of, parse_address
from ipvs_agent.errors import KernelError
from ipvs_agent.kernel import ipvs_outline, ipvs_requests
from ipvs_agent.kernel.api import Outcomes, Reading, SyncDaemon, SyncRole, Timeouts
from ipvs_agent.kernel.ipvs_errors import partly_refused, refused, unpackable
from ipvs_agent.kernel.netlink import Refusal, kernel_error
from ipvs_agent.model import (
    FULL_NETMASK,
    METHOD_NAMES,
    ForwardingMethod,
    Protocol,
    RealServer,
    RealServerKey,
    ServiceFlags,
    VirtualServer,
    VirtualServerKey,
)
from ipvs_agent.observed import Counters, IpvsInfo, ObservedRealServer, ObservedVirtualServer, Outlined
from ipvs_agent.operations import (
    AddRealServer,
    AddRealServers,
    AddVirtualServer,
    DeleteRealServer,
    DeleteVirtualServer,
    IpvsOperation,
    SetRealServer,
    SetVirtualServer,
    SingleIpvsOperation,
)
from ipvs_agent.schedulers import SCHEDULERS

_DONE = 0
_GUE = 1
_SCHEDULER_NAME_LENGTH = 15
_LONGEST_TIMEOUT = 2**32 // 1000
"""Beyond it the kernel's count of ticks may wrap, depending on its HZ."""
_HIGHEST_THRESHOLD = 2**31 - 1
_ETHERNET_SYNC_LENGTH = 1472
_RealServers = dict[RealServerKey, ObservedRealServer]
_NO_TRAFFIC = Counters()
_BROADCAST = (parse_address("255.255.255.255"), parse_address("127.255.255.255"))


@dataclasses.dataclass(slots=True)
class _Entry:
    """A virtual server with its real servers, oldest first."""

    configuration: VirtualServer
    counters: Counters = _NO_TRAFFIC
    real_servers: _RealServers = dataclasses.field(default_factory=dict)


class FakeIpvs:
    """Virtual and real servers that refuse what the kernel refuses. No time passes in it.

    schedulers, persistence_engines: what the kernel has.
    interfaces: where a synchronisation daemon can run.
    batches: every batch that was applied, for tests to look at.
    """

    def __init__(
        self,
        schedulers: Collection[str] = tuple(SCHEDULERS),
        persistence_engines: Collection[str] = ("sip",),
        interfaces: Collection[str] = ("eth0",),
    ) -> None:
        self.batches: list[list[IpvsOperation]] = []
        self._schedulers = schedulers
        self._persistence_engines = persistence_engines
        self._interfaces = interfaces
        self._entries: dict[VirtualServerKey, _Entry] = {}
        # A removed real server has its connections again when it comes back (ip_vs_trash_get_dest).
        self._trash: defaultdict[VirtualServerKey, dict[RealServerKey, ObservedRealServer]] = defaultdict(
            dict
        )
        self._timeouts = Timeouts(tcp=900, tcp_fin=120, udp=300)
        self._daemons: dict[SyncRole, SyncDaemon] = {}

    # --- What tests set ---------------------------------------------------------------------------------

    def set_connections(
        self,
        key: VirtualServerKey,
        endpoint: RealServerKey,
        *,
        active: int = 0,
        inactive: int = 0,
        persistent: int = 0,
    ) -> None:
        """Give a real server connections."""
        self._replace(key, endpoint, active=active, inactive=inactive, persistent=persistent)

    def set_counters(
        self, key: VirtualServerKey, counters: Counters, endpoint: RealServerKey | None = None
    ) -> None:
        """Give a virtual server, or one of its real servers, traffic."""
        if endpoint is None:
            self._entries[key].counters = counters
        else:
            self._replace(key, endpoint, counters=counters)

    def _replace(self, key: VirtualServerKey, endpoint: RealServerKey, **changes: int | Counters) -> None:
        real_servers = self._entries[key].real_servers
        real_servers[endpoint] = msgspec.structs.replace(real_servers[endpoint], **changes)

    # --- Changes ----------------------------------------------------------------------------------------

    def apply(self, operations: Sequence[IpvsOperation]) -> Outcomes:
        """Run a batch."""
        self.batches.append(list(operations))
        return [self._outcome(operation) for operation in operations]

    def _outcome(self, operation: IpvsOperation) -> KernelError | None:
        if isinstance(operation, AddRealServers):
            return partly_refused([self._outcome(one) for one in operation.one_by_one()])
        try:
            ipvs_requests.pack([operation])
        except (struct.error, OverflowError) as error:
            return unpackable(operation, error)
        number = self._carry_out(operation)
        return refused(operation, Refusal(number, "", b"")) if number else None

    def _carry_out(self, operation: SingleIpvsOperation) -> int:
        """Return 0, or the errno; the order of the questions is the kernel's (ip_vs_genl_set_cmd)."""
        if isinstance(operation, AddVirtualServer):
            return self._add_virtual_server(operation.virtual_server)
        if isinstance(operation, SetVirtualServer):
            return self._set_virtual_server(operation.virtual_server)
        entry = self._entries.get(operation.key)
        if entry is None:
            return errno.ESRCH
        if isinstance(operation, DeleteVirtualServer):
            return self._delete_virtual_server(operation.key)
        return self._change_real_server(entry, operation)

    def _add_virtual_server(self, virtual_server: VirtualServer) -> int:
        key = virtual_server.key
        if not key.mark and key.protocol not in Protocol.__members__.values():
            raise NotImplementedError(f"FakeIpvs does not model protocol {key.protocol}")
        if key in self._entries:
            return errno.EEXIST
        number = self._judge_virtual_server(virtual_server)
        if not number:
            self._entries[key] = _Entry(_as_reported(virtual_server))
        return number

    def _set_virtual_server(self, virtual_server: VirtualServer) -> int:
        entry = self._entries.get(virtual_server.key)
        if entry is None:
            return errno.ESRCH
        number = self._judge_virtual_server(virtual_server)
        if not number:
            entry.configuration = _as_reported(virtual_server)
        return number

    def _judge_virtual_server(self, virtual_server: VirtualServer) -> int:
        if virtual_server.timeout > _LONGEST_TIMEOUT:
            raise NotImplementedError(f"FakeIpvs does not model a timeout of {virtual_server.timeout} s")
        if len(virtual_server.scheduler) > _SCHEDULER_NAME_LENGTH:
            return errno.EINVAL
        if virtual_server.scheduler and virtual_server.scheduler not in self._schedulers:
            return errno.ENOENT
        engine = virtual_server.persistence_engine
        if engine and engine not in self._persistence_engines:
            return errno.ENOENT
        is_ipv6 = virtual_server.key.family == Family.IPV6
        if is_ipv6 and virtual_server.netmask != FULL_NETMASK and not 1 <= virtual_server.netmask <= 128:
            return errno.EINVAL
        return _DONE

    def _delete_virtual_server(self, key: VirtualServerKey) -> int:
        trash = self._trash[key]
        trash.update(self._entries.pop(key).real_servers)
        # Connections outlive the virtual server, but its successor starts the statistics anew.
        for endpoint, real_server in trash.items():
            trash[endpoint] = msgspec.structs.replace(real_server, counters=_NO_TRAFFIC)
        return _DONE

    def _change_real_server(
        self, entry: _Entry, operation: AddRealServer | SetRealServer | DeleteRealServer
    ) -> int:
        if isinstance(operation, DeleteRealServer):
            return self._delete_real_server(entry, (operation.address, operation.port))
        number = self._judge_real_server(entry, operation.real_server)
        if number:
            return number
        if isinstance(operation, AddRealServer):
            return self._add_real_server(entry, operation.real_server)
        return self._set_real_server(entry, operation.real_server)

    def _judge_real_server(self, entry: _Entry, real_server: RealServer) -> int:
        if real_server.method not in ForwardingMethod.__members__.values():
            raise NotImplementedError(f"FakeIpvs does not model forwarding method {real_server.method}")
        # Linux 6.1.192 refuses it, 6.1.176 did not.
        if max(real_server.upper_threshold, real_server.lower_threshold) > _HIGHEST_THRESHOLD:
            return errno.EINVAL
        is_mixed = family_of(real_server.address) != entry.configuration.key.family
        if is_mixed and (self._daemons or real_server.method != ForwardingMethod.TUNNEL):
            return errno.EINVAL
        if real_server.weight < 0 or real_server.lower_threshold > real_server.upper_threshold:
            return errno.ERANGE
        if real_server.tunnel_type == _GUE and not real_server.tunnel_port:
            return errno.EINVAL
        return _DONE

    def _add_real_server(self, entry: _Entry, real_server: RealServer) -> int:
        if real_server.endpoint in entry.real_servers:
            return errno.EEXIST
        if not _can_be_real_server(real_server.address):
            return errno.EINVAL
        before = self._trash[entry.configuration.key].pop(real_server.endpoint, None)
        entry.real_servers[real_server.endpoint] = (
            msgspec.structs.replace(before, real_server=real_server)
            if before
            else ObservedRealServer(real_server)
        )
        return _DONE

    def _set_real_server(self, entry: _Entry, real_server: RealServer) -> int:
        before = entry.real_servers.get(real_server.endpoint)
        if before is None:
            return errno.ENOENT
        entry.real_servers[before.real_server.endpoint] = msgspec.structs.replace(
            before, real_server=real_server
        )
        return _DONE

    def _delete_real_server(self, entry: _Entry, endpoint: RealServerKey) -> int:
        real_server = entry.real_servers.pop(endpoint, None)
        if real_server is None:
            return errno.ENOENT
        self._trash[entry.configuration.key][endpoint] = real_server
        return _DONE

    # --- Reads ------------------------------------------------------------------------------------------

    def virtual_servers(self) -> list[ObservedVirtualServer]:
        """Return all virtual servers, those by mark last, newest first."""
        newest_first = reversed(self._entries.values())
        ordered = sorted(newest_first, key=lambda entry: entry.configuration.key.mark > 0)
        return [ObservedVirtualServer(entry.configuration, entry.counters) for entry in ordered]

    def reading(self) -> Reading[list[ObservedVirtualServer]]:
        """Read all virtual servers as `virtual_servers` does; counters leave the digest alone."""
        found = self.virtual_servers()
        digest = hash(tuple(observed.virtual_server for observed in found))
        return Reading(digest, functools.partial(list, found))

    def virtual_server(self, key: VirtualServerKey) -> ObservedVirtualServer:
        """Return one virtual server; NotFound where there is none."""
        entry = self._entry(key, f"virtual server {key}")
        return ObservedVirtualServer(entry.configuration, entry.counters)

    def real_servers(self, key: VirtualServerKey) -> list[ObservedRealServer]:
        """Return the real servers of a virtual server, newest first; empty where there is no such server."""
        entry = self._entries.get(key)
        return list(reversed(entry.real_servers.values())) if entry else []

    def real_servers_of(self, keys: Sequence[VirtualServerKey]) -> list[list[ObservedRealServer]]:
        """Return the real servers of each of several virtual servers, as `real_servers` does."""
        return [self.real_servers(key) for key in keys]

    def outline(self) -> Iterator[Outlined]:
        """Yield the virtual servers by address with their real servers, newest first, at little cost."""
        for key in list(self._entries):
            if not key.mark:
                yield ipvs_outline.outlined(key, [_line(observed) for observed in self.real_servers(key)])

    def info(self) -> IpvsInfo:
        """Return version and size of the connection table."""
        return IpvsInfo((1, 2, 1), 4096)

    def timeouts(self) -> Timeouts:
        """Return the idle timeouts."""
        return self._timeouts

    def daemons(self) -> list[SyncDaemon]:
        """Return the running synchronisation daemons."""
        return [self._daemons[role] for role in sorted(self._daemons)]

    # --- Other changes ----------------------------------------------------------------------------------

    def set_timeouts(self, timeouts: Timeouts) -> None:
        """Set the idle timeouts that are not 0."""
        if max(timeouts.tcp, timeouts.tcp_fin, timeouts.udp) > 2**31 // 1000:
            raise NotImplementedError(f"FakeIpvs does not model {timeouts}")
        self._timeouts = Timeouts(
            timeouts.tcp or self._timeouts.tcp,
            timeouts.tcp_fin or self._timeouts.tcp_fin,
            timeouts.udp or self._timeouts.udp,
        )

    def start_daemon(self, daemon: SyncDaemon) -> None:
        """Start a synchronisation daemon."""
        if daemon.max_length > _ETHERNET_SYNC_LENGTH:
            raise NotImplementedError(f"FakeIpvs does not model a length of {daemon.max_length}")
        what = f"start the {daemon.role.name.lower()} daemon on {daemon.interface}"
        if daemon.role in self._daemons:
            raise _refusal(what, errno.EEXIST)
        if daemon.interface not in self._interfaces:
            raise _refusal(what, errno.ENODEV)
        has_bad_group = daemon.group is not None and not _is_multicast(daemon.group)
        if has_bad_group or self._has_mixed_families():
            raise _refusal(what, errno.EINVAL)
        self._daemons[daemon.role] = SyncDaemon(
            daemon.role,
            daemon.interface,
            daemon.sync_id,
            daemon.max_length or _ETHERNET_SYNC_LENGTH,
            daemon.group or parse_address("224.0.0.81"),
            daemon.port or 8848,
            daemon.ttl or 1,
        )

    def _has_mixed_families(self) -> bool:
        return any(
            family_of(address) != key.family
            for key, entry in self._entries.items()
            for address, _port in entry.real_servers
        )

    def stop_daemon(self, role: SyncRole) -> None:
        """Stop a synchronisation daemon; NotFound where none runs in that role."""
        if self._daemons.pop(role, None) is None:
            raise _refusal(f"stop the {role.name.lower()} daemon", errno.ESRCH)

    def zero(self, key: VirtualServerKey | None = None) -> None:
        """Set the counters of a virtual server and its real servers, or of all, to zero."""
        entries = self._entries.values() if key is None else [self._entry(key, f"zero {key}")]
        for entry in entries:
            entry.counters = _NO_TRAFFIC
            for endpoint, real_server in entry.real_servers.items():
                entry.real_servers[endpoint] = msgspec.structs.replace(real_server, counters=_NO_TRAFFIC)

    def flush(self) -> None:
        """Remove every virtual server."""
        for key in list(self._entries):
            self._delete_virtual_server(key)

    def _entry(self, key: VirtualServerKey, what: str) -> _Entry:
        entry = self._entries.get(key)
        if entry is None:
            raise _refusal(what, errno.ESRCH)
        return entry


def _as_reported(virtual_server: VirtualServer) -> VirtualServer:
    """Return a configuration as the adapter reads it back."""
    full = 128 if virtual_server.key.family == Family.IPV6 else 0xFFFFFFFF
    netmask = FULL_NETMASK if virtual_server.netmask == full else virtual_server.netmask
    flags = virtual_server.flags & ~ServiceFlags.HASHED
    return msgspec.structs.replace(virtual_server, netmask=netmask, flags=flags)


def _line(observed: ObservedRealServer) -> str:
    """Return the line of a real server as ip_vs_info_seq_show of the kernel prints it."""
    server = observed.real_server
    digits = server.address.hex()
    if len(server.address) == 4:
        endpoint = f"{digits.upper()}:{server.port:04X}"
    else:
        groups = ":".join(digits[start : start + 4] for start in range(0, 32, 4))
        endpoint = f"[{groups}]:{server.port:04X}"
    method = METHOD_NAMES[server.method]
    return (
        f"  -> {endpoint}      {method:<7} {server.weight:<6} {observed.active:<10} {observed.inactive:<10}\n"
    )


def _can_be_real_server(address: Address) -> bool:
    """Say what the kernel's routing says of an address, where only a loopback interface is up."""
    parsed = ipaddress.ip_address(address)
    if isinstance(parsed, ipaddress.IPv6Address) and (parsed.is_link_local or parsed.ipv4_mapped):
        return False
    return not (parsed.is_unspecified or parsed.is_multicast or address in _BROADCAST)


def _is_multicast(address: Address) -> bool:
    return ipaddress.ip_address(address).is_multicast


def _refusal(what: str, number: int) -> KernelError:
    return kernel_error(what, Refusal(number, "", b""))
