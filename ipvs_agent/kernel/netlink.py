"""One batching transport for all netlink families.

A request for each message costs a system call and a reply for each; here messages are sent in bursts of a
thousand and more, only failures answer, and an acknowledged NLMSG_NOOP behind the burst proves that all of
it was worked through (in order: netlink_rcv_skb in net/netlink/af_netlink.c). Failures carry the
sequence number of their message, which is how they find their operation.

The kernel handles a request before send() returns, and has the next part of a dump ready before recv()
returns. So nothing here ever waits: an answer that is not there yet will never be. That happens, as when a
handler returns EINTR, which netlink_rcv_skb does not report.

What the socket itself refuses, for want of memory say, is a refusal like all others: of whatever was sent at
once and is not answered yet.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import socket
import struct
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from ipvs_agent.errors import (
    AlreadyExists,
    InvalidRequest,
    KernelError,
    MissingModule,
    NotFound,
    PermissionDenied,
)

NETLINK_ROUTE = 0
NETLINK_NETFILTER = 12
NETLINK_GENERIC = 16

NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLM_F_DUMP = 0x300
NLM_F_REPLACE = 0x100
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400

_NLM_F_DUMP_INTR = 0x10
_NLM_F_CAPPED = 0x100
_NLM_F_ACK_TLVS = 0x200
_NLMSG_NOOP = 1
_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_NLMSGERR_ATTR_MSG = 1
_SOL_NETLINK = 270
_NETLINK_CAP_ACK = 10
_NETLINK_EXT_ACK = 11
_NETLINK_GET_STRICT_CHK = 12  # rtnetlink dumps heed the filter in their request
_SO_SNDBUFFORCE = 32
_SO_RCVBUFFORCE = 33

NLA_F_NESTED = 0x8000
NLA_F_NET_BYTEORDER = 0x4000
NLA_TYPE_MASK = 0x3FFF

NFGENMSG = struct.Struct("=BBH")
"""Of each message of nfnetlink behind its header: family, version, resource."""
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port
_ATTRIBUTE = struct.Struct("=HH")  # struct nlattr: length, type
_ERROR = struct.Struct("=i")

_BURST = 128 * 1024  # among so many messages a system call does not show
# Every message of a burst may fail, and each failure takes about 1 KiB of the receive buffer.
_BUFFER = 8 * 1024 * 1024
_READ = 256 * 1024  # the kernel fills dump replies up to 32 KiB when the reader offers that much
_DUMP_TRIES = 8


class Message(NamedTuple):
    """A request without its header; where there are many of them, plain tuples are as good."""

    type: int
    flags: int
    """Beside NLM_F_REQUEST, which is always set."""
    payload: bytes


class Refusal(NamedTuple):
    """A message that the kernel did not carry out."""

    number: int
    """The errno."""
    text: str
    """What the kernel says beside the errno; mostly empty."""
    echo: bytes
    """The request as the kernel sent it back; ipset marks in it how far it came."""

    def __str__(self) -> str:
        return self.text or os.strerror(self.number)


Request = tuple[int, int, bytes]
"""What a Message is made of."""

_Answer = tuple[int, int, int, bytes]
"""Type, flags, sequence number and payload."""

_SILENCE = Refusal(errno.EINTR, "the kernel gave no answer", b"")


class NetlinkSocket:
    """A socket of one netlink protocol in the network namespace of the thread that made it."""

    def __init__(self, protocol: int) -> None:
        self.protocol = protocol
        with _refusing("netlink socket"):
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
            self._socket.bind((0, 0))
            for option in (_NETLINK_CAP_ACK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK):
                self._socket.setsockopt(_SOL_NETLINK, option, 1)
            for option in (_SO_SNDBUFFORCE, _SO_RCVBUFFORCE):
                # Needs CAP_NET_ADMIN; whoever lacks it is told so by the first request, in better words.
                with contextlib.suppress(PermissionError):
                    self._socket.setsockopt(socket.SOL_SOCKET, option, _BUFFER)
        self._sequence = 0
        # Kept, for a fresh one at each read costs more than the read.
        self._buffer = memoryview(bytearray(_READ))

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def send(self, messages: Sequence[Request]) -> list[Refusal | None]:
        """Send messages in order; return for each None where the kernel carried it out, else why not."""
        outcomes: list[Refusal | None] = []
        while len(outcomes) < len(messages):
            count, burst = self._burst(messages, len(outcomes))
            outcomes += self._outcomes(count, burst)
        return outcomes

    def _burst(self, messages: Sequence[Request], start: int) -> tuple[int, bytes]:
        """Return how many messages a burst holds, from start on, and the burst with the barrier."""
        # A cold start comes by here for every real server of the cluster.
        parts: list[bytes] = []
        append, pack = parts.append, _HEADER.pack
        size, sequence = 0, self._sequence
        for kind, flags, payload in itertools.islice(messages, start, None):
            length = 16 + len(payload)
            if size + length > _BURST and size:
                break
            sequence += 1
            append(pack(length, kind, flags | NLM_F_REQUEST, sequence, 0))
            append(payload)
            size += length
            if length & 3:
                append(b"\0" * (-length & 3))
                size += -length & 3
        count = sequence - self._sequence
        self._sequence = sequence + 1
        parts.append(_HEADER.pack(16, _NLMSG_NOOP, NLM_F_REQUEST | NLM_F_ACK, self._sequence, 0))
        return count, b"".join(parts)

    def _outcomes(self, count: int, burst: bytes) -> list[Refusal | None]:
        """Send a burst of so many messages and return their outcomes."""
        outcomes: list[Refusal | None] = [None] * count
        first = self._sequence - count
        # Without the barrier, silence is no success: nfnetlink may refuse a burst by its first message alone.
        silence = _SILENCE
        try:
            self._socket.send(burst)
            for kind, flags, sequence, payload in self._answers():
                if kind != _NLMSG_ERROR or sequence < first:
                    continue
                if sequence == self._sequence:
                    return outcomes
                outcomes[sequence - first] = _refusal(flags, payload)
        except OSError as error:
            silence = _refusal_of_socket(error)
        return [outcome or silence for outcome in outcomes]

    def ask(self, message: Message, what: str = "netlink request") -> list[bytes]:
        """Send one request and return the payloads of its answers; raise KernelError where it is refused.

        what: the request, in the words of the error.
        """
        answers: list[bytes] = []
        self._sequence += 1
        sequence = self._sequence
        header = _HEADER.pack(
            16 + len(message.payload), message.type, message.flags | NLM_F_REQUEST | NLM_F_ACK, sequence, 0
        )
        with _refusing(what):
            self._socket.send(header + message.payload)
            for kind, flags, answered, payload in self._answers():
                if answered != sequence:
                    continue
                if kind == _NLMSG_ERROR:
                    refusal = _refusal(flags, payload)
                    if refusal is not None:
                        raise kernel_error(what, refusal)
                    return answers
                answers.append(payload)
        raise kernel_error(what, _SILENCE)

    def dump(self, message: Message) -> list[bytes]:
        """Return the payloads of a dump, read again where the kernel says that it changed underneath."""
        (payloads,) = self.dumps([message])
        return payloads

    def dumps(self, messages: Sequence[Message]) -> list[list[bytes]]:
        """Return the payloads of several dumps, each as `dump` does.

        All are received before any is taken apart: what runs between system calls runs slowly, since the
        kernel has put its own things into the processor's caches.
        """
        with _refusing("netlink dump"):
            gathered = [self._gather(message) for message in messages]
            return [
                self._payloads(message, sequence, parts)
                for message, (sequence, parts) in zip(messages, gathered, strict=True)
            ]

    def _payloads(self, message: Message, sequence: int, parts: list[bytes]) -> list[bytes]:
        payloads, is_interrupted = _take_apart(sequence, parts)
        for _ in range(_DUMP_TRIES - 1):
            if not is_interrupted:
                break
            payloads, is_interrupted = _take_apart(*self._gather(message))
        return payloads

    def _gather(self, message: Message) -> tuple[int, list[bytes]]:
        """Send a dump request; return its sequence number and what was received until its end."""
        self._sequence += 1
        header = _HEADER.pack(
            16 + len(message.payload),
            message.type,
            message.flags | NLM_F_REQUEST | NLM_F_DUMP,
            self._sequence,
            0,
        )
        self._socket.send(header + message.payload)
        parts: list[bytes] = []
        for data in self._receive():
            parts.append(data)
            _length, kind, _flags, sequence, _port = _HEADER.unpack_from(data)
            # Where the end comes with the last answers, there is nothing behind it either.
            if kind <= _NLMSG_DONE and sequence == self._sequence:
                break
        return self._sequence, parts

    def _answers(self) -> Iterator[_Answer]:
        """Return type, flags, sequence number and payload of each message that the kernel has for us."""
        return itertools.chain.from_iterable(map(received, self._receive()))

    def _receive(self) -> Iterator[bytes]:
        """Yield what the kernel has for us, each time as much as it gives at once."""
        while True:
            try:
                size = self._socket.recv_into(self._buffer, 0, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError as error:
                # Answers were lost for want of room, the barrier too; those before them can be read.
                if error.errno != errno.ENOBUFS:
                    raise
                continue
            yield bytes(self._buffer[:size])


def _take_apart(sequence: int, parts: Iterable[bytes]) -> tuple[list[bytes], bool]:
    """Return the payloads of what was received for a dump, and whether it changed underneath."""
    payloads: list[bytes] = []
    is_interrupted = False
    for kind, flags, answered, payload in itertools.chain.from_iterable(map(received, parts)):
        if answered != sequence:
            continue
        if flags & _NLM_F_DUMP_INTR:
            is_interrupted = True
        if kind > _NLMSG_DONE:  # those below are netlink's own
            payloads.append(payload)
        elif kind == _NLMSG_ERROR:
            refusal = _refusal(flags, payload)
            if refusal is not None:
                raise kernel_error("netlink dump", refusal)
        elif kind == _NLMSG_DONE:
            number = -_ERROR.unpack_from(payload)[0] if len(payload) >= 4 else 0
            if number:
                raise kernel_error("netlink dump", Refusal(number, "", b""))
            return payloads, is_interrupted
    raise kernel_error("netlink dump", _SILENCE)


def received(data: bytes) -> Iterator[_Answer]:
    """Yield type, flags, sequence number and payload of each message in what was received at once."""
    # A dump of everything comes by here a hundred thousand times.
    unpack, offset, last = _HEADER.unpack_from, 0, len(data) - 16
    while offset <= last:
        length, kind, flags, sequence, _port = unpack(data, offset)
        yield kind, flags, sequence, data[offset + 16 : offset + length]
        offset += (length + 3) & ~3


def _refusal(flags: int, payload: bytes) -> Refusal | None:
    number = -_ERROR.unpack_from(payload)[0]
    if not number:
        return None
    echo = payload[4:]
    text = ""
    if flags & _NLM_F_ACK_TLVS:
        echoed = 16 if flags & _NLM_F_CAPPED else _HEADER.unpack_from(echo)[0]
        message = attributes(echo, (echoed + 3) & ~3).get(_NLMSGERR_ATTR_MSG, b"")
        text = message.rstrip(b"\0").decode("ascii", "replace")
    return Refusal(number, text, echo)


def _refusal_of_socket(error: OSError) -> Refusal:
    return Refusal(error.errno or errno.EIO, "", b"")


@contextlib.contextmanager
def _refusing(what: str) -> Iterator[None]:
    """Raise what the socket refuses as KernelError, in the words of the request."""
    try:
        yield
    except OSError as error:
        raise kernel_error(what, _refusal_of_socket(error)) from error


_KINDS: Mapping[int, type[KernelError]] = {
    errno.EPERM: PermissionDenied,
    errno.EACCES: PermissionDenied,
    errno.ENOENT: NotFound,
    errno.ESRCH: NotFound,
    errno.EEXIST: AlreadyExists,
    errno.EINVAL: InvalidRequest,
    errno.ERANGE: InvalidRequest,
    errno.EAFNOSUPPORT: InvalidRequest,
}


def kernel_error(what: str, refusal: Refusal) -> KernelError:
    """Return the error for a refusal whose errno means the same for every request."""
    kind = _KINDS.get(refusal.number, KernelError)
    return kind(f"{what}: {refusal}", refusal.number)


# --- Attributes ---------------------------------------------------------------------------------------------


def attribute(kind: int, value: bytes) -> bytes:
    """Pack one attribute with its padding."""
    return _ATTRIBUTE.pack(4 + len(value), kind) + value + b"\0" * (-len(value) & 3)


def attributes(data: bytes, offset: int = 0) -> Mapping[int, bytes]:
    """Return the values of a run of attributes by type, flags cleared; of repeated ones the last."""
    return dict(iterate_attributes(data, offset))


def iterate_attributes(data: bytes, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    """Yield type, with its flags cleared, and value of each attribute in a run."""
    end = len(data)
    while offset + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < 4:
            return
        yield kind & NLA_TYPE_MASK, data[offset + 4 : offset + length]
        offset += (length + 3) & ~3


# --- Generic netlink ----------------------------------------------------------------------------------------

_GENL_ID_CTRL = 16
_CTRL_CMD_GETFAMILY = 3
_CTRL_ATTR_FAMILY_ID = 1
_CTRL_ATTR_FAMILY_NAME = 2
_GENL_HEADER = struct.Struct("=BBH")


def generic_header(command: int, version: int) -> bytes:
    """Pack struct genlmsghdr."""
    return _GENL_HEADER.pack(command, version, 0)


def generic_family(sock: NetlinkSocket, name: str) -> int:
    """Return the message type of a generic netlink family; MissingModule where the kernel does not have it.

    Asking makes the kernel try to load the module that offers the family.
    """
    payload = generic_header(_CTRL_CMD_GETFAMILY, 1) + attribute(
        _CTRL_ATTR_FAMILY_NAME, name.encode() + b"\0"
    )
    try:
        answers = sock.ask(Message(_GENL_ID_CTRL, 0, payload))
    except NotFound as error:
        raise MissingModule(f"this kernel has no netlink family {name}", error.number) from error
    return int.from_bytes(attributes(answers[0], 4)[_CTRL_ATTR_FAMILY_ID], sys.byteorder)
