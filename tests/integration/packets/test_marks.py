"""The mark that tells clients inside from those outside, among rules of others that write marks too."""

from __future__ import annotations

import pytest

from tests.integration.nft import HAS_NFTABLES
from tests.integration.packets.stock import (
    Stock,
    ask,
    client,
    families,
    is_silent,
    node_object,
    pods,
    running,
    sources,
)
from tests.lab import CONFIG, Node
from tools.lab import talk
from tools.lab.agent import Agent

long = pytest.mark.long
# Whose rules: those of nftables alone are another thing to find, where the kernel has it.
kinds_of_rules = pytest.mark.parametrize(
    "kind",
    [
        pytest.param("iptables", marks=long),
        *(["nftables"] if HAS_NFTABLES else []),
    ],
)

ONE_LOCAL, NONE_LOCAL = Stock(1), Stock(2)
TOOLS = {4: "iptables", 6: "ip6tables"}
# Each would spoil the mark. None sets the bit that says "masquerade", and those in OUTPUT leave the tag
# alone, as CNIs do: what IPVS sends on passes them once more, and there our tag is still needed.
BEFORE_US = (
    ("raw", "PREROUTING", "0xffffbfff/0xffffffff"),
    ("mangle", "PREROUTING", "0x1/0x1"),
    ("mangle", "INPUT", "0x10000/0xffff0000"),
    ("raw", "OUTPUT", "0x0/0xf0000"),
    ("mangle", "OUTPUT", "0xabcd0000/0xffff0000"),
    ("filter", "OUTPUT", "0xc00/0xf00"),  # Cilium's "host->any mark as from host"
    ("mangle", "POSTROUTING", "0x0/0xf0000"),
)
FOREIGN = "0x12340678"
INSIDE = ("a", "c", "node")


def services(lab):
    local = {"externalTrafficPolicy": "Local"}
    return (
        node_object(lab),
        *ONE_LOCAL.objects(lab, [lab.a, lab.c], **local),
        *NONE_LOCAL.objects(lab, [lab.c], **local),
    )


@pytest.fixture(scope="module")
def node(lab, tmp_path_factory):
    """A node whose agent serves Services with externalTrafficPolicy Local."""
    node = Node(lab, tmp_path_factory.mktemp("node"))
    node.put(*services(lab))
    with running(node):
        for family in (4, 6):
            node.wait_for_answer(lab.client, talk.TCP, NONE_LOCAL.cluster_ip(family), 80)
        yield node


@pytest.fixture
def rules(node):
    """Put rules of somebody else before all others, in both families; they are taken back at the end."""
    added = []

    def add(table, chain, rule):
        for tool in TOOLS.values():
            node.run(tool, "-w", "-t", table, "-I", chain, *rule.split())
            added.append((tool, table, chain, rule))

    yield add
    for tool, table, chain, rule in added:
        node.run(tool, "-w", "-t", table, "-D", chain, *rule.split())


@pytest.fixture
def native(node):
    """Have a chain of nftables, in both families, with one rule; it is taken back at the end."""
    yield lambda hook, rule: node.run(
        "nft",
        f"add table inet wall; add chain inet wall marks {{ type filter hook {hook} priority 0; }};"
        f"add rule inet wall marks {rule}",
    )
    node.run("nft", "delete table inet wall")


def inside_is_right(node, lab, family):
    """Tell whether clients inside reach all endpoints by every address."""
    return all(
        names == pods(node, client(lab, who), protocol, address, port, names)
        for stock, names in ((ONE_LOCAL, {"a", "c"}), (NONE_LOCAL, {"c"}))
        for who in INSIDE
        for protocol in (talk.TCP, talk.UDP)
        for address, port in stock.ways_in(lab, family)
    )


def outside_is_right(node, lab, family):
    """Tell whether the client outside is seen by the local pod, and by nobody else."""
    outside = client(lab, "client")
    own = outside.address(family)
    seen = [
        sources(node, outside, talk.TCP, *way, {"a"}, at_least=4) for way in ONE_LOCAL.ways_in(lab, family)
    ]
    return seen == [{"a": own}] * 3 and is_silent(node, outside, talk.TCP, NONE_LOCAL.balancer(family), 80)


@long
@families
def test_marks_of_others_are_overwritten(node, lab, family, rules):
    for table, chain, mark in BEFORE_US:
        rules(table, chain, f"-j MARK --set-xmark {mark}")

    assert inside_is_right(node, lab, family)
    assert outside_is_right(node, lab, family)


@pytest.fixture
def seen(node):
    """Count packets with a foreign mark behind all rules of ours; return a function that tells how many."""
    match = ["POSTROUTING", "-m", "mark", "--mark", FOREIGN]
    places = [(tool, table) for tool in TOOLS.values() for table in ("mangle", "nat")]
    for tool, table in places:
        node.run(tool, "-w", "-t", table, "-A", *match)

    def counts(family):
        lines = node.run(f"{TOOLS[family]}-save", "-c").splitlines()
        return [int(line[1:].split(":")[0]) for line in lines if line.endswith(f"-m mark --mark {FOREIGN}")]

    yield counts
    for tool, table in places:
        node.run(tool, "-w", "-t", table, "-D", *match)


@long
@families
def test_flows_that_are_not_ours_keep_their_marks(node, lab, family, rules, seen):
    rules("mangle", "PREROUTING", f"-i cni0 -p tcp --dport 8080 -j MARK --set-xmark {FOREIGN}")
    rules("mangle", "OUTPUT", f"-p tcp --dport 8080 -j MARK --set-xmark {FOREIGN}")

    for count, who in enumerate(("a", "node"), start=1):
        assert "c" == ask(node, client(lab, who), talk.TCP, client(lab, "c").address(family), 8080).name
        in_mangle, in_nat = seen(family)
        assert in_mangle > count
        assert in_nat == count


@families
@kinds_of_rules
def test_where_the_filter_writes_marks_the_address_serves_all_as_far_as_none_is_local(
    node, lab, family, request, kind
):
    """As Calico does once it sees kube-ipvs0: behind mangle, where nothing can put the mark right."""
    if kind == "iptables":
        request.getfixturevalue("rules")("filter", "INPUT", "-j MARK --set-xmark 0x80000000/0x80000000")
    else:
        request.getfixturevalue("native")("input", "meta mark set meta mark or 0x80000000")

    def everybody_reaches(stock, who, names):
        return all(
            names == pods(node, client(lab, who), talk.TCP, address, port, names, at_least=4)
            for address, port in stock.ways_in(lab, family)
        )

    for who in INSIDE:
        node.wait_for(lambda who=who: everybody_reaches(NONE_LOCAL, who, {"c"}))
    # The node's own packets do not pass the filter's INPUT.
    for who, names in (("a", {"a"}), ("c", {"a"}), ("node", {"a", "c"}), ("client", {"a"})):
        assert everybody_reaches(ONE_LOCAL, who, names)


@long
@families
@pytest.mark.parametrize(
    ("table", "chain"), [("raw", "OUTPUT"), ("filter", "OUTPUT"), ("mangle", "POSTROUTING")]
)
def test_where_the_tag_would_be_spoilt_everybody_is_served_by_the_address(
    node, lab, family, rules, table, chain
):
    rules(table, chain, "-j MARK --set-xmark 0x1/0xff")

    def is_right(who, protocol, stock, names):
        return all(
            names == pods(node, client(lab, who), protocol, address, port, names, at_least=4)
            for address, port in stock.ways_in(lab, family)
        )

    for who in (*INSIDE, "client"):
        node.wait_for(lambda who=who: is_right(who, talk.TCP, ONE_LOCAL, {"a"}))
    for who in INSIDE:
        for protocol in (talk.TCP, talk.UDP):
            node.wait_for(lambda who=who, protocol=protocol: is_right(who, protocol, NONE_LOCAL, {"c"}))


@long
@families
def test_without_that_rule_all_is_as_before(node, lab, family):
    node.wait_for(lambda: inside_is_right(node, lab, family))
    node.wait_for(lambda: outside_is_right(node, lab, family))


@long
def test_without_a_cluster_cidr_clients_inside_are_served_as_by_kube_proxy(node, lab, tmp_path):
    """Local endpoints where there are any, else those of the cluster; the node itself still reaches all."""
    config = tmp_path / "config.yaml"
    config.write_text("\n".join(line for line in CONFIG.splitlines() if "clusterCIDR" not in line))
    assert "clusterCIDR" not in config.read_text()
    node.agent.end()
    with Agent(lab.node.namespace, node.manifests, config, log=node.log) as agent:
        node.agent, with_ranges = agent, node.agent
        try:
            for family in (4, 6):
                address = ONE_LOCAL.balancer(family)
                for who, names in (("a", {"a"}), ("node", {"a", "c"}), ("client", {"a"})):
                    asked = (node, client(lab, who), talk.TCP, address, 80, names)
                    node.wait_for(lambda asked=asked, names=names: names == pods(*asked))
                address = NONE_LOCAL.balancer(family)
                for who in ("a", "node"):
                    assert "c" == ask(node, client(lab, who), talk.TCP, address, 80).name
        finally:
            node.agent = with_ranges
    node.agent.start()
    for family in (4, 6):
        node.wait_for(lambda family=family: inside_is_right(node, lab, family))
