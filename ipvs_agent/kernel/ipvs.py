"""IPVS through its generic netlink family: the real implementation of kernel.api.Ipvs."""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator, Sequence
from itertools import repeat

from ipvs_agent.errors import KernelError, MissingModule
from ipvs_agent.kernel import ipvs_outline, ipvs_replies, ipvs_requests
from ipvs_agent.kernel.api import Outcomes, Reading, SyncDaemon, SyncRole, Timeouts
from ipvs_agent.kernel.ipvs_errors import partly_refused, refused, unpackable
from ipvs_agent.kernel.netlink import NETLINK_GENERIC, Message, NetlinkSocket, Refusal, generic_family
from ipvs_agent.model import VirtualServerKey
from ipvs_agent.observed import IpvsInfo, ObservedRealServer, ObservedVirtualServer, Outlined
from ipvs_agent.operations import AddRealServers, IpvsOperation

_DUMPS = 200
"""Real servers of so many virtual servers are in memory twice, as the kernel gave them and as values."""


class NetlinkIpvs:
    """IPVS of the network namespace of the thread that makes this object; to be used by one thread at a time.

    Raises MissingModule where the kernel has no IPVS.
    """

    def __init__(self) -> None:
        self._socket = NetlinkSocket(NETLINK_GENERIC)
        try:
            self._family = generic_family(self._socket, ipvs_requests.FAMILY)
        except MissingModule as error:
            self._socket.close()
            raise MissingModule(
                "this kernel has no IPVS: run `modprobe ip_vs`, or use a kernel that has CONFIG_IP_VS",
                error.number,
            ) from error

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def apply(self, operations: Sequence[IpvsOperation]) -> Outcomes:
        """Run a batch."""
        try:
            payloads = ipvs_requests.pack(operations)
        except (struct.error, OverflowError) as error:
            # Rare and wrong, so the hot path does not look for it: halve the batch until it is alone.
            if len(operations) == 1:
                return [self._unpackable(operations[0], error)]
            middle = len(operations) // 2
            return self.apply(operations[:middle]) + self.apply(operations[middle:])
        refusals = self._socket.send([*zip(repeat(self._family), repeat(0), payloads)])
        if not any(refusals):
            return [None] * len(operations)
        remaining = iter(refusals)
        return [_outcome(operation, remaining) for operation in operations]

    def _unpackable(self, operation: IpvsOperation, error: Exception) -> KernelError | None:
        if isinstance(operation, AddRealServers):
            return partly_refused(self.apply(operation.one_by_one()))
        return unpackable(operation, error)

    def virtual_servers(self) -> list[ObservedVirtualServer]:
        """Return all virtual servers of this network namespace, in the kernel's order."""
        return [ipvs_replies.virtual_server(reply) for reply in self._dump(ipvs_requests.GET_SERVICES)]

    def reading(self) -> Reading[list[ObservedVirtualServer]]:
        """Read all virtual servers as `virtual_servers` does; counters leave the digest alone."""
        replies = self._dump(ipvs_requests.GET_SERVICES)
        return Reading(ipvs_replies.digest(replies), lambda: [*map(ipvs_replies.virtual_server, replies)])

    def virtual_server(self, key: VirtualServerKey) -> ObservedVirtualServer:
        """Return one virtual server; NotFound where there is none."""
        return ipvs_replies.virtual_server(
            self._ask(f"virtual server {key}", ipvs_requests.get_service(key))[0]
        )

    def real_servers(self, key: VirtualServerKey) -> list[ObservedRealServer]:
        """Return the real servers of a virtual server, newest first; empty where there is no such server."""
        (real_servers,) = self.real_servers_of([key])
        return real_servers

    def real_servers_of(self, keys: Sequence[VirtualServerKey]) -> list[list[ObservedRealServer]]:
        """Return the real servers of each of several virtual servers, as `real_servers` does."""
        found: list[list[ObservedRealServer]] = []
        for start in range(0, len(keys), _DUMPS):
            some = keys[start : start + _DUMPS]
            requests = [Message(self._family, 0, ipvs_requests.get_dests(key)) for key in some]
            found += (
                [ipvs_replies.real_server(reply, key.family) for reply in replies]
                for key, replies in zip(some, self._socket.dumps(requests), strict=True)
            )
        return found

    def outline(self) -> Iterator[Outlined]:
        """Yield the virtual servers by address with their real servers, newest first, at little cost.

        Those of the network namespace of the thread that begins to iterate.
        """
        try:
            with open(ipvs_outline.PATH, "rb", ipvs_outline.BUFFER) as lines:
                yield from ipvs_outline.read(map(bytes.decode, lines))
        except OSError as error:
            raise KernelError(f"{ipvs_outline.PATH}: {error.strerror}", error.errno or errno.EIO) from error

    def info(self) -> IpvsInfo:
        """Return version and size of the connection table."""
        return ipvs_replies.info(self._ask("IPVS info", ipvs_requests.GET_INFO)[0])

    def timeouts(self) -> Timeouts:
        """Return the idle timeouts."""
        return ipvs_replies.timeouts(self._ask("IPVS timeouts", ipvs_requests.GET_TIMEOUTS)[0])

    def set_timeouts(self, timeouts: Timeouts) -> None:
        """Set the idle timeouts that are not 0."""
        self._ask("set the IPVS timeouts", ipvs_requests.set_timeouts(timeouts))

    def daemons(self) -> list[SyncDaemon]:
        """Return the running synchronisation daemons."""
        return [ipvs_replies.daemon(reply) for reply in self._dump(ipvs_requests.GET_DAEMONS)]

    def start_daemon(self, daemon: SyncDaemon) -> None:
        """Start a synchronisation daemon."""
        self._ask(
            f"start the {daemon.role.name.lower()} daemon on {daemon.interface}",
            ipvs_requests.start_daemon(daemon),
        )

    def stop_daemon(self, role: SyncRole) -> None:
        """Stop a synchronisation daemon; NotFound where none runs in that role."""
        try:
            self._ask(f"stop the {role.name.lower()} daemon", ipvs_requests.stop_daemon(role))
        except KernelError as error:
            # How kthread_stop answers for a thread that had not begun to run: it is stopped, and never will.
            if error.number != errno.EINTR:
                raise

    def zero(self, key: VirtualServerKey | None = None) -> None:
        """Set the counters of a virtual server and its real servers, or of all, to zero."""
        self._ask(f"zero {key or 'all counters'}", ipvs_requests.zero(key))

    def flush(self) -> None:
        """Remove every virtual server, whoever made it. For tests; the agent never calls it."""
        self._ask("remove all virtual servers", ipvs_requests.FLUSH)

    def _ask(self, what: str, payload: bytes) -> list[bytes]:
        return self._socket.ask(Message(self._family, 0, payload), what)

    def _dump(self, payload: bytes) -> list[bytes]:
        return self._socket.dump(Message(self._family, 0, payload))


def _outcome(operation: IpvsOperation, remaining: Iterator[Refusal | None]) -> KernelError | None:
    """Return what became of an operation; remaining: what became of its messages and all behind them."""
    if isinstance(operation, AddRealServers):
        return partly_refused([_outcome(one, remaining) for one in operation.one_by_one()])
    refusal = next(remaining)
    return None if refusal is None else refused(operation, refusal)
