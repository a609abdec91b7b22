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
from ipvs_agent.serve import http

PATIENCE = 5.0
"""Seconds in which a request must have come whole, and in which a client must take note of the end."""
IDLE_LIMIT = 90.0
"""Seconds for which a connection is kept for the next request; load balancers ask at least twice a minute."""
MOST_CONNECTIONS = 512
"""When one more comes, the one that was silent for longest ends."""
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


class _Connection:
    def __init__(
        self, peer: socket.socket, listener: socket.socket, server: _Server, deadline: float
    ) -> None:
        self.peer = peer
        self.listener = listener
        self.server = server
        self.deadline = deadline
        self.received = bytearray()
        self.is_idle = False
        self.is_ending = False


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
        patience: float = PATIENCE,
        first_retry: float = FIRST_RETRY,
    ) -> None:
        self._is_healthy = is_healthy
        self._failed = failed
        self._patience = patience
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
        self._connections: dict[_Connection, None] = {}
        """The one that was silent for longest comes first."""

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
            for connection in self._connections:
                connection.peer.close()
            self._waking.close()
            self._awake.close()

    @property
    def _tick(self) -> float:
        """Return how long to wait for sockets where a limit may pass meanwhile."""
        return min(self._patience, self._first_retry, 1.0)

    def _note_waking(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._awake.recv(4096):
                pass

    def _look_at_clock(self) -> None:
        now = time.monotonic()
        for connection in [each for each in self._connections if each.deadline <= now]:
            self._close(connection)
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
            for connection in [each for each in self._connections if each.listener.fileno() < 0]:
                self._close(connection)
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
                accept = functools.partial(self._accept, listener, server)
                self._selector.register(listener, selectors.EVENT_READ, accept)
        if server.listeners and self._addresses == WILDCARDS:
            errors = {each: error for each, error in errors.items() if error.errno not in _NO_SUCH_FAMILY}
        self._note_errors(name, server, errors)

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

    # --- Connections ----------------------------------------------------------------------------------------

    def _accept(self, listener: socket.socket, server: _Server) -> None:
        try:
            peer, _ = listener.accept()
        except (BlockingIOError, ConnectionError):
            return  # the client has gone
        except OSError:
            time.sleep(0.1)  # no descriptors or memory: the client stays in the queue, and we do not spin
            return
        peer.setblocking(False)
        if len(self._connections) >= MOST_CONNECTIONS:
            self._close(next(iter(self._connections)))
        connection = _Connection(peer, listener, server, time.monotonic() + self._patience)
        self._connections[connection] = None
        self._selector.register(peer, selectors.EVENT_READ, functools.partial(self._read, connection))

    def _read(self, connection: _Connection) -> None:
        if connection not in self._connections:
            return  # closed by an event before this one
        try:
            data = connection.peer.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._close(connection)
        elif not connection.is_ending:
            connection.received += data
            self._answer_all(connection)

    def _answer_all(self, connection: _Connection) -> None:
        """Answer the requests that have come whole, and set the limit for what is next."""
        count = 0
        try:
            while connection.received and (request := http.parse(bytes(connection.received))) is not None:
                del connection.received[: request.length]
                count += 1
                words = answer(request, connection.server.check, is_healthy=self._is_healthy())
                if not self._say(connection, words):
                    return
                if not request.keeps_connection:
                    self._end(connection)
                    return
        except http.Unanswerable as error:
            if self._say(connection, http.refusal(error.status)):
                self._end(connection)
            return
        now = time.monotonic()
        if not connection.received:
            connection.is_idle, connection.deadline = True, now + IDLE_LIMIT
        elif count or connection.is_idle:
            connection.is_idle, connection.deadline = False, now + self._patience
        del self._connections[connection]
        self._connections[connection] = None  # the last that said something

    def _say(self, connection: _Connection, words: bytes) -> bool:
        """Send words; a client that asks and asks but does not read loses its connection."""
        try:
            is_sent = connection.peer.send(words) == len(words)
        except OSError:
            is_sent = False
        if not is_sent:
            self._close(connection)
        return is_sent

    def _end(self, connection: _Connection) -> None:
        """Say that nothing more comes; to close at once could take from the client what it has not read."""
        connection.is_ending, connection.deadline = True, time.monotonic() + self._patience
        with contextlib.suppress(OSError):
            connection.peer.shutdown(socket.SHUT_WR)

    def _close(self, connection: _Connection) -> None:
        del self._connections[connection]
        self._selector.unregister(connection.peer)
        connection.peer.close()


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
