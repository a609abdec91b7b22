"""The kernel's own floor: the bytes that an agent sent, replayed from memory, and nothing else."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from unittest import mock

from ipvs_agent.kernel import netlink
from ipvs_agent.kernel.netlink import NETLINK_GENERIC, NETLINK_NETFILTER, NETLINK_ROUTE

WHAT: Mapping[int, str] = {NETLINK_GENERIC: "ipvs", NETLINK_NETFILTER: "sets", NETLINK_ROUTE: "vips"}
"""What the messages of each protocol are about."""

_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port
_ANSWER = struct.Struct("=IHHIIi")  # the same, and the number of the error
_NOOP = 1
_SOL_NETLINK, _CAP_ACK = 270, 10
_SNDBUFFORCE, _RCVBUFFORCE = 32, 33
_BUFFER = 8 * 1024 * 1024


class Recording:
    """Bursts of netlink messages as they were sent, each with the protocol of its socket."""

    def __init__(self) -> None:
        self.bursts: list[tuple[int, bytes]] = []

    @contextlib.contextmanager
    def record(self) -> Iterator[None]:
        """Note every burst that the sockets send which are made in a with block; a lone question is none."""
        noted = self.bursts

        class NotingSocket(socket.socket):
            def send(self, data: bytes, flags: int = 0, /) -> int:  # type: ignore[override]
                if has_barrier(data):
                    noted.append((self.proto, bytes(data)))
                return super().send(data, flags)

        with mock.patch.object(netlink, "socket", SimpleNamespace(**vars(socket) | {"socket": NotingSocket})):
            yield

    def replay(self) -> dict[str, float]:
        """Send all of it again; return the seconds by what it is about. Every message must be accepted."""
        seconds = dict.fromkeys(WHAT.values(), 0.0)
        room = memoryview(bytearray(4096))
        with contextlib.ExitStack() as opened:
            sockets = {protocol: opened.enter_context(_open(protocol)) for protocol in WHAT}
            for protocol, burst in self.bursts:
                sock = sockets[protocol]
                started = time.perf_counter()
                sock.send(burst)
                size = sock.recv_into(room, 0, socket.MSG_DONTWAIT)
                seconds[WHAT[protocol]] += time.perf_counter() - started
                refusal = refusal_of(burst, room[:size])
                if refusal:
                    _drain(sock, room)
                # The address that keeps the routes is asked for with each batch of them (kernel/vips.py).
                if refusal and (WHAT[protocol], refusal) != ("vips", os.strerror(errno.EEXIST)):
                    raise RuntimeError(
                        f"the kernel refused a replayed message of {WHAT[protocol]}: {refusal}"
                    )
        return seconds


def has_barrier(data: bytes) -> bool:
    """Tell whether something sent ends with the message that is acknowledged when all before it are done."""
    if len(data) < _HEADER.size:
        return False
    length, kind, *_ = _HEADER.unpack_from(data, len(data) - _HEADER.size)
    return bool(length == _HEADER.size and kind == _NOOP)


def refusal_of(burst: bytes, answer: bytes | memoryview) -> str:
    """Return what the first answer to a burst says was refused; only failures answer before the barrier."""
    *_, sequence, _port = _HEADER.unpack_from(burst, len(burst) - _HEADER.size)
    _length, _kind, _flags, answered, _port, error = _ANSWER.unpack_from(answer)
    if error or answered != sequence:
        return os.strerror(-error)
    return ""


def _drain(sock: socket.socket, room: memoryview) -> None:
    """Take what other answers there are to a burst."""
    with contextlib.suppress(BlockingIOError):
        while True:
            sock.recv_into(room, 0, socket.MSG_DONTWAIT)


def _open(protocol: int) -> socket.socket:
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
    sock.bind((0, 0))
    sock.setsockopt(_SOL_NETLINK, _CAP_ACK, 1)
    for option in (_SNDBUFFORCE, _RCVBUFFORCE):
        sock.setsockopt(socket.SOL_SOCKET, option, _BUFFER)
    return sock
