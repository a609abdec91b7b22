"""Compiling: from a Service and its slices to what a node needs.

Pods 10.244/16, cluster IPs 10.96/12, node addresses 192.0.2/24, external addresses 198.51.100/24.
"""

from __future__ import annotations

import msgspec
import pytest

from ipvs_agent.addresses import Family, format_address
from ipvs_agent.desired.compile import NodeView, compile_service
from ipvs_agent.model import Protocol, ServiceFlags, format_endpoint
from ipvs_agent.schedulers.annotations import Choice
from ipvs_agent.testing.builders import address, endpoint, endpoint_slice, port, service

NODE = NodeView(
    name="node-a",
    scheduler=Choice("rr", 0),
    node_port_addresses=(address("192.0.2.1"), address("2001:db8::1")),
    never_bound=frozenset({address("192.0.2.1"), address("2001:db8::1")}),
)
A = endpoint("10.244.1.11", node="node-a")
B = endpoint("10.244.1.12", node="node-a")
C = endpoint("10.244.2.13", node="node-b")


def changed(value, **fields):
    return msgspec.structs.replace(value, **fields)


def tables(plan):
    """Virtual servers with their real servers, as text."""
    return {
        str(frontend.virtual_server.key): [
            format_endpoint(server.address, server.port) for server in frontend.real_servers
        ]
        for frontend in plan.frontends
    }


def members(plan):
    """Members of all sets, as text."""
    every = [member for frontend in plan.frontends for member in frontend.members] + list(plan.members)
    return {f"{member.set_name} {member}" for member in every}


def compiled(a_service, *slices, node=NODE):
    return compile_service(a_service, slices, node)


def test_a_cluster_ip_has_its_endpoints_and_is_bound():
    plan = compiled(service(), endpoint_slice(endpoints=[A, C]))

    assert {"-t 10.96.0.80:80": ["10.244.1.11:8080", "10.244.2.13:8080"]} == tables(plan)
    assert [(address("10.96.0.80"),)] == [frontend.vips for frontend in plan.frontends]
    assert {
        "IPVS-AGENT-4-SERVICES 10.96.0.80,tcp:80",
        "IPVS-AGENT-4-CLUSTER 10.96.0.80,tcp:80",
        "IPVS-AGENT-4-VIPS 10.96.0.80",
        "IPVS-AGENT-4-HAIRPIN 10.244.1.11,tcp:8080,10.244.1.11",
    } == members(plan)


def test_a_node_port_is_served_on_the_node_and_never_bound():
    plan = compiled(service("shop/web", port(node_port=30080)), endpoint_slice(endpoints=[C]))

    node_port = plan.frontends[1]
    assert "-t 192.0.2.1:30080" == str(node_port.virtual_server.key)
    assert () == node_port.vips
    assert {
        "IPVS-AGENT-4-SERVICES 192.0.2.1,tcp:30080",
        "IPVS-AGENT-4-EXTERNAL 192.0.2.1,tcp:30080",
    } == {f"{member.set_name} {member}" for member in node_port.members}


def test_dual_stack_keeps_the_families_apart():
    v6 = port("fd00:10:96::80", node_port=30080)
    slices = [
        endpoint_slice(endpoints=[A]),
        endpoint_slice(endpoints=[endpoint("fd00:10:244:1::11")], family=Family.IPV6, suffix="2"),
    ]
    plan = compiled(service("shop/web", port(node_port=30080), v6), *slices)

    assert {
        "-t 10.96.0.80:80": ["10.244.1.11:8080"],
        "-t 192.0.2.1:30080": ["10.244.1.11:8080"],
        "-t [fd00:10:96::80]:80": ["[fd00:10:244:1::11]:8080"],
        "-t [2001:db8::1]:30080": ["[fd00:10:244:1::11]:8080"],
    } == tables(plan)
    assert "IPVS-AGENT-6-VIPS fd00:10:96::80" in members(plan)


def test_a_family_that_the_node_cannot_serve_is_left_out():
    node = changed(NODE, families=frozenset({Family.IPV4}))
    plan = compiled(service("shop/web", port(), port("fd00:10:96::80")), node=node)

    assert {"-t 10.96.0.80:80": []} == tables(plan)


@pytest.mark.parametrize(
    ("protocol", "option"),
    [(Protocol.TCP, "-t"), (Protocol.UDP, "-u"), (Protocol.SCTP, "--sctp-service")],
    ids=str,
)
def test_every_protocol_has_its_virtual_server(protocol, option):
    plan = compiled(service("shop/web", port(protocol=protocol)), endpoint_slice(endpoints=[A]))

    assert {f"{option} 10.96.0.80:80": ["10.244.1.11:8080"]} == tables(plan)


def test_ports_are_paired_by_name():
    ports = (port(number=80, name="http"), port(number=443, name="https"))
    behind = {"http": [A], "https": [changed(A, port=8443)]}
    plan = compiled(service("shop/web", *ports), endpoint_slice(endpoints=behind))

    assert {
        "-t 10.96.0.80:80": ["10.244.1.11:8080"],
        "-t 10.96.0.80:443": ["10.244.1.11:8443"],
    } == tables(plan)


def test_session_affinity_is_persistence_on_every_address():
    plan = compiled(
        service("shop/web", port(node_port=30080), affinity_seconds=10800), endpoint_slice(endpoints=[A])
    )

    assert [(ServiceFlags.PERSISTENT, 10800)] * 2 == [
        (frontend.virtual_server.flags, frontend.virtual_server.timeout) for frontend in plan.frontends
    ]


READY, SERVING = {"ready": True}, {"ready": False, "serving": True, "terminating": True}
NOT_READY, GOING = {"ready": False, "serving": False}, {"ready": False, "serving": False, "terminating": True}


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        pytest.param(READY, READY, ["10.244.1.11", "10.244.1.12"], id="both ready"),
        pytest.param(READY, NOT_READY, ["10.244.1.11"], id="one not ready"),
        pytest.param(READY, SERVING, ["10.244.1.11"], id="a ready one beats one that terminates"),
        pytest.param(NOT_READY, SERVING, ["10.244.1.12"], id="serving while terminating is better than none"),
        pytest.param(NOT_READY, GOING, [], id="none"),
    ],
)
def test_conditions_decide_who_serves(a, b, expected):
    plan = compiled(service(), endpoint_slice(endpoints=[changed(A, **a), changed(B, **b)]))

    assert expected == sorted(format_address(server.address) for server in plan.frontends[0].real_servers)


def test_an_endpoint_in_two_slices_is_one_real_server_and_the_living_copy_wins():
    dying = changed(A, ready=False, serving=True, terminating=True)
    plan = compiled(
        service(), endpoint_slice(endpoints=[dying]), endpoint_slice(endpoints=[A, C], suffix="2")
    )

    assert {"-t 10.96.0.80:80": ["10.244.1.11:8080", "10.244.2.13:8080"]} == tables(plan)


def test_a_service_without_endpoints_has_an_empty_virtual_server():
    assert {"-t 10.96.0.80:80": []} == tables(compiled(service()))


def test_hairpin_members_stand_for_pods_that_may_be_here():
    nowhere = endpoint("10.244.9.9")
    plan = compiled(service(), endpoint_slice(endpoints=[A, C, nowhere]))

    assert {"10.244.1.11,tcp:8080,10.244.1.11", "10.244.9.9,tcp:8080,10.244.9.9"} == {
        str(member) for member in plan.members
    }


def test_an_external_address_is_bound_unless_it_is_the_nodes_own():
    asked = port(external_ips=["198.51.100.7", "192.0.2.1"])
    plan = compiled(service("shop/web", asked))

    assert {"-t 10.96.0.80:80": True, "-t 198.51.100.7:80": True, "-t 192.0.2.1:80": False} == {
        str(frontend.virtual_server.key): bool(frontend.vips) for frontend in plan.frontends
    }


def test_one_port_that_asks_for_an_address_and_port_twice_is_served_there():
    asked = port(number=30080, node_port=30080, external_ips=["192.0.2.1"])
    plan = compiled(service("shop/web", asked))

    assert ["-t 10.96.0.80:30080", "-t 192.0.2.1:30080"] == [*tables(plan)]
    assert () == plan.skipped


def test_two_ports_that_ask_for_one_address_and_port_are_said():
    clash = service("shop/web", port(number=80, name="one"), port(number=80, name="two"))
    plan = compiled(clash)

    assert 1 == len(plan.frontends)
    assert ["Service shop/web: spec.ports: port 'two' asks for -t 10.96.0.80:80, which another port of the "
            "Service has"] == [str(one) for one in plan.skipped]  # fmt: skip


class TestSchedulers:
    HTTP, HTTPS = port(number=80, name="http"), port(number=443, name="https")

    def schedulers(self, annotations, node=NODE):
        plan = compiled(service("shop/web", self.HTTP, self.HTTPS, annotations=annotations), node=node)
        found = {one.virtual_server.key.port: one.virtual_server for one in plan.frontends}
        return {number: (one.scheduler, one.flags) for number, one in found.items()}, [
            str(one) for one in plan.skipped
        ]

    def test_an_annotation_is_for_all_ports_or_for_one(self):
        chosen, skipped = self.schedulers(
            {"ipvs-agent.io/scheduler": "lc", "ipvs-agent.io/scheduler.https": "sh"}
        )

        assert {80: ("lc", 0), 443: ("sh", ServiceFlags.SCHEDULER_1)} == chosen
        assert [] == skipped

    def test_one_that_makes_no_sense_is_said_once_and_the_default_serves(self):
        chosen, skipped = self.schedulers({"ipvs-agent.io/scheduler": "wllc"})

        assert {80: ("rr", 0), 443: ("rr", 0)} == chosen
        assert ["Service shop/web: metadata.annotations[ipvs-agent.io/scheduler]: 'wllc' is not a scheduler; "
                "did you mean wlc?"] == skipped  # fmt: skip

    def test_one_that_the_kernel_lacks_is_said_and_the_default_serves(self):
        node = changed(NODE, missing_schedulers=frozenset({"twos"}))
        chosen, skipped = self.schedulers({"ipvs-agent.io/scheduler": "twos"}, node)

        assert {80: ("rr", 0), 443: ("rr", 0)} == chosen
        assert [
            "Service shop/web: metadata.annotations[ipvs-agent.io/scheduler]: "
            "this kernel has no scheduler twos, so rr is used"
        ] == skipped


class TestDurations:
    def durations(self, node=NODE, **annotations):
        keyed = {f"ipvs-agent.io/{key.replace('_', '-')}": value for key, value in annotations.items()}
        plan = compiled(service("shop/web", port(node_port=30080), annotations=keyed), node=node)
        return {(one.drain_seconds, one.slow_start_seconds) for one in plan.frontends}, [
            str(one) for one in plan.skipped
        ]

    def test_they_are_those_of_the_service_on_every_address(self):
        assert ({(90, 60)}, []) == self.durations(drain_timeout="1m30s", slow_start="60s", scheduler="wrr")

    def test_the_nodes_timeout_is_for_services_that_say_none(self):
        node = changed(NODE, drain_seconds=300.0)

        assert ({(300, 0)}, []) == self.durations(node)
        assert ({(90, 0)}, []) == self.durations(node, drain_timeout="90s")

    def test_one_that_makes_no_sense_is_said_and_the_nodes_is_used(self):
        durations, skipped = self.durations(changed(NODE, drain_seconds=300.0), drain_timeout="soon")

        assert {(300, 0)} == durations
        assert [
            "Service shop/web: metadata.annotations[ipvs-agent.io/drain-timeout]: "
            "'soon' is not a duration such as 60s, 5m or 1h30m"
        ] == skipped
