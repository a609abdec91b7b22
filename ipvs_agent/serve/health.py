"""Health-check node ports: what load balancers ask to learn whether a node has endpoints of a Service.

One thread answers on all ports: sockets that do not block, and one selector. (asyncio would do as well, but
its import takes longer than the agent's whole start may.) What the reconciler's thread publishes goes through
a queue, so it waits for nothing.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import queue
import resource
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus

from ipvs_agent.addresses import Address, family_of, format_address
from ipvs_agent.model import HealthCheck, ObjectName, format_endpoint
from ipvs_agent.serve import connections, http

FIRST_RETRY = 1.0
LAST_RETRY = 60.0

WILDCARDS = (Address(bytes(4)), Address(bytes(16)))
_NO_SUCH_FAMILY = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
_BACKLOG = 128
_STOP_LIMIT = 1.0
# linux/in.h; socket has no name for it. A socket so bound takes what comes once the address is there, so it
# does not matter whether we or the kernel are first to know it (nor that IPv6 first looks for duplicates).
_IP_FREEBIND = 15

_BODY = """\
{{
	"service": {{
		"namespace": "{namespace}",
		"name": "{name}"
	}},
	"localEndpoints": {count},
	"serviceProxyHealthy": {healthy}
}}"""


def answer(request: http.Request, check: HealthCheck, *, is_healthy: bool) -> bytes:
    """Write what kube-proxy answers: 200 with local endpoints and a healthy proxy, else 503."""
    is_wanted = check.local_endpoints > 0 and is_healthy
    headers = {
        "Content-Type": "application/json",
        "X-Content-Type-Options": "nosniff",
        "X-Load-Balancing-Endpoint-Weight": str(check.local_endpoints),
    }
    body = _BODY.format(
        namespace=check.service.namespace,
        name=check.service.name,
        count=check.local_endpoints,
        healthy="true" if is_healthy else "false",
    )
    status = HTTPStatus.OK if is_wanted else HTTPStatus.SERVICE_UNAVAILABLE
    return http.answer(request, status, headers, body.encode())


class _Server:
    """The sockets of one Service's health check."""

    def __init__(self, check: HealthCheck) -> None:
        self.check = check
        self.listeners: dict[Address, socket.socket] = {}
        self.failing_since: float | None = None
        self.is_failure_told = False
        self.retry_delay = FIRST_RETRY
        self.retry_at = 0.0


class HealthServers:
    """Answers on the health-check node ports of all Services; its methods may be called from any thread.

    is_healthy: whether the agent does its work; asked at each request, from the thread of the servers.
    failed: told, from that thread, once for each check that could not be listened for; it is tried again.
    """

    def __init__(
        self,
        is_healthy: Callable[[], bool],
        failed: Callable[[HealthCheck, OSError], None],
        *,
        patience: float = connections.PATIENCE,
        first_retry: float = FIRST_RETRY,
    ) -> None:
        self._is_healthy = is_healthy
        self._failed = failed
        self._tick = min(patience, first_retry, 1.0)
        self._first_retry = first_retry
        self._told: queue.SimpleQueue[Callable[[], Iterable[ObjectName]]] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="health checks", daemon=True)
        self._selector = selectors.DefaultSelector()
        self._waking, self._awake = socket.socketpair()
        for end in (self._waking, self._awake):
            end.setblocking(False)
        self._selector.register(self._awake, selectors.EVENT_READ, self._note_waking)
        # What follows belongs to the thread.
        self._addresses: tuple[Address, ...] = WILDCARDS
        self._wanted: dict[ObjectName, HealthCheck] = {}
        self._servers: dict[ObjectName, _Server] = {}
        self._failing: set[ObjectName] = set()
        self._connections = connections.Connections(self._selector, patience)

    # --- For everyone ---------------------------------------------------------------------------------------

    def publish(self, service: ObjectName, check: HealthCheck | None) -> None:
        """Answer for a Service from now on, or no longer (None)."""
        self._tell(functools.partial(self._want, service, check))

    def listen_on(self, addresses: tuple[Address, ...] | None) -> None:
        """Listen on these addresses, or on all of the node (None), from now on."""
        self._tell(functools.partial(self._move, WILDCARDS if addresses is None else addresses))

    def start(self) -> None:
        """Begin to listen."""
        _allow_many_sockets()
        self._thread.start()

    def stop(self) -> None:
        """Close everything, within a second."""
        self._stopping.set()
        self._wake()
        self._thread.join(_STOP_LIMIT)

    def _tell(self, change: Callable[[], Iterable[ObjectName]]) -> None:
        self._told.put(change)
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # full: it wakes anyway; closed: it has ended
            self._waking.send(b"\0")

    # --- The thread -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        with contextlib.closing(self._selector):
            self._follow()
            while not self._stopping.is_set():
                is_clock_needed = bool(self._connections or self._failing)
                for key, _ in self._selector.select(self._tick if is_clock_needed else None):
                    key.data()
                self._follow()
                self._look_at_clock()
            for server in self._servers.values():
                for listener in server.listeners.values():
                    listener.close()
            self._connections.close_all()
            self._waking.close()
            self._awake.close()

    def _note_waking(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._awake.recv(4096):
                pass

    def _look_at_clock(self) -> None:
        now = time.monotonic()
        self._connections.end_overdue(now)
        for name in [each for each in self._failing if self._servers[each].retry_at <= now]:
            self._open_missing(name)

    # --- Which sockets there are ----------------------------------------------------------------------------

    def _want(self, service: ObjectName, check: HealthCheck | None) -> Iterable[ObjectName]:
        if check is None:
            self._wanted.pop(service, None)
        else:
            self._wanted[service] = check
        return (service,)

    def _move(self, addresses: tuple[Address, ...]) -> Iterable[ObjectName]:
        if addresses == self._addresses:
            return ()
        self._addresses = addresses
        return self._wanted

    def _follow(self) -> None:
        """Bring the sockets to what has been told.

        All that is to be closed is closed first: a port may go from one Service to another, and a wildcard
        is in the way of its own addresses.
        """
        touched: dict[ObjectName, None] = {}
        with contextlib.suppress(queue.Empty):
            while True:
                touched.update(dict.fromkeys(self._told.get_nowait()()))
        if sum(map(self._close_unwanted, touched)):
            self._connections.close_orphans()
            touched.update(dict.fromkeys(self._failing))
        for name in touched:
            if name in self._wanted:
                self._open_missing(name)

    def _close_unwanted(self, name: ObjectName) -> int:
        """Close sockets of a Service; return how many."""
        server = self._servers.get(name)
        if server is None:
            return 0
        check = self._wanted.get(name)
        if check is None or check.port != server.check.port:
            del self._servers[name]
            self._failing.discard(name)
            unwanted = list(server.listeners)
        else:
            server.check = check
            unwanted = [address for address in server.listeners if address not in self._addresses]
        for address in unwanted:
            listener = server.listeners.pop(address)
            self._selector.unregister(listener)
            listener.close()
        return len(unwanted)

    def _open_missing(self, name: ObjectName) -> None:
        check = self._wanted[name]
        server = self._servers.setdefault(name, _Server(check))
        errors: dict[Address, OSError] = {}
        for address in self._addresses:
            if address not in server.listeners:
                try:
                    listener = _listen(address, check.port)
                except OSError as error:
                    errors[address] = error
                    continue
                server.listeners[address] = listener
                respond = functools.partial(self._answer, server)
                accept = functools.partial(self._connections.accept, listener, respond)
                self._selector.register(listener, selectors.EVENT_READ, accept)
        if server.listeners and self._addresses == WILDCARDS:
            errors = {each: error for each, error in errors.items() if error.errno not in _NO_SUCH_FAMILY}
        self._note_errors(name, server, errors)

    def _answer(self, server: _Server, request: http.Request) -> bytes:
        return answer(request, server.check, is_healthy=self._is_healthy())

    def _note_errors(self, name: ObjectName, server: _Server, errors: Mapping[Address, OSError]) -> None:
        if not errors:
            self._failing.discard(name)
            server.failing_since, server.is_failure_told = None, False
            return
        now = time.monotonic()
        if server.failing_since is None:
            server.failing_since, server.retry_delay = now, self._first_retry
        elif server.retry_at <= now:
            server.retry_delay = min(2 * server.retry_delay, LAST_RETRY)
        server.retry_at = now + server.retry_delay
        self._failing.add(name)
        # Not at once: the Service that has the port may be about to lose it, by a change that is on its way.
        if not server.is_failure_told and now >= server.failing_since + self._first_retry:
            server.is_failure_told = True
            self._failed(server.check, next(iter(errors.values())))


def _listen(address: Address, port: int) -> socket.socket:
    with contextlib.ExitStack() as stack:
        try:
            listener = stack.enter_context(socket.socket(family_of(address), socket.SOCK_STREAM))
            listener.setblocking(False)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
            if listener.family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind((format_address(address), port))
            listener.listen(_BACKLOG)
        except OSError as error:
            raise OSError(error.errno, error.strerror, format_endpoint(address, port)) from error
        stack.pop_all()
        return listener


def _allow_many_sockets() -> None:
    """Lift the soft limit of descriptors: it may be 1,024, and a thousand Services need twice as many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
