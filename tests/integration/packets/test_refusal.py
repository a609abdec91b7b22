"""Nothing on the node answers on a service address but the Service's ports, and what is not there says so."""

from __future__ import annotations

import errno
import socket
import time

import pytest

from tests import objects
from tests.lab import PATIENCE, Node
from tools.lab import talk

VIPS = ("10.96.0.80", "fd00:10:96::80")
EMPTY = ("10.96.0.82", "fd00:10:96::82")
EMPTY_WITH_AFFINITY = ("10.96.0.83", "fd00:10:96::83")
PORTS = ((80, "TCP"), (80, "UDP"), (80, "SCTP"))
TARGETS = tuple((port, protocol, 8080) for port, protocol in PORTS)

clients = pytest.mark.parametrize("client", ["node", "a", "client"])


@pytest.fixture(scope="module")
def node(lab, tmp_path_factory):
    """A node with a Service, two without endpoints, and a daemon of its own on port 22."""
    node = Node(lab, tmp_path_factory.mktemp("node"))
    node.put(
        objects.service("web", VIPS, PORTS),
        objects.endpoint_slice("web", [lab.b.ipv4], TARGETS, suffix="4"),
        objects.endpoint_slice("web", [lab.b.ipv6], TARGETS, suffix="6"),
        objects.service("empty", EMPTY, PORTS),
        objects.service("sticky", EMPTY_WITH_AFFINITY, PORTS, sessionAffinity="ClientIP"),
    )
    for protocol in (talk.TCP, talk.UDP, talk.SCTP):
        lab.servers.listen(lab.node.namespace, "sshd", protocol, 22, "::")
    with node.agent:
        for vip in VIPS:
            node.wait_for_answer(lab.client, talk.TCP, vip, 80)
        yield node
    node.agent.command("cleanup")


def refusals(node, client, protocol, address, port, *, within):
    """Return how requests were refused until one was within some seconds, and how many that one took.

    A busy machine may be slow with some; but where the refusal is not at once, none is in time.
    """
    numbers = set()
    for _ in range(20):
        started = time.monotonic()
        with pytest.raises(OSError) as raised:  # noqa: PT011 - the errno is what the tests compare
            node.ask(client, protocol, address, port)
        seconds = time.monotonic() - started
        numbers.add(raised.value.errno)
        if seconds < within:
            break
    return numbers, seconds


@clients
@pytest.mark.parametrize("vip", VIPS)
class TestOtherPortsOfAVip:
    @pytest.mark.parametrize("port", [22, 81])
    @pytest.mark.parametrize("protocol", [talk.TCP, talk.UDP])
    def test_refused_at_once(self, node, lab, client, vip, protocol, port):
        numbers, seconds = refusals(node, getattr(lab, client), protocol, vip, port, within=0.5)

        assert {errno.ECONNREFUSED} == numbers
        assert seconds < 0.5

    @pytest.mark.parametrize("port", [22, 81])
    def test_sctp_gets_an_icmp_error(self, node, lab, client, vip, port):
        assert _is_icmp_unreachable(getattr(lab, client), vip, port)


@pytest.fixture
def untracked(node):
    """What is sent to port 22 is not seen by conntrack."""
    rules = [(tool, chain) for tool in ("iptables", "ip6tables") for chain in ("PREROUTING", "OUTPUT")]
    rule = ("-p", "tcp", "--dport", "22", "-j", "CT", "--notrack")
    for tool, chain in rules:
        node.run(tool, "-w", "-t", "raw", "-I", chain, *rule)
    yield
    for tool, chain in rules:
        node.run(tool, "-w", "-t", "raw", "-D", chain, *rule)


@clients
@pytest.mark.parametrize("vip", VIPS)
def test_what_conntrack_does_not_see_is_refused_too(node, lab, untracked, client, vip):
    with pytest.raises(ConnectionRefusedError):
        node.ask(getattr(lab, client), talk.TCP, vip, 22)


@clients
@pytest.mark.parametrize("vip", [*EMPTY, *EMPTY_WITH_AFFINITY])
class TestServiceWithoutEndpoints:
    @pytest.mark.parametrize("protocol", [talk.TCP, talk.UDP])
    def test_refused_by_ipvs(self, node, lab, client, vip, protocol):
        # On one CPU the ICMPv6 error finds the socket still in connect(), which heeds only the second one.
        limit = 2 if ":" in vip else 0.5
        numbers, seconds = refusals(node, getattr(lab, client), protocol, vip, 80, within=limit)

        # IPVS drops what the node itself sends, and a UDP sender is told so at once.
        is_dropped_at_sender = client == "node" and protocol == talk.UDP
        assert {errno.EPERM if is_dropped_at_sender else errno.ECONNREFUSED} == numbers
        assert seconds < limit


@clients
def test_the_nodes_own_daemon_answers_on_the_nodes_address(node, lab, client):
    for address in (lab.node.ipv4, lab.node.ipv6):
        assert "sshd" == node.ask(getattr(lab, client), talk.TCP, address, 22).name


@clients
def test_the_service_itself_answers(node, lab, client):
    for vip in VIPS:
        for protocol in (talk.TCP, talk.UDP, talk.SCTP):
            assert "b" == node.ask(getattr(lab, client), protocol, vip, 80).name


def _is_icmp_unreachable(client, address, port):
    """Send an SCTP INIT, and tell whether an ICMP "port unreachable" comes back."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    number = socket.IPPROTO_ICMPV6 if family == socket.AF_INET6 else socket.IPPROTO_ICMP
    with talk.inside(client.namespace):
        icmp = socket.socket(family, socket.SOCK_RAW, number)
    with icmp, talk.open_socket(client.namespace, talk.SCTP, address) as sctp:
        sctp.setblocking(False)
        with pytest.raises(BlockingIOError):
            sctp.connect((address, port))
        icmp.settimeout(PATIENCE)
        while True:
            try:
                packet = icmp.recv(2048)
            except TimeoutError:
                return False
            header = packet if family == socket.AF_INET6 else packet[20:]
            unreachable = (1, 4) if family == socket.AF_INET6 else (3, 3)
            if (header[0], header[1]) == unreachable:
                return True
