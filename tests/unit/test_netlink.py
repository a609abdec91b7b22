from __future__ import annotations

import errno
import os
import struct

import pytest

from ipvs_agent import errors
from ipvs_agent.kernel import netlink
from ipvs_agent.kernel.netlink import Message, NetlinkSocket, Refusal

HEADER = struct.Struct("=IHHII")
NOOP, ERROR, DONE = 1, 2, 3
REQUEST, ACK = 0x1, 0x4
INTERRUPTED, CAPPED, HAS_ATTRIBUTES = 0x10, 0x100, 0x200


def message(kind, flags, sequence, payload=b""):
    data = HEADER.pack(16 + len(payload), kind, flags, sequence, 0) + payload
    return data + b"\0" * (-len(data) & 3)


def split(data):
    """Return type, flags, sequence and payload of each message, as netlink_rcv_skb finds them."""
    found = []
    while data:
        length, kind, flags, sequence, _port = HEADER.unpack_from(data)
        found.append((kind, flags, sequence, data[16:length]))
        data = data[(length + 3) & ~3 :]
    return found


def error_of(request, number, text=""):
    """Answer a request as netlink_ack does with NETLINK_CAP_ACK and NETLINK_EXT_ACK."""
    kind, flags, sequence, payload = request
    echo = HEADER.pack(16 + len(payload), kind, flags, sequence, 0)
    extra = netlink.attribute(1, text.encode() + b"\0") if text else b""
    answer = struct.pack("=i", -number) + echo + extra
    return message(ERROR, CAPPED | (HAS_ATTRIBUTES if text else 0), sequence, answer)


class Kernel:
    """Stands for a socket: what is sent is answered by `handle` before send() returns.

    handle: takes one message and returns its errno (0: done), the datagrams of its answer, or None: silence.
    """

    def __init__(self, handle=lambda request: 0):
        self.handle = handle
        self.sent = []
        self.options = {}
        self.answers = []

    def bind(self, address):
        assert address == (0, 0)

    def setsockopt(self, level, option, value):
        self.options[level, option] = value

    def send(self, data):
        self.sent.append(split(data))
        for request in self.sent[-1]:
            kind, flags, *_ = request
            assert flags & REQUEST
            outcome = 0 if kind == NOOP else self.handle(request)
            if isinstance(outcome, list):
                self.answers += outcome
                outcome = 0
            if outcome or (outcome == 0 and flags & ACK):
                number, text = outcome if isinstance(outcome, tuple) else (outcome, "")
                self.answers.append(error_of(request, number, text))
        return len(data)

    def recv_into(self, buffer, size, flags):
        if not self.answers:
            raise BlockingIOError
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        buffer[: len(answer)] = answer
        return len(answer)

    def close(self):
        self.options = None


@pytest.fixture
def kernel(monkeypatch):
    kernel = Kernel()
    monkeypatch.setattr(netlink.socket, "socket", lambda *_arguments: kernel)
    return kernel


@pytest.fixture
def sock(kernel):
    return NetlinkSocket(netlink.NETLINK_GENERIC)


def refuse(numbers):
    """Refuse messages by their payload."""
    return lambda request: numbers.get(request[3], 0)


def payloads(*texts):
    return [Message(33, 0, text) for text in texts]


class TestSend:
    def test_messages_of_a_burst_are_framed_padded_and_numbered(self, kernel, sock):
        assert (
            sock.send([Message(33, 0x400, b"abcde"), Message(34, 0, b""), Message(35, 0, b"x")]) == [None] * 3
        )

        assert kernel.sent == [
            [
                (33, 0x400 | REQUEST, 1, b"abcde"),
                (34, REQUEST, 2, b""),
                (35, REQUEST, 3, b"x"),
                (NOOP, REQUEST | ACK, 4, b""),
            ]
        ]

    def test_nothing_to_send_sends_nothing(self, kernel, sock):
        assert sock.send([]) == []
        assert kernel.sent == []

    def test_refusals_find_their_messages(self, kernel, sock):
        kernel.handle = refuse({b"b": errno.EEXIST, b"d": errno.ENOENT})

        outcomes = sock.send(payloads(b"a", b"b", b"c", b"d", b"e"))

        numbers = [outcome and outcome.number for outcome in outcomes]
        assert [None, errno.EEXIST, None, errno.ENOENT, None] == numbers

    def test_many_messages_go_in_bursts_of_at_most_128_kib(self, kernel, sock):
        sock.send([Message(33, 0, bytes(1000))] * 300)

        assert [129, 129, 42] == [len(burst) - 1 for burst in kernel.sent]

    def test_refusals_find_their_messages_in_every_burst(self, kernel, sock):
        texts = [number.to_bytes(2) + bytes(1000) for number in range(300)]
        bad = {0, 128, 129, 200, 299}
        kernel.handle = refuse({texts[number]: errno.EINVAL for number in bad})

        outcomes = sock.send(payloads(*texts))

        assert bad == {number for number, outcome in enumerate(outcomes) if outcome}

    def test_a_message_larger_than_a_burst_goes_alone(self, kernel, sock):
        sock.send([Message(33, 0, b"a"), Message(33, 0, bytes(200 * 1024)), Message(33, 0, b"b")])

        assert [1, 1, 1] == [len(burst) - 1 for burst in kernel.sent]

    def test_a_message_that_asks_for_an_acknowledgement_has_no_refusal(self, sock):
        assert sock.send([Message(33, ACK, b"a")]) == [None]

    def test_a_refusal_says_what_the_kernel_says(self, kernel, sock):
        kernel.handle = lambda request: (errno.EINVAL, "address is not unicast")

        (refusal,) = sock.send(payloads(b"abc"))

        assert str(refusal) == "address is not unicast"
        assert refusal.number == errno.EINVAL
        assert refusal.echo.startswith(HEADER.pack(19, 33, REQUEST, 1, 0))

    def test_a_refusal_without_words_says_what_its_errno_says(self, kernel, sock):
        kernel.handle = lambda request: errno.ESRCH

        (refusal,) = sock.send(payloads(b"abc"))

        assert str(refusal) == "No such process"

    def test_without_the_barrier_silence_is_no_success(self, kernel, sock):
        """nfnetlink_rcv answers a burst without CAP_NET_ADMIN by refusing its first message alone."""
        kernel.send = lambda data: kernel.answers.append(error_of(split(data)[0], errno.EPERM))

        outcomes = sock.send(payloads(b"a", b"b"))

        assert [errno.EPERM, errno.EINTR] == [outcome.number for outcome in outcomes]
        assert str(outcomes[1]) == "the kernel gave no answer"

    def test_answers_lost_for_want_of_room_do_not_hide_those_that_were_kept(self, kernel, sock):
        def overflow(data):
            requests = split(data)
            kernel.answers += [
                OSError(errno.ENOBUFS, "No buffer space available"),
                error_of(requests[0], errno.EEXIST),
            ]

        kernel.send = overflow

        assert [errno.EEXIST, errno.EINTR] == [each.number for each in sock.send(payloads(b"a", b"b"))]

    def test_answers_to_earlier_requests_are_passed_over(self, kernel, sock):
        sock.send(payloads(b"a", b"b"))
        kernel.answers.append(error_of((33, REQUEST, 1, b""), errno.EBUSY))

        assert sock.send(payloads(b"c")) == [None]


class TestAsk:
    def test_the_answers_before_the_acknowledgement(self, kernel, sock):
        def handle(request):
            return [message(33, 0, request[2], b"one!") + message(33, 0, request[2], b"two!")]

        kernel.handle = handle

        assert sock.ask(Message(33, 0, b"")) == [b"one!", b"two!"]

    @pytest.mark.parametrize(
        ("number", "kind"),
        [
            pytest.param(errno.EPERM, errors.PermissionDenied, id="EPERM"),
            pytest.param(errno.ENOENT, errors.NotFound, id="ENOENT"),
            pytest.param(errno.ESRCH, errors.NotFound, id="ESRCH"),
            pytest.param(errno.EEXIST, errors.AlreadyExists, id="EEXIST"),
            pytest.param(errno.EINVAL, errors.InvalidRequest, id="EINVAL"),
            pytest.param(errno.ENOMEM, errors.KernelError, id="ENOMEM"),
        ],
    )
    def test_a_refusal_is_raised_in_the_words_of_the_request(self, kernel, sock, number, kind):
        kernel.handle = lambda request: (number, "not today")

        with pytest.raises(kind, match=r"^info: not today$") as caught:
            sock.ask(Message(33, 0, b""), "info")

        assert type(caught.value) is kind
        assert number == caught.value.number

    def test_a_handler_that_is_interrupted_answers_nothing_and_is_not_waited_for(self, kernel, sock):
        kernel.handle = lambda request: None

        with pytest.raises(errors.KernelError, match="the kernel gave no answer") as caught:
            sock.ask(Message(33, 0, b""))

        assert caught.value.number == errno.EINTR

    def test_answers_to_earlier_requests_are_passed_over(self, kernel, sock):
        kernel.handle = lambda request: [message(33, 0, 99, b"old!"), message(33, 0, request[2], b"new!")]

        assert sock.ask(Message(33, 0, b"")) == [b"new!"]


def dumped(*parts, status=0, flags=0):
    """Answer a dump with one datagram for each part, the last one followed by the end."""

    def handle(request):
        assert request[1] & netlink.NLM_F_DUMP == netlink.NLM_F_DUMP
        sequence = request[2]
        end = message(DONE, flags, sequence, struct.pack("=i", -status))
        return [b"".join(message(33, flags, sequence, each) for each in part) for part in parts] + [end]

    return handle


class TestDump:
    def test_the_parts_are_joined(self, kernel, sock):
        kernel.handle = dumped([b"1234", b"5678"], [b"9"])

        assert sock.dump(Message(33, 0, b"")) == [b"1234", b"5678", b"9"]

    def test_an_empty_dump(self, kernel, sock):
        kernel.handle = dumped()

        assert sock.dump(Message(33, 0, b"")) == []

    def test_a_dump_that_changed_underneath_is_read_again(self, kernel, sock):
        rounds = [dumped([b"old!"], flags=INTERRUPTED), dumped([b"new!"])]

        def handle(request):
            return rounds.pop(0)(request)

        kernel.handle = handle

        assert sock.dump(Message(33, 0, b"")) == [b"new!"]

    def test_a_dump_that_always_changes_ends_with_the_last_one(self, kernel, sock):
        kernel.handle = dumped([b"some"], flags=INTERRUPTED)

        assert sock.dump(Message(33, 0, b"")) == [b"some"]
        assert len(kernel.sent) == 8

    def test_a_refused_dump(self, kernel, sock):
        kernel.handle = lambda request: errno.EPERM

        with pytest.raises(errors.PermissionDenied):
            sock.dump(Message(33, 0, b""))

    def test_a_dump_that_fails_on_its_way(self, kernel, sock):
        kernel.handle = dumped([b"some"], status=errno.ENOENT)

        with pytest.raises(errors.NotFound):
            sock.dump(Message(33, 0, b""))

    def test_a_dump_without_its_end(self, kernel, sock):
        kernel.handle = lambda request: [message(33, 0, request[2], b"some")]

        with pytest.raises(errors.KernelError, match="no answer"):
            sock.dump(Message(33, 0, b""))


def broken(number):
    def send(data):
        raise OSError(number, "what the system calls it")

    return send


errnos = pytest.mark.parametrize(
    ("number", "kind"),
    [
        pytest.param(errno.ENOBUFS, errors.KernelError, id="ENOBUFS"),
        pytest.param(errno.ENOMEM, errors.KernelError, id="ENOMEM"),
        pytest.param(errno.EPERM, errors.PermissionDenied, id="EPERM"),
    ],
)


class TestASocketThatRefuses:
    """It must not end the agent: the same request may succeed a moment later."""

    def test_all_of_a_burst_is_refused(self, kernel, sock):
        kernel.send = broken(errno.ENOBUFS)

        assert [Refusal(errno.ENOBUFS, "", b"")] * 2 == sock.send(payloads(b"a", b"b"))

    def test_the_other_bursts_are_sent(self, kernel, sock):
        attempts = [broken(errno.ENOBUFS), kernel.send, broken(errno.ENOMEM)]

        def send(data):
            return attempts.pop(0)(data)

        kernel.send = send

        outcomes = sock.send([Message(33, 0, bytes(1000))] * 300)

        numbers = [outcome and outcome.number for outcome in outcomes]
        assert [errno.ENOBUFS] * 129 + [None] * 129 + [errno.ENOMEM] * 42 == numbers

    def test_what_is_sent_next_has_answers_of_its_own(self, kernel, sock):
        send, kernel.send = kernel.send, broken(errno.ENOBUFS)
        sock.send(payloads(b"a"))
        kernel.send, kernel.handle = send, refuse({b"b": errno.EEXIST})

        outcomes = sock.send(payloads(b"b", b"c"))

        assert [errno.EEXIST, None] == [outcome and outcome.number for outcome in outcomes]

    def test_refusals_that_were_read_before_answers_cannot_be(self, kernel, sock):
        def send(data):
            kernel.answers += [error_of(split(data)[0], errno.EEXIST), OSError(errno.EBADF, "closed")]

        kernel.send = send

        assert [errno.EEXIST, errno.EBADF] == [each.number for each in sock.send(payloads(b"a", b"b"))]

    @errnos
    @pytest.mark.parametrize(
        ("words", "request_by"),
        [
            pytest.param("info", lambda sock: sock.ask(Message(33, 0, b""), "info"), id="ask"),
            pytest.param("netlink dump", lambda sock: sock.dump(Message(33, 0, b"")), id="dump"),
        ],
    )
    def test_a_question_is_answered_by_an_error_in_its_words(
        self, kernel, sock, number, kind, words, request_by
    ):
        kernel.send = broken(number)

        with pytest.raises(kind, match=f"^{words}: {os.strerror(number)}$") as caught:
            request_by(sock)

        assert type(caught.value) is kind
        assert number == caught.value.number

    @pytest.mark.parametrize("request_by", [NetlinkSocket.ask, NetlinkSocket.dump])
    def test_answers_that_cannot_be_read(self, kernel, sock, request_by):
        kernel.handle = lambda request: [OSError(errno.EBADF, "closed")]

        with pytest.raises(errors.KernelError, match="Bad file descriptor") as caught:
            request_by(sock, Message(33, 0, b""))

        assert errno.EBADF == caught.value.number

    @errnos
    def test_a_socket_that_cannot_be_made(self, monkeypatch, number, kind):
        monkeypatch.setattr(netlink.socket, "socket", lambda *_arguments: broken(number)(b""))

        with pytest.raises(kind, match=f"^netlink socket: {os.strerror(number)}$") as caught:
            NetlinkSocket(netlink.NETLINK_GENERIC)

        assert number == caught.value.number


class TestSocket:
    def test_large_buffers_and_short_errors_with_words_are_asked_for(self, kernel, sock):
        large = 8 * 1024 * 1024
        expected = {"SO_SNDBUFFORCE": large, "SO_RCVBUFFORCE": large}
        expected |= {"NETLINK_CAP_ACK": 1, "NETLINK_EXT_ACK": 1}

        named = {
            "SO_SNDBUFFORCE": kernel.options[1, 32],
            "SO_RCVBUFFORCE": kernel.options[1, 33],
            "NETLINK_CAP_ACK": kernel.options[270, 10],
            "NETLINK_EXT_ACK": kernel.options[270, 11],
        }
        assert expected == named

    def test_it_can_be_made_without_the_capability_for_large_buffers(self, kernel):
        def refuse_large_buffers(level, option, value):
            if level == 1:
                raise PermissionError(errno.EPERM, "Operation not permitted")

        kernel.setsockopt = refuse_large_buffers

        assert NetlinkSocket(netlink.NETLINK_GENERIC).send(payloads(b"a")) == [None]

    def test_close(self, kernel, sock):
        sock.close()

        assert kernel.options is None


class TestAttributes:
    @pytest.mark.parametrize("size", range(6))
    def test_an_attribute_is_padded_and_reads_back(self, size):
        packed = netlink.attribute(7, bytes(range(size)))

        assert len(packed) % 4 == 0
        assert netlink.attributes(packed) == {7: bytes(range(size))}

    def test_flags_of_types_are_cleared_and_order_is_kept(self):
        data = netlink.attribute(netlink.NLA_F_NESTED | 2, b"abc") + netlink.attribute(
            netlink.NLA_F_NET_BYTEORDER | 1, b"\1\2"
        )

        assert list(netlink.iterate_attributes(data)) == [(2, b"abc"), (1, b"\1\2")]

    def test_an_offset_is_skipped(self):
        assert netlink.attributes(b"head" + netlink.attribute(1, b"x"), 4) == {1: b"x"}

    def test_a_broken_run_ends_it(self):
        data = netlink.attribute(1, b"x") + b"\0\0\0\0" + netlink.attribute(2, b"y")

        assert netlink.attributes(data) == {1: b"x"}


class TestGenericFamily:
    def test_the_id_of_a_family(self, kernel, sock):
        answer = netlink.generic_header(1, 2) + netlink.attribute(1, struct.pack("=H", 29))
        kernel.handle = lambda request: [message(16, 0, request[2], answer)]

        assert netlink.generic_family(sock, "IPVS") == 29
        ((_kind, _flags, _sequence, payload),) = kernel.sent[0]
        assert netlink.attributes(payload, 4) == {2: b"IPVS\0"}

    def test_a_kernel_without_the_family(self, kernel, sock):
        kernel.handle = lambda request: errno.ENOENT

        with pytest.raises(errors.MissingModule, match="this kernel has no netlink family IPVS"):
            netlink.generic_family(sock, "IPVS")


def test_refusals_print_their_words_first():
    assert str(Refusal(errno.EINVAL, "words", b"")) == "words"
