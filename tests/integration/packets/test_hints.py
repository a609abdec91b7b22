"""Topology: the endpoints that are hinted for this node or its zone, and when hints do not count."""

from __future__ import annotations

import pytest

from tests.integration.packets.stock import Stock, client, families, node_object, pods, running
from tests.lab import Node
from tools.lab import talk

pytestmark = pytest.mark.long

ZONE = "topology.kubernetes.io/zone"
ZONED, ONE_UNHINTED, NO_SUCH_ZONE, NODED, NODE_AND_ZONE, OTHER_NODE, UNREADY = map(Stock, range(1, 8))
LOCAL = Stock(8)
MOVED = Stock(11)
# Which pods answer everybody at the cluster IP.
NEAR = {
    "hinted for the zone": (ZONED, "bc"),
    "one without a hint": (ONE_UNHINTED, "abc"),
    "none hinted for the zone": (NO_SUCH_ZONE, "abc"),
    "hinted for the node": (NODED, "c"),
    "the node before the zone": (NODE_AND_ZONE, "a"),
    "none for the node, so the zone": (OTHER_NODE, "b"),
    "an unready one needs no hint": (UNREADY, "a"),
    "internalTrafficPolicy Local": (LOCAL, "ab"),
}


def hints(zone="", node=""):
    """Hints of an endpoint."""
    found = {"forZones": [{"name": zone}]} if zone else {}
    return {"hints": found | ({"forNodes": [{"name": node}]} if node else {})}


def hinted(stock, lab, fields, **spec):
    """A Service over the pods a, b and c, with fields of each."""
    service, *slices = stock.objects(lab, lab.pods, (talk.TCP,), **spec)
    for endpoint_slice in slices:
        for endpoint, extra in zip(endpoint_slice["endpoints"], fields, strict=True):
            endpoint.update(extra)
    return [service, *slices]


@pytest.fixture(scope="module")
def node(lab, tmp_path_factory):
    """A node in the zone z1, whose agent serves Services with hints."""
    node = Node(lab, tmp_path_factory.mktemp("node"))
    local = {"externalTrafficPolicy": "Local", "internalTrafficPolicy": "Local"}
    unready = {"conditions": {"ready": False}}
    node.put(
        node_object(lab, **{ZONE: "z1"}),
        *hinted(ZONED, lab, [hints("z2"), hints("z1"), hints("z1")], externalTrafficPolicy="Local"),
        *hinted(ONE_UNHINTED, lab, [hints("z1"), hints("z2"), {}]),
        *hinted(NO_SUCH_ZONE, lab, [hints("z2"), hints("z2"), hints("z3")]),
        *hinted(LOCAL, lab, [hints("z2"), hints("z2"), hints("z1")], **local),
        *hinted(NODED, lab, [hints(node="node-b"), hints(node="node-b"), hints(node="node-a")]),
        *hinted(NODE_AND_ZONE, lab, [hints("z2", "node-a"), hints("z1", "node-b"), hints("z1", "node-b")]),
        *hinted(OTHER_NODE, lab, [hints("z2", "node-b"), hints("z1", "node-b"), hints("z2", "node-c")]),
        *hinted(UNREADY, lab, [hints("z1"), unready, hints("z2")]),
    )
    with running(node):
        for family in (4, 6):
            node.wait_for_answer(lab.client, talk.TCP, UNREADY.cluster_ip(family), 80)
        yield node


@families
@pytest.mark.parametrize("case", NEAR)
@pytest.mark.parametrize("who", [pytest.param("client", marks=pytest.mark.sample), "a", "node"])
def test_at_a_cluster_ip(node, lab, family, case, who):
    stock, names = NEAR[case]
    asked = (client(lab, who), talk.TCP, stock.cluster_ip(family), 80)
    assert set(names) == pods(node, *asked, set(names))


@families
class TestAddressesOutside:
    def test_policy_cluster_heeds_hints(self, node, lab, family):
        for address, port in NODED.ways_in(lab, family):
            assert {"c"} == pods(node, client(lab, "client"), talk.TCP, address, port, {"c"})

    @pytest.mark.parametrize("stock", [ZONED, LOCAL], ids=["one in the zone", "none in the zone"])
    def test_policy_local_does_not(self, node, lab, family, stock):
        for address, port in stock.ways_in(lab, family):
            assert {"a", "b"} == pods(node, client(lab, "client"), talk.TCP, address, port, {"a", "b"})


@families
def test_the_node_moves_to_another_zone_and_back(node, lab, family):
    asked = (client(lab, "client"), talk.TCP, MOVED.cluster_ip(family), 80)
    service = hinted(MOVED, lab, [hints("z1"), hints("z2"), hints("z2")])
    try:
        for zone, names in (("z2", {"b", "c"}), ("", {"a", "b", "c"}), ("z1", {"a"})):
            labels = {ZONE: zone} if zone else {}
            # Of an object that two files have, the file that is first by name has it.
            node.put(node_object(lab, **labels), *service, file="moved.json")
            node.wait_for(lambda names=names: names == pods(node, *asked, names))
    finally:
        node.put(file="moved.json")
