"""Servers that say who they are and whom they see, and clients that ask them.

A socket belongs to the network namespace in which it was made, so one thread here serves all pods, and a test
asks from any host, without a process for each.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import selectors
import socket
import threading
from collections.abc import Iterator
from typing import NamedTuple

TCP, UDP, SCTP = "tcp", "udp", "sctp"
_SOCKETS = {
    TCP: (socket.SOCK_STREAM, socket.IPPROTO_TCP),
    UDP: (socket.SOCK_DGRAM, socket.IPPROTO_UDP),
    SCTP: (socket.SOCK_STREAM, socket.IPPROTO_SCTP),
}
_TIMEOUT = 10.0
"""Seconds after which a request counts as lost: long enough for a machine that stands still for a moment."""
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


class Answer(NamedTuple):
    """What a server said."""

    name: str
    """Who answered."""
    source: str
    """The client's address as the server saw it."""


@contextlib.contextmanager
def inside(namespace: str) -> Iterator[None]:
    """Put this thread into a network namespace for the length of a with block."""
    with open("/proc/thread-self/ns/net") as before, open(f"/run/netns/{namespace}") as target:
        _enter(target.fileno())
        try:
            yield
        finally:
            _enter(before.fileno())


def _enter(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def open_socket(namespace: str, protocol: str, address: str) -> socket.socket:
    """Return a socket in a namespace, of the address's family."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    kind, number = _SOCKETS[protocol]
    with inside(namespace):
        return socket.socket(family, kind, number)


def connect(
    namespace: str, protocol: str, address: str, port: int, *, timeout: float = _TIMEOUT, source: str = ""
) -> socket.socket:
    """Return a connected socket. Raises ConnectionRefusedError, TimeoutError and their kin.

    source: the client's address; empty: as the kernel chooses.
    """
    sock = open_socket(namespace, protocol, address)
    try:
        sock.settimeout(timeout)
        if source:
            sock.bind((source, 0))
        sock.connect((address, port))
    except BaseException:
        sock.close()
        raise
    return sock


def ask_on(sock: socket.socket) -> Answer:
    """Ask over a connected socket, which stays open."""
    sock.sendall(b"who\n")
    line = sock.recv(512)
    if not line:
        raise ConnectionResetError("the server closed the connection")
    name, source = line.decode().split()
    return Answer(name, source)


def ask(
    namespace: str, protocol: str, address: str, port: int, *, timeout: float = _TIMEOUT, source: str = ""
) -> Answer:
    """Connect, ask once and close."""
    with connect(namespace, protocol, address, port, timeout=timeout, source=source) as sock:
        return ask_on(sock)


class Servers:
    """Listening sockets of any number of hosts, served by one thread."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = socket.socketpair()
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        self._lock = threading.Lock()
        self._waiting: list[tuple[socket.socket, str, str]] = []
        self._is_ending = False
        self._thread = threading.Thread(target=self._serve, name="servers", daemon=True)
        self._thread.start()

    def listen(self, namespace: str, name: str, protocol: str, port: int, address: str) -> None:
        """Answer on an address and port of a namespace; "::" is all its addresses of both families."""
        sock = open_socket(namespace, protocol, address)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, port))
        if protocol != UDP:
            sock.listen(512)
        sock.setblocking(False)
        with self._lock:
            self._waiting.append((sock, name, protocol))
        self._wake()

    def close(self) -> None:
        """End the thread and close all sockets."""
        self._is_ending = True
        self._wake()
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        self._selector.close()
        self._wake_write.close()

    def _wake(self) -> None:
        self._wake_write.send(b"!")

    def _serve(self) -> None:
        while not self._is_ending:
            for key, _ in self._selector.select():
                if key.fileobj is self._wake_read:
                    self._take_new()
                else:
                    with contextlib.suppress(OSError):
                        self._answer(key.fileobj, *key.data)  # type: ignore[arg-type]

    def _take_new(self) -> None:
        self._wake_read.recv(4096)
        with self._lock:
            waiting, self._waiting = self._waiting, []
        for sock, name, protocol in waiting:
            role = UDP if protocol == UDP else "listener"
            self._selector.register(sock, selectors.EVENT_READ, (name, role))

    def _answer(self, sock: socket.socket, name: str, role: str) -> None:
        if role == "listener":
            connection, _ = sock.accept()
            connection.setblocking(False)
            self._selector.register(connection, selectors.EVENT_READ, (name, "connection"))
        elif role == UDP:
            _, peer = sock.recvfrom(512)
            sock.sendto(_line(name, peer), peer)
        else:
            try:
                data = sock.recv(512)
            except OSError:
                data = b""
            if not data:
                self._drop(sock)
                return
            sock.sendall(_line(name, sock.getpeername()) * data.count(b"\n"))

    def _drop(self, sock: socket.socket) -> None:
        self._selector.unregister(sock)
        sock.close()


def _line(name: str, peer: tuple[object, ...]) -> bytes:
    return f"{name} {str(peer[0]).removeprefix('::ffff:')}\n".encode()
