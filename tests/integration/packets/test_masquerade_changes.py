"""What decides about masquerading and may change while the agent runs, or is chosen by a number."""

from __future__ import annotations

import pytest

from tests.integration.packets.configured import configured
from tests.integration.packets.stock import GATEWAYS, Stock, ask, client, node_object
from tools.lab import talk
from tools.lab.network import CLUSTER_CIDRS

pytestmark = pytest.mark.long

WEB = Stock(1)
OTHERS_BIT, OUR_BIT = "0x4000", "0x100000"
"""kube-proxy's bit 14, and bit 20."""


def source(node, lab, family):
    """What pod b sees of pod a."""
    return ask(node, client(lab, "a"), talk.TCP, WEB.cluster_ip(family), 80).source


def with_networks(lab, *networks):
    """The Node with these podCIDRs."""
    node = node_object(lab)
    node["spec"] = {"podCIDRs": list(networks)} if networks else {}
    return node


def test_node_cidr_waits_for_the_nodes_networks_and_follows_them(lab, tmp_path):
    fields = "detectLocalMode: NodeCIDR\nipvs: {syncPeriod: 1h}\n"
    web = WEB.objects(lab, [lab.b], (talk.TCP,))
    own = {family: client(lab, "a").address(family) for family in (4, 6)}
    right, wrong = ("10.244.1.0/24", "fd00:10:244:1::/64"), ("10.244.9.0/24", "fd00:10:244:9::/64")
    with configured(lab, tmp_path, fields, with_networks(lab), *web) as node:
        node.wait_for(lambda: "podCIDRs" in node.log.read_text())
        assert [] == node.virtual_servers()

        def becomes(networks, *expected):
            node.put(with_networks(lab, *networks), *web)
            node.wait_for(lambda: expected == (source(node, lab, 4), source(node, lab, 6)))

        becomes(right, own[4], own[6])
        becomes(wrong, GATEWAYS[4], GATEWAYS[6])
        becomes((wrong[0], right[1]), GATEWAYS[4], own[6])
        becomes(right[:1], own[4], own[6])  # nobody says who is inside, so nobody is masqueraded
        becomes(tuple(reversed(right)), own[4], own[6])


@pytest.mark.parametrize("family", [4, 6], ids=["IPv4", "IPv6"])
def test_masquerade_bit(lab, tmp_path, family):
    """A bit of the mark that somebody else sets means nothing to us, and ours does."""
    fields = f"clusterCIDR: {','.join(CLUSTER_CIDRS)}\niptables: {{masqueradeBit: 20}}\n"
    tool = "iptables" if family == 4 else "ip6tables"
    own = client(lab, "a").address(family)
    with configured(lab, tmp_path, fields, *WEB.objects(lab, [lab.b], (talk.TCP,))) as node:
        node.wait_for_answer(lab.a, talk.TCP, WEB.cluster_ip(family), 80)
        outside = (client(lab, "client"), talk.TCP, WEB.cluster_ip(family), 80)
        assert GATEWAYS[family] == ask(node, *outside).source
        assert own == source(node, lab, family)
        for bit, expected in ((OTHERS_BIT, own), (OUR_BIT, GATEWAYS[family])):
            rule = ("PREROUTING", "-i", "cni0", "-j", "MARK", "--set-xmark", f"{bit}/{bit}")
            node.run(tool, "-w", "-t", "mangle", "-A", *rule)
            try:
                assert expected == source(node, lab, family)
            finally:
                node.run(tool, "-w", "-t", "mangle", "-D", *rule)
