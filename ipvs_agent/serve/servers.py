"""HTTP servers of the node, all in one thread: sockets that do not block, and one selector.

(asyncio would do as well, but its import takes longer than the agent's whole start may.) What other threads
want to be answered goes through a queue, so they wait for nothing.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import queue
import resource
import selectors
import socket
import threading
import time
from collections.abc import Callable, Hashable, Mapping
from typing import NamedTuple

from ipvs_agent.addresses import UNSPECIFIED, Address, family_of, format_address
from ipvs_agent.model import format_endpoint
from ipvs_agent.serve import connections, http
from ipvs_agent.serve.connections import Respond

FIRST_RETRY = 1.0
LAST_RETRY = 60.0

_NO_SUCH_FAMILY = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
_BACKLOG = 128
_STOP_LIMIT = 1.0
# linux/in.h; socket has no name for it. A socket so bound takes what comes once the address is there, so it
# does not matter whether we or the kernel are first to know it (nor that IPv6 first looks for duplicates).
_IP_FREEBIND = 15


class Site(NamedTuple):
    """What is answered on a port."""

    port: int
    respond: Respond
    """Gives the answer to a request, in the thread of the servers."""
    failed: Callable[[OSError], None]
    """Told, in that thread, once when the port cannot be listened on; it is tried again."""
    addresses: tuple[Address, ...] = UNSPECIFIED


class _Server:
    """The sockets of a site."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.listeners: dict[Address, socket.socket] = {}
        self.failing_since: float | None = None
        self.is_failure_told = False
        self.retry_delay = FIRST_RETRY
        self.retry_at = 0.0

    def respond(self, request: http.Request) -> bytes:
        """Answer as the site does now, which may have changed since a connection began."""
        return self.site.respond(request)


class Servers:
    """Answers where it is told to; its methods may be called from any thread."""

    def __init__(self, *, patience: float = connections.PATIENCE, first_retry: float = FIRST_RETRY) -> None:
        self._tick = min(patience, first_retry, 1.0)
        self._first_retry = first_retry
        self._told: queue.SimpleQueue[Mapping[Hashable, Site | None]] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="servers", daemon=True)
        self._selector = selectors.DefaultSelector()
        self._waking, self._awake = socket.socketpair()
        for end in (self._waking, self._awake):
            end.setblocking(False)
        self._selector.register(self._awake, selectors.EVENT_READ, self._note_waking)
        # What follows belongs to the thread.
        self._servers: dict[Hashable, _Server] = {}
        self._failing: set[Hashable] = set()
        self._connections = connections.Connections(self._selector, patience)

    # --- For everyone ---------------------------------------------------------------------------------------

    def replace(self, sites: Mapping[Hashable, Site | None]) -> None:
        """Answer on some sites from now on, in place of those of the same keys; None: no longer."""
        self._told.put(sites)
        self._wake()

    def start(self) -> None:
        """Begin to listen."""
        _allow_many_sockets()
        self._thread.start()

    def stop(self) -> None:
        """Close everything, within a second."""
        self._stopping.set()
        self._wake()
        self._thread.join(_STOP_LIMIT)

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
        for key in [each for each in self._failing if self._servers[each].retry_at <= now]:
            self._open_missing(key, self._servers[key])

    # --- Which sockets there are ----------------------------------------------------------------------------

    def _follow(self) -> None:
        """Bring the sockets to what has been told.

        All that is to be closed is closed first: a port may go from one site to another, and a wildcard is in
        the way of its own addresses.
        """
        touched: dict[Hashable, Site | None] = {}
        with contextlib.suppress(queue.Empty):
            while True:
                touched |= self._told.get_nowait()
        if sum(itertools.starmap(self._close_unwanted, touched.items())):
            self._connections.close_orphans()
            touched = {**{key: self._servers[key].site for key in self._failing}, **touched}
        for key, site in touched.items():
            if site is not None:
                self._open_missing(key, self._servers.setdefault(key, _Server(site)))

    def _close_unwanted(self, key: Hashable, site: Site | None) -> int:
        """Close sockets of what was answered under a key before; return how many."""
        server = self._servers.get(key)
        if server is None:
            return 0
        if site is None or site.port != server.site.port:
            del self._servers[key]
            self._failing.discard(key)
            unwanted = list(server.listeners)
        else:
            server.site = site
            unwanted = [address for address in server.listeners if address not in site.addresses]
        for address in unwanted:
            listener = server.listeners.pop(address)
            self._selector.unregister(listener)
            listener.close()
        return len(unwanted)

    def _open_missing(self, key: Hashable, server: _Server) -> None:
        site = server.site
        errors: dict[Address, OSError] = {}
        for address in site.addresses:
            if address not in server.listeners:
                try:
                    listener = _listen(address, site.port)
                except OSError as error:
                    errors[address] = error
                    continue
                server.listeners[address] = listener
                accept = functools.partial(self._connections.accept, listener, server.respond)
                self._selector.register(listener, selectors.EVENT_READ, accept)
        if server.listeners:
            errors = {each: error for each, error in errors.items() if error.errno not in _NO_SUCH_FAMILY}
        self._note_errors(key, server, errors)

    def _note_errors(self, key: Hashable, server: _Server, errors: Mapping[Address, OSError]) -> None:
        if not errors:
            self._failing.discard(key)
            server.failing_since, server.is_failure_told = None, False
            return
        now = time.monotonic()
        if server.failing_since is None:
            server.failing_since, server.retry_delay = now, self._first_retry
        elif server.retry_at <= now:
            server.retry_delay = min(2 * server.retry_delay, LAST_RETRY)
        server.retry_at = now + server.retry_delay
        self._failing.add(key)
        # Not at once: the site that has the port may be about to lose it, by a change that is on its way.
        if not server.is_failure_told and now >= server.failing_since + self._first_retry:
            server.is_failure_told = True
            server.site.failed(next(iter(errors.values())))


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
