"""The loop, on a kernel as strict as the real one: what it does, in which order, and what it never does."""

from __future__ import annotations

import contextlib
import errno
import random

import pytest

from ipvs_agent.addresses import format_address
from ipvs_agent.errors import KernelError, PartlyRefused
from ipvs_agent.kernel.api import Kernel
from ipvs_agent.model import EndpointSlice, Node, Protocol, Service, VirtualServer
from ipvs_agent.operations import AddMember, AddRealServer, AddRealServers, AddVip, AddVirtualServer
from ipvs_agent.reconcile.outlets import Outlets
from ipvs_agent.reconcile.reconciler import Reconciler
from ipvs_agent.reconcile.settings import Settings
from ipvs_agent.sources.changes import Kind, Listed, Put, Removed, Trouble
from ipvs_agent.testing.builders import address, endpoint, endpoint_slice, key, port, service
from ipvs_agent.testing.fake_ipvs import FakeIpvs
from ipvs_agent.testing.fake_kernel import FakeKernel
from ipvs_agent.testing.faulty import FaultyKernel

KINDS = {Service: Kind.SERVICE, EndpointSlice: Kind.ENDPOINT_SLICE, Node: Kind.NODE}
A, B = endpoint("10.244.1.11", node="node-a"), endpoint("10.244.1.12", node="node-a")
VIP = key("10.96.0.80:80")


class InlineWorker:
    """Runs jobs at once."""

    def submit(self, job):
        job()


class Bench:
    """A reconciler on a fake kernel, with a clock that stands still unless it is moved."""

    def __init__(self, kernel=None, inner=None, *, outlets=None, **settings):
        self.kernel = kernel or FakeKernel()
        self.inner = inner or self.kernel
        self.now = 1000.0
        self.worker = InlineWorker()
        self.reconciler = Reconciler(
            self.kernel,
            self.kernel,
            self.worker,
            Settings(**({"node_name": "node-a", "sync_period": 30, "min_sync_period": 0} | settings)),
            lambda: self.now,
            outlets or Outlets(),
        )
        self.objects = {}
        self.reconciler.start()

    def put(self, *things):
        changes = [Put(KINDS[type(thing)], thing) for thing in things]
        self.objects.update({(change.kind, change.name): change.object for change in changes})
        return self.tell(*changes)

    def remove(self, thing):
        del self.objects[KINDS[type(thing)], thing.name]
        return self.tell(Removed(KINDS[type(thing)], thing.name))

    def list_all(self):
        return self.tell(
            *(
                Listed(kind, frozenset(named for its_kind, named in self.objects if its_kind is kind))
                for kind in Kind
            )
        )

    def tell(self, *changes):
        self.reconciler.tell(list(changes))
        return self.settle()

    def settle(self):
        for _ in range(10):
            self.reconciler.catch_up()
        return self

    def pass_time(self, seconds):
        for _ in range(int(seconds)):
            self.now += 1
            self.settle()
        return self

    def tables(self):
        """Virtual servers with the weights of their real servers, as text."""
        return {
            str(found.virtual_server.key): {
                f"{format_address(each.real_server.address)}:{each.real_server.port}": each.real_server.weight
                for each in self.inner.ipvs.real_servers(found.virtual_server.key)
            }
            for found in self.inner.ipvs.virtual_servers()
        }

    def vips(self):
        return {format_address(vip) for vip in self.inner.vips.addresses()}

    def members(self):
        return {
            f"{set_name} {member}"
            for set_name in self.inner.ipsets.sets()
            for member in self.inner.ipsets.members(set_name)
        }


def serving(*endpoints, **fields):
    bench = Bench()
    bench.put(service(**fields), endpoint_slice(endpoints=endpoints or (A, B)))
    return bench.list_all()


def test_the_fake_is_what_the_reconciler_needs():
    kernel: Kernel = FakeKernel()

    assert kernel.ipvs.virtual_servers() == []


def test_a_service_is_served_once_everything_was_listed():
    bench = Bench()
    bench.put(service(), endpoint_slice(endpoints=[A, B]))
    assert {} == bench.tables()
    bench.list_all()

    assert {"-t 10.96.0.80:80": {"10.244.1.11:8080": 1, "10.244.1.12:8080": 1}} == bench.tables()
    assert {"10.96.0.80"} == bench.vips()
    assert {
        "IPVS-AGENT-4-SERVICES 10.96.0.80,tcp:80",
        "IPVS-AGENT-4-CLUSTER 10.96.0.80,tcp:80",
        "IPVS-AGENT-4-VIPS 10.96.0.80",
        "IPVS-AGENT-4-HAIRPIN 10.244.1.11,tcp:8080,10.244.1.11",
        "IPVS-AGENT-4-HAIRPIN 10.244.1.12,tcp:8080,10.244.1.12",
    } == bench.members()


def test_a_source_in_trouble_does_not_hold_back_the_others_but_nothing_is_removed():
    bench = serving()
    restarted = Bench(bench.kernel)
    restarted.put(service("shop/new", port("10.96.0.90")))
    restarted.tell(Trouble("web.yaml", "line 3: broken"))

    assert {"-t 10.96.0.80:80", "-t 10.96.0.90:80"} == restarted.tables().keys()
    restarted.tell(Trouble("web.yaml", ""))
    restarted.list_all().pass_time(5)
    assert {"-t 10.96.0.90:80"} == restarted.tables().keys()


def test_a_restart_changes_nothing_where_nothing_differs():
    bench = serving()
    kernel = bench.kernel
    order = []
    for adapter in (kernel.ipsets, kernel.ipvs, kernel.vips):
        _log_applies(adapter, order)
    restored = len(kernel.iptables.restored)
    Bench(kernel).put(service(), endpoint_slice(endpoints=[A, B])).list_all()

    assert ([], restored) == (order, len(kernel.iptables.restored))


def test_a_restart_removes_what_went_meanwhile_and_leaves_what_is_not_ours():
    bench = serving()
    foreign = VirtualServer(key("203.0.113.9:80"), "wlc")
    assert [None] == bench.kernel.ipvs.apply([AddVirtualServer(foreign)])
    restarted = Bench(bench.kernel).list_all().pass_time(5)

    assert {"-t 203.0.113.9:80": {}} == restarted.tables()
    assert {"IPVS-AGENT-4-OTHERS 203.0.113.9,tcp:80"} == restarted.vips() | restarted.members()


def test_an_address_of_somebody_else_on_the_link_stays():
    bench = serving()
    bench.kernel.vips.apply([AddVip(address("203.0.113.9"))])
    Bench(bench.kernel).list_all().pass_time(65)

    assert {"203.0.113.9"} == bench.vips()


def test_sets_come_before_virtual_servers_and_vips_last():
    order = []
    bench = Bench()
    for adapter in (bench.kernel.ipsets, bench.kernel.ipvs, bench.kernel.vips):
        _log_applies(adapter, order)
    bench.put(service(), endpoint_slice(endpoints=[A]))
    bench.list_all()
    assert ["AddMember", "AddVirtualServer", "AddRealServers", "AddVip"] == order
    order.clear()
    bench.remove(service())
    bench.pass_time(3)

    drained = order.index("DeleteRealServer")
    assert "SetRealServer" in order[:drained]
    assert ["DeleteRealServer", "DeleteVip", "DeleteVirtualServer", "DeleteMember"] == order[drained:]


def _log_applies(adapter, order):
    apply = adapter.apply

    def logged(operations):
        order.extend(dict.fromkeys(type(operation).__name__ for operation in operations))
        return apply(operations)

    adapter.apply = logged


def test_one_changed_endpoint_is_one_operation_whatever_else_there_is():
    for others in (1, 300):
        bench = Bench()
        for number in range(others):
            bench.put(service(f"a/s{number}", port(f"10.97.{number // 250}.{number % 250 + 1}")))
        bench.put(service(), endpoint_slice(endpoints=[A, B]))
        bench.list_all()
        before = len(bench.kernel.ipvs.batches)
        reads = _count_reads(bench.kernel)
        bench.put(endpoint_slice(endpoints=[A, B, endpoint("10.244.2.13", node="node-b")]))

        assert [["AddRealServer"]] == [
            [type(operation).__name__ for operation in batch]
            for batch in bench.kernel.ipvs.batches[before:]
            if batch
        ]
        assert [] == reads


def _count_reads(kernel):
    """Note every read of the kernel from now on."""
    reads = []

    def watched(adapter, method):
        real = getattr(adapter, method)

        def call(*arguments):
            reads.append(method)
            return real(*arguments)

        setattr(adapter, method, call)

    for method in ("virtual_servers", "virtual_server", "real_servers"):
        watched(kernel.ipvs, method)
    watched(kernel.vips, "addresses")
    for method in ("members", "sets"):
        watched(kernel.ipsets, method)
    for method in ("save", "restore"):
        watched(kernel.iptables, method)
    return reads


def test_rules_are_written_once_for_each_family():
    bench = serving()
    written = len(bench.kernel.iptables.restored)
    bench.put(service("shop/other", port("10.96.0.90"))).pass_time(65)

    assert (2, 2) == (written, len(bench.kernel.iptables.restored))


def test_a_tcp_endpoint_that_goes_is_drained():
    bench = serving()
    bench.kernel.ipvs.set_connections(VIP, (A.address, 8080), active=1)
    bench.put(endpoint_slice(endpoints=[B])).pass_time(20)
    assert {"-t 10.96.0.80:80": {"10.244.1.11:8080": 0, "10.244.1.12:8080": 1}} == bench.tables()
    bench.kernel.ipvs.set_connections(VIP, (A.address, 8080), active=0)
    bench.pass_time(15)

    assert {"-t 10.96.0.80:80": {"10.244.1.12:8080": 1}} == bench.tables()


def test_an_endpoint_that_returns_while_it_drains_serves_again():
    bench = serving()
    bench.kernel.ipvs.set_connections(VIP, (A.address, 8080), active=1)
    bench.put(endpoint_slice(endpoints=[B]))
    bench.put(endpoint_slice(endpoints=[A, B])).pass_time(20)

    assert {"-t 10.96.0.80:80": {"10.244.1.11:8080": 1, "10.244.1.12:8080": 1}} == bench.tables()


def test_a_restart_goes_on_draining():
    bench = serving()
    bench.kernel.ipvs.set_connections(VIP, (A.address, 8080), active=1)
    bench.put(endpoint_slice(endpoints=[B]))
    restarted = Bench(bench.kernel)
    restarted.put(service(), endpoint_slice(endpoints=[B])).list_all().pass_time(20)
    assert 0 == restarted.tables()["-t 10.96.0.80:80"]["10.244.1.11:8080"]
    bench.kernel.ipvs.set_connections(VIP, (A.address, 8080), active=0)
    restarted.pass_time(15)

    assert {"-t 10.96.0.80:80": {"10.244.1.12:8080": 1}} == restarted.tables()


def test_a_restart_wakes_what_has_drained_and_is_wanted_again():
    bench = serving()
    bench.kernel.ipvs.set_connections(VIP, (A.address, 8080), active=1)
    bench.put(endpoint_slice(endpoints=[B]))
    assert 0 == bench.tables()["-t 10.96.0.80:80"]["10.244.1.11:8080"]
    restarted = Bench(bench.kernel)
    restarted.put(service(), endpoint_slice(endpoints=[A, B])).list_all()

    assert {"-t 10.96.0.80:80": {"10.244.1.11:8080": 1, "10.244.1.12:8080": 1}} == restarted.tables()


def test_a_udp_endpoint_goes_at_once():
    udp = port(protocol=Protocol.UDP)
    bench = Bench()
    bench.put(service("shop/web", udp), endpoint_slice(endpoints=[A, B])).list_all()
    bench.put(endpoint_slice(endpoints=[B]))

    assert {"-u 10.96.0.80:80": {"10.244.1.12:8080": 1}} == bench.tables()


def test_a_service_that_goes_lingers_with_its_vip_until_drained():
    bench = serving()
    bench.kernel.ipvs.set_connections(VIP, (A.address, 8080), active=1)
    bench.remove(service())
    bench.pass_time(20)
    assert {"-t 10.96.0.80:80": {"10.244.1.11:8080": 0}} == bench.tables()
    assert {"10.96.0.80"} == bench.vips()
    assert "IPVS-AGENT-4-SERVICES 10.96.0.80,tcp:80" in bench.members()
    bench.kernel.ipvs.set_connections(VIP, (A.address, 8080), active=0)
    bench.pass_time(15)

    assert ({}, set(), set()) == (bench.tables(), bench.vips(), bench.members())


def test_two_services_with_one_address_the_older_has_it_the_younger_takes_over():
    shared = {"external_ips": ["198.51.100.7"]}
    old = service("a/old", port("10.96.0.81", **shared), created="2026-01-01T00:00:00Z")
    young = service("a/young", port("10.96.0.82", **shared), created="2026-02-01T00:00:00Z")
    bench = Bench()
    bench.put(young, old, endpoint_slice("a/old", [A]), endpoint_slice("a/young", [B])).list_all()
    assert {"10.244.1.11:8080": 1} == bench.tables()["-t 198.51.100.7:80"]
    bench.remove(old)
    bench.pass_time(5)

    assert {"10.244.1.12:8080": 1} == bench.tables()["-t 198.51.100.7:80"]
    assert "198.51.100.7" in bench.vips()


def test_a_virtual_server_of_others_is_left_alone_until_it_goes():
    bench = Bench()
    bench.kernel.ipvs.apply([AddVirtualServer(VirtualServer(VIP, "wlc"))])
    bench.settle()
    bench.put(service(), endpoint_slice(endpoints=[A])).list_all().pass_time(35)
    assert "wlc" == bench.kernel.ipvs.virtual_server(VIP).virtual_server.scheduler
    assert {} == bench.tables()["-t 10.96.0.80:80"]
    assert not [member for member in bench.members() if "SERVICES" in member]
    bench.kernel.ipvs.flush()
    bench.pass_time(35)

    assert {"-t 10.96.0.80:80": {"10.244.1.11:8080": 1}} == bench.tables()


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda kernel: kernel.ipvs.flush(), id="virtual servers flushed"),
        pytest.param(lambda kernel: kernel.vips.remove_link(), id="link removed"),
        pytest.param(
            lambda kernel: [kernel.ipsets.flush(set_name) for set_name in kernel.ipsets.sets()],
            id="sets flushed",
        ),
    ],
)
def test_what_others_flush_is_made_again(damage):
    bench = serving()
    whole = (bench.tables(), bench.vips(), bench.members())
    damage(bench.kernel)
    bench.pass_time(65)

    assert whole == (bench.tables(), bench.vips(), bench.members())


def test_what_fails_is_tried_again_alone():
    known = {"wlc"}
    bench = Bench(FakeKernel(ipvs=FakeIpvs(schedulers=known)))
    bench.put(service(), endpoint_slice(endpoints=[A])).list_all()
    assert {} == bench.tables()
    known.add("rr")
    bench.put(service("shop/good", port("10.96.0.90")))
    before = len(bench.kernel.ipvs.batches)
    bench.pass_time(5)

    assert {"-t 10.96.0.80:80": {"10.244.1.11:8080": 1}, "-t 10.96.0.90:80": {}} == bench.tables()
    retried = [str(operation) for batch in bench.kernel.ipvs.batches[before:] for operation in batch]
    assert not [line for line in retried if "10.96.0.90" in line]


class KilledError(Exception):
    """The agent was killed by SIGKILL."""


def kill_at(kernel, call):
    """Have the agent killed at the nth change of the kernel: half of that batch is done, the rest is not."""
    counted = iter(range(10_000))

    def deadly(apply):
        def killing(operations):
            if next(counted) == call:
                apply(operations[: (len(operations) + 1) // 2])
                raise KilledError
            return apply(operations)

        return killing

    for adapter in (kernel.ipvs, kernel.vips, kernel.ipsets):
        adapter.apply = deadly(type(adapter).apply.__get__(adapter))


def revive(kernel):
    """Take the killing back."""
    for adapter in (kernel.ipvs, kernel.vips, kernel.ipsets):
        del adapter.apply


@pytest.mark.parametrize("may_list", [True, False], ids=["sources listed", "a source in trouble"])
@pytest.mark.parametrize("call", range(12))
def test_an_agent_killed_at_any_point_leaves_nothing_that_the_next_one_cannot_mend(call, may_list):
    kernel = FakeKernel()
    foreign = VirtualServer(key("198.51.100.7:80"), "wlc")
    assert [None] == kernel.ipvs.apply([AddVirtualServer(foreign)])
    objects = [service("shop/web", port(external_ips=["198.51.100.7"])), endpoint_slice(endpoints=[A, B])]
    killed = Bench(kernel)
    kill_at(kernel, call)
    with contextlib.suppress(KilledError):
        killed.put(*objects)
        if may_list:
            killed.list_all()
        else:
            killed.tell(Trouble("web.yaml", "line 3: broken"))
        killed.put(endpoint_slice(endpoints=[B])).pass_time(3)
        killed.remove(objects[0]).pass_time(5)
    revive(kernel)

    next_one = Bench(kernel)
    next_one.put(*objects).list_all().pass_time(5)
    assert {"10.244.1.11:8080": 1, "10.244.1.12:8080": 1} == next_one.tables()["-t 10.96.0.80:80"]
    assert {} == next_one.tables()["-t 198.51.100.7:80"]
    last = Bench(kernel).list_all().pass_time(5)
    assert {"-t 198.51.100.7:80": {}} == last.tables()
    assert {"IPVS-AGENT-4-OTHERS 198.51.100.7,tcp:80"} == last.vips() | last.members()


@pytest.mark.parametrize("message", ["", "line 3: broken"], ids=["sources listed", "a source in trouble"])
def test_a_virtual_server_that_others_made_meanwhile_is_never_taken_for_ours(message):
    bench = Bench()
    bench.kernel.ipvs.apply([AddVirtualServer(VirtualServer(VIP, "wlc"))])
    bench.put(service(), endpoint_slice(endpoints=[A]))
    if message:
        bench.tell(Trouble("web.yaml", message))
    else:
        bench.list_all()

    assert {"IPVS-AGENT-4-OTHERS 10.96.0.80,tcp:80"} == {
        member for member in bench.members() if "HAIRPIN" not in member
    }
    Bench(bench.kernel).list_all().pass_time(5)
    assert "wlc" == bench.kernel.ipvs.virtual_server(VIP).virtual_server.scheduler


@pytest.mark.parametrize("verb", ["DeleteVirtualServer", "DeleteVip", "AddMember", "AddVirtualServer"])
def test_what_is_ours_stays_known_as_ours_while_an_operation_fails(verb):
    kernel = FakeKernel()
    bench = Bench(kernel)
    fail(kernel, verb)
    bench.put(service(), endpoint_slice(endpoints=[A])).list_all().pass_time(2)
    bench.remove(service()).pass_time(5)
    revive(kernel)
    last = Bench(kernel).list_all().pass_time(5)

    assert ({}, set(), set()) == (last.tables(), last.vips(), last.members())


def fail(kernel, verb):
    """Have every operation of a kind fail."""

    def failing(apply):
        def choosing(operations):
            return [
                KernelError("injected") if type(operation).__name__ == verb else apply([operation])[0]
                for operation in operations
            ]

        return choosing

    for adapter in (kernel.ipvs, kernel.vips, kernel.ipsets):
        adapter.apply = failing(type(adapter).apply.__get__(adapter))


def test_a_vip_is_bound_as_soon_as_it_has_a_virtual_server_and_not_before():
    known = {"wlc"}
    bench = Bench(FakeKernel(ipvs=FakeIpvs(schedulers=known)))
    bench.put(service(), endpoint_slice(endpoints=[A])).list_all().pass_time(120)
    assert ({}, set()) == (bench.tables(), bench.vips())
    known.add("rr")
    while not bench.tables():
        bench.pass_time(1)

    assert {"10.96.0.80"} == bench.vips()


def test_a_restart_with_many_services_never_gives_an_address_to_the_younger():
    shared = {"external_ips": ["198.51.100.7"]}
    young = service("a/young", port("10.96.0.82", **shared), created="2026-02-01")
    old = service("z/old", port("10.96.0.81", **shared), created="2026-01-01")
    between = [
        service(f"b/s{number}", port(f"10.97.{number // 250}.{number % 250 + 1}")) for number in range(600)
    ]
    objects = [young, endpoint_slice("a/young", [B]), *between, old, endpoint_slice("z/old", [A])]
    bench = Bench()
    bench.put(*objects).list_all()
    before = len(bench.kernel.ipvs.batches)
    Bench(bench.kernel).put(*objects).list_all()

    assert [] == [batch for batch in bench.kernel.ipvs.batches[before:] if batch]


@pytest.mark.parametrize("seed", range(8))
def test_any_history_on_a_failing_kernel_ends_where_a_fresh_start_would(seed):
    rng = random.Random(seed)
    inner = FakeKernel()
    bench = Bench(FaultyKernel(inner, rng), inner)
    bench.list_all().pass_time(3)
    endpoints = [endpoint(f"10.244.1.{number}", node="node-a") for number in range(1, 6)]
    for _ in range(60):
        number = rng.randrange(4)
        asked = service(
            f"a/s{number}",
            port(
                f"10.96.1.{number + 1}",
                rng.choice([80, 81]),
                node_port=rng.choice([0, 30080 + number]),
                external_ips=rng.choice([[], ["198.51.100.7"]]),
                protocol=rng.choice([Protocol.TCP, Protocol.UDP]),
            ),
            created=f"2026-01-0{number + 1}",
        )
        behind = endpoint_slice(f"a/s{number}", rng.sample(endpoints, rng.randrange(4)))
        if rng.random() < 0.3 and (Kind.SERVICE, asked.name) in bench.objects:
            bench.remove(bench.objects[Kind.SERVICE, asked.name])
        else:
            bench.put(asked, behind)
        bench.pass_time(rng.randrange(2))
    bench.kernel.rate = 0
    bench.pass_time(120)

    fresh = Bench()
    fresh.put(*bench.objects.values()).list_all().pass_time(5)
    assert fresh.tables() == bench.tables()
    assert fresh.vips() == bench.vips()
    assert fresh.members() == bench.members()


def test_a_scheduler_that_the_kernel_lacks_gives_way_to_the_default(caplog):
    bench = Bench(FakeKernel(ipvs=FakeIpvs(schedulers=("rr", "lc"))))
    asked = service("shop/web", annotations={"ipvs-agent.io/scheduler": "twos"})
    plain = service("shop/plain", port("10.96.0.81"), annotations={"ipvs-agent.io/scheduler": "lc"})
    bench.put(asked, plain, endpoint_slice(endpoints=[A])).list_all().pass_time(2)

    assert {"10.244.1.11:8080": 1} == bench.tables()["-t 10.96.0.80:80"]
    assert "rr" == bench.kernel.ipvs.virtual_server(VIP).virtual_server.scheduler
    assert 1 == caplog.text.count("this kernel has no scheduler twos, so rr is used")
    bench.put(service("shop/web", annotations={"ipvs-agent.io/scheduler": "lc"}))

    assert "lc" == bench.kernel.ipvs.virtual_server(VIP).virtual_server.scheduler


@pytest.mark.parametrize(
    ("annotations", "weights"),
    [
        pytest.param({}, {"10.244.1.11:8080": 1, "10.244.1.12:8080": 0}, id="rr drains"),
        pytest.param({"ipvs-agent.io/scheduler": "dh"}, {"10.244.1.11:8080": 1}, id="dh has no fallback"),
        pytest.param(
            {"ipvs-agent.io/scheduler": "sh", "ipvs-agent.io/scheduler-flags": "none"},
            {"10.244.1.11:8080": 1},
            id="sh without its fallback",
        ),
        pytest.param(
            {"ipvs-agent.io/scheduler": "sh"}, {"10.244.1.11:8080": 1, "10.244.1.12:8080": 0}, id="sh drains"
        ),
    ],
)
def test_a_real_server_goes_at_once_where_its_clients_would_be_refused(annotations, weights):
    bench = serving(annotations=annotations)
    for each in (A, B):
        bench.kernel.ipvs.set_connections(VIP, (each.address, each.port), active=1)
    bench.put(endpoint_slice(endpoints=[A]))

    assert weights == bench.tables()["-t 10.96.0.80:80"]


def test_a_start_serves_first_what_others_need_and_says_how_long_its_stages_took(caplog):
    caplog.set_level("INFO")
    made = []
    bench = Bench()
    apply = bench.kernel.ipvs.apply

    def slowly(operations):
        bench.now += 2
        made.extend(str(one.virtual_server.key) for one in operations if isinstance(one, AddVirtualServer))
        return apply(operations)

    bench.kernel.ipvs.apply = slowly
    names = {"a/old": "10.96.0.3", "kube-system/kube-dns": "10.96.0.10", "default/kubernetes": "10.96.0.1"}
    for text, cluster_ip in names.items():
        bench.put(service(text, port(cluster_ip=cluster_ip)))
    bench.now += 3
    bench.list_all()

    assert ["-t 10.96.0.1:80", "-t 10.96.0.10:80", "-t 10.96.0.3:80"] == made
    assert "foundation_ms=0 sources_ms=3000 compile_ms=0 kernel_ms=2000" in caplog.text


def test_what_was_made_and_is_unwanted_before_all_is_listed_is_removed_then():
    one = service("shop/a", port("10.96.0.81"))
    bench = Bench()
    bench.reconciler.tell([Trouble("EndpointSlices", "the server does not answer")])
    bench.put(one, endpoint_slice("shop/a"))
    bench.remove(one)
    assert ["10.96.0.81"] == [*bench.vips()]

    bench.reconciler.tell([Trouble("EndpointSlices", "")])
    bench.list_all()

    assert ({}, set(), set()) == (bench.tables(), bench.vips(), bench.members())


@pytest.mark.parametrize("kind", [AddMember, AddVirtualServer, AddRealServers, AddVip])
def test_a_single_sync_is_complete_though_the_kernel_refused_something_once(kind):
    bench, refusals = Bench(), [KernelError("no memory", errno.ENOMEM)]
    adapter = {AddVip: bench.kernel.vips, AddMember: bench.kernel.ipsets}.get(kind, bench.kernel.ipvs)
    apply = adapter.apply

    if kind is AddRealServers:
        refusals = [PartlyRefused([*refusals, *refusals])]

    def refusing(batch):
        return [refusals.pop() if refusals and isinstance(one, kind) else apply([one])[0] for one in batch]

    adapter.apply = refusing
    things = {Kind.SERVICE: service(), Kind.ENDPOINT_SLICE: endpoint_slice(endpoints=[A, B])}
    bench.reconciler.tell([Put(which, thing) for which, thing in things.items()])
    for which in Kind:
        names = frozenset([things[which].name] if which in things else [])
        bench.reconciler.tell([Listed(which, names)])

    assert bench.reconciler.run_once()

    assert [] == refusals
    assert {"10.244.1.11:8080": 1, "10.244.1.12:8080": 1} == bench.tables()[str(VIP)]
    assert {"10.96.0.80"} == bench.vips()


def test_of_the_first_real_servers_one_that_is_refused_is_tried_again_alone():
    bench = Bench()
    bench.kernel.ipvs.apply = refusing = _RefusingAmongOthers(bench.kernel.ipvs.apply, B.address)
    bench.put(service(), endpoint_slice(endpoints=[A, B]))
    bench.list_all()

    assert {"10.244.1.11:8080": 1, "10.244.1.12:8080": 1} == bench.tables()[str(VIP)]
    additions = [one for batch in refusing.batches for one in batch if isinstance(one, AddRealServer)]
    assert [B.address] == [one.real_server.address for one in additions]


class _RefusingAmongOthers:
    """Refuses an address that is to come together with others."""

    def __init__(self, apply, address):
        self.batches = []
        self._apply = apply
        self._address = address

    def __call__(self, batch):
        self.batches.append(batch)
        return [self._outcome(one) for one in batch]

    def _outcome(self, operation):
        if not isinstance(operation, AddRealServers):
            return self._apply([operation])[0]
        return PartlyRefused(
            [
                KernelError("no memory", errno.ENOMEM)
                if one.real_server.address == self._address
                else self._apply([one])[0]
                for one in operation.one_by_one()
            ]
        )
