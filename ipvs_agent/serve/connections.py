"""HTTP connections that never wait: one selector tells what has come, and every way to end has a limit."""

from __future__ import annotations

import contextlib
import functools
import selectors
import socket
import time
from collections.abc import Callable

from ipvs_agent.serve import http

PATIENCE = 5.0
"""Seconds in which a request must have come whole, and in which a client must take note of the end."""
IDLE_LIMIT = 90.0
"""Seconds for which a connection is kept for the next request; load balancers ask at least twice a minute."""
MOST_CONNECTIONS = 512
"""When one more comes, the one that was silent for longest ends."""

Respond = Callable[[http.Request], bytes]


class _Connection:
    def __init__(
        self, peer: socket.socket, listener: socket.socket, respond: Respond, deadline: float
    ) -> None:
        self.peer = peer
        self.listener = listener
        self.respond = respond
        self.deadline = deadline
        self.received = bytearray()
        self.is_idle = False
        self.is_ending = False


class Connections:
    """The connections of one thread; what the selector tells of them is data that can be called."""

    def __init__(self, selector: selectors.BaseSelector, patience: float) -> None:
        self._selector = selector
        self._patience = patience
        self._connections: dict[_Connection, None] = {}
        """The one that was silent for longest comes first."""

    def __len__(self) -> int:
        return len(self._connections)

    def accept(self, listener: socket.socket, respond: Respond) -> None:
        """Take a client that waits at a listener; respond: gives what is sent for a request."""
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
        connection = _Connection(peer, listener, respond, time.monotonic() + self._patience)
        self._connections[connection] = None
        self._selector.register(peer, selectors.EVENT_READ, functools.partial(self._read, connection))

    def end_overdue(self, now: float) -> None:
        """Close connections whose limit has passed."""
        for connection in [each for each in self._connections if each.deadline <= now]:
            self._close(connection)

    def close_orphans(self) -> None:
        """Close connections whose listener is closed."""
        for connection in [each for each in self._connections if each.listener.fileno() < 0]:
            self._close(connection)

    def close_all(self) -> None:
        """Close all connections."""
        for connection in list(self._connections):
            self._close(connection)

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
                if not self._say(connection, connection.respond(request)):
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
