"""What ipvs-agent explain says of a Service, and of one that it cannot explain."""

from __future__ import annotations

import pytest

from ipvs_agent.addresses import Family
from ipvs_agent.desired import split
from ipvs_agent.desired.compile import NodeView, compile_service
from ipvs_agent.explain import text
from ipvs_agent.model import Protocol
from ipvs_agent.schedulers.annotations import Choice
from ipvs_agent.testing.builders import address, endpoint, endpoint_slice, port, service

NODE = NodeView("node-a", Choice("rr", 0), zone="z1", node_port_addresses=(address("192.0.2.1"),))
HERE, THERE = endpoint("10.244.1.1", node="node-a", zone="z1"), endpoint("10.244.2.1", node="node-b")
LEAVING = {"ready": False, "terminating": True}


def explain(*endpoints, of=None, node=NODE, **options):
    """Return the lines about a Service with some endpoints, without blanks at their ends."""
    of = of or service()
    slices = [endpoint_slice(endpoints=endpoints)]
    marks = {}
    if of.external_local:
        marks = {each: split.mark_of(1, Protocol.TCP) for each in of.ports}
    plan = compile_service(of, slices, node, marks)
    return text.render(of, slices, plan, marks, node, **options).splitlines()


def row(lines, start):
    """Return the cells of the line that starts with a word."""
    (line,) = [line for line in lines if line.split()[:1] == [start]]
    return [cell.strip() for cell in line.strip().split("  ") if cell]


def test_a_plain_service():
    assert explain(HERE, THERE) == [
        "Service shop/web on node node-a",
        "",
        "port http (TCP, IPv4)",
        "  all addresses: 10.96.0.80:80",
        "    scheduler   rr",
        "  endpoint         node    zone  weight, all addresses",
        "  10.244.1.1:8080  node-a  z1    1",
        "  10.244.2.1:8080  node-b  -     1",
    ]


def test_all_that_annotations_ask_for():
    annotations = {
        "ipvs-agent.io/scheduler": "wlc",
        "ipvs-agent.io/max-connections": "500",
        "ipvs-agent.io/resume-connections": "400",
        "ipvs-agent.io/affinity-mask": "24",
        "ipvs-agent.io/slow-start": "1m",
        "ipvs-agent.io/drain-timeout": "90s",
    }

    lines = explain(HERE, of=service(annotations=annotations, affinity_seconds=600))

    assert ["scheduler", "wlc"] == row(lines, "scheduler")
    assert ["affinity", "by client network (/24), for 600 s"] == row(lines, "affinity")
    assert "500 connections by endpoint and address" in row(lines, "cap")[1]
    assert "again below 400" in row(lines, "cap")[1]
    assert "counts for up to two minutes" in row(lines, "cap")[1]
    assert ["slow start", "60 s"] == row(lines, "slow")
    assert ["drain", "for 90 s at the latest"] == row(lines, "drain")


@pytest.mark.parametrize(
    ("reason", "other"),
    [
        pytest.param("not ready", {"ready": False}, id="not ready"),
        pytest.param("terminating, and others are ready", LEAVING, id="terminating"),
        pytest.param("terminating, and serves no more", {**LEAVING, "serving": False}, id="terminated"),
    ],
)
def test_why_an_endpoint_does_not_serve(reason, other):
    lines = explain(HERE, endpoint("10.244.9.9", **other))

    assert ["10.244.9.9:8080", "-", "-", "-", reason] == row(lines, "10.244.9.9:8080")


def test_hints_for_others():
    near, far = endpoint("10.244.1.1", zone_hints=("z1",)), endpoint("10.244.2.1", zone_hints=("z2",))

    lines = explain(near, far)

    assert ["10.244.1.1:8080", "-", "-", "1"] == row(lines, "10.244.1.1:8080")
    assert "its topology hints are for other nodes or zones" == row(lines, "10.244.2.1:8080")[-1]


def test_weight_zero():
    annotations = {"ipvs-agent.io/scheduler": "wrr", "ipvs-agent.io/weights": "local=5,other=0"}

    lines = explain(HERE, THERE, of=service(annotations=annotations))

    assert ["10.244.1.1:8080", "node-a", "z1", "5"] == row(lines, "10.244.1.1:8080")
    assert ["0", "weight 0: keeps its connections and gets no new ones"] == row(lines, "10.244.2.1:8080")[-2:]


def test_weight_zero_under_a_scheduler_that_is_given_none_of_them():
    annotations = {"ipvs-agent.io/scheduler": "mh", "ipvs-agent.io/weights": "local=5,other=0"}

    lines = explain(HERE, THERE, of=service(annotations=annotations))

    assert ["-", "weight 0: keeps its connections and gets no new ones"] == row(lines, "10.244.2.1:8080")[-2:]


def test_external_traffic_policy_local():
    of = service("shop/web", port(external_ips=("203.0.113.1",), node_port=30080), external_local=True)

    lines = explain(HERE, THERE, of=of)

    assert "  cluster IP: 10.96.0.80:80" in lines
    assert "  from outside: 203.0.113.1:80, 192.0.2.1:30080" in lines
    assert "  pods and node: the same, by a packet mark" in lines
    assert ["1", "1", "1"] == row(lines, "10.244.1.1:8080")[-3:]
    assert ["1", "-", "1", "not on this node (externalTrafficPolicy: Local)"] == row(
        lines, "10.244.2.1:8080"
    )[3:]


def test_internal_traffic_policy_local():
    of = service("shop/web", port(node_port=30080), internal_local=True)

    lines = explain(HERE, THERE, of=of)

    assert ["-", "1", "not on this node (internalTrafficPolicy: Local)"] == row(lines, "10.244.2.1:8080")[3:]


def test_no_endpoint():
    assert "  no endpoint: clients are refused" in explain()


def test_a_family_that_the_node_lacks():
    node = NodeView("node-a", Choice("rr", 0), families=frozenset({Family.IPV6}))

    assert "  not served: this node does not have the family" in explain(HERE, node=node)


def test_one_port_alone():
    of = service("shop/web", port(name="http"), port(name="admin", number=81))

    lines = explain(HERE, of=of, port_name="admin")

    assert ["port admin (TCP, IPv4)"] == [line for line in lines if line.startswith("port ")]


def test_what_is_not_served_as_asked():
    lines = explain(HERE, of=service(annotations={"ipvs-agent.io/scheduler": "m\x1bh"}), notes=("taken",))

    assert "Not served as asked:" in lines
    assert lines[-2].startswith(
        "  metadata.annotations[ipvs-agent.io/scheduler]: 'm\\x1bh' is not a scheduler"
    )
    assert "  taken" == lines[-1]


def test_what_users_write_does_not_reach_the_terminal():
    lines = explain(endpoint("10.244.1.1", node="a\x1b[2J"))

    assert any(r"a\x1b[2J" in line for line in lines)
    assert "\x1b" not in "".join(lines)
