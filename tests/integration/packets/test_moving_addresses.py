"""Node ports follow the addresses of the node. No audit helps: all agents here look around once an hour."""

from __future__ import annotations

import pytest

from tests.integration.packets.configured import configured, has_address, words
from tests.integration.packets.stock import Stock, ask, client, families, is_refused, node_object
from tools.lab import talk

pytestmark = pytest.mark.long

WEB = Stock(1)
ADDED = {4: "192.0.2.50", 6: "2001:db8::50"}
BRIDGE = {4: "10.244.1.1", 6: "fd00:10:244:1::1"}
CHOSEN = "nodePortAddresses: [192.0.2.48/28, '2001:db8::40/122']\n"


CHOSEN_IPV4 = "nodePortAddresses: [192.0.2.48/28]\n"


@pytest.fixture(
    scope="module", params=["", CHOSEN, CHOSEN_IPV4], ids=["all addresses", "CIDRs", "CIDR of IPv4"]
)
def node(request, lab, tmp_path_factory):
    fields = request.param + "ipvs: {syncPeriod: 1h}\n"
    objects = [node_object(lab), *WEB.objects(lab, lab.pods)]
    with configured(lab, tmp_path_factory.mktemp("node"), fields, *objects) as node:
        for family in (4, 6):
            node.wait_for_answer(lab.client, talk.TCP, WEB.balancer(family), 80)
        node.choosing = {"": (), CHOSEN: (4, 6), CHOSEN_IPV4: (4,)}[request.param]
        yield node


def is_served(node, address, port=WEB.node_port):
    """Tell whether there is a virtual server that takes connections, and not one that drains."""
    where = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    return any(f"-a -t {where} " in line and " -w 1" in line for line in node.virtual_servers())


def is_bound(node, address):
    """Tell whether the agent holds an address on the node."""
    return f" {address}/" in node.run("ip", "addr", "show", "dev", "kube-ipvs0")


@pytest.mark.sample
@families
def test_an_address_that_comes_and_goes(node, lab, family):
    address = ADDED[family]
    for _ in range(3):
        with has_address(node, address):
            for protocol in (talk.TCP, talk.UDP, talk.SCTP):
                node.wait_for_answer(lab.client, protocol, address, WEB.node_port)
        node.wait_for(lambda: not is_served(node, address))


@families
def test_an_address_of_an_interface_that_goes(node, lab, family):
    address = ADDED[family]
    node.run("ip", "link", "add", "dummy7", "type", "dummy")
    node.run("ip", "link", "set", "dummy7", "up")
    node.run("ip", "addr", "add", *words(address, "dummy7"))
    node.wait_for(lambda: is_served(node, address))
    node.run("ip", "link", "del", "dummy7")
    node.wait_for(lambda: not is_served(node, address))


@families
def test_which_addresses_are_chosen(node, lab, family):
    lan = lab.node.ipv4 if family == 4 else lab.node.ipv6
    for address in (lan, BRIDGE[family]):
        assert is_served(node, address) is (family not in node.choosing)
        asked = (node, client(lab, "a"), talk.TCP, address, WEB.node_port)
        if family in node.choosing:
            assert is_refused(*asked)
        else:
            assert ask(*asked).name in "abc"


@families
def test_an_external_ip_that_becomes_the_nodes_own(node, lab, family):
    address = WEB.external(family)
    node.wait_for(lambda: is_bound(node, address))
    with has_address(node, address):
        node.wait_for(lambda: not is_bound(node, address))
        assert ask(node, client(lab, "client"), talk.TCP, address, 80).name in "abc"
        assert is_served(node, address, 80)
    node.wait_for(lambda: is_bound(node, address))
    node.wait_for_answer(lab.client, talk.TCP, address, 80)
