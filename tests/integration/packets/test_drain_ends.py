"""When a drain ends: with the last connection, or at its limit; and who is served meanwhile."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

import pytest

from tests import objects
from tests.integration.packets.stock import Stock, families, running
from tests.lab import Node
from tools.lab import talk

pytestmark = pytest.mark.long

STOCK = Stock(1)
TARGET, STREAMING = 8080, 8081


@pytest.fixture(scope="module")
def node(lab, tmp_path_factory):
    """A node whose agent serves what the tests put."""
    node = Node(lab, tmp_path_factory.mktemp("node"))
    node.put()
    with running(node):
        yield node


@pytest.fixture
def serve(node, lab):
    """Have the node serve the Service over some pods, and over all of them for now."""

    def put(*pods, annotations=None, target=TARGET, name=STOCK.name, **spec):
        made = objects.service(name, (STOCK.cluster_ip(4), STOCK.cluster_ip(6)), **spec)
        made["metadata"]["annotations"] = annotations or {}
        ports = ((80, "TCP", target),)
        node.put(
            made,
            objects.endpoint_slice(name, [pod.ipv4 for pod in pods], ports, suffix="4"),
            objects.endpoint_slice(name, [pod.ipv6 for pod in pods], ports, suffix="6"),
        )
        node.wait_for(lambda: all(found == {pod.name for pod in pods} for found in taking(node)))
        node.wait_for(lambda: affinity(node) == {"sessionAffinity" in spec})

    put(*lab.pods)
    yield put
    node.put()
    node.wait_for(lambda: node.virtual_servers() == [])


def weights(node, family):
    """The weights of the real servers, by pod."""
    names = {address: pod.name for pod in node.lab.pods for address in (pod.ipv4, pod.ipv6)}
    lines = [line.split() for line in node.virtual_servers() if line.startswith("-a")]
    return {
        names[line[4].rpartition(":")[0].strip("[]")]: int(line[7])
        for line in lines
        if line[4].startswith("[") == (family == 6)
    }


def affinity(node):
    """Whether virtual servers are persistent: both answers, while they are not alike."""
    return {" -p " in line for line in node.virtual_servers() if line.startswith("-A")}


def taking(node):
    """The pods that take new connections, in each family."""
    return [{pod for pod, weight in weights(node, family).items() if weight} for family in (4, 6)]


def connected(lab, family, pod, source=""):
    """A connection to a pod through the Service."""
    while True:
        connection = talk.connect(lab.client.namespace, talk.TCP, STOCK.cluster_ip(family), 80, source=source)
        if talk.ask_on(connection).name == pod:
            return connection
        connection.close()


def seconds_until(condition):
    """How long it takes."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < 120
        time.sleep(0.1)
    return time.monotonic() - began


def connections(node, pod):
    """How many active connections a pod has, and how many others; none where it is no real server."""
    lines = [line.split() for line in node.run("ipvsadm", "-Ln").splitlines()]
    found = (line[4:6] for line in lines if line[:2] == ["->", f"{pod.ipv4}:{TARGET}"])
    return tuple(map(int, next(found, ())))


def test_a_drained_pod_is_gone_ten_seconds_after_its_last_connection(node, lab, serve):
    """In which time the kernel still counts the connection, as one that is not active."""
    for _ in range(5):  # a busy machine may be slow
        connection = connected(lab, 4, "b")
        serve(lab.a, lab.c)
        time.sleep(12)
        assert 0 == weights(node, 4)["b"]
        assert "b" == talk.ask_on(connection).name
        connection.close()
        time.sleep(0.2)
        is_closing = connections(node, lab.b) == (0, 1)
        seconds = seconds_until(lambda: "b" not in weights(node, 4))
        if is_closing and seconds < 10:
            break
        serve(*lab.pods)

    assert (is_closing, seconds < 10) == (True, True)


def test_a_service_without_active_connections_is_gone_within_five_seconds(node, lab, serve):
    for _ in range(8):  # a busy machine may be slow
        assert {"a", "b", "c"} == node.pods({"a", "b", "c"}, lab.client, STOCK.cluster_ip(4))
        time.sleep(2.5)  # the kernel counts a packet up to two seconds late
        node.put()
        # The agent hears of a manifest up to a second late.
        seconds_until(lambda: taking(node) == [set(), set()])
        still_counted = set(weights(node, 4).values())  # though they are closed
        seconds = seconds_until(lambda: node.virtual_servers() == [])
        if still_counted == {0} and seconds < 5:
            break
        serve(*lab.pods)

    assert ({0}, True) == (still_counted, seconds < 5)
    node.wait_for(lambda: STOCK.cluster_ip(4) not in node.run("ip", "addr", "show", "dev", "kube-ipvs0"))
    node.wait_for(lambda: STOCK.cluster_ip(4) not in node.run("ipset", "save"))


@pytest.fixture
def streaming(lab):
    """A server at pod b that waits for its client to close and sends a line every half second, 30 times."""
    listener = talk.open_socket(lab.b.namespace, talk.TCP, "::")
    listener.bind(("::", STREAMING))
    listener.listen()

    def stream():
        with contextlib.suppress(OSError):
            connection, _ = listener.accept()
            with connection:
                while connection.recv(512):
                    pass
                for _ in range(30):
                    connection.sendall(b"more\n")
                    time.sleep(0.5)

    thread = threading.Thread(target=stream, daemon=True)
    thread.start()
    with listener:
        yield
        listener.shutdown(socket.SHUT_RDWR)  # a test that failed may not have come to connect
        thread.join()


@pytest.fixture(params=["1", "0"], ids=["packets are counted", "no packets are counted"])
def counting(node, request):
    """Whether the kernel counts packets while a test runs; call it to have it count them again."""

    def count(value="1"):
        node.run("sh", "-c", f"echo {value} > /proc/sys/net/ipv4/vs/run_estimation")

    count(request.param)
    yield count
    count()


def test_a_half_closed_transfer_goes_on(node, lab, serve, streaming, counting):
    serve(lab.b, target=STREAMING)
    with talk.connect(lab.client.namespace, talk.TCP, STOCK.cluster_ip(4), 80) as connection:
        connection.shutdown(socket.SHUT_WR)
        serve(target=STREAMING)
        received = b""
        while data := connection.recv(512):
            received += data
        assert b"more\n" * 30 == received

    counting()
    assert seconds_until(lambda: weights(node, 4) == {}) < 30


@families
def test_a_connection_ends_at_the_limit(node, lab, serve, family):
    limit = {"ipvs-agent.io/drain-timeout": "6s"}
    serve(*lab.pods, annotations=limit)
    with connected(lab, family, "b") as connection, connected(lab, family, "a") as other:
        began = time.monotonic()
        serve(lab.a, lab.c, annotations=limit)
        node.wait_for(lambda: "b" not in weights(node, family))
        assert time.monotonic() - began >= 6
        connection.settimeout(2.0)
        with pytest.raises((ConnectionError, TimeoutError)):
            talk.ask_on(connection)

        assert "a" == talk.ask_on(other).name


@families
def test_affinity_leads_no_new_connection_to_a_drained_pod(node, lab, serve, family):
    serve(*lab.pods, sessionAffinity="ClientIP")
    with talk.connect(lab.client.namespace, talk.TCP, STOCK.cluster_ip(family), 80) as connection:
        first = talk.ask_on(connection).name
        ask = [node.ask(lab.client, talk.TCP, STOCK.cluster_ip(family), 80).name for _ in range(5)]
        assert [first] * 5 == ask
        serve(*(pod for pod in lab.pods if pod.name != first), sessionAffinity="ClientIP")
        assert 0 == weights(node, family)[first]
        moved = {node.ask(lab.client, talk.TCP, STOCK.cluster_ip(family), 80).name for _ in range(5)}
        assert 1 == len(moved)
        assert first not in moved
        assert first == talk.ask_on(connection).name
        serve(*lab.pods, sessionAffinity="ClientIP")

        again = {node.ask(lab.client, talk.TCP, STOCK.cluster_ip(family), 80).name for _ in range(5)}
        assert moved == again  # affinity is to where the client is now


@families
def test_the_next_service_at_an_address_leaves_the_last_one_its_connections(node, lab, serve, family):
    with connected(lab, family, "a") as connection:
        node.put()
        node.wait_for(lambda: taking(node) == [set(), set()])
        assert "a" == talk.ask_on(connection).name
        serve(lab.b, lab.c, name="next", annotations={"ipvs-agent.io/scheduler": "lc"})
        assert {"a": 0, "b": 1, "c": 1} == weights(node, family)
        assert {"b", "c"} == node.pods({"b", "c"}, lab.client, STOCK.cluster_ip(family))
        assert "a" == talk.ask_on(connection).name
        time.sleep(6)
        assert "a" == talk.ask_on(connection).name
    node.wait_for(lambda: "a" not in weights(node, family))

    assert {"b", "c"} == node.pods({"b", "c"}, lab.client, STOCK.cluster_ip(family))
