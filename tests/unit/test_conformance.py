"""The parts of tests/conformance that need no kernel: cases, tables, comparing, generating, shrinking."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from tests.conformance import cases, compare, differences, generator, objects, tables
from tests.conformance.cases import Case, Target
from tests.conformance.compare import Asked, Difference
from tests.conformance.scenarios import SCENARIOS
from tests.conformance.shrink import shrink
from tests.conformance.situation import (
    CLOSED,
    CLUSTER,
    GONE,
    HEALTH,
    NODE_PORT,
    Situation,
    in_cluster,
    on_node,
)
from tests.conformance.tables import VirtualServer

IPVSADM = """\
-A -t 10.96.3.1:80 -s rr -p 10800
-a -t 10.96.3.1:80 -r 10.244.1.11:8080 -m -w 1
-a -t 10.96.3.1:80 -r 10.244.2.13:8080 -m -w 0
-A -u [fd00:10:96::31]:53 -s rr
-A --sctp-service 198.18.0.3:30061 -s rr
-a --sctp-service 198.18.0.3:30061 -r 10.244.1.11:9090 -m -w 1
-A -f 200785 -s rr
-a -f 200785 -r 10.244.2.13:9090 -m -w 1
-A -f 200785 -6 -s rr
"""
MARKS = "add IPVS-AGENT-4-MARKS 198.18.0.3,sctp:30061 skbmark 0x31051/0xffffffff"


class TestTables:
    found = tables.parse(IPVSADM, MARKS, ["10.96.3.1"], "198.18.0.3")

    def test_servers_that_drain_are_apart(self):
        expected = VirtualServer(
            "-s rr -p 10800",
            frozenset({"10.244.1.11:8080 -m -w 1"}),
            frozenset({"10.244.2.13:8080 -m -w 0"}),
        )
        assert expected == self.found.virtual_servers[Target("tcp", "10.96.3.1", 80)]

    def test_a_mark_is_shown_at_its_addresses(self):
        row = self.found.virtual_servers[Target("sctp", "api", 30061)]

        assert frozenset({"10.244.2.13:9090 -m -w 1"}) == row.inside
        assert frozenset({"10.244.1.11:9090 -m -w 1"}) == row.servers

    def test_slots(self):
        assert [3, 3, 3] == [tables.slot_of(target) for target in self.found.virtual_servers]


class TestEdits:
    before = (objects.service(ingress=objects.BALANCER), *objects.slices("ab"))

    def edits(self, after):
        return [(edit.verb, edit.thing["metadata"]["name"]) for edit in cases.edits(self.before, after)]

    def test_nothing(self):
        assert [] == self.edits(self.before)

    def test_a_status_is_written_apart(self):
        after = (objects.service(ingress=objects.BALANCER[:1]), *objects.slices("ab"))

        assert [("status", "web")] == self.edits(after)

    def test_what_goes_and_what_comes(self):
        after = (self.before[0], *objects.slices("a", suffix="-x"))

        assert [
            ("delete", "web-0"),
            ("delete", "web-1"),
            ("create", "web-0-x"),
            ("create", "web-1-x"),
        ] == self.edits(after)

    def test_another_first_cluster_ip_is_another_service(self):
        after = (objects.service(families=[objects.V6]), *self.before[1:])

        assert [("delete", "web"), ("create", "web")] == self.edits(after)


def test_slots_share_no_address_and_no_port():
    case = Case("", ((objects.service([objects.port(80, "TCP", 19)], type="NodePort"),),))
    seen = set()
    for slot in cases.SLOTS:
        found = {target for target in cases.targets(case.in_slot(slot).states[0]) if target.port != 7}
        assert not found & seen
        assert {slot} == {tables.slot_of(target) for target in found}
        seen |= found
    assert max(target.port for target in seen) <= 32767


def test_what_a_target_is():
    state = (
        objects.service(
            [objects.port(80, "TCP", 1)],
            type="LoadBalancer",
            externalTrafficPolicy="Local",
            healthCheckNodePort=19,
        ),
    )
    situation = Situation(Case("", (state,)).in_slot(3).states[0])
    expected = {
        Target("tcp", "10.96.3.1", 80): CLUSTER,
        Target("tcp", "10.96.3.1", 7): CLOSED,
        Target("udp", "10.96.3.1", 80): GONE,
        Target("tcp", "api", 30061): NODE_PORT,
        Target("http", "192.0.2.1", 30079): HEALTH,
    }
    assert expected == {target: situation.kind(target) for target in expected}


def test_who_leaves_serves_where_nobody_is_ready():
    pods = [objects.state_of("a", **objects.LEAVING), objects.state_of("b", **objects.LEFT), "c"]
    situation = Situation(Case("", ((objects.service(), *objects.slices(pods)),)).in_slot(1).states[0])
    (reading,) = situation.readings(Target("tcp", "10.96.1.1", 80))

    assert {"10.244.2.13:8080"} == in_cluster(reading)
    assert {"10.244.1.11:8080"} == on_node(reading)


def test_where_slices_contradict_each_other_the_copy_that_stays_is_meant():
    copies = [
        objects.endpoint_slice(["a", objects.state_of("c", **objects.LEAVING)]),
        objects.endpoint_slice("c"),
    ]
    situation = Situation(Case("", ((objects.service(), *copies),)).in_slot(1).states[0])
    readings = situation.readings(Target("tcp", "10.96.1.1", 80))

    both = {"10.244.1.11:8080", "10.244.2.13:8080"}
    assert [both, {"10.244.1.11:8080"}] == [in_cluster(reading) for reading in readings]


def test_a_copy_that_is_ready_is_meant_whichever_comes_first():
    ready, unready = objects.endpoint_slice("a"), objects.endpoint_slice([objects.state_of("a", ready=False)])
    for copies in ((ready, unready), (unready, ready)):
        situation = Situation(Case("", ((objects.service(), *copies),)).in_slot(1).states[0])
        readings = situation.readings(Target("tcp", "10.96.1.1", 80))

        assert [{"10.244.1.11:8080"}, set()] == [in_cluster(reading) for reading in readings]


def test_a_service_of_somebody_else_has_no_addresses_here():
    labels = {"service.kubernetes.io/service-proxy-name": "other"}
    situation = Situation(Case("", ((objects.service(labels=labels),),)).in_slot(1).states[0])

    assert [] == situation.vips
    assert GONE == situation.kind(Target("tcp", "10.96.1.1", 80))


class TestRules:
    """The rules that are easily too wide: each explains its case, and not the one beside it."""

    health = Target("http", "192.0.2.1", 30039)
    page = Asked(
        frozenset(
            {'503;content-type=x;x-load-balancing-endpoint-weight=0;{"localEndpoints":0,"healthy":true}'}
        )
    )

    @pytest.mark.parametrize(
        ("families", "is_explained"),
        [
            pytest.param([objects.V6], True, id="one goes"),
            pytest.param([objects.V4, objects.V6], False, id="both stay"),
        ],
    )
    def test_a_health_check_may_be_dead_when_a_family_goes(self, families, is_explained):
        states = (_balanced(), _balanced(families=families))
        earlier, now = Case("", states).in_slot(1).states
        difference = Difference(self.health, "client", Asked(frozenset({"refused"})), self.page)

        found = differences.explain(difference, Situation(now, (earlier,)))

        assert ("health checks stay when one family goes" == found) is is_explained

    @pytest.mark.parametrize(
        ("ranges", "is_explained"),
        [
            pytest.param(["203.0.113.0/24"], True, id="off the ranges"),
            pytest.param(["203.0.113.0/24", "192.0.2.0/24"], False, id="in a range"),
            pytest.param(["2001:db8:99::/48"], False, id="ranges of the other family"),
            pytest.param([], False, id="no ranges"),
        ],
    )
    def test_the_node_may_meet_silence_off_the_ranges(self, ranges, is_explained):
        (now,) = Case("", (_balanced(loadBalancerSourceRanges=ranges),)).in_slot(1).states
        target = Target("tcp", "172.21.1.1", 80)
        difference = Difference(target, "node", Asked(frozenset({"refused"})), Asked(frozenset({"silent"})))

        assert bool(differences.explain(difference, Situation(now))) is is_explained


def _balanced(**spec):
    return (
        objects.service(
            type="LoadBalancer",
            externalTrafficPolicy="Local",
            healthCheckNodePort=19,
            ingress=objects.BALANCER,
            **spec,
        ),
    )


class TestCompare:
    row = VirtualServer("-s rr -p 10800", frozenset({"10.244.1.11:8080 -m", "10.244.2.13:8080 -m"}))
    target = Target("tcp", "10.96.1.1", 80)

    def found(self, theirs, ours):
        listed = {self.target: self.row}
        return list(
            compare.answers("client", self.target, (Counter(theirs), Counter(ours)), (listed, listed))
        )

    def test_with_affinity_any_server_is_the_same(self):
        assert [] == self.found({"a:8080 192.0.2.100"}, {"c:8080 192.0.2.100"})

    @pytest.mark.parametrize(
        "outcomes",
        [
            pytest.param({"c:8080 192.0.2.1"}, id="another source"),
            pytest.param({"b:8080 192.0.2.100"}, id="none of the servers"),
            pytest.param({"a:8080 192.0.2.100", "c:8080 192.0.2.100"}, id="several servers"),
            pytest.param({"refused"}, id="no server"),
        ],
    )
    def test_with_affinity_all_else_differs(self, outcomes):
        assert len(self.found({"a:8080 192.0.2.100"}, outcomes)) == 1

    def test_with_affinity_a_pod_may_be_kept_at_a_neighbour_that_it_does_not_understand(self):
        listed, heard = {self.target: self.row}, ({"c:8080 10.244.1.11": 2}, {"silent": 2})
        both = [heard, heard[::-1]]

        def differences(caller):
            return [
                one for counts in both for one in compare.answers(caller, self.target, counts, (listed,) * 2)
            ]

        assert [] == differences("c")
        assert len(differences("client")) == 2

    @pytest.mark.parametrize(
        ("silent", "differing"), [pytest.param(1, 0, id="lost"), pytest.param(4, 1, id="a server's share")]
    )
    def test_a_lost_call_is_no_difference_but_the_share_of_a_server_is(self, silent, differing):
        listed = {self.target: self.row._replace(options="-s rr")}
        heard = {"a:8080 192.0.2.1": 4, "c:8080 192.0.2.1": 4}
        counts = (heard, heard | {"silent": silent})

        assert differing == len(list(compare.answers("client", self.target, counts, (listed, listed))))

    def test_who_drains_does_not_count(self):
        draining = self.row._replace(draining=frozenset({"10.244.1.12:8080 -m -w 0"}))

        assert [] == list(compare.tables({self.target: self.row}, {self.target: draining}))

    def test_what_is_missing_differs(self):
        assert len(list(compare.tables({self.target: self.row}, {}))) == 1


class TestGenerator:
    def test_the_same_seed_gives_the_same_cases(self):
        assert generator.cases(5, 20) == generator.cases(5, 20)
        assert generator.cases(5, 20) != generator.cases(6, 20)

    def test_fewer_cases_are_the_first_of_more(self):
        assert generator.cases(5, 20)[:7] == generator.cases(5, 7)

    def test_all_that_is_named_is_drawn(self):
        text = json.dumps([case.states for case in generator.cases(1, 200)])
        words = ("Local", "ClientIP", "ipMode", "externalIPs", "0.0.0.0/0", "forNodes", "forZones", "SCTP")
        assert [] == [word for word in words if word not in text]


class TestShrink:
    def test_what_does_not_matter_is_removed(self):
        def fails(many):
            return [_has_c_and_affinity(case) for case in many]

        guilty = next(
            case for case in generator.cases(7, 400) if len(case.states) == 2 and _has_c_and_affinity(case)
        )
        small = shrink(guilty, fails)

        assert _has_c_and_affinity(small)
        assert len(small.states) == 1
        assert len(objects_of(small, "EndpointSlice")) == 1
        assert len(objects_of(small, "EndpointSlice")[0]["endpoints"]) == 1
        assert len(objects_of(small, "Service")[0]["spec"]["ports"]) == 1

    def test_a_case_of_which_all_matters_stays(self):
        case = Case("", ((objects.service(), *objects.slices("a")),))

        assert case == shrink(case, lambda many: [False] * len(many))


def objects_of(case, kind):
    return [thing for thing in case.states[0] if thing["kind"] == kind]


def _has_c_and_affinity(case):
    return any(
        "sessionAffinity" in json.dumps(state) and "10.244.2.13" in json.dumps(state) for state in case.states
    )


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in SCENARIOS])
def test_node_ports_of_scenarios_are_in_their_slot(case):
    text = json.dumps(case.states)
    ports = [
        port.get("nodePort", 0)
        for state in case.states
        for one in state
        for port in one.get("spec", {}).get("ports", ())
    ]
    assert all(port < cases.NODE_PORTS for port in ports)
    assert "{slot}" in text or "ExternalName" in text
