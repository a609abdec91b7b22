"""Many clients that dial at the same time: who answers, and whom do they see?"""

from __future__ import annotations

import contextlib
import errno
import selectors
import socket
import struct
import threading
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tools.lab import talk

REFUSED, UNREACHABLE, SILENT, RESET = "refused", "unreachable", "silent", "reset"
HTTP = "http"
"""Asks over TCP for a page, as load balancers ask for the health of a node."""
_REQUESTS = {HTTP: b"GET / HTTP/1.0\r\n\r\n"}
_KINDS = {
    HTTP: (socket.SOCK_STREAM, socket.IPPROTO_TCP),
    talk.TCP: (socket.SOCK_STREAM, socket.IPPROTO_TCP),
    talk.UDP: (socket.SOCK_DGRAM, socket.IPPROTO_UDP),
    talk.SCTP: (socket.SOCK_STREAM, socket.IPPROTO_SCTP),
}
_ERRORS = {
    errno.ECONNREFUSED: REFUSED,
    errno.EHOSTUNREACH: UNREACHABLE,
    errno.ENETUNREACH: UNREACHABLE,
    errno.EACCES: UNREACHABLE,
    errno.EPERM: SILENT,  # the node's own packet was dropped by a rule
    errno.ETIMEDOUT: SILENT,
    errno.ECONNRESET: RESET,
    errno.EPIPE: RESET,
}
_AT_ONCE_GONE = struct.pack("ii", 1, 0)


class Caller(NamedTuple):
    """Who dials."""

    name: str
    namespace: str
    sources: tuple[str, str] | None = None
    """The addresses to dial from, IPv4 and IPv6, where the kernel's choice is not meant."""
    has_vips: bool = False
    """Whether the VIPs are addresses of this host."""


class Call(NamedTuple):
    """A connection to be tried."""

    caller: Caller
    protocol: str
    address: str
    port: int


def dial(calls: Iterable[Call], timeout: float, in_flight: int) -> list[tuple[Call, str]]:
    """Try all calls; return what each met: "NAME SOURCE" as the server said, or one of the failures.

    in_flight: calls at a time from one host; more than 50 would wait for the few threads that answer them.
    """
    by_caller: dict[Caller, list[Call]] = {}
    for call in calls:
        by_caller.setdefault(call.caller, []).append(call)
    outcomes: list[tuple[Call, str]] = []
    faults: list[Exception] = []

    def run(caller: Caller, share: Sequence[Call]) -> None:
        try:
            with talk.inside(caller.namespace):
                outcomes.extend(_dial(share, timeout, in_flight))
        except Exception as fault:  # raised again in the thread that asked
            faults.append(fault)

    threads = [threading.Thread(target=run, args=item) for item in by_caller.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if faults:
        raise faults[0]
    return outcomes


class _Try:
    def __init__(self, call: Call, sock: socket.socket, deadline: float) -> None:
        self.call = call
        self.sock = sock
        self.deadline = deadline
        self.has_asked = False
        self.heard = b""


def _dial(calls: Sequence[Call], timeout: float, in_flight: int) -> list[tuple[Call, str]]:
    waiting = list(reversed(calls))
    done: list[tuple[Call, str]] = []
    with selectors.DefaultSelector() as selector, contextlib.ExitStack() as stack:
        tries: set[_Try] = set()
        stack.callback(lambda: [one.sock.close() for one in tries])

        def end(one: _Try, outcome: str) -> None:
            tries.discard(one)
            selector.unregister(one.sock)
            one.sock.close()
            done.append((one.call, outcome))

        while waiting or tries:
            while waiting and len(tries) < in_flight:
                call = waiting.pop()
                try:
                    sock = _connecting(call)
                except OSError as error:
                    done.append((call, _failure(error)))
                    continue
                one = _Try(call, sock, time.monotonic() + timeout)
                selector.register(sock, selectors.EVENT_WRITE, one)
                tries.add(one)
            if not tries:
                continue
            first = min(one.deadline for one in tries)
            for key, _ in selector.select(max(0.0, first - time.monotonic())):
                one = key.data
                try:
                    answer = _go_on(one, selector)
                except OSError as error:
                    end(one, _failure(error))
                else:
                    if answer is not None:
                        end(one, answer)
            now = time.monotonic()
            for one in [one for one in tries if one.deadline <= now]:
                end(one, _in_vain(one))
    return done


def _connecting(call: Call) -> socket.socket:
    is_ipv6 = ":" in call.address
    sock = socket.socket(socket.AF_INET6 if is_ipv6 else socket.AF_INET, *_KINDS[call.protocol])
    try:
        sock.setblocking(False)
        if call.protocol != talk.UDP:
            # The client goes with a reset: nothing of it is left to drain.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE_GONE)
        if call.caller.sources:
            sock.bind((call.caller.sources[is_ipv6], 0))
        elif call.caller.has_vips and is_ipv6 and call.protocol == talk.SCTP:
            _bind_to_one(sock, call.address)
        number = sock.connect_ex((call.address, call.port))
        if number not in (0, errno.EINPROGRESS):
            raise OSError(number, "connect")
    except BaseException:
        sock.close()
        raise
    return sock


def _bind_to_one(sock: socket.socket, address: str) -> None:
    """Bind to the address that is dialled, where this host has it: the kernel would choose it as the source.

    An unbound association begins with all IPv6 addresses of its host: with the VIPs of a batch that is more
    than the MTU, and IPVS sends on no such packet of IPv6.
    """
    with contextlib.suppress(OSError):
        sock.bind((address, 0))


def _go_on(one: _Try, selector: selectors.BaseSelector) -> str | None:
    if not one.has_asked:
        number = one.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            raise OSError(number, "connect")
        try:
            one.sock.send(_REQUESTS.get(one.call.protocol, b"who\n"))
        except OSError as error:
            # The node's own datagram was dropped; if by IPVS, the next is that the port is closed.
            if error.errno != errno.EPERM:
                raise
        one.has_asked = True
        selector.modify(one.sock, selectors.EVENT_READ, one)
        return None
    data = one.sock.recv(4096)
    if one.call.protocol == HTTP:
        one.heard += data
        return None if data else _page(one.heard)
    return data.decode().strip() if data else RESET


def _in_vain(one: _Try) -> str:
    """Return what a call met that took too long: SCTP hears that a port is closed, and still tries on."""
    number = 0 if one.has_asked else one.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    return _failure(OSError(number, "connect")) if number else SILENT


def _page(heard: bytes) -> str:
    """Return status, content type, weight and content of a page, in one word."""
    head, _, body = heard.decode().partition("\r\n\r\n")
    status, *lines = head.split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    content = "".join(body.split())
    names = ("content-type", "x-content-type-options", "x-load-balancing-endpoint-weight")
    said = ";".join(f"{name}={headers.get(name)}" for name in names)
    return f"{status.split()[1]};{said};{content}"


def _failure(error: OSError) -> str:
    if error.errno not in _ERRORS:
        raise error
    return _ERRORS[error.errno]
