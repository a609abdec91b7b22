"""The rules: constant, complete, and written only when they differ."""

from __future__ import annotations

import re

import pytest

from ipvs_agent.addresses import Family, parse_network
from ipvs_agent.desired import shim
from ipvs_agent.desired.sets import sets_of

CLUSTER = (parse_network("10.244.0.0/16"), parse_network("fd00:10:244::/48"))
MASQUERADE = shim.Masquerade(cluster_networks=CLUSTER, random_fully=True)


def saved(tables, *, extra=()):
    """What iptables-save prints once the tables are in place."""
    lines = []
    for table in tables:
        lines += [f"*{table.name}", ":INPUT ACCEPT [0:0]", ":PREROUTING ACCEPT [0:0]"]
        lines += [f":{chain} - [0:0]" for chain in table.rules]
        lines += [f"-A {jump.chain} -j {jump.target}" for jump in table.jumps]
        lines += [f"-A {chain} {rule}" for chain, rules in table.rules.items() for rule in rules]
        lines += [f"-A {rule}" for name, rule in extra if name == table.name]
        lines += ["COMMIT", "# Completed"]
    return "\n".join(lines) + "\n"


def rules(family, masquerade=MASQUERADE):
    return [
        f"{table.name} {chain} {rule}"
        for table in shim.tables(family, masquerade)
        for chain, chain_rules in table.rules.items()
        for rule in chain_rules
    ]


@pytest.mark.parametrize("family", list(Family))
def test_rules_that_are_there_are_not_written(family):
    tables = shim.tables(family, MASQUERADE)

    assert "" == shim.restore_text(tables, saved(tables))


def test_on_an_empty_node_chains_rules_and_jumps_are_written():
    text = shim.restore_text(shim.tables(Family.IPV4, MASQUERADE), "")

    assert 3 == text.count("COMMIT\n")
    assert "-I PREROUTING -j IPVS-AGENT-PREROUTING\n" in text
    assert "-A INPUT -j IPVS-AGENT-ACCEPT\n" in text


@pytest.mark.parametrize(
    ("table", "rule"),
    [
        pytest.param("nat", "IPVS-AGENT-PREROUTING -j ACCEPT", id="a rule too many"),
        pytest.param("nat", "OUTPUT -j IPVS-AGENT-OUTPUT", id="a jump twice"),
        pytest.param("nat", "INPUT -j IPVS-AGENT-OLD", id="a jump of an older version"),
    ],
)
def test_only_the_table_that_differs_is_written(table, rule):
    tables = shim.tables(Family.IPV4, MASQUERADE)
    text = shim.restore_text(tables, saved(tables, extra=[(table, rule)]))

    assert [f"*{table}"] == [line for line in text.splitlines() if line.startswith("*")]


def test_a_stale_jump_is_deleted_and_rules_of_others_are_not_named():
    tables = shim.tables(Family.IPV4, MASQUERADE)
    others = [("nat", "INPUT -j IPVS-AGENT-OLD"), ("nat", "POSTROUTING -s 10.0.0.0/8 -j MASQUERADE")]
    text = shim.restore_text(tables, saved(tables, extra=others))

    assert "-D INPUT -j IPVS-AGENT-OLD\n" in text
    assert "10.0.0.0/8" not in text


def test_the_mark_bit_is_the_configured_one_and_no_other_is_touched():
    text = "\n".join(rules(Family.IPV4, shim.Masquerade(bit=20)))

    assert "--set-xmark 0x100000/0x100000" in text
    assert "-m mark ! --mark 0x100000/0x100000 -j RETURN" in text
    assert "0x4000" not in text


@pytest.mark.parametrize(
    ("masquerade", "expected"),
    [
        pytest.param(MASQUERADE, ["! -s 10.244.0.0/16 -m set"], id="cluster network known"),
        pytest.param(shim.Masquerade(), [], id="cluster network unknown"),
        pytest.param(shim.Masquerade(everything=True, cluster_networks=CLUSTER), ["-m set"], id="everything"),
    ],
)
def test_which_cluster_ip_clients_are_masqueraded(masquerade, expected):
    matches = [
        rule.split("IPVS-AGENT-PREROUTING ")[1].split(" --match-set")[0]
        for rule in rules(Family.IPV4, masquerade)
        if "IPVS-AGENT-4-CLUSTER" in rule
    ]

    assert expected == matches


def test_every_set_is_used_by_some_rule_and_no_rule_names_another():
    for family in Family:
        text = "\n".join(rules(family))
        for ip_set in sets_of(family):
            assert f"-set {ip_set.name} " in text
        named = {name for rule in rules(family) for name in re.findall(r"--(?:match|map)-set (\S+)", rule)}
        assert {ip_set.name for ip_set in sets_of(family)} == named


def test_a_chain_of_another_version_is_emptied_before_it_goes():
    tables = shim.tables(Family.IPV4, MASQUERADE)
    old = saved(tables).replace("*nat\n", "*nat\n:IPVS-AGENT-OLD - [0:0]\n-A IPVS-AGENT-OLD -j RETURN\n")
    text = shim.restore_text(tables, old)

    assert text.index("-F IPVS-AGENT-OLD\n") < text.index("-X IPVS-AGENT-OLD\n")


def test_a_chain_whose_name_only_begins_like_ours_is_somebody_elses():
    tables = shim.tables(Family.IPV4, MASQUERADE)
    theirs = saved(tables).replace("*nat\n", "*nat\n:IPVS-AGENTS - [0:0]\n-A IPVS-AGENTS -j RETURN\n")

    assert "" == shim.restore_text(tables, theirs)
    assert "IPVS-AGENTS" not in shim.removal_text(theirs)


def test_a_comment_that_names_our_chains_is_no_jump():
    tables = shim.tables(Family.IPV4, MASQUERADE)
    comment = [("filter", 'INPUT -m comment --comment "before -j IPVS-AGENT-INPUT" -j DROP')]

    assert "" == shim.restore_text(tables, saved(tables, extra=comment))


def test_removal_names_all_that_is_ours_and_nothing_else():
    tables = shim.tables(Family.IPV4, MASQUERADE)
    text = shim.removal_text(saved(tables, extra=[("nat", "INPUT -j KUBE-SERVICES")]))

    assert "-D PREROUTING -j IPVS-AGENT-PREROUTING\n" in text
    assert "-X IPVS-AGENT-POSTROUTING\n" in text
    assert "KUBE" not in text
    assert "" == shim.removal_text("*nat\n:KUBE-SERVICES - [0:0]\nCOMMIT\n")


def test_names_fit_the_kernels_limits():
    assert all(len(ip_set.name) <= 31 for family in Family for ip_set in sets_of(family))
    chains = [chain for table in shim.tables(Family.IPV6, MASQUERADE) for chain in table.rules]
    assert all(len(chain) <= 28 for chain in chains)


def test_a_rule_of_others_that_only_counts_is_no_obstacle():
    saved = "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT\n-A INPUT -j IPVS-AGENT-INPUT\nCOMMIT\n"

    assert {"filter": {"INPUT": ["", "-j IPVS-AGENT-INPUT"]}} == shim.parse(saved)


@pytest.mark.parametrize(
    ("masquerade", "inside", "rule"),
    [
        pytest.param(
            shim.Masquerade(cluster_networks=CLUSTER),
            "-s 10.244.0.0/16",
            "-m conntrack --ctstate NEW -j MARK --set-xmark 0x4000/0xfffff0ff",
            id="by the cluster's network all are masqueraded behind a mark",
        ),
        pytest.param(
            shim.Masquerade(cluster_interface="cni0", knows_node=True, bit=20),
            "-i cni0",
            "-m conntrack --ctstate NEW -m addrtype --src-type LOCAL -j MARK --set-xmark 0x100000/0xfffff0ff",
            id="by an interface of this node's pods only the node is",
        ),
    ],
)
def test_clients_inside_get_marks_and_are_masqueraded_where_their_answers_might_go_astray(
    masquerade, inside, rule
):
    chains = {table.name: table for table in shim.tables(Family.IPV4, masquerade)}["mangle"].rules

    assert (f"{inside} -j SET --map-set IPVS-AGENT-4-MARKS dst,dst --map-mark",) == chains["IPVS-AGENT-INPUT"]
    assert [f"-m mark --mark 0x1051/0x30ff {rule}"] == [
        line for line in chains["IPVS-AGENT-POSTROUTING"] if "0x0/" not in line
    ]


@pytest.mark.parametrize("bit", [8, 11])
def test_a_bit_that_others_write_too_is_set_all_the_same(bit):
    mangle = {table.name: table for table in shim.tables(Family.IPV4, shim.Masquerade(bit=bit))}["mangle"]

    masks = [int(rule.rpartition("/")[2], 16) for rule in mangle.rules["IPVS-AGENT-POSTROUTING"]]

    assert [True, False] == [bool(mask & 1 << bit) for mask in masks]


@pytest.mark.parametrize(
    ("masquerade", "expected"),
    [
        pytest.param(
            shim.Masquerade(cluster_networks=CLUSTER, writes_marks=False),
            ["nat IPVS-AGENT-PREROUTING -s 10.244.0.0/16"],
            id="pods of other nodes are masqueraded at once",
        ),
        pytest.param(
            shim.Masquerade(cluster_interface="cni0", knows_node=True, writes_marks=False),
            [],
            id="answers to pods of this node pass it anyway",
        ),
    ],
)
def test_where_marks_would_be_spoilt_none_is_written(masquerade, expected):
    found = [rule for rule in rules(Family.IPV4, masquerade) if "IPVS-AGENT-4-MARKS" in rule]

    assert [
        f"{rule} -m set --match-set IPVS-AGENT-4-MARKS dst,dst -j MARK --set-xmark 0x4000/0x4000"
        for rule in expected
    ] == found
