"""Who is masqueraded, by configuration: which source address the pods see."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from tests.integration.packets.configured import configured
from tests.integration.packets.stock import GATEWAYS, Stock, client, families, node_object, sources
from tools.lab import talk
from tools.lab.network import CLUSTER_CIDRS

pytestmark = pytest.mark.long

PLAIN, LOCAL, NONE_LOCAL, OF_NODE = Stock(1), Stock(2), Stock(3), Stock(4)
CLIENTS = ("client", "a", "c", "node")
CLUSTER_CIDR = f"clusterCIDR: {','.join(CLUSTER_CIDRS)}\n"
SOON = "ipvs: {syncPeriod: 1s}\n"


class Mode(NamedTuple):
    """A configuration, and what it makes of clients."""

    fields: str
    inside: str
    """Pods that are known to be inside the cluster."""
    masquerades_pods: bool = False
    """Also what pods send to cluster IPs."""
    knows_node: bool = True
    """Pods that are known are on this node, and keep their address where an address is divided."""


MODES = {
    "ClusterCIDR": Mode(CLUSTER_CIDR, "ac", knows_node=False),
    "masqueradeAll": Mode(CLUSTER_CIDR + "iptables: {masqueradeAll: true}\n", "ac", True, knows_node=False),
    "BridgeInterface": Mode(
        "detectLocalMode: BridgeInterface\ndetectLocal: {bridgeInterface: cni0}\n" + CLUSTER_CIDR, "a"
    ),
    "InterfaceNamePrefix": Mode(
        "detectLocalMode: InterfaceNamePrefix\ndetectLocal: {interfaceNamePrefix: cni}\n", "a"
    ),
    "NodeCIDR": Mode("detectLocalMode: NodeCIDR\n", "a"),
}
everybody = pytest.mark.parametrize("who", CLIENTS)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("ClusterCIDR", marks=pytest.mark.sample),
        *(name for name in MODES if name != "ClusterCIDR"),
    ],
)
def mode(request):
    return MODES[request.param]


@pytest.fixture(scope="module")
def node(lab, tmp_path_factory, mode):
    """A node whose agent is configured so."""
    local = {"externalTrafficPolicy": "Local"}
    objects = [
        node_object(lab),
        *PLAIN.objects(lab, lab.pods, (talk.TCP,)),
        *OF_NODE.objects(lab, [lab.a, lab.b], (talk.TCP,)),
        *LOCAL.objects(lab, lab.pods, (talk.TCP,), **local),
        *NONE_LOCAL.objects(lab, [lab.c], (talk.TCP,), **local),
    ]
    with configured(lab, tmp_path_factory.mktemp("node"), mode.fields + SOON, *objects) as node:
        for family in (4, 6):
            node.wait_for_answer(lab.client, talk.TCP, NONE_LOCAL.cluster_ip(family), 80)
        yield node


def masqueraded(lab, family):
    """What each pod sees of a client that is masqueraded."""
    lan = lab.node.ipv4 if family == 4 else lab.node.ipv6
    return {"a": GATEWAYS[family], "b": GATEWAYS[family], "c": lan}


def unmasqueraded(lab, who, family):
    """What each pod sees of a client that is not masqueraded, unless it asks itself."""
    own = client(lab, who).address(family)
    return {name: seen if name == who else own for name, seen in masqueraded(lab, family).items()}


def seen(node, lab, who, address, expected):
    return sources(node, client(lab, who), talk.TCP, address, 80, set(expected))


@families
@everybody
class TestSources:
    def test_at_a_cluster_ip(self, node, lab, mode, family, who):
        keeps_address = who in mode.inside and not mode.masquerades_pods
        expected = unmasqueraded(lab, who, family) if keeps_address else masqueraded(lab, family)
        stock = PLAIN
        if who == "c":  # its own node takes what comes from there with the pod's address for a forgery
            del expected["c"]
            stock = OF_NODE
        assert expected == seen(node, lab, who, stock.cluster_ip(family), expected)

    def test_at_a_load_balancer(self, node, lab, mode, family, who):
        expected = masqueraded(lab, family)
        assert expected == seen(node, lab, who, PLAIN.balancer(family), expected)

    def test_at_a_divided_load_balancer(self, node, lab, mode, family, who):
        if who in mode.inside or who == "node":
            keeps_address = who != "node" and mode.knows_node
            expected = unmasqueraded(lab, who, family) if keeps_address else masqueraded(lab, family)
        else:
            own = client(lab, who).address(family)
            expected = {"a": own, "b": own}
        assert expected == seen(node, lab, who, LOCAL.balancer(family), expected)


@families
@pytest.mark.parametrize("who", ["a", "node"])
def test_a_divided_load_balancer_without_a_local_endpoint(node, lab, mode, family, who):
    keeps_address = who != "node" and mode.knows_node
    pods = unmasqueraded(lab, who, family) if keeps_address else masqueraded(lab, family)
    expected = {"c": pods["c"]}
    assert expected == seen(node, lab, who, NONE_LOCAL.balancer(family), expected)
