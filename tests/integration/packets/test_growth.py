"""Sets that take more members than any set is made for, while what they say is needed without pause."""

from __future__ import annotations

import re

import pytest

from tests import objects
from tests.integration.packets.configured import configured
from tests.integration.packets.stock import Stock, ask, client, families, node_object
from tests.lab import a_lab
from tools.lab import talk
from tools.lab.asking import Asking

pytestmark = pytest.mark.long

HAIRPIN, RANGED = Stock(1), Stock(2)
FIELDS = "clusterCIDR: 10.244.0.0/16,fd00:10:244::/48\nipvs: {syncPeriod: 1h}\n"
DEFAULT = 65536
"""The members that a set takes unless told otherwise."""
SERVICES, PODS = 100, 660
MANY = SERVICES * PODS


@pytest.fixture
def lab():
    """A lab for each test: the kernel looks for each new real server through those removed of late."""
    with a_lab() as lab:
        yield lab


def maximum(node, name):
    return int(re.search(r" maxelem (\d+)", node.run("ipset", "list", "-t", name))[1])


def count(node, name):
    return int(re.search(r"Number of entries: (\d+)", node.run("ipset", "list", "-t", name))[1])


def hosts(family, network, numbers):
    """So many addresses."""
    if family == 6:
        return [f"fd00:{network}::{n >> 16:x}:{n & 0xFFFF:x}" for n in numbers]
    return [f"10.{network + (n >> 16)}.{n >> 8 & 255}.{n & 255}" for n in numbers]


def many_endpoints(family):
    """Services whose endpoints may all be on this node, as far as anybody says."""
    for number in range(SERVICES):
        name = f"many-{number}"
        cluster_ip = f"fd00:10:97::{number + 1:x}" if family == 6 else f"10.97.0.{number + 1}"
        yield objects.service(name, (cluster_ip,))
        yield objects.endpoint_slice(name, hosts(family, 200, range(number * PODS, (number + 1) * PODS)))


def ranges(family, number, asker):
    """So many single addresses, and a client's own."""
    prefix = 128 if family == 6 else 32
    return [f"{one}/{prefix}" for one in (asker, *hosts(family, 100, range(number)))]


@families
@pytest.mark.timeout(900)
def test_a_set_grows_and_no_packet_sees_it_half_filled(lab, tmp_path, in_background, family):
    """Pod a reaches itself only by a member of HAIRPIN, and the client the restricted address by ALLOWED."""
    hairpin, allowed = f"IPVS-AGENT-{family}-HAIRPIN", f"IPVS-AGENT-{family}-ALLOWED"
    to_itself, restricted = HAIRPIN.cluster_ip(family), RANGED.balancer(family)
    asker = client(lab, "client").address(family)
    web = [node_object(lab), *HAIRPIN.objects(lab, [lab.a], (talk.TCP,))]

    def ranged(number):
        wanted = ranges(family, number, asker)
        return RANGED.objects(lab, [lab.b], (talk.TCP,), loadBalancerSourceRanges=wanted)

    with configured(lab, tmp_path, FIELDS, *web, *ranged(1)) as node:
        node.wait_for_answer(lab.client, talk.TCP, restricted, 80)
        node.wait_for_answer(lab.a, talk.TCP, to_itself, 80)
        assert [DEFAULT, DEFAULT] == [maximum(node, name) for name in (hairpin, allowed)]
        asking = [in_background(Asking(*where)) for where in ((lab.a, to_itself), (lab.client, restricted))]

        node.put(*many_endpoints(family), file="many.json")
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
        assert "b" == ask(node, client(lab, "client"), talk.TCP, restricted, 80).name
        assert "a" == ask(node, client(lab, "a"), talk.TCP, to_itself, 80).name
