"""What is asked for and not served: said once, to the log, to users and on the node."""

from __future__ import annotations

import difflib
import errno

import msgspec
import pytest

from ipvs_agent.addresses import parse_address
from ipvs_agent.cli.outlets import RunningOutlets
from ipvs_agent.config import AgentConfig
from ipvs_agent.config.values import Listen
from ipvs_agent.model import HealthCheck, NodeHealth, ObjectName, Skipped, VirtualServer
from ipvs_agent.operations import AddVirtualServer, DeleteVirtualServer
from ipvs_agent.reconcile.outlets import Outlets
from ipvs_agent.reconcile.unserved import MOST_SAID
from ipvs_agent.sources.changes import Kind, Put, Rejected, Removed
from ipvs_agent.testing.builders import endpoint, endpoint_slice, key, port, service
from ipvs_agent.testing.fake_kernel import FakeKernel
from tests.unit.test_reconciler import Bench

EXTERNAL = "198.51.100.7"
HERE, THERE = endpoint("10.244.1.11", node="node-a"), endpoint("10.244.2.13", node="node-b")
YOUNGER = ObjectName("shop", "younger")


class Users:
    """Events that were sent, and notes as they stand."""

    def __init__(self):
        self.events = []
        self.notes = {}
        self.flushed = {}

    def warn(self, service, reason, note, *, near):
        self.events.append((str(service.name), reason, note, near))

    def replace(self, service, lines):
        self.notes[service] = lines

    def flush(self):
        self.flushed = {name: lines for name, lines in self.notes.items() if lines}


def contested(*endpoints):
    """An older and a younger Service that ask for one external address and port."""
    users = Users()
    bench = Bench(outlets=Outlets(events=users, notes=users))
    older = service("shop/older", port(external_ips=[EXTERNAL]))
    younger = service(
        "shop/younger", port("10.96.0.81", external_ips=[EXTERNAL]), created="2026-02-01T00:00:00Z"
    )
    bench.put(younger, older, endpoint_slice("shop/younger", endpoints=endpoints)).list_all()
    return users, bench, older


def test_the_younger_service_is_told_of_the_older_one_and_takes_over_when_that_goes():
    users, bench, older = contested(THERE)
    text = f"{EXTERNAL}:80/TCP is taken by shop/older"

    assert [("shop/younger", "AddressTaken", text, False)] == users.events
    assert {YOUNGER: (text,)} == users.flushed
    assert {} == bench.tables()[f"-t {EXTERNAL}:80"]
    bench.remove(older)

    assert {} == users.flushed
    assert {"10.244.2.13:8080": 1} == bench.tables()[f"-t {EXTERNAL}:80"]
    assert 1 == len(users.events)


def test_a_slice_for_no_service_is_said_once_and_forgotten_when_its_service_comes(caplog):
    users = Users()
    bench = Bench(outlets=Outlets(events=users, notes=users))
    behind = endpoint_slice("shop/web", endpoints=(HERE,))
    bench.put(service("shop/other", port("10.96.0.81")), behind).list_all().pass_time(65)
    text = f"EndpointSlice {behind.name}: there is no Service shop/web to be served"

    assert [f'skipped object="Service shop/web: {text}"'] == _skipped(caplog)
    assert {ObjectName("shop", "web"): (text,)} == users.flushed
    bench.put(service("shop/web"))

    assert {} == users.flushed
    assert {"10.244.1.11:8080": 1} == bench.tables()["-t 10.96.0.80:80"]


def _skipped(caplog):
    return [record.message for record in caplog.records if record.message.startswith("skipped")]


@pytest.mark.parametrize("endpoints", [(), (HERE,)], ids=["without endpoints", "over one pod"])
class TestTwoThatLookAlike:
    """Whoever has the address, its virtual server is the same."""

    def alike(self, endpoints):
        users = Users()
        bench = Bench(outlets=Outlets(events=users, notes=users))
        older = service("shop/older", port(external_ips=[EXTERNAL]))
        younger = service(
            "shop/younger", port("10.96.0.81", external_ips=[EXTERNAL]), created="2026-02-01T00:00:00Z"
        )
        slices = [endpoint_slice(f"shop/{text}", endpoints=endpoints) for text in ("older", "younger")]
        return users, bench, (older, slices[0]), (younger, slices[1])

    def test_the_note_goes_with_the_older_one(self, endpoints):
        users, bench, older, younger = self.alike(endpoints)
        bench.put(*older, *younger).list_all()
        assert [YOUNGER] == list(users.flushed)
        bench.remove(older[0])

        assert {} == users.flushed

    def test_who_had_the_address_is_told_that_an_older_one_has_come(self, endpoints):
        users, bench, older, younger = self.alike(endpoints)
        bench.put(*younger).list_all()
        assert {} == users.flushed
        bench.put(*older)

        text = f"{EXTERNAL}:80/TCP is taken by shop/older"
        assert {YOUNGER: (text,)} == users.flushed
        assert [("shop/younger", "AddressTaken", text, bool(endpoints))] == users.events

    def test_what_changes_hands_is_neither_written_nor_read(self, endpoints):
        users, bench, older, younger = self.alike(endpoints)
        bench.put(*older, *younger).list_all()
        kernel = bench.kernel
        calls = []
        for adapter, method in (
            *((kernel.ipvs, method) for method in ("apply", "virtual_server", "real_servers")),
            *((adapter, "apply") for adapter in (kernel.vips, kernel.ipsets)),
        ):
            setattr(adapter, method, lambda *_, method=method: calls.append(method))
        bench.put(msgspec.structs.replace(older[0], created="2026-03-01T00:00:00Z"))

        assert [] == calls
        assert [ObjectName("shop", "older")] == list(users.flushed)


def test_a_node_with_an_endpoint_of_the_service_is_near():
    users, _, _ = contested(HERE)

    assert [True] == [near for *_, near in users.events]


def test_what_was_said_is_not_said_again(caplog):
    _, bench, _ = contested(THERE)
    bench.put(endpoint_slice("shop/younger", endpoints=[HERE, THERE])).pass_time(65)

    assert 1 == caplog.text.count("is taken by")


def test_a_virtual_server_that_is_not_ours_wins_until_it_goes():
    users = Users()
    bench = Bench(outlets=Outlets(events=users, notes=users))
    foreign = VirtualServer(key(f"{EXTERNAL}:80"), "wlc")
    bench.kernel.ipvs.apply([AddVirtualServer(foreign)])
    bench.put(service("shop/web", port(external_ips=[EXTERNAL]))).list_all()

    text = f"{EXTERNAL}:80/TCP is taken by a virtual server that is not ours"
    assert [("shop/web", "AddressTaken", text, False)] == users.events
    bench.kernel.ipvs.apply([DeleteVirtualServer(foreign.key)])
    bench.pass_time(31)

    assert {} == users.flushed


def test_a_node_port_that_another_has_is_said_in_the_same_words_on_all_nodes():
    users = Users()
    kernel = FakeKernel()
    kernel.node_addresses.assign("eth0", ["192.0.2.10", "192.0.2.11"])
    bench = Bench(kernel, outlets=Outlets(events=users, notes=users))
    foreign = [VirtualServer(key(f"192.0.2.{number}:30080"), "wlc") for number in (10, 11)]
    bench.kernel.ipvs.apply([AddVirtualServer(one) for one in foreign])
    bench.put(service("shop/web", port(node_port=30080))).list_all().pass_time(31)

    text = "NodePort 30080/TCP is taken by a virtual server that is not ours"
    assert [("shop/web", "AddressTaken", text, False)] == users.events
    assert {ObjectName("shop", "web"): (text,)} == users.flushed


@pytest.mark.parametrize("local_endpoints", [0, 2])
def test_a_health_check_that_is_not_heard_is_said_in_the_same_words_on_all_nodes(local_endpoints):
    sent = []

    class Recorder:
        def post(self, regarding, reason, note, *, action, near):
            sent.append((regarding.name, reason, note, near))

    error = OSError(errno.EADDRINUSE, "Address already in use", "192.0.2.10:30000")
    check = HealthCheck(30000, ObjectName("shop", "web"), "uid", local_endpoints)
    any_port = Listen(0, (parse_address("127.0.0.1"),))
    told = RunningOutlets(Recorder(), AgentConfig(healthz=any_port, metrics=any_port))
    with told.running(lambda: NodeHealth(is_healthy=True)):
        told._unheard(check, error)

    note = "port 30000 cannot be listened on: Address already in use"
    assert [("web", "FailedToStartServiceHealthcheck", note, local_endpoints > 0)] == sent


def test_a_field_at_fault_is_an_event_for_a_service_and_a_log_line_for_a_slice(caplog):
    users = Users()
    bench = Bench(outlets=Outlets(events=users, notes=users))
    fault = Skipped("Service shop/web", "spec.externalIPs[0]", "127.0.0.1 is a loopback address")
    of_slice = Skipped("EndpointSlice shop/web-1", "endpoints[0]", "is nothing")
    web = service("shop/web", skipped=(fault,))
    bench.put(web, msgspec.structs.replace(endpoint_slice(), skipped=(of_slice,))).list_all()

    text = "spec.externalIPs[0]: 127.0.0.1 is a loopback address"
    assert [("shop/web", "Invalid", text, False)] == users.events
    assert {ObjectName("shop", "web"): (text,)} == users.flushed
    assert "EndpointSlice shop/web-1: endpoints[0]: is nothing" in caplog.text
    bench.remove(web)

    assert {} == users.flushed


def test_of_many_faults_a_few_are_said_and_none_is_thought_about_twice(caplog, monkeypatch):
    users = Users()
    bench = Bench(outlets=Outlets(events=users, notes=users))
    ports = [port(name=f"p{number}", number=number) for number in range(1, 301)]
    asked = {f"ipvs-agent.io/scheduler.p{number}": f"w{number}" for number in range(1, 301)}
    asked |= {f"ipvs-agent.io/weighs{number}": "" for number in range(6000)}
    bench.put(service("shop/web", *ports, annotations=asked), endpoint_slice(endpoints=[HERE])).list_all()

    assert 9 == len(users.events) == len(users.flushed[ObjectName("shop", "web")])
    assert 9 == caplog.text.count("Service shop/web: ")
    assert ("shop/web", "Invalid", "there are more faults than these 8", True) == users.events[-1]
    monkeypatch.setattr(difflib, "get_close_matches", None)
    bench.put(endpoint_slice(endpoints=[HERE, THERE]))

    assert 9 == len(users.events)


@pytest.mark.parametrize("is_removed", [True, False], ids=["removed and put", "put"])
def test_a_service_that_was_made_again_between_two_looks_is_told_again(is_removed):
    users = Users()
    bench = Bench(outlets=Outlets(events=users, notes=users))
    fault = Skipped("Service shop/web", "spec.externalIPs[0]", "127.0.0.1 is a loopback address")
    web = service(annotations={"ipvs-agent.io/scheduler": "wr"}, skipped=(fault,))
    bench.put(web, service("shop/older", created="2025-01-01T00:00:00Z")).list_all()
    said = users.events[:]
    assert 3 == len(said)

    def make_again(uid, **fields):
        again = msgspec.structs.replace(web, uid=uid, created="2026-05-01T00:00:00Z", **fields)
        bench.tell(*[Removed(Kind.SERVICE, web.name)] * is_removed, Put(Kind.SERVICE, again))

    make_again("uid-2")
    assert said + said == users.events
    make_again("uid-3", annotations={}, skipped=(), ports=(port("10.96.0.90"),))

    assert ({}, said + said) == (users.flushed, users.events)


def test_a_service_that_becomes_unusable_has_that_for_its_note_until_it_is_mended(caplog):
    users = Users()
    bench = Bench(outlets=Outlets(events=users, notes=users))
    subject = "Service shop/web"
    bench.put(service(skipped=(Skipped(subject, "spec.externalIPs[0]", "is a loopback address"),))).list_all()
    unusable = Skipped(subject, "spec", "is missing")
    bench.tell(*[Rejected(Kind.SERVICE, ObjectName("shop", "web"), unusable)] * 2)

    assert {ObjectName("shop", "web"): ("spec: is missing",)} == users.flushed
    assert 1 == caplog.text.count(str(unusable))
    bench.put(service())
    assert {} == users.flushed


class TestASchedulerThatWaitsForADrain:
    """It is noted on the node, and nobody else is told: it comes by itself."""

    NAME = ObjectName("shop", "web")
    VIP = key("10.96.0.80:80")
    GOING, STAYING = (endpoint(f"10.244.1.1{number}", node="node-a") for number in (1, 2))

    def waiting(self):
        users = Users()
        bench = Bench(outlets=Outlets(events=users, notes=users))
        bench.put(
            service("shop/web", annotations={"ipvs-agent.io/scheduler": "mh"}),
            endpoint_slice("shop/web", [self.GOING, self.STAYING]),
        ).list_all()
        self.connect(bench, 1)
        bench.put(endpoint_slice("shop/web", [self.STAYING]))
        bench.put(service("shop/web", annotations={"ipvs-agent.io/scheduler": "dh"})).pass_time(10)
        return users, bench

    def connect(self, bench, active):
        going = (self.GOING.address, self.GOING.port)
        bench.kernel.ipvs.set_connections(self.VIP, going, active=active, inactive=0)

    def test_it_is_noted_until_the_drain_has_ended(self):
        users, bench = self.waiting()
        text = f"scheduler dh waits until nothing drains behind {self.VIP}, which has mh mh-fallback"
        assert {self.NAME: (text,)} == users.flushed
        self.connect(bench, 0)
        bench.pass_time(20)

        assert ({}, []) == (users.flushed, users.events)

    def test_it_is_forgotten_with_the_wish(self):
        users, bench = self.waiting()
        bench.put(service("shop/web", annotations={"ipvs-agent.io/scheduler": "mh"}))

        assert ({}, []) == (users.flushed, users.events)

    def test_it_is_forgotten_with_the_service(self):
        users, bench = self.waiting()
        bench.remove(service("shop/web", annotations={"ipvs-agent.io/scheduler": "dh"}))

        assert ({}, []) == (users.flushed, users.events)

    def test_of_many_addresses_the_first_are_noted(self):
        users = Users()
        bench = Bench(outlets=Outlets(events=users, notes=users))
        many = [f"198.51.100.{number}" for number in range(1, 21)]
        before, after = (
            service("shop/web", port(external_ips=many), annotations={"ipvs-agent.io/scheduler": name})
            for name in ("mh", "dh")
        )
        bench.put(before, endpoint_slice("shop/web", [self.GOING, self.STAYING])).list_all()
        for address in (self.VIP, *(key(f"{one}:80") for one in many)):
            bench.kernel.ipvs.set_connections(
                address, (self.GOING.address, self.GOING.port), active=1, inactive=0
            )
        bench.put(endpoint_slice("shop/web", [self.STAYING])).put(after).pass_time(10)

        *first, last = users.flushed[self.NAME]
        assert MOST_SAID == len(first)
        assert all(line.startswith("scheduler dh waits until nothing drains") for line in first)
        assert "and so do others of its addresses and ports" == last
