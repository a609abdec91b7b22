"""Compiling what Services ask for: weights, caps, masks, affinity of the whole Service, and what has no room.

Pods 10.244/16, cluster IPs 10.96/12; a and b run on this node, a is in its zone.
"""

from __future__ import annotations

import ipaddress
from collections import Counter

import msgspec
import pytest

from ipvs_agent.addresses import Family, format_address
from ipvs_agent.desired import split
from ipvs_agent.desired.compile import NodeView, compile_service
from ipvs_agent.model import FULL_NETMASK, Protocol, ServiceFlags
from ipvs_agent.operations import AddRealServer, SetRealServer, SetVirtualServer
from ipvs_agent.schedulers import SCHEDULERS, Weight
from ipvs_agent.schedulers.annotations import Choice
from ipvs_agent.testing.builders import endpoint, endpoint_slice, port, service
from tests.unit import tables
from tests.unit.benches import connect
from tests.unit.test_reconciler import VIP, Bench

NODE = NodeView(name="node-a", scheduler=Choice("rr", 0), zone="east")
A = endpoint("10.244.1.11", node="node-a", zone="east")
B = endpoint("10.244.1.12", node="node-a", zone="west")
C = endpoint("10.244.2.13", node="node-b", zone="east")
D = endpoint("10.244.3.14", node="node-c", zone="west")
HINTED = [
    msgspec.structs.replace(one, zone_hints=(zone,))
    for one, zone in ((A, "east"), (B, "west"), (C, "west"), (D, "north"))
]
MARK = split.mark_of(7, Protocol.TCP)
FALLBACK = ServiceFlags.SCHEDULER_1
PERSISTENT = ServiceFlags.PERSISTENT


def compiled(*endpoints, ports=(), node=NODE, marks=(), services=(), **annotations):
    """A plan; annotations are without their prefix, with _ for -."""
    asked = {f"ipvs-agent.io/{key.replace('_', '-')}": value for key, value in annotations.items()}
    fields = dict(services)
    asking = service("shop/web", *ports, annotations=asked, **fields)
    slices = [endpoint_slice(endpoints={one.name: endpoints for one in asking.ports})]
    return compile_service(asking, slices, node, dict.fromkeys(asking.ports, MARK) if marks else {})


def weights(plan, number=0):
    """The weights behind a virtual server of a plan, by the last number of the address."""
    return {one.address[-1]: one.weight for one in plan.frontends[number].real_servers}


def said(plan):
    return [f"{one.field}: {one.reason}" for one in plan.skipped]


NAMED = "metadata.annotations[ipvs-agent.io/scheduler]"


def schedulers(bench):
    return [one.virtual_server.scheduler for one in bench.inner.ipvs.virtual_servers()]


def many(count):
    first = int(ipaddress.ip_address("10.244.0.1"))
    return [endpoint(str(ipaddress.ip_address(first + number))) for number in range(count)]


class TestWeights:
    @pytest.mark.parametrize(
        "name",
        [one.name for one in SCHEDULERS.values() if one.weight != Weight.IGNORED and not one.keeps_places],
    )
    def test_schedulers_that_heed_them_get_them(self, name):
        plan = compiled(A, B, C, D, scheduler=name, weights="node:node-a=10,zone=3,other=0")

        assert ({11: 10, 12: 10, 13: 3, 14: 0}, []) == (weights(plan), said(plan))

    @pytest.mark.parametrize(
        "name", [one.name for one in SCHEDULERS.values() if one.weight == Weight.IGNORED]
    )
    def test_of_others_it_is_said_and_all_are_alike(self, name):
        plan = compiled(A, B, C, scheduler=name, weights="local=10,other=0")

        assert {11: 1, 12: 1, 13: 1} == weights(plan)
        assert [
            f"metadata.annotations[ipvs-agent.io/weights]: weights mean nothing to {name}; "
            "wrr, wlc and fo are schedulers that heed them"
        ] == said(plan)

    def test_under_mh_nobody_of_weight_0_is_asked_for(self):
        plan = compiled(A, B, C, D, scheduler="mh", weights="node:node-a=10,zone=3,other=0")

        assert ({11: 10, 12: 10, 13: 3}, []) == (weights(plan), said(plan))

    def test_endpoints_here_of_weight_0_under_mh_are_not_taken_for_none(self):
        """Clients are refused, not left without an answer."""
        balanced = port(load_balancer_ips=["198.51.100.7"])
        asked = {"ports": [balanced], "marks": [MARK], "services": {"external_local": True}}
        plans = [compiled(A, C, scheduler=name, weights="local=0", **asked) for name in ("mh", "wrr")]

        assert [{}, {11: 0}] == [weights(plan, 1) for plan in plans]
        assert plans[0].frontends[1].members == plans[1].frontends[1].members

    def test_what_makes_no_sense_is_said_and_all_are_alike(self):
        plan = compiled(A, C, scheduler="wrr", weights="local=x")

        assert {11: 1, 13: 1} == weights(plan)
        assert [
            "metadata.annotations[ipvs-agent.io/weights]: "
            "the weight 'x' of 'local' is not a number from 0 to 65535"
        ] == said(plan)

    def test_hints_keep_endpoints_out_unless_they_give_a_weight(self):
        assert {11: 5} == weights(compiled(*HINTED, scheduler="wrr", weights="local=5"))
        given = compiled(*HINTED, scheduler="wrr", weights="hinted=5,other=2")
        assert {11: 5, 12: 2, 13: 2, 14: 2} == weights(given)
        ignored = compiled(*HINTED, scheduler="rr", weights="hinted=5,other=2")
        assert {11: 1} == weights(ignored)

    def test_a_table_is_shared_in_proportion(self):
        plan = compiled(A, B, C, scheduler="sh", weights="other=200")

        assert {11: 85, 12: 85, 13: 85} == weights(plan)

    @pytest.mark.parametrize(
        "text", ["zone:north=50", "zone:north=63", "zone:north=65535", "zone:north=65535,other=1000"]
    )
    @pytest.mark.parametrize(("scheduler", "count"), [("sh", 256), ("mh", 200), ("mh", 1001), ("mh", 4093)])
    def test_whatever_the_weights_everybody_has_a_place(self, scheduler, count, text):
        behind = many(count)
        behind[::2] = [msgspec.structs.replace(one, zone="north") for one in behind[::2]]
        plan = compiled(*behind, scheduler=scheduler, weights=text)
        listed = plan.frontends[0].real_servers[::-1]

        assert {one.endpoint for one in listed} == set(tables.filled(scheduler, listed))

    def test_under_mh_shares_stay_in_proportion(self):
        behind = [msgspec.structs.replace(one, zone="north") for one in many(100)]
        behind += many(200)[100:]
        plan = compiled(*behind, scheduler="mh", weights="zone:north=50,other=1")
        shares = Counter(tables.filled("mh", plan.frontends[0].real_servers[::-1]))

        north, others = (
            sum(shares[one.address, one.port] for one in each) for each in (behind[:100], behind[100:])
        )
        assert 40 == pytest.approx(north / others, rel=0.05)
        assert {40, 39, 1} == set(weights(plan).values())

    def test_who_has_a_place_less_does_not_depend_on_who_was_heard_of_first(self):
        behind = many(249)
        behind[:9] = [msgspec.structs.replace(one, zone="north") for one in behind[:9]]
        plans = [
            compiled(*order, scheduler="sh", weights="zone:north=100") for order in (behind, behind[::-1])
        ]

        assert plans[0].frontends == plans[1].frontends
        assert {1, 2} == {one.weight for one in plans[0].frontends[0].real_servers}

    def test_behind_a_mark_the_table_of_affinity_is_heeded(self):
        balanced = port(load_balancer_ips=["198.51.100.7"])
        plan = compiled(
            *(A, B, C),
            ports=[balanced],
            marks=[MARK],
            services={"external_local": True, "affinity_seconds": 60},
            scheduler="wrr",
            weights="other=500",
        )

        assert [
            ("wrr", {11: 500, 12: 500, 13: 500}),
            ("wrr", {11: 500, 12: 500}),
            ("sh", {11: 85, 12: 85, 13: 85}),
        ] == [
            (one.virtual_server.scheduler, weights(plan, number)) for number, one in enumerate(plan.frontends)
        ]

    def test_a_change_touches_only_what_it_changes(self):
        def asking(text):
            return service(annotations={"ipvs-agent.io/scheduler": "wrr", "ipvs-agent.io/weights": text})

        bench = Bench().put(asking("local=5,other=1"), endpoint_slice(endpoints=[A, B, C, D]))
        bench.list_all()
        bench.kernel.ipvs.batches.clear()
        bench.put(asking("local=5,other=1,node:node-c=7"))

        done = [operation for batch in bench.kernel.ipvs.batches for operation in batch]
        assert [(SetRealServer, D.address, 7)] == [
            (type(one), one.real_server.address, one.real_server.weight) for one in done
        ]

    def test_under_mh_nodes_end_alike_whatever_the_weight_was_before(self):
        def asking(text):
            return service(annotations={"ipvs-agent.io/scheduler": "mh", "ipvs-agent.io/weights": text})

        changing, starting = Bench(), Bench()
        changing.put(asking("other=5"), endpoint_slice(endpoints=[A, B, C, D])).list_all()
        connect(changing, VIP, D)
        for bench in (changing, starting):
            bench.put(asking("node:node-c=0,other=5"), endpoint_slice(endpoints=[A, B, C, D])).list_all()
        tables = [bench.tables()[str(VIP)] for bench in (changing, starting)]
        assert (0, None) == tuple(table.get("10.244.3.14:8080") for table in tables)
        connect(changing, VIP, D, 0)
        changing.pass_time(10)

        assert changing.tables() == starting.tables()


class TestRoom:
    @pytest.mark.parametrize(("name", "room"), [("sh", 256), ("dh", 256), ("mh", 4093)])
    def test_more_endpoints_than_a_table_holds_get_the_default(self, name, room):
        fitting, full = compiled(*many(room), scheduler=name), compiled(*many(room + 1), scheduler=name)

        assert (name, []) == (fitting.frontends[0].virtual_server.scheduler, said(fitting))
        assert ("rr", room + 1) == (
            full.frontends[0].virtual_server.scheduler,
            len(full.frontends[0].real_servers),
        )
        (line,) = said(full)
        assert (
            f"{NAMED}: {name} has room for {room} endpoints and port 'http' has more, so rr is used"
        ) == line

    def test_where_the_default_has_no_room_either_they_take_turns(self):
        node = msgspec.structs.replace(NODE, scheduler=Choice("dh", 0))
        plan = compiled(*many(257), node=node, scheduler="sh")

        assert ("rr", 0) == (
            plan.frontends[0].virtual_server.scheduler,
            plan.frontends[0].virtual_server.flags,
        )
        assert [f"{NAMED}: sh has room for 256 endpoints and port 'http' has more, so rr is used"] == said(
            plan
        )

    def test_the_default_of_the_configuration_has_no_room(self):
        node = msgspec.structs.replace(NODE, scheduler=Choice("sh", FALLBACK))

        plan = compiled(*many(257), node=node)

        assert "rr" == plan.frontends[0].virtual_server.scheduler
        assert ["ipvs.scheduler: sh has room for 256 endpoints and port 'http' has more, so rr is used"
                ] == said(plan)  # fmt: skip

    def test_what_a_service_asks_for_wrongly_is_not_what_has_no_room(self):
        node = msgspec.structs.replace(NODE, scheduler=Choice("sh", FALLBACK))
        plan = compiled(*many(257), node=node, scheduler="wr")

        assert [NAMED, "ipvs.scheduler"] == [line.partition(":")[0] for line in said(plan)]

    def test_a_kernel_that_lacks_the_default_is_no_fault_of_a_service(self):
        lacking = msgspec.structs.replace(
            NODE, scheduler=Choice("mh", FALLBACK), missing_schedulers=frozenset({"mh"})
        )
        plain, asking = compiled(A, node=lacking), compiled(A, node=lacking, scheduler="mh")

        assert ["rr", "rr"] == [each.frontends[0].virtual_server.scheduler for each in (plain, asking)]
        assert ([], [f"{NAMED}: this kernel has no scheduler mh, so rr is used"]) == (
            said(plain),
            said(asking),
        )

    def test_hints_do_not_make_room(self):
        """Or nodes would differ."""
        near = [msgspec.structs.replace(one, zone_hints=("east",)) for one in many(10)]
        far = [msgspec.structs.replace(one, zone_hints=("west",)) for one in many(257)[10:]]
        plan = compiled(*near, *far, scheduler="sh")

        assert ("rr", 10) == (
            plan.frontends[0].virtual_server.scheduler,
            len(plan.frontends[0].real_servers),
        )

    def test_a_number_that_goes_up_and_down_at_the_edge_brings_no_change_each_time(self):
        behind = many(257)
        asked = service(annotations={"ipvs-agent.io/scheduler": "sh"})
        bench = Bench().put(asked, endpoint_slice(endpoints=behind[:256])).list_all()
        assert ["sh"] == schedulers(bench)
        bench.kernel.ipvs.batches.clear()
        for _ in range(5):
            bench.put(endpoint_slice(endpoints=behind)).pass_time(40)
            bench.put(endpoint_slice(endpoints=behind[:256])).pass_time(40)
        assert ["rr"] == schedulers(bench)
        bench.pass_time(19)
        assert ["rr"] == schedulers(bench)
        bench.pass_time(2)
        assert ["sh"] == schedulers(bench)

        changes = [one for batch in bench.kernel.ipvs.batches for one in batch]
        assert 2 == sum(isinstance(one, SetVirtualServer) for one in changes)

    def test_one_that_was_full_for_long_has_room_after_a_minute_too(self):
        asked = service(annotations={"ipvs-agent.io/scheduler": "sh"})
        bench = Bench().put(asked, endpoint_slice(endpoints=many(257))).list_all().pass_time(300)
        bench.put(endpoint_slice(endpoints=many(256))).pass_time(59)
        assert ["rr"] == schedulers(bench)

        assert ["sh"] == schedulers(bench.pass_time(2))

    def test_one_that_is_full_gets_at_once_what_has_room(self):
        bench = Bench().put(service(), endpoint_slice(endpoints=many(257))).list_all()
        bench.put(service(annotations={"ipvs-agent.io/scheduler": "mh"}))

        assert ["mh"] == schedulers(bench)

    def test_a_service_made_anew_has_room_at_once(self):
        asked = service(annotations={"ipvs-agent.io/scheduler": "sh"})
        bench = Bench().put(asked, endpoint_slice(endpoints=many(257))).list_all()
        bench.remove(asked).pass_time(10)
        bench.put(asked, endpoint_slice(endpoints=many(256)))

        assert ["sh"] == schedulers(bench)

    def test_behind_a_mark_affinity_needs_room(self):
        balanced = port(load_balancer_ips=["198.51.100.7"])
        fields = {"external_local": True, "affinity_seconds": 60}
        plan = compiled(*many(257), ports=[balanced], marks=[MARK], services=fields)

        assert ("rr", 0) == (
            plan.frontends[-1].virtual_server.scheduler,
            plan.frontends[-1].virtual_server.flags,
        )
        assert [
            "spec.sessionAffinity: sh has room for 256 endpoints and port 'http' has more, so clients inside"
            " the cluster have none at addresses for clients outside"
        ] == said(plan)

    @pytest.mark.parametrize(
        ("flags", "local", "is_said"),
        [
            pytest.param("", True, False, id="mh keeps clients too"),
            pytest.param("mh-port", True, True, id="but not by their ports"),
            pytest.param("mh-port", False, False, id="there is no mark"),
        ],
    )
    def test_that_it_has_none_is_said_where_affinity_is_lost(self, flags, local, is_said):
        fields = {"external_local": local, "affinity_seconds": 60}
        asked = {"scheduler": "mh"} | ({"scheduler_flags": flags} if flags else {})
        plan = compiled(
            *many(257), ports=[port(load_balancer_ips=["198.51.100.7"])], services=fields, **asked
        )

        assert is_said is bool(said(plan))


class TestCaps:
    def test_every_real_server_has_them(self):
        plan = compiled(A, B, max_connections="1000", resume_connections="800")

        behind = plan.frontends[0].real_servers
        assert ({(1, 1000, 800)}, []) == (
            {(one.weight, one.upper_threshold, one.lower_threshold) for one in behind},
            said(plan),
        )

    def test_beside_weights_too(self):
        plan = compiled(A, C, scheduler="wrr", weights="local=5", max_connections="1000")

        assert [(5, 1000, 0), (1, 1000, 0)] == sorted(
            (
                (one.weight, one.upper_threshold, one.lower_threshold)
                for one in plan.frontends[0].real_servers
            ),
            reverse=True,
        )


class TestSlowStart:
    def test_all_weights_are_larger_so_that_they_can_grow(self):
        plain = compiled(A, C, scheduler="wrr", slow_start="60s")
        weighed = compiled(A, C, scheduler="wlc", slow_start="60s", weights="local=65535")

        assert ({11: 10, 13: 10}, 60, []) == (
            weights(plain),
            plain.frontends[0].slow_start_seconds,
            said(plain),
        )
        assert {11: 655350, 13: 10} == weights(weighed)

    def test_to_others_it_means_nothing_and_that_is_said(self):
        plan = compiled(A, C, scheduler="mh", slow_start="60s")

        assert ({11: 1, 13: 1}, 0) == (weights(plan), plan.frontends[0].slow_start_seconds)
        assert [
            "metadata.annotations[ipvs-agent.io/slow-start]: "
            "means nothing to mh; use wrr, wlc, sed, nq or twos"
        ] == said(plan)

    def test_behind_a_mark_with_a_table_of_its_own_there_is_none(self):
        plan = compiled(
            *(A, C),
            ports=[port(load_balancer_ips=["198.51.100.7"])],
            marks=[MARK],
            services={"external_local": True, "affinity_seconds": 60},
            scheduler="wrr",
            slow_start="60s",
        )

        assert [(60, {11: 10, 13: 10}), (60, {11: 10}), (0, {11: 1, 13: 1})] == [
            (one.slow_start_seconds, weights(plan, number)) for number, one in enumerate(plan.frontends)
        ]


class TestAffinity:
    STICKY = {"affinity_seconds": 60}  # noqa: RUF012 - nobody changes it
    PORTS = (port(number=80, name="http"), port(number=443, name="https"))

    def servers(self, plan):
        return [
            (one.virtual_server.scheduler, one.virtual_server.flags, one.virtual_server.timeout)
            for one in plan.frontends
        ]

    def test_masks_are_those_of_each_family(self):
        dual = (port(), port("fd00:10:96::80"))
        plan = compiled(ports=dual, services=self.STICKY, affinity_mask="24/64")
        plain = compiled(ports=dual, services=self.STICKY, affinity_mask="/48")

        found = [
            {one.virtual_server.key.family: one.virtual_server.netmask for one in each.frontends}
            for each in (plan, plain)
        ]
        assert [
            {Family.IPV4: 0xFFFFFF00, Family.IPV6: 64},
            {Family.IPV4: FULL_NETMASK, Family.IPV6: 48},
        ] == found

    def test_of_the_whole_service_it_is_one_hash_over_one_order(self):
        plan = compiled(
            *(D, B, A, C), ports=self.PORTS, services=self.STICKY, affinity_shared="true", scheduler="sh"
        )

        assert ([("sh", FALLBACK, 0)] * 2, []) == (self.servers(plan), said(plan))
        orders = {tuple(format_address(one.address) for one in each.real_servers) for each in plan.frontends}
        assert 1 == len(orders)

    @pytest.mark.parametrize(
        ("asked", "blamed"),
        [
            ({"scheduler": "lc"}, "scheduler"),
            ({"scheduler": "sh", "scheduler_flags": "sh-port"}, "scheduler-flags"),
            ({"scheduler_flags": "flag-1"}, "scheduler-flags"),
        ],
    )
    def test_another_scheduler_means_nothing_beside_it_and_that_is_said(self, asked, blamed):
        plan = compiled(A, services=self.STICKY, affinity_shared="true", **asked)

        assert [("sh", FALLBACK, 0)] == self.servers(plan)
        reason = "means nothing beside ipvs-agent.io/affinity-shared, which is done by sh without sh-port"
        assert [f"metadata.annotations[ipvs-agent.io/{blamed}]: {reason}"] == said(plan)

    def test_it_is_not_asked_for_with_false(self):
        plan = compiled(A, ports=self.PORTS, services=self.STICKY, affinity_shared="false")

        assert [("rr", PERSISTENT, 60)] * 2 == self.servers(plan)

    def test_weights_count_there(self):
        plan = compiled(A, B, services=self.STICKY, affinity_shared="true", weights="zone:east=3")

        assert ({11: 3, 12: 1}, []) == (weights(plan), said(plan))

    @pytest.mark.parametrize(
        ("count", "missing", "obstacle"),
        [
            (1, {"sh"}, "this kernel has no scheduler sh"),
            (257, (), "sh has room for 256 endpoints and port 'http' has more"),
        ],
    )
    def test_where_there_can_be_no_hash_it_is_by_port(self, count, missing, obstacle):
        node = msgspec.structs.replace(NODE, missing_schedulers=frozenset(missing))
        plan = compiled(*many(count), node=node, services=self.STICKY, affinity_shared="true", scheduler="lc")

        assert [("lc", PERSISTENT, 60)] == self.servers(plan)
        assert [
            f"metadata.annotations[ipvs-agent.io/affinity-shared]: {obstacle}, so it is not shared"
        ] == said(plan)

    def test_it_comes_and_goes_with_one_change_of_each_virtual_server(self):
        def asking(text):
            asked = {"ipvs-agent.io/affinity-shared": text}
            return service("shop/web", *self.PORTS, annotations=asked, affinity_seconds=60)

        bench = Bench().put(asking("false"), endpoint_slice(endpoints={"http": [A], "https": [A]}))
        bench.list_all()
        for text in ("true", "false"):
            bench.kernel.ipvs.batches.clear()
            bench.put(asking(text))
            done = [operation for batch in bench.kernel.ipvs.batches for operation in batch]

            assert [SetVirtualServer] * 2 == [type(one) for one in done]


def test_caps_are_changed_in_place():
    def asking(**asked):
        return service(annotations=asked)

    bench = Bench().put(asking(), endpoint_slice(endpoints=[A, B]))
    bench.list_all()
    bench.kernel.ipvs.batches.clear()
    bench.put(asking(**{"ipvs-agent.io/max-connections": "500"}))

    done = [operation for batch in bench.kernel.ipvs.batches for operation in batch]
    assert not any(isinstance(one, AddRealServer) for one in done)
    assert [500] * 2 == [one.real_server.upper_threshold for one in done if isinstance(one, SetRealServer)]


class TestOneFaultForOneMistake:
    """What was meant for a scheduler that cannot be had, or for another port's, is no fault of its own."""

    WEB, ADMIN = port(number=80, name="web"), port(number=81, name="admin")

    @pytest.mark.parametrize("scheduler", ["wrrr", "", "twos"])
    def test_a_scheduler_that_cannot_be_had(self, scheduler):
        node = msgspec.structs.replace(NODE, missing_schedulers=frozenset({"twos"}))
        plan = compiled(
            A,
            node=node,
            scheduler=scheduler,
            weights="local=10,other=1",
            slow_start="60s",
            scheduler_flags="x",
        )
        (fault,) = [one for one in said(plan) if "scheduler-flags" not in one]

        assert fault.startswith(NAMED)

    def test_a_cap_that_makes_no_sense(self):
        (fault,) = said(compiled(A, max_connections="1k", resume_connections="800"))

        assert fault.startswith("metadata.annotations[ipvs-agent.io/max-connections]: ")

    def test_a_port_with_a_scheduler_of_its_own_does_not_have_the_flags_of_the_others(self):
        asked = {"scheduler": "mh", "scheduler_flags": "mh-port", "scheduler.admin": "rr"}
        plan = compiled(A, ports=(self.WEB, self.ADMIN), **asked)

        found = [(one.virtual_server.scheduler, one.virtual_server.flags) for one in plan.frontends]
        mh = SCHEDULERS["mh"].safe_flags | SCHEDULERS["mh"].flag_bits["mh-port"]
        assert ([("mh", mh), ("rr", 0)], []) == (found, said(plan))

    def test_what_one_port_heeds_is_no_fault_of_another(self):
        asked = {"scheduler.web": "wrr", "weights": "local=10,other=1", "slow_start": "60s"}
        plan = compiled(A, C, ports=(self.WEB, self.ADMIN), **asked)

        assert ({11: 100, 13: 10}, {11: 1, 13: 1}, []) == (weights(plan), weights(plan, 1), said(plan))

    def test_what_no_port_heeds_is_said(self):
        plan = compiled(A, ports=(self.WEB, self.ADMIN), **{"scheduler.web": "lc", "weights": "local=10"})

        assert {"weights mean nothing to lc", "weights mean nothing to rr"} == {
            one.split("]: ")[1].split(";")[0] for one in said(plan)
        }
