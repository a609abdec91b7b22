"""Sets that take more members than any set is made for, while what they say is needed without pause."""

from __future__ import annotations

import re

import pytest

from tests import objects
from tests.integration.packets.configured import configured
from tests.integration.packets.stock import Stock, ask, client, node_object
from tools.lab import talk
from tools.lab.asking import Asking

pytestmark = pytest.mark.long

HAIRPIN, RANGED = Stock(1), Stock(2)
FIELDS = "clusterCIDR: 10.244.0.0/16,fd00:10:244::/48\nipvs: {syncPeriod: 1h}\n"
DEFAULT = 65536
"""The members that a set takes unless told otherwise."""
SERVICES, PODS = 100, 660
MANY = SERVICES * PODS


def maximum(node, name):
    return int(re.search(r" maxelem (\d+)", node.run("ipset", "list", "-t", name))[1])


def count(node, name):
    return int(re.search(r"Number of entries: (\d+)", node.run("ipset", "list", "-t", name))[1])


def many_endpoints():
    """Services whose endpoints may all be on this node, as far as anybody says."""
    for number in range(SERVICES):
        name = f"many-{number}"
        numbers = range(number * PODS, (number + 1) * PODS)
        yield objects.service(name, (f"10.97.0.{number + 1}",))
        yield objects.endpoint_slice(
            name, [f"10.{200 + (n >> 16)}.{n >> 8 & 255}.{n & 255}" for n in numbers]
        )


def ranges(number):
    """So many single addresses, and the client's own."""
    return ["192.0.2.100/32", *(f"198.{18 + (n >> 16)}.{n >> 8 & 255}.{n & 255}/32" for n in range(number))]


@pytest.mark.timeout(900)
def test_a_set_grows_and_no_packet_sees_it_half_filled(lab, tmp_path):
    """Pod a reaches itself only by a member of HAIRPIN, and the client the restricted address by ALLOWED."""
    hairpin, allowed = "IPVS-AGENT-4-HAIRPIN", "IPVS-AGENT-4-ALLOWED"
    web = [node_object(lab), *HAIRPIN.objects(lab, [lab.a], (talk.TCP,))]

    def ranged(number):
        return RANGED.objects(lab, [lab.b], (talk.TCP,), loadBalancerSourceRanges=ranges(number))

    with configured(lab, tmp_path, FIELDS, *web, *ranged(1)) as node:
        node.wait_for_answer(lab.client, talk.TCP, RANGED.balancer(4), 80)
        node.wait_for_answer(lab.a, talk.TCP, HAIRPIN.cluster_ip(4), 80)
        assert [DEFAULT, DEFAULT] == [maximum(node, name) for name in (hairpin, allowed)]
        asking = [Asking(lab.a, HAIRPIN.cluster_ip(4)), Asking(lab.client, RANGED.balancer(4))]

        node.put(*many_endpoints(), file="many.json")
        node.wait_for(lambda: count(node, hairpin) > MANY)
        node.put(*web, *ranged(MANY))
        node.wait_for(lambda: count(node, allowed) > MANY)
        grown = [len(one.pods) for one in asking]
        node.wait_for(lambda: all(len(one.pods) > n + 20 for one, n in zip(asking, grown, strict=True)))
        for one in asking:
            one.end()

        assert [[], []] == [one.failures for one in asking]
        assert min(maximum(node, name) for name in (hairpin, allowed)) > DEFAULT
        assert "-NEW" not in node.run("ipset", "list", "-n")
        node.put(file="many.json")
        node.put(*web, *ranged(1))
        node.wait_for(lambda: count(node, hairpin) < 10 and count(node, allowed) < 10)
        assert "b" == ask(node, client(lab, "client"), talk.TCP, RANGED.balancer(4), 80).name
        assert "a" == ask(node, client(lab, "a"), talk.TCP, HAIRPIN.cluster_ip(4), 80).name
