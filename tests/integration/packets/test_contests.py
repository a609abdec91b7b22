"""Two that want the same address and port, and addresses that no Service may have."""

from __future__ import annotations

import pytest

from tests.integration.packets.stock import (
    Stock,
    ask,
    client,
    families,
    is_refused,
    node_object,
    running,
)
from tests.lab import Node
from tools.lab import talk

pytestmark = pytest.mark.long

OLDER, YOUNGER, BESIDE, OF_NODE = map(Stock, range(1, 5))
YEARS = {OLDER: "2025-01-01T00:00:00Z", YOUNGER: "2026-01-01T00:00:00Z"}
FOREIGN = {4: "10.96.9.9", 6: "fd00:10:96::9:9"}


def made(lab, stock, pod, **spec):
    """A Service over one pod that asks for the external addresses and the NodePort of OLDER."""
    service, *slices = stock.objects(lab, [pod], **spec)
    service["spec"]["externalIPs"] = [OLDER.external(4), OLDER.external(6)]
    for port in service["spec"]["ports"]:
        port["nodePort"] = OLDER.node_port
    service["metadata"]["creationTimestamp"] = YEARS[stock]
    return [service, *slices]


@pytest.fixture(scope="module")
def node(lab, tmp_path_factory):
    """A node whose agent serves nothing yet."""
    node = Node(lab, tmp_path_factory.mktemp("node"))
    node.put(node_object(lab))
    with running(node):
        yield node


def notes(node):
    """What `status -o wide` says beside the tables."""
    return node.agent.command("status", "-o", "wide")


@families
@pytest.mark.parametrize("protocol", [pytest.param(talk.TCP, marks=pytest.mark.sample), talk.UDP, talk.SCTP])
@pytest.mark.parametrize("first", [OLDER, YOUNGER], ids=["the older first", "the younger first"])
def test_the_older_one_has_it_until_it_goes(node, lab, family, protocol, first):
    _, *ways = OLDER.ways_in(lab, family)  # an external address and the NodePort

    def everywhere(name):
        return all(node.ask(lab.client, protocol, *way).name == name for way in ways)

    both = {OLDER: made(lab, OLDER, lab.a), YOUNGER: made(lab, YOUNGER, lab.b)}
    try:
        node.put(*both[first], file=f"{first.name}.json")
        node.wait_for(lambda: everywhere({OLDER: "a", YOUNGER: "b"}[first]))
        for stock, objects in both.items():
            node.put(*objects, file=f"{stock.name}.json")
        node.wait_for(lambda: everywhere("a") and f"taken by shop/{OLDER.name}" in notes(node))
        # Each is still served where it is alone.
        assert "b" == ask(node, client(lab, "client"), protocol, YOUNGER.cluster_ip(family), 80).name
        node.put(file=f"{OLDER.name}.json")
        node.wait_for(lambda: everywhere("b") and "taken by" not in notes(node))
    finally:
        for stock in both:
            node.put(file=f"{stock.name}.json")
    for way in ways:
        node.wait_for(lambda way=way: is_refused(node, client(lab, "client"), talk.TCP, *way))


@families
def test_a_virtual_server_of_somebody_else_is_left_alone(node, lab, family):
    address = FOREIGN[family]
    where = f"[{address}]:80" if family == 6 else f"{address}:80"
    target = f"[{lab.c.ipv6}]:8080" if family == 6 else f"{lab.c.ipv4}:8080"
    node.run("ipvsadm", "-A", "-t", where, "-s", "wlc")
    node.run("ipvsadm", "-a", "-t", where, "-r", target, "-m", "-w", "7")
    theirs = [line for line in node.virtual_servers() if where in line]
    service, *slices = BESIDE.objects(lab, [lab.a], (talk.TCP,))
    service["spec"]["externalIPs"] = list(FOREIGN.values())
    try:
        node.put(service, *slices, file="beside.json")
        assert "a" == node.wait_for_answer(lab.client, talk.TCP, BESIDE.cluster_ip(family), 80).name
        node.wait_for(lambda: f"{where}/TCP is taken by" in notes(node))
        assert theirs == [line for line in node.virtual_servers() if where in line]
        node.run("ipvsadm", "-D", "-t", where)
        node.wait_for_answer(lab.client, talk.TCP, address, 80)
    finally:
        node.put(file="beside.json")
    node.wait_for(lambda: not any(where in line for line in node.virtual_servers()))


@pytest.mark.sample
@families
def test_the_nodes_own_address_is_served_and_never_bound(node, lab, family):
    own = lab.node.ipv4 if family == 4 else lab.node.ipv6
    service, *slices = OF_NODE.objects(lab, [lab.a], (talk.TCP,))
    service["spec"]["externalIPs"] = [lab.node.ipv4, lab.node.ipv6]
    try:
        node.put(service, *slices, file="own.json")
        assert "a" == node.wait_for_answer(lab.client, talk.TCP, own, 80).name
        assert "a" == node.wait_for_answer(lab.b, talk.TCP, own, 80).name
        bound = node.run("ip", "addr", "show", "dev", "kube-ipvs0") + node.run(
            "ip", f"-{family}", "route", "show", "table", "local", "dev", "kube-ipvs0"
        )
        assert f" {own}" not in bound
    finally:
        node.put(file="own.json")
    node.wait_for(lambda: is_refused(node, client(lab, "client"), talk.TCP, own, 80))
    assert f" {own}/" in node.run("ip", "addr")  # the node keeps it
