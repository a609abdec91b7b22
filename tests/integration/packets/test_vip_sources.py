"""From where the node dials VIPs that are local routes, while its addresses come, go and are replaced."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from tests.integration.packets import test_services as services
from tests.integration.packets.stock import GATEWAYS, client, families, node_object, running, sources
from tests.lab import Node
from tools.lab import talk
from tools.lab.asking import Datagrams

pytestmark = pytest.mark.long

VIPS = tuple(services.VIPS.values())
OWN = ("192.0.2.1", "2001:db8::1")
OTHERS = ("192.0.2.9", "2001:db8::9")


def objects(lab, own=OWN):
    """A Service of every protocol, and a Node object that names these addresses."""
    named = node_object(lab)
    named["status"]["addresses"] = [{"type": "InternalIP", "address": address} for address in own]
    return (named, *services.web(lab))


def words(address):
    return [address + ("/64" if ":" in address else "/24"), "dev", "eth0"]


def add(node, *addresses):
    for address in addresses:
        node.run("ip", "addr", "add", *words(address), *(["nodad"] if ":" in address else []))


def delete(node, *addresses):
    for address in addresses:
        node.run("ip", "addr", "del", *words(address))


def are_preferred(node, *addresses):
    """Tell whether the routes prefer these addresses and no others."""
    return set(addresses) == set(node.vip_sources().values())


@pytest.fixture(scope="module")
def stock_node(lab, tmp_path_factory):
    node = Node(lab, tmp_path_factory.mktemp("node"), "--vip-mode", "routes")
    with talk.inside(lab.node.namespace):
        # The second address becomes the first, and does not go with it.
        Path("/proc/sys/net/ipv4/conf/eth0/promote_secondaries").write_text("1")
    # Clients outside go on sending what is for VIPs, whatever address their gateway has.
    mac = node.run("cat", "/sys/class/net/eth0/address").strip()
    for address in OWN:
        of_gateway = ("neigh", "replace", address, "lladdr", mac, "dev", "eth0", "nud", "permanent")
        node.run("ip", "-n", lab.client.namespace, *of_gateway)
    node.put(*objects(lab))
    with running(node):
        yield node
    assert [] == node.leftovers()


@pytest.fixture
def node(stock_node):
    """The node as it is at first."""
    for vip in VIPS:
        stock_node.wait_for_answer(stock_node.lab.client, talk.UDP, vip, 80)
    stock_node.wait_for(lambda: are_preferred(stock_node, *OWN))
    return stock_node


@contextlib.contextmanager
def datagrams(node, *hosts):
    """Have hosts send without pause; at the end none of what they sent may be lost."""
    with contextlib.ExitStack() as stack:
        askers = [stack.enter_context(Datagrams(host, vip)) for host in hosts for vip in VIPS]
        go_on(node, askers)
        yield askers
        go_on(node, askers)
        for asker in askers:
            asker.end()
    assert [[]] * len(askers) == [asker.failures for asker in askers]


def go_on(node, askers):
    """Wait until all have been answered for a while."""
    before = [asker.answered for asker in askers]
    node.wait_for(lambda: all(one.answered > at + 20 for one, at in zip(askers, before, strict=True)))


@families
@pytest.mark.parametrize("protocol", [talk.TCP, talk.UDP, talk.SCTP])
def test_the_node_dials_from_the_address_that_the_cluster_knows(node, lab, family, protocol):
    own, vip = OWN[family == 6], services.VIPS[family]
    with contextlib.closing(talk.connect(lab.node.namespace, protocol, vip, 80)) as connection:
        assert own == connection.getsockname()[0]

    # It is masqueraded as ever: pods here see the bridge, and others the node.
    expected = {"a": GATEWAYS[family], "b": GATEWAYS[family], "c": own}
    assert expected == sources(node, client(lab, "node"), protocol, vip, 80, set(expected))


def test_an_address_is_replaced_by_the_next_and_no_datagram_is_lost(node, lab):
    """The new one is there before the cluster knows of it, and the old one until then."""
    with datagrams(node, lab.client, lab.a, lab.node) as askers:
        for gone, come in ((OWN, OTHERS), (OTHERS, OWN)):
            add(node, *come)
            node.put(*objects(lab, come))
            node.wait_for(lambda: are_preferred(node, *come))  # noqa: B023
            delete(node, *gone)
            go_on(node, askers)


def test_an_address_that_goes_unannounced_costs_clients_elsewhere_nothing(node, lab):
    """And the node itself no more than the moment until the agent has heard of it."""
    with datagrams(node, lab.client, lab.a) as askers:
        for own, other in zip(OWN, OTHERS, strict=True):
            add(node, other)
            delete(node, own)
            node.wait_for(lambda: own not in node.vip_sources().values())  # noqa: B023
            with contextlib.ExitStack() as stack:
                of_node = [stack.enter_context(Datagrams(lab.node, vip)) for vip in VIPS]
                go_on(node, [*askers, *of_node])
                for asker in of_node:
                    asker.end()
            assert [[]] * len(of_node) == [asker.failures for asker in of_node]

            add(node, own)
            delete(node, other)
            node.wait_for(lambda: are_preferred(node, *OWN))


def test_where_none_is_preferred_an_address_that_goes_costs_the_node_nothing_either(node, lab):
    node.put(*objects(lab, own=()))
    node.wait_for(lambda: are_preferred(node, None))
    with datagrams(node, lab.client, lab.node) as askers:
        for gone, come in ((OWN, OTHERS), (OTHERS, OWN)):
            add(node, *come)
            delete(node, *gone)
            go_on(node, askers)
        assert are_preferred(node, None)
        node.put(*objects(lab))
        node.wait_for(lambda: are_preferred(node, *OWN))


def test_a_restart_takes_over_what_is_there_and_loses_no_datagram(node, lab):
    with datagrams(node, lab.client, lab.node):
        before = node.vip_sources()
        node.agent.end()
        node.agent.start()
        for vip in VIPS:
            node.wait_for_answer(lab.client, talk.TCP, vip, 80)
        assert before == node.vip_sources()


def test_one_that_was_replaced_while_no_agent_ran_is_left_by_the_next(node, lab):
    node.agent.end()
    add(node, *OTHERS)
    delete(node, *OWN)
    node.put(*objects(lab, OTHERS))
    try:
        node.agent.start()
        node.wait_for(lambda: are_preferred(node, *OTHERS))
        for vip in VIPS:
            assert node.wait_for_answer(lab.node, talk.TCP, vip, 80)
    finally:
        add(node, *OWN)
        node.put(*objects(lab))
        node.wait_for(lambda: are_preferred(node, *OWN))
        delete(node, *OTHERS)


def test_what_others_prefer_is_made_good(node):
    for vip, source in zip(VIPS, ("10.244.1.1", "fd00:10:244:1::1"), strict=True):
        route = f"local {vip} table local proto 81 dev kube-ipvs0 metric 4945 src {source}"
        node.run("ip", "route", "replace", *route.split())

    node.wait_for(lambda: are_preferred(node, *OWN))


def test_moves_to_addresses_and_back_lose_no_datagram(node, lab):
    routes = node.agent
    with datagrams(node, lab.client, lab.a, lab.node) as askers:
        routes.end()
        node.agent = node.another_agent("--vip-mode", "addresses")
        with node.agent:
            node.wait_for(lambda: set(VIPS) == node.vip_addresses() and not node.vip_sources())
            go_on(node, askers)
        node.agent = routes
        node.agent.start()
        node.wait_for(lambda: are_preferred(node, *OWN) and not node.vip_addresses())
