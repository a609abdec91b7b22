"""Compiling traffic policies, hints and source ranges.

Pods 10.244/16, cluster IPs 10.96/12, node addresses 192.0.2/24, external addresses 198.51.100/24; a and b run
on this node, c does not.
"""

from __future__ import annotations

import msgspec
import pytest

from ipvs_agent.addresses import Family, format_address, parse_network
from ipvs_agent.desired import split
from ipvs_agent.desired.compile import NodeView, compile_service
from ipvs_agent.model import Protocol, ServiceFlags, TrafficPolicy
from ipvs_agent.schedulers.annotations import Choice
from ipvs_agent.testing.builders import address, endpoint, endpoint_slice, port, service

NODE = NodeView(
    name="node-a",
    scheduler=Choice("rr", 0),
    zone="east",
    addresses=(address("192.0.2.1"), address("2001:db8::1")),
    node_port_addresses=(address("192.0.2.1"), address("2001:db8::1")),
    never_bound=frozenset({address("192.0.2.1"), address("2001:db8::1")}),
)
A = endpoint("10.244.1.11", node="node-a")
B = endpoint("10.244.1.12", node="node-a")
C = endpoint("10.244.2.13", node="node-b")
LB = "198.51.100.7"
MARK = split.mark_of(7, Protocol.TCP)
BY_MARK = f"-f {MARK}"
SERVING = {"ready": False, "serving": True, "terminating": True}
NOT_READY = {"ready": False, "serving": False}


def changed(value, **fields):
    return msgspec.structs.replace(value, **fields)


def local_service(**fields):
    """A Service with externalTrafficPolicy Local, a load balancer's address and a NodePort."""
    balanced = port(node_port=30080, load_balancer_ips=[LB])
    return service("shop/web", balanced, external_local=True, **fields)


def compiled(a_service, *endpoints, node=NODE, mark=MARK):
    marks = dict.fromkeys(a_service.ports, mark) if mark else {}
    return compile_service(a_service, [endpoint_slice(endpoints=list(endpoints))], node, marks)


def behind(plan):
    """Which endpoints are behind each virtual server."""
    return {
        str(frontend.virtual_server.key): [format_address(one.address) for one in frontend.real_servers]
        for frontend in plan.frontends
    }


def members(plan, purpose):
    """The members of a set, as text."""
    every = [member for frontend in plan.frontends for member in frontend.members] + list(plan.members)
    return [str(member) for member in every if member.set_name.endswith(f"-{purpose}")]


def virtual_server(plan, key):
    (found,) = [one.virtual_server for one in plan.frontends if str(one.virtual_server.key) == key]
    return found


class TestExternalLocal:
    def test_outside_reaches_this_node_and_a_mark_leads_inside_to_all(self):
        plan = compiled(local_service(), A, C)

        assert {
            "-t 10.96.0.80:80": ["10.244.1.11", "10.244.2.13"],
            f"-t {LB}:80": ["10.244.1.11"],
            "-t 192.0.2.1:30080": ["10.244.1.11"],
            BY_MARK: ["10.244.1.11", "10.244.2.13"],
        } == behind(plan)
        assert [f"{LB},tcp:80 skbmark {MARK:#x}", f"192.0.2.1,tcp:30080 skbmark {MARK:#x}"] == members(
            plan, "MARKS"
        )
        assert [] == members(plan, "EXTERNAL")
        assert [] == members(plan, "NOLOCAL")

    def test_a_virtual_server_by_mark_is_never_bound(self):
        plan = compiled(local_service(), A)

        assert [()] == [one.vips for one in plan.frontends if one.virtual_server.key.mark]

    def test_without_a_local_endpoint_outside_gets_no_answer(self):
        plan = compiled(local_service(), C)

        assert {
            "-t 10.96.0.80:80": ["10.244.2.13"],
            f"-t {LB}:80": [],
            "-t 192.0.2.1:30080": [],
            BY_MARK: ["10.244.2.13"],
        } == behind(plan)
        assert [f"{LB},tcp:80", "192.0.2.1,tcp:30080"] == members(plan, "NOLOCAL")

    def test_without_any_endpoint_everyone_is_refused(self):
        assert [] == members(compiled(local_service()), "NOLOCAL")

    @pytest.mark.parametrize(
        ("node", "mark"),
        [
            pytest.param(changed(NODE, undivided=frozenset({Family.IPV4})), MARK, id="nobody knows who"),
            pytest.param(NODE, 0, id="no mark left"),
        ],
    )
    def test_where_inside_cannot_be_told_all_endpoints_stand_in_for_local_ones(self, node, mark):
        none_local = compiled(local_service(), C, node=node, mark=mark)
        some_local = compiled(local_service(), A, C, node=node, mark=mark)

        assert ["10.244.2.13"] == behind(none_local)[f"-t {LB}:80"]
        assert [] == members(none_local, "NOLOCAL")
        assert ["10.244.1.11"] == behind(some_local)[f"-t {LB}:80"]

    def test_affinity_inside_is_a_hash_since_a_persistent_mark_would_not_translate_ports(self):
        plan = compiled(local_service(affinity_seconds=600), A, C)

        outside, inside = virtual_server(plan, f"-t {LB}:80"), virtual_server(plan, BY_MARK)
        assert ("rr", ServiceFlags.PERSISTENT, 600) == (outside.scheduler, outside.flags, outside.timeout)
        assert ("sh", ServiceFlags.SCHEDULER_1, 0) == (inside.scheduler, inside.flags, inside.timeout)

    def test_terminating_endpoints_stand_in_for_each_list_by_itself(self):
        plan = compiled(local_service(), changed(A, **SERVING), changed(B, **NOT_READY), C)

        assert ["10.244.2.13"] == behind(plan)["-t 10.96.0.80:80"]
        assert ["10.244.1.11"] == behind(plan)[f"-t {LB}:80"]


def test_internal_local_without_local_endpoints_is_refused():
    inner = service("shop/web", port(external_ips=[LB]), internal_local=True)

    assert {"-t 10.96.0.80:80": [], f"-t {LB}:80": ["10.244.2.13"]} == behind(compiled(inner, C))
    assert {"-t 10.96.0.80:80": ["10.244.1.11"], f"-t {LB}:80": ["10.244.1.11", "10.244.2.13"]} == behind(
        compiled(inner, A, C)
    )


HERE, ELSEWHERE = {"node_hints": ("node-a",)}, {"node_hints": ("node-b",)}
EAST, WEST = {"zone_hints": ("east",)}, {"zone_hints": ("west",)}


class TestHints:
    @pytest.mark.parametrize(
        ("a", "c", "expected"),
        [
            pytest.param({}, {}, ["a", "c"], id="none"),
            pytest.param(HERE, ELSEWHERE, ["a"], id="node"),
            pytest.param(ELSEWHERE, ELSEWHERE, ["a", "c"], id="node, but never this one"),
            pytest.param(HERE, {}, ["a", "c"], id="node, one without"),
            pytest.param(EAST, WEST, ["a"], id="zone"),
            pytest.param(WEST, EAST, ["c"], id="zone of the other"),
            pytest.param(EAST, {}, ["a", "c"], id="zone, one without"),
            pytest.param(WEST, WEST, ["a", "c"], id="zone, but never this one"),
            pytest.param(HERE | WEST, ELSEWHERE | EAST, ["a"], id="node before zone"),
            pytest.param(ELSEWHERE | EAST, ELSEWHERE | WEST, ["a"], id="zone where no node fits"),
        ],
    )
    def test_who_serves(self, a, c, expected):
        plan = compiled(service(), changed(A, **a), changed(C, **c))

        names = {"10.244.1.11": "a", "10.244.2.13": "c"}
        assert expected == [names[one] for one in behind(plan)["-t 10.96.0.80:80"]]

    def test_a_node_without_a_zone_takes_all(self):
        plan = compiled(service(), changed(A, **EAST), changed(C, **WEST), node=changed(NODE, zone=""))

        assert 2 == len(behind(plan)["-t 10.96.0.80:80"])

    def test_an_endpoint_that_is_not_ready_needs_no_hint(self):
        plan = compiled(service(), changed(A, **EAST), changed(B, **NOT_READY), changed(C, **WEST))

        assert ["10.244.1.11"] == behind(plan)["-t 10.96.0.80:80"]

    def test_local_endpoints_serve_whatever_the_hints_say(self):
        plan = compiled(local_service(), changed(A, **WEST), changed(C, **EAST))

        assert ["10.244.1.11"] == behind(plan)[f"-t {LB}:80"]
        assert ["10.244.2.13"] == behind(plan)[BY_MARK]


class TestSourceRanges:
    def restricted(self, *ranges, node=NODE):
        balanced = port(node_port=30080, external_ips=["198.51.100.8"], load_balancer_ips=[LB])
        networks = tuple(parse_network(text) for text in ranges)
        return compiled(service("shop/web", balanced, source_ranges=networks), A, node=node)

    def test_only_the_load_balancers_address_is_restricted(self):
        plan = self.restricted("203.0.113.0/24", "203.0.114.7/32")

        assert [f"{LB},tcp:80"] == members(plan, "RESTRICTED")
        assert [f"{LB},tcp:80,203.0.113.0/24", f"{LB},tcp:80,203.0.114.7/32"] == members(plan, "ALLOWED")

    def test_a_node_port_stays_open_where_the_load_balancer_has_the_nodes_address(self):
        node_ip = "192.0.2.1"
        balanced = port(node_port=30080, load_balancer_ips=[node_ip])
        networks = (parse_network("203.0.113.0/24"),)
        plan = compiled(service("shop/web", balanced, source_ranges=networks), A)

        assert [f"{node_ip},tcp:80"] == members(plan, "RESTRICTED")
        assert f"{node_ip},tcp:30080" in members(plan, "SERVICES")

    def test_everywhere_is_two_halves_for_ipset_knows_no_prefix_0(self):
        allowed = members(self.restricted("0.0.0.0/0"), "ALLOWED")

        assert {f"{LB},tcp:80,0.0.0.0/1", f"{LB},tcp:80,128.0.0.0/1"} <= set(allowed)

    def test_a_node_within_the_ranges_may_dial_from_the_vip_itself(self):
        assert f"{LB},tcp:80,{LB}/32" in members(self.restricted("192.0.2.0/24"), "ALLOWED")
        assert f"{LB},tcp:80,{LB}/32" not in members(self.restricted("203.0.113.0/24"), "ALLOWED")

    @pytest.mark.parametrize(
        ("cluster_ip", "vip", "within", "off", "own"),
        [
            pytest.param(
                *("10.96.0.80", LB, "192.0.2.0/24", "203.0.113.0/24"),
                {f"{LB}/32", "192.0.2.1/32", "10.244.1.1/32"},
                id="v4",
            ),
            pytest.param(
                *("fd00:10:96::80", "2001:db8:1::7", "2001:db8::/64", "2001:db8:9::/64"),
                {"2001:db8:1::7/128", "2001:db8::1/128", "fd00::1/128"},
                id="v6",
            ),
        ],
    )
    def test_it_may_dial_from_any_address_of_its_own(self, cluster_ip, vip, within, off, own):
        """Where the VIP is a route, it does so, or from the VIP itself."""
        texts = ("192.0.2.1", "10.244.1.1", "2001:db8::1", "fd00::1")
        node = changed(NODE, own=frozenset(map(address, texts)))
        balanced = port(cluster_ip, load_balancer_ips=[vip])

        def clients(text):
            restricted = service("shop/web", balanced, source_ranges=(parse_network(text),))
            plan = compiled(restricted, node=node)
            return {member.rpartition(",")[2] for member in members(plan, "ALLOWED")}

        assert {within} | own == clients(within)
        assert {off} == clients(off)

    def test_ranges_of_the_other_family_restrict_nothing(self):
        assert [] == members(self.restricted("2001:db8:7::/48"), "RESTRICTED")

    def test_who_is_allowed_is_said_before_the_restriction(self):
        (frontend,) = [one for one in self.restricted("203.0.113.0/24").frontends
                       if format_address(one.virtual_server.key.address) == LB]  # fmt: skip
        kinds = [member.set_name.rsplit("-", 1)[1] for member in frontend.members]

        assert kinds.index("ALLOWED") < kinds.index("RESTRICTED")


class TestHealthChecks:
    def test_addresses_of_ready_endpoints_here_are_counted_once(self):
        asked = changed(local_service(), health_check_node_port=32000, uid="u-1")
        plan = compiled(asked, A, changed(A, port=9090), B, C)

        assert (32000, 2, "u-1") == (plan.health.port, plan.health.local_endpoints, plan.health.uid)
        assert ["32000"] == members(plan, "HEALTH")

    def test_a_pod_counts_once_though_it_has_an_address_in_each_family(self):
        v4, v6 = port(cluster_ip="10.96.0.80"), port(cluster_ip="fd00:10:96::80")
        asked = changed(service("shop/web", v4, v6), health_check_node_port=32000)
        pods = [endpoint(f"fd00:10:244:1::{one}", node="node-a") for one in (11, 12)]
        slices = [endpoint_slice(endpoints=[A]), endpoint_slice(endpoints=pods, family=Family.IPV6)]

        assert 2 == compile_service(asked, slices, NODE).health.local_endpoints

    def test_terminating_endpoints_do_not_count_though_they_serve(self):
        asked = changed(local_service(), health_check_node_port=32000)
        plan = compiled(asked, changed(A, **SERVING), changed(B, terminating=True))

        assert 0 == plan.health.local_endpoints

    def test_without_a_port_nobody_asks(self):
        assert compiled(local_service(), A).health is None


class TestApiServer:
    NODE = changed(
        NODE,
        never_bound=NODE.never_bound | {address("198.51.100.10")},
        api_servers=frozenset({(address("198.51.100.10"), 6443)}),
    )

    def test_its_address_is_never_bound(self):
        plan = compiled(service("shop/web", port(external_ips=["198.51.100.10"])), A, node=self.NODE)

        bound = {str(one.virtual_server.key): one.vips for one in plan.frontends}
        assert () == bound["-t 198.51.100.10:80"]

    def test_its_address_and_port_are_not_served_at_all(self):
        asked = service("shop/web", port(number=6443, external_ips=["198.51.100.10"]))
        plan = compiled(asked, A, node=self.NODE)

        assert ["-t 10.96.0.80:6443"] == list(behind(plan))
        assert ["Service shop/web: spec.externalIPs: 198.51.100.10:6443 is the API server's"] == [
            str(one) for one in plan.skipped
        ]


class TestWithoutLocalEndpoints:
    """As TestNoEndpointsMetric of kube-proxy: policies that are Local while all endpoints are elsewhere."""

    INTERNAL, EXTERNAL = ((policy, Family.IPV4) for policy in TrafficPolicy)

    @pytest.mark.parametrize(
        ("policies", "endpoints", "expected"),
        [
            pytest.param({"internal_local": True}, [A, C], set(), id="internal, local ones"),
            pytest.param({"external_local": True}, [A, C], set(), id="external, local ones"),
            pytest.param({"internal_local": True}, [C], {INTERNAL}, id="internal, none local"),
            pytest.param({"external_local": True}, [C], {EXTERNAL}, id="external, none local"),
            pytest.param(
                {"internal_local": True, "external_local": True}, [C], {INTERNAL, EXTERNAL}, id="both"
            ),
            pytest.param({"internal_local": True, "external_local": True}, [], set(), id="none at all"),
            pytest.param({}, [C], set(), id="Cluster"),
            pytest.param(
                {"internal_local": True}, [changed(C, **NOT_READY)], set(), id="none that serves anywhere"
            ),
            pytest.param({"internal_local": True}, [changed(A, **SERVING), C], set(), id="one that leaves"),
        ],
    )
    def test_which_are_named(self, policies, endpoints, expected):
        asked = service("shop/web", port(node_port=30080), **policies)

        assert expected == compiled(asked, *endpoints, mark=0).not_local

    def test_a_policy_of_clients_that_have_no_address_does_not_count(self):
        asked = service("shop/web", port(), external_local=True)

        assert not compiled(asked, C, mark=0).not_local
