"""The parts of tests/conformance that need no kernel: cases, tables, comparing, generating, shrinking."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from tests.conformance import cases, compare, differences, generator, objects, tables
from tests.conformance.cases import Case, Target
from tests.conformance.compare import Asked, Difference
from tests.conformance.lan import API, PODS
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
EVERYBODY = frozenset("abcd")
CONNECTIONS = """\
IPVS connection entries
pro expire state       source             virtual            destination
TCP 01:57  TIME_WAIT   10.244.1.11:40112  10.96.3.1:80       10.244.1.12:8080
TCP 179:57 NONE        10.244.1.11:0      10.96.3.1:80       10.244.1.12:8080
UDP 179:57 NONE        [fd00:10:244:1::11]:0 [fd00:10:96::31]:53 [fd00:10:244:2::13]:8080
TCP 179:57 NONE        192.0.2.100:0      198.18.0.3:30061   10.244.2.13:9090
"""


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

    def test_the_virtual_server_by_mark_has_options_too(self):
        assert "-s rr" == self.found.virtual_servers[Target("sctp", "api", 30061)].inside_options

    def test_at_which_servers_affinity_keeps_clients(self):
        found = tables.kept(CONNECTIONS, "198.18.0.3")

        assert {
            ("10.244.1.11", Target("tcp", "10.96.3.1", 80)): "10.244.1.12:8080",
            ("fd00:10:244:1::11", Target("udp", "fd00:10:96::31", 53)): "[fd00:10:244:2::13]:8080",
            ("192.0.2.100", Target("tcp", "api", 30061)): "10.244.2.13:9090",
        } == found

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
        ("networks", "address", "is_ours", "is_explained"),
        [
            pytest.param(["192.0.2.0/24"], "2001:db8::1", True, True, id="the family that has none"),
            pytest.param(["192.0.2.0/24"], "2001:db8::1", False, False, id="it, and only they answer"),
            pytest.param(["192.0.2.0/24"], "10.244.1.1", False, True, id="outside of those named"),
            pytest.param(["192.0.2.0/24"], "10.244.1.1", True, False, id="outside, and only we answer"),
            pytest.param(["192.0.2.0/24"], "192.0.2.1", True, False, id="inside, and only we answer"),
            pytest.param(["192.0.2.0/24"], "192.0.2.1", False, False, id="inside, and only they answer"),
            pytest.param(None, "2001:db8::1", True, False, id="nothing is configured"),
        ],
    )
    def test_where_health_checks_answer(self, networks, address, is_ours, is_explained):
        (now,) = Case("", (_balanced(),)).in_slot(1).states
        sides = [Asked(frozenset({"refused"})), self.page]
        difference = Difference(Target("http", address, 30039), "client", *sides[:: 1 if is_ours else -1])
        configuration = {} if networks is None else {"nodePortAddresses": networks}

        assert bool(differences.explain(difference, Situation(now, (), configuration))) is is_explained

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

    @pytest.mark.parametrize(
        ("earlier", "ours", "is_explained"),
        [
            pytest.param([80, 81], {"refused"}, True, id="it was there"),
            pytest.param([80, 81], {"silent"}, False, id="what kept clients out has stayed"),
            pytest.param([80], {"refused"}, False, id="it never was"),
            pytest.param([80, 81], {"a:8080 192.0.2.100"}, False, id="somebody answers"),
        ],
    )
    def test_what_lingers_was_there_and_refuses(self, earlier, ours, is_explained):
        states = (_on_ports(*earlier), _on_ports(80))
        before, now = Case("", states).in_slot(1).states
        gone = Target("tcp", "10.96.1.1", 81)
        difference = Difference(gone, "client", Asked(frozenset({"unreachable"})), Asked(frozenset(ours)))

        assert bool(differences.explain(difference, Situation(now, (before,)))) is is_explained

    def test_a_node_port_lingers_in_the_family_that_has_left(self):
        ports = [objects.port(80, "TCP", 1)]
        six, four = (
            objects.service(ports, type="NodePort", families=[one]) for one in (objects.V6, objects.V4)
        )
        before, now = Case("", ((six,), (four,))).in_slot(1).states
        drained = VirtualServer("-s rr", frozenset(), frozenset({"[fd00:10:244:1::11]:8080 -m -w 0"}))

        explained = {
            address: differences.explain(
                Difference(Target("tcp", address, 30021), "", None, drained), Situation(now, (before,))
            )
            for address in ("2001:db8::1", "192.0.2.1")
        }

        assert {"2001:db8::1": "what is removed lingers", "192.0.2.1": None} == explained

    def test_an_address_that_the_families_left_behind_lingers(self):
        both, four = (
            objects.service(families=families, externalIPs=list(objects.EXTERNAL))
            for families in ((objects.V4, objects.V6), (objects.V4,))
        )
        before, now = Case("", ((both,), (four,))).in_slot(1).states
        found = [
            differences.explain(Difference(vip, "", None, compare.BOUND), Situation(now, (before,)))
            for vip in now[0]["spec"]["externalIPs"]
        ]

        assert [None, "what is removed lingers"] == found

    def test_an_address_that_is_left_to_the_balancer_lingers(self):
        states = [_balanced(ingress=[{"ip": "172.21.{slot}.1", "ipMode": mode}]) for mode in ("VIP", "Proxy")]
        before, now = Case("", tuple(states)).in_slot(1).states
        drained = VirtualServer("-s rr", frozenset(), frozenset({"10.244.1.11:8080 -m -w 0"}))
        where = ("172.21.1.1", Target("tcp", "172.21.1.1", 80), Target("tcp", "10.96.1.1", 80))
        differences_there = [
            Difference(one, "", None, compare.BOUND if isinstance(one, str) else drained) for one in where
        ]

        found = [differences.explain(one, Situation(now, (before,))) for one in differences_there]

        assert ["what is removed lingers", "what is removed lingers", None] == found

    @pytest.mark.parametrize(
        ("vip", "is_explained"), [("172.20.1.1", True), ("10.96.1.1", False), ("10.99.9.9", False)]
    )
    def test_a_vip_that_lingers_was_one(self, vip, is_explained):
        states = ((objects.service(externalIPs=list(objects.EXTERNAL)),), (objects.service(),))
        before, now = Case("", states).in_slot(1).states
        difference = Difference(vip, "", None, compare.BOUND)

        assert bool(differences.explain(difference, Situation(now, (before,)))) is is_explained

    @pytest.mark.parametrize(
        ("caller", "affinity", "ours", "is_explained"),
        [
            pytest.param("c", {}, EVERYBODY, True, id="all of them"),
            pytest.param("c", {}, {"a", "b", "d"}, False, id="one is left out"),
            pytest.param("c", {}, {"a"}, False, id="one alone"),
            pytest.param("c", {"sessionAffinity": "ClientIP"}, {"a"}, True, id="affinity keeps it there"),
            pytest.param("c", {"sessionAffinity": "ClientIP"}, {"silent"}, False, id="nobody"),
            pytest.param("a", {}, {"b", "c", "d", "silent"}, True, id="what comes back to itself is lost"),
            pytest.param("c", {}, EVERYBODY | {"silent"}, False, id="and nothing else"),
            pytest.param("client", {}, EVERYBODY, False, id="who is outside"),
        ],
    )
    def test_clients_inside_reach_every_endpoint(self, caller, affinity, ours, is_explained):
        service = objects.service(
            [objects.port(80, "TCP", 1)], type="NodePort", externalTrafficPolicy="Local", **affinity
        )
        (now,) = Case("", ((service, *objects.slices("abcd")),)).in_slot(1).states
        met = frozenset(f"{one}:8080 192.0.2.1" if len(one) == 1 else one for one in ours)
        node_port = Target("tcp", "192.0.2.1", 30021)
        difference = Difference(node_port, caller, Asked(frozenset({"silent"})), Asked(met))

        assert bool(differences.explain(difference, Situation(now))) is is_explained

    @pytest.mark.parametrize(
        ("inside", "options", "is_explained"),
        [
            pytest.param("abcd", "-s sh -b sh-fallback", True, id="as meant"),
            pytest.param("abcd", "-s rr", False, id="without affinity"),
            pytest.param("ab", "-s sh -b sh-fallback", False, id="not all"),
        ],
    )
    def test_two_virtual_servers_are_as_they_are_meant(self, inside, options, is_explained):
        service = objects.service(
            [objects.port(80, "TCP", 1)],
            type="NodePort",
            externalTrafficPolicy="Local",
            sessionAffinity="ClientIP",
        )
        (now,) = Case("", ((service, *objects.slices("abcd")),)).in_slot(1).states
        theirs = VirtualServer("-s rr -p 10800", _servers("ab"))
        ours = theirs._replace(inside=_servers(inside), inside_options=options)
        difference = Difference(Target("tcp", "192.0.2.1", 30021), "", theirs, ours)

        assert bool(differences.explain(difference, Situation(now))) is is_explained

    @pytest.mark.parametrize(
        ("caller", "ours", "is_explained"),
        [
            pytest.param("client", {"a:8080 192.0.2.100"}, True, id="who is meant"),
            pytest.param("client", {"b:8080 192.0.2.100"}, False, id="who leaves"),
            pytest.param("client", {"silent"}, False, id="nobody"),
            pytest.param("client", {"refused"}, False, id="refused"),
            pytest.param("a", {"silent"}, True, id="a pod whose only server is itself"),
            pytest.param("c", {"silent"}, False, id="a pod of another node"),
        ],
    )
    def test_where_slices_contradict_each_other_who_is_meant_answers(self, caller, ours, is_explained):
        state = (
            objects.service(),
            objects.endpoint_slice("a", suffix="-0"),
            objects.endpoint_slice(
                [objects.state_of("a", **objects.LEAVING), objects.state_of("b", **objects.LEAVING)],
                suffix="-1",
            ),
        )
        (now,) = Case("", (state,)).in_slot(1).states
        target = Target("tcp", "10.96.1.1", 80)
        both = Asked(frozenset({"a:8080 192.0.2.100", "b:8080 192.0.2.100"}))

        difference = Difference(target, caller, both, Asked(frozenset(ours)))

        assert bool(differences.explain(difference, Situation(now))) is is_explained

    def test_a_node_port_is_for_clients_outside_at_every_address_of_the_node(self):
        service = objects.service([objects.port(80, "TCP", 1)], type="NodePort")
        (now,) = Case("", ((service,),)).in_slot(1).states
        targets = [Target("tcp", *one) for one in ((API, 30021), ("192.0.2.1", 30021), ("10.96.1.1", 80))]

        assert not any(map(Situation(now).is_for_clients_inside_alone, targets))

    @pytest.mark.parametrize(
        ("more", "expected"),
        [
            pytest.param({}, {4, 6}, id="cluster IPs alone"),
            pytest.param({"externalIPs": ["198.51.100.9"]}, {6}, id="an external IP of one family"),
            pytest.param({"ingress": [{"ip": "198.51.100.9"}]}, {6}, id="a load balancer's"),
            pytest.param(
                {"ingress": [{"ip": "198.51.100.9", "ipMode": "Proxy"}]}, {4, 6}, id="one that is a proxy's"
            ),
        ],
    )
    def test_which_families_are_for_clients_inside_alone(self, more, expected):
        (now,) = Case("", ((objects.service([objects.port(80)], **more),),)).in_slot(1).states
        targets = {4: Target("tcp", "10.96.1.1", 80), 6: Target("tcp", "fd00:10:96::11", 80)}
        situation = Situation(now)

        assert expected == {one for one, at in targets.items() if situation.is_for_clients_inside_alone(at)}

    @pytest.mark.parametrize(
        ("node_port", "theirs", "is_explained"),
        [
            pytest.param(0, "", True, id="nobody here"),
            pytest.param(0, "c", False, id="others"),
            pytest.param(1, "c", True, id="others, where clients outside may come"),
            pytest.param(1, "", False, id="nobody, where they may"),
        ],
    )
    def test_who_serves_of_copies_that_contradict_each_other_where_the_policy_inside_is_local(
        self, node_port, theirs, is_explained
    ):
        state = (
            objects.service([objects.port(80, "TCP", node_port)], internalTrafficPolicy="Local"),
            objects.endpoint_slice("a", suffix="-0"),
            objects.endpoint_slice([objects.state_of("a", ready=False), "c"], suffix="-1"),
        )
        (now,) = Case("", (state,)).in_slot(1).states
        them, us = VirtualServer("-s rr", _servers(theirs)), VirtualServer("-s rr", _servers("a"))

        difference = Difference(Target("tcp", "10.96.1.1", 80), "", them, us)

        assert bool(differences.explain(difference, Situation(now))) is is_explained

    @pytest.mark.parametrize(
        ("caller", "affinity", "kept_at", "is_explained"),
        [
            pytest.param("a", "ClientIP", "b:8080", True, id="a neighbour"),
            pytest.param("a", "ClientIP", "", False, id="nobody knows why"),
            pytest.param("a", "ClientIP", "c:8080", False, id="somebody of another node"),
            pytest.param("a", "None", "b:8080", False, id="no affinity"),
            pytest.param("client", "ClientIP", "b:8080", False, id="no pod"),
        ],
    )
    def test_affinity_may_keep_a_pod_at_a_neighbour_on_one_side(
        self, caller, affinity, kept_at, is_explained
    ):
        (now,) = (
            Case("", ((objects.service(sessionAffinity=affinity), *objects.slices("abc")),)).in_slot(1).states
        )
        target = Target("tcp", "10.96.1.1", 80)
        heard = Asked(frozenset({"one-of-a:8080/b:8080/c:8080 10.244.1.11"}))
        lost = Asked(frozenset({"silent"}), kept_at)

        for sides in ((heard, lost), (lost, heard)):
            found = differences.explain(Difference(target, caller, *sides), Situation(now))
            assert bool(found) is is_explained


def _servers(names):
    return frozenset(f"{PODS[name][0]}:8080 -m -w 1" for name in names)


def _on_ports(*numbers):
    return (objects.service([objects.port(number) for number in numbers]), *objects.slices("a"))


def _balanced(**spec):
    return (
        objects.service(
            type="LoadBalancer",
            externalTrafficPolicy="Local",
            healthCheckNodePort=19,
            **{"ingress": objects.BALANCER, **spec},
        ),
    )


class TestCompare:
    row = VirtualServer("-s rr -p 10800", frozenset({"10.244.1.11:8080 -m", "10.244.2.13:8080 -m"}))
    target = Target("tcp", "10.96.1.1", 80)

    def found(self, theirs, ours, caller="client", kept=({}, {})):
        listed = {self.target: self.row}
        return list(
            compare.answers(caller, self.target, (Counter(theirs), Counter(ours)), (listed, listed), kept)
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

    @pytest.mark.parametrize(
        ("ours", "expected"),
        [
            pytest.param({"silent"}, "c:8080", id="nothing was heard"),
            pytest.param({"refused"}, "", id="no server"),
            pytest.param({"c:8080 192.0.2.1"}, "", id="an answer"),
        ],
    )
    def test_with_affinity_it_is_said_where_a_client_is_kept_that_heard_nothing(self, ours, expected):
        kept = ({}, {("10.244.2.13", self.target): "10.244.2.13:8080"})
        (difference,) = self.found({"a:8080 10.244.2.13"}, ours, "c", kept)

        assert ("", expected) == (difference.theirs.kept_at, difference.ours.kept_at)

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

    def test_no_round_begins_when_the_time_is_up(self):
        case = generator.cases(3, 1)[0]
        asked = []

        def fails(many):
            asked.append(len(many))
            return [True] * len(many)

        assert case == shrink(case, fails, has_time=lambda: False)
        assert [] == asked


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
