"""Random histories of a node: whatever happened, they end where an agent on a fresh node would."""

from __future__ import annotations

import contextlib
import random

import pytest

from ipvs_agent.addresses import format_address, parse_network
from ipvs_agent.model import Node, Protocol, RealServer, VipMode, VirtualServer
from ipvs_agent.operations import AddRealServer, AddVirtualServer, DeleteVirtualServer
from ipvs_agent.reconcile.messages import AddressesChanged, AddressGone
from ipvs_agent.reconcile.outlets import Outlets
from ipvs_agent.schedulers import fills_table
from ipvs_agent.sources.changes import Kind, Put, Trouble
from ipvs_agent.testing.builders import address, endpoint, endpoint_slice, key, name, port, service
from ipvs_agent.testing.fake_kernel import FakeKernel
from ipvs_agent.testing.faulty import FaultyKernel
from tests.unit.benches import INSIDE
from tests.unit.test_reconciler import Bench, KilledError, kill_at, revive

EXTERNAL = ("198.51.100.1", "198.51.100.2", "192.0.2.1")
"""The last one is the node's own now and then."""
RANGES = ("0.0.0.0/0", "203.0.113.0/24", "192.0.2.0/24")
ENDPOINTS = (
    endpoint("10.244.1.11", node="node-a"),
    endpoint("10.244.1.12", node="node-a"),
    endpoint("10.244.2.13", node="node-b"),
    endpoint("10.244.2.14", node="node-b", ready=False, terminating=True),
)
PORTS = {"http": Protocol.TCP, "dns": Protocol.UDP, "assoc": Protocol.SCTP}
FOREIGN = (
    key("198.51.100.1:80"),
    key("198.51.100.2:80", Protocol.UDP),
    key("10.96.0.2:9999"),
    key("192.0.2.1:80"),
)
MODES = (VipMode.ADDRESSES, VipMode.ROUTES)
BEHIND_FOREIGN = RealServer(address("172.16.0.9"), 9)


class Notes:
    """What users were told of their Services, as it stands."""

    def __init__(self):
        self.lines = {}

    def replace(self, service, lines):
        # A slice may come before its Service or stay behind it; when that is told depends on the order.
        self.lines[service] = [line for line in lines if "there is no Service" not in line]

    def flush(self):
        self.lines = {service: lines for service, lines in self.lines.items() if lines}


class History:
    """What happens to one node and its agents, one after another."""

    def __init__(self, rng, *, fails=False, kills=False, has_others=False, vip_mode=None):
        self.rng = rng
        self.inner = FakeKernel()
        self.inner.node_addresses.assign("eth0", ["192.0.2.10"])
        self.kernel = FaultyKernel(self.inner, random.Random(rng.random()), 0.15) if fails else self.inner
        self.foreign = set()
        self.is_listed = False
        self.kills = kills
        self.vip_mode = vip_mode or rng.choice(MODES)
        self.notes = Notes()
        self.bench = self.agent(now=1000.0, objects={})
        # What may happen, and how often.
        self.events = {
            self.a_service_comes_or_changes: 40,
            self.endpoints_change: 25,
            self.a_service_goes: 10,
            self.all_is_listed: 5,
            self.time_passes: 5,
            self.addresses_change: 5,
            self.the_node_changes: 3,
            self.a_source_is_in_trouble: 1,
            self.connections_begin_or_end: 3,
            self.the_agent_is_restarted: 7,
        } | ({self.others_make_or_remove_theirs: 10} if has_others else {})

    def run(self):
        for _ in range(self.rng.randint(10, 30)):
            (event,) = self.rng.choices(list(self.events), weights=list(self.events.values()))
            if self.kills and self.rng.random() < 0.15:
                self.is_killed_at(event)
            else:
                event()
            assert self.foreign_as_made() == self.foreign_as_found()
        return self

    def agent(self, now, objects):
        self.notes = Notes()
        bench = Bench(
            self.kernel, self.inner, needs=INSIDE, outlets=Outlets(notes=self.notes), vip_mode=self.vip_mode
        )
        bench.now, bench.objects = now, objects
        return bench.settle()

    # --- What happens ---------------------------------------------------------------------------------------

    def a_service_comes_or_changes(self):
        rng, number = self.rng, self.rng.randint(1, 4)
        ports = [
            port(
                f"10.96.0.{number}",
                name=port_name,
                protocol=PORTS[port_name],
                node_port=rng.choice([0, 30000 + 3 * number + position]),
                external_ips=rng.sample(EXTERNAL, rng.choice([0, 0, 1, 2])),
                load_balancer_ips=rng.sample(EXTERNAL, rng.choice([0, 1, 1, 2])),
            )
            for position, port_name in enumerate(rng.sample(sorted(PORTS), rng.choice([1, 2])))
        ]
        scheduler = rng.choice(["", "", "sh", "dh", "mh", "twos"])
        limit = {"ipvs-agent.io/drain-timeout": "20s"} if rng.random() < 0.2 else {}
        made_anew = rng.choice([1, 2, 3]) if rng.random() < 0.2 else number
        ranges = rng.sample(RANGES, rng.choice([0, 0, 1, 2]))
        self.bench.put(
            service(
                f"shop/s{number}",
                *ports,
                external_local=rng.random() < 0.6,
                internal_local=rng.random() < 0.2,
                affinity_seconds=rng.choice([0, 0, 100]),
                source_ranges=tuple(parse_network(text) for text in ranges),
                annotations=({"ipvs-agent.io/scheduler": scheduler} if scheduler else {}) | limit,
                created=f"2026-01-0{made_anew}T00:00:00Z",
            )
        )

    def endpoints_change(self):
        behind = {port_name: self.rng.sample(ENDPOINTS, self.rng.randint(0, 3)) for port_name in PORTS}
        self.bench.put(endpoint_slice(f"shop/s{self.rng.randint(1, 4)}", behind))

    def a_service_goes(self):
        gone = self.bench.objects.get((Kind.SERVICE, name(f"shop/s{self.rng.randint(1, 4)}")))
        if gone is not None:
            self.bench.remove(gone)

    def all_services_go(self):
        for (kind, _), thing in list(self.bench.objects.items()):
            if kind is Kind.SERVICE:
                self.bench.remove(thing)
        self.bench.pass_time(30)

    def all_is_listed(self):
        self.is_listed = True
        self.bench.list_all()

    def time_passes(self):
        self.bench.pass_time(self.rng.randint(1, 40))

    def addresses_change(self):
        has = self.rng.sample(["192.0.2.1", "192.0.2.10", "192.0.2.11"], self.rng.choice([1, 2]))
        had = {one for each in self.inner.node_addresses.addresses().values() for one in each}
        self.inner.node_addresses.assign("eth0", has)
        for gone in sorted(had - set(map(address, has))):
            self.bench.reconciler.tell(AddressGone(gone))
        if self.rng.random() < 0.5:  # something else comes between
            self.bench.put(self.a_node())
        self.bench.reconciler.tell(AddressesChanged())
        self.bench.settle()

    def the_node_changes(self):
        self.bench.put(self.a_node())

    def a_node(self):
        known_as = self.rng.sample(["192.0.2.1", "192.0.2.10", "192.0.2.11"], self.rng.choice([0, 1, 2]))
        return Node("node-a", zone=self.rng.choice(["", "east"]), addresses=tuple(map(address, known_as)))

    def a_source_is_in_trouble(self):
        self.bench.tell(Trouble("web.yaml", self.rng.choice(["line 3: broken", ""])))

    def connections_begin_or_end(self):
        behind = [
            (found.virtual_server.key, each.real_server.endpoint)
            for found in self.inner.ipvs.virtual_servers()
            for each in self.inner.ipvs.real_servers(found.virtual_server.key)
        ]
        if behind:
            self.inner.ipvs.set_connections(*self.rng.choice(behind), active=self.rng.choice([0, 0, 1]))

    def the_agent_is_restarted(self):
        if self.rng.random() < 0.2:
            self.vip_mode = self.rng.choice(MODES)
        self.bench = self.agent(self.bench.now + 1, self.bench.objects)
        known = list(self.bench.objects.items())
        self.bench.tell(*(Put(kind, one) for (kind, _), one in self.rng.sample(known, len(known))))
        if self.is_listed or self.rng.random() < 0.7:
            self.all_is_listed()

    def is_killed_at(self, event):
        kill_at(self.inner, self.rng.randrange(8))
        with contextlib.suppress(KilledError):
            event()
        revive(self.inner)
        self.the_agent_is_restarted()

    def others_make_or_remove_theirs(self):
        one = self.rng.choice(FOREIGN)
        if one in self.foreign:
            self.foreign.discard(one)
            assert [None] == self.inner.ipvs.apply([DeleteVirtualServer(one)])
        elif self.inner.ipvs.apply([AddVirtualServer(VirtualServer(one, "wlc"))]) == [None]:
            self.foreign.add(one)
            assert [None] == self.inner.ipvs.apply([AddRealServer(one, BEHIND_FOREIGN)])

    # --- What is there --------------------------------------------------------------------------------------

    def served(self):
        return {found.virtual_server.key for found in self.inner.ipvs.virtual_servers()}

    def foreign_as_made(self):
        return {one: (VirtualServer(one, "wlc"), [BEHIND_FOREIGN]) for one in self.foreign}

    def foreign_as_found(self):
        return {
            one: (
                self.inner.ipvs.virtual_server(one).virtual_server,
                [each.real_server for each in self.inner.ipvs.real_servers(one)],
            )
            for one in self.foreign
        }

    def come_to_rest(self):
        """Have all faults and connections end, and give it time."""
        if self.kernel is not self.inner:
            self.kernel.rate = 0
        for found in self.inner.ipvs.virtual_servers():
            for each in self.inner.ipvs.real_servers(found.virtual_server.key):
                self.inner.ipvs.set_connections(found.virtual_server.key, each.real_server.endpoint, active=0)
        self.bench.tell(Trouble("web.yaml", "")).list_all().pass_time(120)
        return self

    def on_a_fresh_node(self):
        """What an agent makes of the same objects where nothing has happened."""
        fresh = History(self.rng, vip_mode=self.vip_mode)
        has = self.inner.node_addresses.addresses()["eth0"]
        fresh.inner.node_addresses.assign("eth0", [format_address(one) for one in has])
        fresh.foreign = self.foreign
        for one in self.foreign:
            server = AddVirtualServer(VirtualServer(one, "wlc"))
            assert [None, None] == fresh.inner.ipvs.apply([server, AddRealServer(one, BEHIND_FOREIGN)])
        fresh.bench = fresh.agent(1000.0, {})
        fresh.bench.put(*self.bench.objects.values()).list_all().pass_time(5)
        return fresh

    def picture(self):
        """All that is in the kernel; a mark, which is any number, is shown as what leads to it.

        The order of real servers is shown where it decides which client gets which.
        """
        in_order = {
            str(found.virtual_server.key)
            for found in self.inner.ipvs.virtual_servers()
            if fills_table(found.virtual_server.scheduler)
        }
        leading = {}
        for member in self.inner.ipsets.members("IPVS-AGENT-4-MARKS"):
            leading.setdefault(f"-f {member.mark}", set()).add(str(member).partition(" skbmark ")[0])
        tables = (
            (
                str(sorted(leading.get(dialled, ()))) if dialled.startswith("-f ") else dialled,
                list(behind.items()) if dialled in in_order else sorted(behind.items()),
            )
            for dialled, behind in self.bench.tables().items()
        )
        members = {member.partition(" skbmark ")[0] for member in self.bench.members()}
        return (
            sorted(tables),
            members,
            self.bench.vips(),
            self.inner.vips.routes(),
            self.inner.sysctls.values,
        )


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(
    "hazards",
    [{}, {"fails": True}, {"kills": True}, {"has_others": True}],
    ids=["all is well", "a failing kernel", "kills", "others"],
)
def test_any_history_ends_where_a_fresh_start_would(hazards, seed):
    history = History(random.Random(seed), **hazards).run().come_to_rest()

    fresh = history.on_a_fresh_node()
    assert fresh.picture() == history.picture()
    assert fresh.notes.lines == history.notes.lines
    assert history.bench.reconciler.health().is_healthy
    history.all_services_go()
    assert (history.foreign, set(), {}) == (
        history.served(),
        history.bench.vips(),
        history.inner.vips.routes(),
    )
