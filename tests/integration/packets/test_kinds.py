"""Kinds and fields of Services that no other test shows: who answers where, and where nobody does."""

from __future__ import annotations

import contextlib
import time

import pytest

from tests import objects
from tests.integration.packets.stock import (
    PROTOCOLS,
    SILENCE,
    Stock,
    ask,
    client,
    families,
    is_refused,
    node_object,
    pods,
    running,
)
from tests.lab import Node
from tools.lab import talk

pytestmark = pytest.mark.long

WITHOUT_NODE_PORTS, BY_PROXY, BY_VIP, HEADLESS, EXTERNAL_NAME, OTHER_PROXY, NO_CLUSTER_IP = map(
    Stock, range(1, 8)
)
STICKY, SIX_FIRST, DUPLICATES, HEADLESS_SLICE = map(Stock, range(8, 12))
FAMILIES, PORTS, LABELLED = map(Stock, range(21, 24))
TCP = (talk.TCP,)


def labelled(service, label, value=""):
    service["metadata"]["labels"] = {label: value}
    return service


def with_mode(stock, lab, mode):
    """A Service whose load balancer says how it sends on."""
    service, *slices = stock.objects(lab, lab.pods, TCP)
    for ingress in service["status"]["loadBalancer"]["ingress"]:
        ingress["ipMode"] = mode
    return [service, *slices]


def without_node_ports(lab):
    """A load balancer's Service that has no NodePorts."""
    service, *slices = WITHOUT_NODE_PORTS.objects(lab, lab.pods, TCP, allocateLoadBalancerNodePorts=False)
    for port in service["spec"]["ports"]:
        del port["nodePort"]
    return [service, *slices]


def doubled(stock, lab):
    """A Service each of whose endpoints is in two slices, one of which says that it terminates."""
    service, *slices = stock.objects(lab, lab.pods, TCP)
    again = stock.slices(lab, [lab.b, lab.c], TCP)
    leaving = stock.slices(lab, [lab.a, lab.b], TCP, conditions={"ready": False, "terminating": True})
    for name, more in (("again", again), ("leaving", leaving)):
        for endpoint_slice in more:
            endpoint_slice["metadata"]["name"] += f"-{name}"
    return [service, *leaving, *slices, *again]


def headless_slice(lab):
    """A Service one of whose slices is for DNS alone."""
    service, *slices = HEADLESS_SLICE.objects(lab, [lab.a], TCP)
    others = HEADLESS_SLICE.slices(lab, [lab.b], TCP)
    for endpoint_slice in others:
        endpoint_slice["metadata"]["name"] += "-dns"
        endpoint_slice["metadata"]["labels"]["service.kubernetes.io/headless"] = ""
    return [service, *slices, *others]


@pytest.fixture(scope="module")
def node(lab, tmp_path_factory):
    """A node whose agent is shown Services of many kinds."""
    node = Node(lab, tmp_path_factory.mktemp("node"))
    external_name = EXTERNAL_NAME.objects(lab, lab.pods, TCP, type="ExternalName", externalName="a.example")
    no_cluster_ip = NO_CLUSTER_IP.objects(lab, lab.pods, TCP)
    no_cluster_ip[0]["spec"] |= {"clusterIP": "None", "clusterIPs": ["None"]}
    headless, *headless_slices = HEADLESS.objects(lab, lab.pods, TCP)
    other, *other_slices = OTHER_PROXY.objects(lab, lab.pods, TCP)
    six_first = SIX_FIRST.service(ipFamilies=["IPv6", "IPv4"])
    six_first["spec"] |= {
        "clusterIP": SIX_FIRST.cluster_ip(6),
        "clusterIPs": [SIX_FIRST.cluster_ip(6), SIX_FIRST.cluster_ip(4)],
    }
    node.put(
        node_object(lab),
        *without_node_ports(lab),
        *with_mode(BY_PROXY, lab, "Proxy"),
        *with_mode(BY_VIP, lab, "VIP"),
        labelled(headless, "service.kubernetes.io/headless"),
        *headless_slices,
        *external_name,
        labelled(other, "service.kubernetes.io/service-proxy-name", "other"),
        *other_slices,
        *no_cluster_ip,
        *STICKY.objects(lab, lab.pods, sessionAffinity="ClientIP"),
        six_first,
        *SIX_FIRST.slices(lab, lab.pods),
        *doubled(DUPLICATES, lab),
        *headless_slice(lab),
    )
    with running(node):
        for family in (4, 6):
            node.wait_for_answer(lab.client, talk.TCP, SIX_FIRST.cluster_ip(family), 80)
            node.wait_for_answer(lab.client, talk.TCP, HEADLESS_SLICE.cluster_ip(family), 80)
        yield node


def is_nobodys(node, lab, address, port, protocol=talk.TCP):
    """Tell whether nobody answers; how a client hears of it depends on the routes beyond the node."""
    where = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    try:
        ask(node, client(lab, "client"), protocol, address, port, timeout=SILENCE)
    except OSError:
        # Nor would anybody if the machine were quicker.
        return not any(f" {where} " in line and " -w 1" in line for line in node.virtual_servers())
    return False


@families
class TestKinds:
    def test_a_load_balancer_without_node_ports(self, node, lab, family):
        asker = client(lab, "client")
        balancer, external, (address, port) = WITHOUT_NODE_PORTS.ways_in(lab, family)
        for way in (balancer, external, (WITHOUT_NODE_PORTS.cluster_ip(family), 80)):
            assert {"a", "b", "c"} == pods(node, asker, talk.TCP, *way, {"a", "b", "c"})
        assert is_refused(node, asker, talk.TCP, address, port)

    def test_ip_mode_vip_is_served(self, node, lab, family):
        asked = (client(lab, "a"), talk.TCP, BY_VIP.balancer(family), 80)
        assert {"a", "b", "c"} == pods(node, *asked, {"a", "b", "c"})

    def test_ip_mode_proxy_is_left_to_the_load_balancer(self, node, lab, family):
        assert BY_PROXY.balancer(family) not in node.run("ip", "addr", "show", "dev", "kube-ipvs0")
        balancer, *others = BY_PROXY.ways_in(lab, family)
        assert is_nobodys(node, lab, *balancer)
        for address, port in others:
            assert ask(node, client(lab, "client"), talk.TCP, address, port).name in "abc"

    @pytest.mark.sample
    @pytest.mark.parametrize(
        "stock", [HEADLESS, EXTERNAL_NAME, OTHER_PROXY], ids=["headless", "ExternalName", "other proxy"]
    )
    def test_what_is_not_ours_to_serve(self, node, lab, family, stock):
        for address, port in ((stock.cluster_ip(family), 80), *stock.ways_in(lab, family)):
            assert is_nobodys(node, lab, address, port)

    def test_no_cluster_ip(self, node, lab, family):
        for address, port in NO_CLUSTER_IP.ways_in(lab, family):
            assert is_nobodys(node, lab, address, port)

    @pytest.mark.parametrize("protocol", PROTOCOLS)
    def test_either_family_may_come_first(self, node, lab, family, protocol):
        for way in ((SIX_FIRST.cluster_ip(family), 80), *SIX_FIRST.ways_in(lab, family)):
            assert {"a", "b", "c"} == pods(node, client(lab, "client"), protocol, *way, {"a", "b", "c"})

    @pytest.mark.parametrize("protocol", PROTOCOLS)
    @pytest.mark.parametrize("who", [pytest.param("client", marks=pytest.mark.sample), "a", "node"])
    def test_affinity_at_every_address(self, node, lab, family, protocol, who):
        for way in ((STICKY.cluster_ip(family), 80), *STICKY.ways_in(lab, family)):
            assert 1 == len(pods(node, client(lab, who), protocol, *way, set()))

    def test_endpoints_that_several_slices_have(self, node, lab, family):
        asked = (client(lab, "client"), talk.TCP, DUPLICATES.cluster_ip(family), 80)
        assert {"a", "b", "c"} == pods(node, *asked, {"a", "b", "c"})
        where = f"-t {'[' * (family == 6)}{DUPLICATES.cluster_ip(family)}{']' * (family == 6)}:80 "
        real_servers = [line for line in node.virtual_servers() if line.startswith(f"-a {where}")]
        assert ["1"] * 3 == [line.split()[7] for line in real_servers]

    def test_a_slice_for_dns_alone(self, node, lab, family):
        asked = (client(lab, "client"), talk.TCP, HEADLESS_SLICE.cluster_ip(family), 80)
        assert {"a"} == pods(node, *asked, {"a"})


def of_families(lab, *chosen):
    """A Service of these families alone."""
    service, *slices = FAMILIES.objects(lab, lab.pods, TCP)
    service["spec"] |= {
        "clusterIP": FAMILIES.cluster_ip(chosen[0]),
        "clusterIPs": [FAMILIES.cluster_ip(family) for family in chosen],
        "ipFamilies": [f"IPv{family}" for family in chosen],
    }
    kinds = {f"IPv{family}" for family in chosen}
    return [service, *(one for one in slices if one["addressType"] in kinds)]


def test_families_are_added_and_removed(node, lab):
    asker = client(lab, "client")
    for chosen in ((4,), (4, 6), (6, 4), (6,), (6, 4)):
        node.put(*of_families(lab, *chosen), file="families.json")
        for family in (4, 6):
            for way in ((FAMILIES.cluster_ip(family), 80), FAMILIES.ways_in(lab, family)[2]):
                if family in chosen:
                    node.wait_for_answer(lab.client, talk.TCP, *way)
                else:
                    node.wait_for(lambda way=way: is_nobodys(node, lab, *way))
    assert {"a", "b", "c"} == pods(node, asker, talk.TCP, FAMILIES.cluster_ip(4), 80, {"a", "b", "c"})


@families
def test_connections_outlive_their_family(node, lab, family):
    other = 10 - family
    node.put(*of_families(lab, 4, 6), file="families.json")
    ways = [(FAMILIES.cluster_ip(family), 80), FAMILIES.ways_in(lab, family)[2]]
    for way in (*ways, (FAMILIES.cluster_ip(other), 80)):
        node.wait_for_answer(lab.client, talk.TCP, *way)
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(talk.connect(lab.client.namespace, talk.TCP, *way)) for way in ways]
        behind = [talk.ask_on(one).name for one in held]
        node.put(*of_families(lab, other), file="families.json")
        for way in ways:
            node.wait_for(lambda way=way: is_refused(node, client(lab, "client"), talk.TCP, *way))
        time.sleep(6)  # what nobody has a connection to is gone by now
        assert behind == [talk.ask_on(one).name for one in held]
        everybody = pods(node, client(lab, "client"), talk.TCP, FAMILIES.cluster_ip(other), 80, set("abc"))
        assert set("abc") == everybody
    for way in ways:
        node.wait_for(lambda way=way: not is_there(node, *way))


def is_there(node, address, port):
    """Whether there is a virtual server."""
    where = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    return any(f"-A -t {where} " in f"{line} " for line in node.virtual_servers())


def with_ports(lab, *ports):
    """A Service with (name, port, protocol) of its ports, each at 8080 of pod a."""
    service = objects.service(PORTS.name, (PORTS.cluster_ip(4), PORTS.cluster_ip(6)))
    service["spec"]["ports"] = [
        {"name": name, "port": port, "protocol": protocol.upper()} for name, port, protocol in ports
    ]
    slices = PORTS.slices(lab, [lab.a], TCP)
    for endpoint_slice in slices:
        endpoint_slice["ports"] = [
            {"name": name, "port": 8080, "protocol": protocol.upper()} for name, _, protocol in ports
        ]
    return [service, *slices]


@families
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_ports_are_renamed_and_renumbered(node, lab, family, protocol):
    address = PORTS.cluster_ip(family)
    was = None
    for name, port in (("web", 80), ("http", 80), ("http", 81), ("web", 82)):
        node.put(*with_ports(lab, (name, port, protocol)), file="ports.json")
        assert "a" == node.wait_for_answer(lab.client, protocol, address, port).name
        if was not in (None, port):
            gone = (node, lab, address, was, protocol)
            node.wait_for(lambda gone=gone: is_nobodys(*gone))
        was = port


@families
def test_a_service_is_given_to_another_proxy_and_back(node, lab, family):
    address = LABELLED.cluster_ip(family)
    for _ in range(2):
        service, *slices = LABELLED.objects(lab, [lab.a], TCP)
        node.put(service, *slices, file="labelled.json")
        node.wait_for_answer(lab.client, talk.TCP, address, 80)
        labelled(service, "service.kubernetes.io/service-proxy-name", "other")
        node.put(service, *slices, file="labelled.json")
        node.wait_for(lambda: is_nobodys(node, lab, address, 80))
