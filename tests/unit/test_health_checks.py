"""Health-check node ports, asked over loopback, on ports that the kernel says are free."""

from __future__ import annotations

import contextlib
import errno
import queue
import resource
import selectors
import socket
import threading
import time
from http import HTTPStatus
from http.client import HTTPConnection
from types import SimpleNamespace

import pytest

from ipvs_agent.addresses import parse_address
from ipvs_agent.model import HealthCheck, ObjectName
from ipvs_agent.serve import connections, http
from ipvs_agent.serve import servers as servers_module
from ipvs_agent.serve.health_checks import HealthChecks
from ipvs_agent.serve.servers import Servers

WEB, SHOP = ObjectName("default", "web"), ObjectName("default", "shop")
LOOPBACK, LOOPBACK_2, LOOPBACK_6 = (parse_address(text) for text in ("127.0.0.1", "127.0.0.2", "::1"))
PATIENCE = 10.0
QUICK = {"patience": 0.2, "first_retry": 0.02}

ANSWER = """\
HTTP/1.1 200 OK
Content-Type: application/json
X-Content-Type-Options: nosniff
X-Load-Balancing-Endpoint-Weight: 2
Date: *
Content-Length: 114

{
	"service": {
		"namespace": "default",
		"name": "web"
	},
	"localEndpoints": 2,
	"serviceProxyHealthy": true
}"""


class Bench:
    """Running servers, what they said of failures, and whether the agent is healthy.

    Their limit for a client is longer than that of the tests, so that no test waits for it by mistake.
    """

    def __init__(self, patience=6 * PATIENCE, **options):
        self.is_healthy = True
        self.failures = queue.SimpleQueue()
        self.servers = Servers(patience=patience, **options)
        self.checks = HealthChecks(
            self.servers, lambda: self.is_healthy, lambda *failure: self.failures.put(failure)
        )

    def __enter__(self):
        self.servers.start()
        return self

    def __exit__(self, *_):
        self.servers.stop()
        assert not self.servers._thread.is_alive()

    def publish(self, port, count=1, service=WEB):
        self.checks.publish(service, HealthCheck(port, service, "1234", count))


def free_ports(count=1):
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket(socket.AF_INET6)) for _ in range(count)]
        for probe in probes:
            probe.bind(("::", 0))
        return [probe.getsockname()[1] for probe in probes]


@pytest.fixture
def port():
    return free_ports()[0]


def until(condition):
    """Wait until a condition holds, and return what it gave."""
    deadline = time.monotonic() + PATIENCE
    while not (got := condition()):
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.002)
    return got


def is_open(port, address="127.0.0.1"):
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as peer:
        peer.settimeout(PATIENCE)
        number = peer.connect_ex((address, port))
    assert number in (0, errno.ECONNREFUSED, errno.ECONNRESET)
    return number == 0


def ask(port, address="127.0.0.1", path="/", method="GET"):
    """Wait until the port is open; return status, weight and body."""

    def answer():
        with contextlib.closing(HTTPConnection(address, port, timeout=PATIENCE)) as connection:
            try:
                connection.request(method, path)
                response = connection.getresponse()
            except ConnectionError:  # not yet open, or the one who had it before closes it
                return None
            weight = response.headers["X-Load-Balancing-Endpoint-Weight"]
            return response.status, weight, response.read().decode()

    return until(answer)


def say(port, data, address="127.0.0.1"):
    """Send these bytes, and return all that comes until the connection ends."""
    until(lambda: is_open(port, address))
    with socket.create_connection((address, port), PATIENCE) as peer:
        peer.sendall(data)
        return everything(peer)


def everything(peer):
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while data := peer.recv(65536):
            parts.append(data)
    return b"".join(parts)


class TestAnswer:
    def test_the_whole_answer_is_kube_proxys(self, port):
        with Bench() as bench:
            bench.publish(port, 2)
            text = say(port, b"GET /healthz HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n").decode()

        lines = ["Date: *" if line.startswith("Date: ") else line for line in text.split("\r\n")]
        lines.remove("Connection: close")
        assert ANSWER == "\n".join(lines)

    def test_the_date_is_one_of_http(self):
        text = http.answer(http.Request(0), HTTPStatus.OK, {}, b"").decode()
        date = text.split("Date: ")[1].split("\r\n")[0]

        assert (
            time.time() - 60 < time.mktime(time.strptime(date, "%a, %d %b %Y %H:%M:%S GMT")) - time.timezone
        )

    @pytest.mark.parametrize(
        ("count", "is_healthy", "status"),
        [(1, True, 200), (0, True, 503), (3, False, 503), (0, False, 503)],
    )
    def test_the_status_says_whether_to_send_clients_here(self, port, count, is_healthy, status):
        with Bench() as bench:
            bench.is_healthy = is_healthy
            bench.publish(port, count)

            got, weight, body = ask(port)

        assert (status, str(count)) == (got, weight)
        assert f'"localEndpoints": {count},' in body
        assert f'"serviceProxyHealthy": {str(is_healthy).lower()}\n' in body

    @pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "X-ANY"])
    @pytest.mark.parametrize("path", ["/", "/healthz", "/a/b?c=d", "*"])
    def test_any_path_and_method(self, port, method, path):
        with Bench() as bench:
            bench.publish(port)

            assert 200 == ask(port, path=path, method=method)[0]

    def test_head_has_the_headers_only(self, port):
        with Bench() as bench:
            bench.publish(port)

            headers, _, body = say(port, b"HEAD / HTTP/1.1\r\nConnection: close\r\n\r\n").partition(
                b"\r\n\r\n"
            )

        assert b"" == body
        assert b"Content-Length: 114" in headers


class TestConnection:
    @pytest.mark.parametrize(
        ("request_", "version", "connection"),
        [
            pytest.param(b"GET / HTTP/1.0\r\n\r\n", b"HTTP/1.0", b"Connection: close", id="1.0"),
            pytest.param(b"GET / HTTP/1.0\n\n", b"HTTP/1.0", b"Connection: close", id="bare line ends"),
            pytest.param(
                b"GET / HTTP/1.1\r\nConnection: x, Close\r\n\r\n",
                b"HTTP/1.1",
                b"Connection: close",
                id="close",
            ),
            pytest.param(
                b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc",
                b"HTTP/1.1",
                b"Connection: close",
                id="a body",
            ),
            pytest.param(
                b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
                b"HTTP/1.1",
                b"Connection: close",
                id="a body in chunks",
            ),
        ],
    )
    def test_ends_after_the_answer(self, port, request_, version, connection):
        with Bench() as bench:
            bench.publish(port)
            text = say(port, request_)

        assert 1 == text.count(b"HTTP/1.")
        assert text.startswith(version + b" 200 OK\r\n")
        assert connection in text

    def test_is_kept_for_the_next_request(self, port):
        with Bench() as bench:
            bench.publish(port)
            until(lambda: is_open(port))
            connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
            with contextlib.closing(connection):
                ports = set()
                for _ in range(3):
                    connection.request("GET", "/")
                    ports.add(connection.sock.getsockname())
                    assert 114 == len(connection.getresponse().read())

        assert 1 == len(ports)

    def test_is_kept_in_1_0_where_asked(self, port):
        with Bench() as bench:
            bench.publish(port)
            keep = b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"

            text = say(port, keep + b"GET / HTTP/1.0\r\n\r\n")

        assert [1, 1] == [text.count(b"Connection: keep-alive"), text.count(b"Connection: close")]

    def test_requests_that_come_together_or_in_parts_are_all_answered(self, port):
        data = b"GET /1 HTTP/1.1\r\n\r\nGET /2 HTTP/1.1\r\nConnection: close\r\n\r\n"
        with Bench() as bench:
            bench.publish(port)
            until(lambda: is_open(port))
            with socket.create_connection(("127.0.0.1", port), PATIENCE) as peer:
                peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for octet in data:
                    peer.send(bytes([octet]))
                one_by_one = everything(peer)

            assert 2 == one_by_one.count(b"200 OK") == say(port, data).count(b"200 OK")

    @pytest.mark.parametrize(
        ("data", "status"),
        [
            pytest.param(b"\r\n\r\n", 400, id="nothing"),
            pytest.param(b"GET /\r\n\r\n", 400, id="HTTP/0.9"),
            pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, id="HTTP/2"),
            pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, id="TLS"),
            pytest.param(b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400, id="a header without a colon"),
            pytest.param(b"GET / HTTP/1.1\r\na: b\r\n c\r\n\r\n", 400, id="a folded header"),
            pytest.param(b"GET / HTTP/1.1\r\na: \x00\r\n\r\n", 400, id="a header with a zero octet"),
            pytest.param(b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 2000, 431, id="too long"),
            pytest.param(b"GET / HTTP/1.1\r\na:" + b" " * 9000 + b"\r\n\r\n", 431, id="too long at once"),
        ],
    )
    def test_garbage_is_refused_and_ends(self, port, data, status):
        with Bench() as bench:
            bench.publish(port)
            text = say(port, data)

            assert text.startswith(f"HTTP/1.1 {status} ".encode())
            assert b"Connection: close" in text
            assert 200 == ask(port)[0]

    @pytest.mark.parametrize("data", [b"", b"GET / HTT", b"GET / HTTP/1.1\r\n\r\nGET"])
    def test_a_slow_client_is_ended(self, port, data):
        with Bench(**QUICK) as bench:
            bench.publish(port)

            assert data.count(b"\r\n\r\n") == say(port, data).count(b"200 OK")

    def test_a_client_that_dribbles_is_ended_too(self, port):
        with Bench(**QUICK) as bench:
            bench.publish(port)
            until(lambda: is_open(port))
            with socket.create_connection(("127.0.0.1", port), PATIENCE) as peer:
                peer.settimeout(0.05)

                def is_ended():
                    try:
                        peer.send(b"a")
                        return peer.recv(1) == b""
                    except TimeoutError:
                        return False
                    except ConnectionError:
                        return True

                until(is_ended)

    def test_a_client_that_does_not_end_after_us_is_ended(self, port):
        with Bench(**QUICK) as bench:
            bench.publish(port)
            until(lambda: is_open(port))
            with socket.create_connection(("127.0.0.1", port), PATIENCE) as peer:
                peer.sendall(b"GET / HTTP/1.0\r\n\r\n")
                assert everything(peer).endswith(b"}")
                until(lambda: not bench.servers._connections)

    def test_an_idle_connection_ends_at_its_limit(self, port, monkeypatch):
        monkeypatch.setattr(connections, "IDLE_LIMIT", 0.2)
        with Bench(**QUICK) as bench:
            bench.publish(port)

            assert 1 == say(port, b"GET / HTTP/1.1\r\n\r\n").count(b"200 OK")

    def test_a_client_that_asks_but_does_not_read_is_ended(self, port):
        with Bench() as bench:
            bench.publish(port)
            until(lambda: is_open(port))
            peer = socket.create_connection(("127.0.0.1", port), PATIENCE)
            with peer, pytest.raises(ConnectionError):
                peer.sendall(b"GET / HTTP/1.1\r\n\r\n" * 10**6)
            assert 200 == ask(port)[0]

    def test_of_too_many_the_longest_silent_ends(self, port, monkeypatch):
        monkeypatch.setattr(connections, "MOST_CONNECTIONS", 3)
        with Bench() as bench, contextlib.ExitStack() as stack:
            bench.publish(port)
            until(lambda: is_open(port))
            until(lambda: not bench.servers._connections)
            peers = []
            for number in range(3):
                peers.append(stack.enter_context(socket.create_connection(("127.0.0.1", port), PATIENCE)))
                until(lambda: len(bench.servers._connections) == len(peers))
                if number == 1:
                    peers[0].sendall(b"GET / HTTP/1.1\r\n\r\n")  # so the second is silent for longer
                    assert peers[0].recv(4096)

            assert 200 == ask(port)[0]
            assert b"" == peers[1].recv(1)
            peers[0].sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert peers[0].recv(4096).startswith(b"HTTP/1.1 200")

    def test_without_descriptors_clients_wait_and_are_served_later(self, port, monkeypatch):
        has_paused = threading.Event()

        def pause(seconds):
            has_paused.set()
            time.sleep(seconds)

        monkeypatch.setattr(connections, "time", SimpleNamespace(monotonic=time.monotonic, sleep=pause))
        with Bench() as bench, contextlib.ExitStack() as stack:
            bench.publish(port)
            until(lambda: is_open(port))
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            peer = stack.enter_context(socket.socket())
            peer.settimeout(PATIENCE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))  # 0 to 2 are always taken
            stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
            peer.connect(("127.0.0.1", port))
            peer.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert has_paused.wait(PATIENCE)
            peer.setblocking(False)
            with pytest.raises(BlockingIOError):
                peer.recv(1)
            peer.settimeout(PATIENCE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

            assert peer.recv(4096).startswith(b"HTTP/1.1 200")


class TestConnections:
    """Without a thread, so that what happens in one round of the selector is for the test to say."""

    @pytest.fixture
    def round_(self):
        with (
            selectors.DefaultSelector() as selector,
            socket.create_server(("127.0.0.1", 0)) as listener,
            contextlib.ExitStack() as stack,
        ):
            held = connections.Connections(selector, patience=60.0)
            stack.callback(held.close_all)

            def connect():
                peer = stack.enter_context(socket.create_connection(listener.getsockname(), PATIENCE))
                held.accept(listener, lambda request: b"answer")
                return peer

            yield held, selector, connect

    def test_one_that_was_closed_in_the_same_round_is_left_alone(self, round_, monkeypatch):
        monkeypatch.setattr(connections, "MOST_CONNECTIONS", 1)
        held, selector, connect = round_
        connect().sendall(b"GET / HTTP/1.1\r\n\r\n")
        ((key, _),) = selector.select(PATIENCE)
        second = connect()

        key.data()

        assert 1 == len(held)
        second.sendall(b"GET / HTTP/1.1\r\n\r\n")
        ((key, _),) = selector.select(PATIENCE)
        key.data()
        assert b"answer" == second.recv(100)

    def test_what_comes_after_the_end_is_not_read_as_a_request(self, round_):
        held, selector, connect = round_
        peer = connect()
        for _ in range(3):
            peer.sendall(b"nonsense\r\n\r\n")
            ((key, _),) = selector.select(PATIENCE)
            key.data()

        assert 1 == len(held)  # until the client has read the answer and closes, or the limit
        assert 1 == everything(peer).count(b"HTTP/1.1 400")


class TestPorts:
    def test_both_families(self, port):
        with Bench() as bench:
            bench.publish(port, 7)

            assert "7" == ask(port)[1] == ask(port, "::1")[1]

    def test_the_count_changes_without_a_new_socket(self, port):
        with Bench() as bench:
            bench.publish(port, 1)
            assert 200 == ask(port)[0]
            before = {each.fileno() for each in bench.servers._servers[WEB].listeners.values()}
            bench.publish(port, 0)
            until(lambda: ask(port)[0] == 503)

            assert before == {each.fileno() for each in bench.servers._servers[WEB].listeners.values()}

    def test_a_new_port_closes_the_old_one(self):
        old, new = free_ports(2)
        with Bench() as bench:
            bench.publish(old)
            ask(old)
            bench.publish(new)

            assert 200 == ask(new)[0]
            assert not is_open(old)
            assert not is_open(old, "::1")

    def test_a_service_that_goes_closes_port_and_connections(self, port):
        with Bench() as bench:
            bench.publish(port)
            until(lambda: is_open(port))
            with socket.create_connection(("127.0.0.1", port), PATIENCE) as peer:
                peer.sendall(b"GET / HTTP/1.1\r\n\r\n")
                peer.recv(4096)
                bench.checks.publish(WEB, None)

                assert b"" == everything(peer)
            assert not is_open(port)

    def test_what_is_published_before_the_start_counts(self, port):
        bench = Bench()
        bench.publish(port)
        with bench:
            assert 200 == ask(port)[0]

    def test_ports_are_exchanged_and_no_failure_is_told(self):
        first, second = free_ports(2)
        with Bench(first_retry=60.0) as bench:
            bench.publish(first, 1, WEB)
            bench.publish(second, 2, SHOP)
            ask(first)
            ask(second)
            bench.publish(second, 1, WEB)
            until(lambda: bench.servers._failing)  # the other still has it
            bench.publish(first, 2, SHOP)

            until(lambda: ["2", "1"] == [ask(each)[1] for each in (first, second)])
            assert bench.failures.empty()

    def test_five_hundred_services_in_one_thread(self):
        ports = free_ports(500)
        threads = threading.active_count()
        with Bench() as bench:
            for number, each in enumerate(ports):
                bench.publish(each, number, ObjectName("default", f"web-{number}"))

            assert list(map(str, range(500))) == [ask(each)[1] for each in ports]
            assert threads + 1 == threading.active_count()
            for number in range(500):
                bench.checks.publish(ObjectName("default", f"web-{number}"), None)
            until(lambda: not any(map(is_open, ports)))


class TestAddresses:
    def test_only_where_told(self, port):
        with Bench() as bench:
            bench.checks.listen_on((LOOPBACK_2, LOOPBACK_6))
            bench.publish(port)

            assert [200, 200] == [ask(port, address)[0] for address in ("127.0.0.2", "::1")]
            assert not is_open(port)

    def test_they_change_at_run_time(self, port):
        def reached():
            return [address for address in ("127.0.0.1", "127.0.0.2", "::1") if is_open(port, address)]

        with Bench() as bench:
            bench.publish(port)
            until(lambda: reached() == ["127.0.0.1", "127.0.0.2", "::1"])
            for addresses, expected in (
                ((LOOPBACK,), ["127.0.0.1"]),
                ((LOOPBACK_2, LOOPBACK), ["127.0.0.1", "127.0.0.2"]),
                ((LOOPBACK_6,), ["::1"]),
                ((), []),
                (None, ["127.0.0.1", "127.0.0.2", "::1"]),
            ):
                bench.checks.listen_on(addresses)
                until(lambda expected=expected: reached() == expected)
            assert bench.failures.empty()

    def test_an_address_that_stays_keeps_its_socket(self, port):
        with Bench() as bench:
            bench.checks.listen_on((LOOPBACK,))
            bench.publish(port)
            ask(port)
            before = bench.servers._servers[WEB].listeners[LOOPBACK]
            bench.checks.listen_on((LOOPBACK_2, LOOPBACK))
            until(lambda: is_open(port, "127.0.0.2"))

            assert before is bench.servers._servers[WEB].listeners[LOOPBACK]

    def test_an_address_that_is_not_there_yet_is_no_failure(self, port):
        with Bench(**QUICK) as bench:
            bench.checks.listen_on((parse_address("192.0.2.1"), parse_address("2001:db8::1"), LOOPBACK))
            bench.publish(port)

            assert 200 == ask(port)[0]
            assert 3 == len(bench.servers._servers[WEB].listeners)

    @pytest.mark.parametrize("number", [errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL])
    def test_a_node_without_ipv6_has_the_other_family(self, port, monkeypatch, number):
        listen = servers_module._listen

        def listen_without_ipv6(address, port):
            if len(address) == 16:
                raise OSError(number, "no IPv6")
            return listen(address, port)

        monkeypatch.setattr(servers_module, "_listen", listen_without_ipv6)
        with Bench(**QUICK) as bench:
            bench.publish(port)

            assert 200 == ask(port)[0]
            assert not bench.servers._failing


class TestFailure:
    def test_a_port_in_use_is_told_once_and_taken_when_free(self, port):
        check = HealthCheck(port, WEB, "1234", 1)
        with Bench(**QUICK) as bench:
            with socket.socket() as other:
                other.bind(("127.0.0.1", port))
                other.listen()
                bench.checks.publish(WEB, check)

                told, error = bench.failures.get(timeout=PATIENCE)
                assert (check, errno.EADDRINUSE) == (told, error.errno)
                assert f"[Errno 98] Address already in use: '0.0.0.0:{port}'" == str(error)
                attempts = bench.servers._servers[WEB].retry_delay
                until(lambda: bench.servers._servers[WEB].retry_delay > attempts)
                assert 200 == ask(port, "::1")[0]
            assert 200 == ask(port)[0]
            until(lambda: not bench.servers._failing)
            assert bench.failures.empty()

    def test_a_service_that_goes_meanwhile_is_not_tried_again(self, port):
        with Bench(**QUICK) as bench:
            with socket.socket() as other:
                other.bind(("127.0.0.1", port))
                other.listen()
                bench.publish(port)
                bench.failures.get(timeout=PATIENCE)
                bench.checks.publish(WEB, None)
                until(lambda: not bench.servers._failing)
            assert not is_open(port)

    def test_the_wait_between_attempts_grows_to_a_minute(self, port, monkeypatch):
        now = [1000.0]
        monkeypatch.setattr(servers_module.time, "monotonic", lambda: now[0])
        servers = Servers()
        HealthChecks(servers, lambda: True, lambda *_: None).publish(WEB, HealthCheck(port, WEB, "1234", 1))
        monkeypatch.setattr(
            servers_module, "_listen", lambda *_: (_ for _ in ()).throw(OSError(errno.EADDRINUSE, ""))
        )
        waits = []
        servers._follow()
        for _ in range(8):
            waits.append(servers._servers[WEB].retry_at - now[0])
            now[0] = servers._servers[WEB].retry_at
            servers._look_at_clock()
        servers.start()
        servers.stop()

        assert [1, 2, 4, 8, 16, 32, 60, 60] == waits

    def test_another_port_closing_brings_an_attempt_forward(self):
        mine, other = free_ports(2)
        with Bench(first_retry=60.0) as bench, socket.socket() as stranger:
            bench.publish(other, service=SHOP)
            ask(other)
            stranger.bind(("127.0.0.1", mine))
            stranger.listen()
            bench.publish(mine)
            until(lambda: bench.servers._failing)
            stranger.close()
            bench.checks.publish(SHOP, None)

            assert 200 == ask(mine)[0]


def test_the_limit_of_descriptors_is_lifted():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        with Bench():
            assert (hard, hard) == resource.getrlimit(resource.RLIMIT_NOFILE)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
