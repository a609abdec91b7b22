"""What every implementation of kernel.api.Iptables does."""

from __future__ import annotations

import pytest

from ipvs_agent import errors
from ipvs_agent.addresses import Family, parse_network
from ipvs_agent.desired import sets, shim
from ipvs_agent.model import IpSet, SetType

# A table as the cases below find it: USER is empty, FULL is not, TARGET is jumped to.
BEFORE = """\
*filter
:USER - [0:0]
:FULL - [0:0]
:TARGET - [0:0]
-A FULL -j TARGET
-A INPUT -j FULL
COMMIT
"""
# Sets that the rules of the cases below ask.
SETS = [
    IpSet("SIX", SetType.HASH_IP, Family.IPV6),
    IpSet("ADDRESSES", SetType.HASH_IP, Family.IPV4),
    IpSet("PORTS", SetType.HASH_IP_PORT, Family.IPV4),
    IpSet("RANGES", SetType.HASH_IP_PORT_NET, Family.IPV4),
    IpSet("MARKS", SetType.HASH_IP_PORT, Family.IPV4, has_marks=True),
    IpSet("MARKS6", SetType.HASH_IP_PORT, Family.IPV6, has_marks=True),
    IpSet("HEALTH", SetType.BITMAP_PORT, None),
]
AFTER_BEFORE = {"filter": {"USER": [], "FULL": ["-j TARGET"], "TARGET": [], "INPUT": ["-j FULL"]}}


def present(iptables, family=Family.IPV4):
    """Return rules by table and chain, without built-in chains that are empty and tables of only those."""
    found = {
        table: {
            chain: rules
            for chain, rules in chains.items()
            if rules or chain not in ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")
        }
        for table, chains in shim.parse(iptables.save(family)).items()
    }
    return {table: chains for table, chains in found.items() if chains}


class IptablesContract:
    """Needs fixtures `iptables`, without rules, and `ipsets` of the same kernel, without sets."""

    def test_both_families_are_usable(self, iptables):
        assert frozenset(Family) == iptables.families()

    def test_random_fully_is_supported(self, iptables):
        iptables.restore(Family.IPV4, "*nat\n-A POSTROUTING -j MASQUERADE --random-fully\nCOMMIT\n")

        assert "-j MASQUERADE --random-fully\n" in iptables.save(Family.IPV4)
        assert iptables.supports_random_fully()

    def test_asking_what_is_supported_leaves_no_rules(self, iptables):
        iptables.families()

        assert {} == present(iptables)
        assert {} == present(iptables, Family.IPV6)

    def test_restored_rules_are_saved(self, iptables):
        iptables.restore(Family.IPV4, BEFORE)

        assert AFTER_BEFORE == present(iptables)

    def test_families_are_apart(self, iptables):
        iptables.restore(Family.IPV6, BEFORE)

        assert {} == present(iptables)
        assert AFTER_BEFORE == present(iptables, Family.IPV6)

    def test_rules_are_among_those_of_all_flavours_and_can_be_removed_there(self, iptables):
        iptables.restore(Family.IPV6, "*filter\n:OURS - [0:0]\nCOMMIT\n")

        (found,) = [rules for rules in iptables.all_rules() if ":OURS " in rules.saved]
        assert Family.IPV6 is found.family
        iptables.restore(found.family, "*filter\n-X OURS\nCOMMIT\n", found.flavour)

        assert {} == present(iptables, Family.IPV6)

    def test_no_family_is_refused(self, iptables):
        assert {} == iptables.refusals()
        assert frozenset() == iptables.switched_off()

    def test_chains_that_are_not_named_are_kept(self, iptables):
        iptables.restore(Family.IPV4, BEFORE)

        iptables.restore(Family.IPV4, "*filter\n:NEW - [0:0]\n-A NEW -j ACCEPT\nCOMMIT\n")

        assert {"filter": {**AFTER_BEFORE["filter"], "NEW": ["-j ACCEPT"]}} == present(iptables)

    def test_a_chain_that_is_declared_is_emptied_and_still_jumped_to(self, iptables):
        iptables.restore(Family.IPV4, BEFORE)

        iptables.restore(Family.IPV4, "*filter\n:FULL - [0:0]\n-A FULL -j DROP\nCOMMIT\n")

        assert {"filter": {**AFTER_BEFORE["filter"], "FULL": ["-j DROP"]}} == present(iptables)

    def test_a_built_in_chain_that_is_declared_is_not_emptied(self, iptables):
        iptables.restore(Family.IPV4, BEFORE)

        iptables.restore(Family.IPV4, "*filter\n:INPUT DROP [0:0]\nCOMMIT\n")

        assert AFTER_BEFORE == present(iptables)
        assert ":INPUT DROP " in iptables.save(Family.IPV4)

    @pytest.mark.parametrize(
        ("lines", "expected"),
        [
            pytest.param("-A INPUT -j DROP", ["-j FULL", "-j DROP"], id="append"),
            pytest.param("-I INPUT -j DROP", ["-j DROP", "-j FULL"], id="insert"),
            pytest.param("-D INPUT -j FULL", [], id="delete"),
            pytest.param("-F INPUT", [], id="flush"),
            pytest.param("-A INPUT -j DROP\n-D INPUT -j FULL", ["-j DROP"], id="append, delete"),
        ],
    )
    def test_rules_of_a_built_in_chain(self, iptables, lines, expected):
        iptables.restore(Family.IPV4, BEFORE)

        iptables.restore(Family.IPV4, f"*filter\n{lines}\nCOMMIT\n")

        assert expected == present(iptables)["filter"].get("INPUT", [])

    def test_a_chain_can_go_together_with_what_refers_to_it(self, iptables):
        iptables.restore(Family.IPV4, BEFORE)

        iptables.restore(
            Family.IPV4, "*filter\n-D INPUT -j FULL\n-F FULL\n-X FULL\n-X TARGET\n-X USER\nCOMMIT\n"
        )

        assert {} == present(iptables)

    @pytest.mark.parametrize(
        "lines",
        [
            pytest.param("-A NOPE -j ACCEPT", id="append to a missing chain"),
            pytest.param("-A USER -j NOPE", id="jump to a missing chain"),
            pytest.param("-A USER -j INPUT", id="jump to a built-in chain"),
            pytest.param("-D USER -j ACCEPT", id="delete of a missing rule"),
            pytest.param("-F NOPE", id="flush of a missing chain"),
            pytest.param("-X NOPE", id="removal of a missing chain"),
            pytest.param("-X INPUT", id="removal of a built-in chain"),
            pytest.param("-X FULL", id="removal of a chain with rules"),
            pytest.param("-X TARGET", id="removal of a chain that is jumped to"),
            pytest.param("-N USER", id="a chain that exists"),
            pytest.param(f":{'X' * 29} - [0:0]", id="a chain's name too long"),
            pytest.param("-A USER -m set --match-set NOPE dst -j ACCEPT", id="missing set"),
            pytest.param("-A USER -m set --match-set SIX dst -j ACCEPT", id="set of the other family"),
            pytest.param("-A USER -s fd00::/8 -j ACCEPT", id="network of the other family"),
            pytest.param(
                "-A USER -m set ! --match-set SIX dst -j ACCEPT", id="no member of a set of the other family"
            ),
            pytest.param("-A USER -j SET --map-set MARKS dst,dst --map-mark", id="mark in the filter table"),
            pytest.param("-A USER -m addrtype --src-type NOPE -j ACCEPT", id="address type"),
            pytest.param("-A USER -i abcdefghijklmnop -j ACCEPT", id="interface's name too long"),
            pytest.param("-A INPUT -o eth0 -j ACCEPT", id="way out before routing"),
            pytest.param("-A OUTPUT -i eth0 -j ACCEPT", id="way in after routing"),
            pytest.param("-A USER -m set -j ACCEPT", id="set match without a set"),
            pytest.param("-A USER -m mark -j ACCEPT", id="mark match without a mark"),
            pytest.param("-A USER -m conntrack -j ACCEPT", id="conntrack match without a state"),
            pytest.param("-A USER -m addrtype -j ACCEPT", id="addrtype match without a type"),
            pytest.param("-A USER -j MARK", id="MARK without a mark"),
            pytest.param("-A USER ! -j ACCEPT", id="not a target"),
            pytest.param("-A USER --mark 0x1 -j ACCEPT", id="option without its match"),
            pytest.param("-A USER --set-xmark 0x1 -j ACCEPT", id="option without its target"),
            pytest.param("-A USER -m mark --mark", id="option without its value"),
            pytest.param("-A USER -j MASQUERADE", id="masquerade in the filter table"),
            pytest.param("-A USER -j REJECT --reject-with icmp6-port-unreachable", id="v6 reject"),
            pytest.param("-A USER -j REJECT --reject-with tcp-reset", id="reset of what is not TCP"),
        ],
    )
    def test_what_is_refused_changes_nothing(self, iptables, ipsets, lines):
        for ip_set in SETS:
            ipsets.create(ip_set)
        iptables.restore(Family.IPV4, BEFORE)

        with pytest.raises(errors.CommandFailed):
            iptables.restore(Family.IPV4, f"*filter\n-A USER -j DROP\n{lines}\nCOMMIT\n")

        assert AFTER_BEFORE == present(iptables)

    @pytest.mark.parametrize(
        ("table", "rule"),
        [
            pytest.param("nat", "-j SET --map-set MARKS dst,dst --map-mark", id="mark in the nat table"),
            pytest.param("raw", "-j SET --map-set MARKS dst,dst --map-mark", id="mark in the raw table"),
            pytest.param("mangle", "-j SET --map-set MARKS dst,dst", id="nothing to map"),
            pytest.param("mangle", "-j SET --map-mark", id="no set to map by"),
            pytest.param("mangle", "-j SET --map-set NOPE dst,dst --map-mark", id="missing set"),
            pytest.param("mangle", "-j SET --map-set MARKS6 dst,dst --map-mark", id="set of IPv6"),
            pytest.param("mangle", "-j REJECT", id="reject in the mangle table"),
            pytest.param("raw", "-j MASQUERADE", id="masquerade in the raw table"),
        ],
    )
    def test_what_is_refused_in_other_tables(self, iptables, ipsets, table, rule):
        for ip_set in SETS:
            ipsets.create(ip_set)

        with pytest.raises(errors.CommandFailed):
            iptables.restore(Family.IPV4, f"*{table}\n:USER - [0:0]\n-A USER {rule}\nCOMMIT\n")

        assert {} == present(iptables)

    @pytest.mark.parametrize(
        ("table", "rule"),
        [
            ("mangle", "-j SET --map-set MARKS dst,dst --map-mark"),
            ("mangle", "-s 10.244.0.0/16 -j SET --map-set MARKS dst,dst --map-mark"),
            ("mangle", "-i cni0 -j SET --map-set MARKS dst,dst --map-mark"),
            ("mangle", "-i veth+ -j SET --map-set MARKS dst,dst --map-mark"),
            ("mangle", "! -i veth+ -j SET --map-set MARKS dst,dst --map-mark"),
            ("mangle", "-m mark --mark 0x1051/0x30ff -m conntrack --ctstate NEW -j MARK --set-xmark 0x1/0x3"),
            (
                "mangle",
                "-m mark --mark 0x1051 -m addrtype ! --src-type LOCAL -j MARK --set-xmark 0x0/0xffffffff",
            ),
            ("mangle", "! -s 10.244.0.0/16 -m addrtype --dst-type LOCAL -j RETURN"),
            ("mangle", "-m set --match-set PORTS dst,dst -m set ! --match-set RANGES dst,dst,src -j DROP"),
            ("raw", "-i cni0 -m set --match-set PORTS dst,dst -j DROP"),
            ("raw", "-m addrtype --src-type LOCAL -j MARK --set-xmark 0x1/0xffffffff"),
            ("nat", "! -i cni0 -m mark ! --mark 0x1051/0x30ff -j ACCEPT"),
            ("filter", "-m set --match-set PORTS dst,dst -m mark ! --mark 0x1051/0x30ff -j DROP"),
            ("filter", "-m conntrack ! --ctstate NEW -m set ! --match-set ADDRESSES src -j DROP"),
            ("filter", "-p tcp -m conntrack --ctstate NEW,UNTRACKED -j REJECT --reject-with tcp-reset"),
            ("filter", "-p tcp -m set --match-set HEALTH dst -j RETURN"),
            ("filter", "-m set --match-set HEALTH dst,dst -j RETURN"),
            ("filter", "-s 10.0.0.0/8 -d 192.0.2.0/24 -i eth0 -o eth1 -p udp -j ACCEPT"),
        ],
    )
    def test_rules_are_saved_in_the_words_that_they_were_put_in(self, iptables, ipsets, table, rule):
        for ip_set in SETS:
            ipsets.create(ip_set)

        iptables.restore(Family.IPV4, f"*{table}\n:USER - [0:0]\n-A USER {rule}\nCOMMIT\n")

        assert {table: {"USER": [rule]}} == present(iptables)

    def test_a_set_that_gives_marks_to_a_rule_is_busy(self, iptables, ipsets):
        ipsets.create(IpSet("MARKS", SetType.HASH_IP_PORT, Family.IPV4, has_marks=True))
        iptables.restore(Family.IPV4, "*mangle\n-A INPUT -j SET --map-set MARKS dst,dst --map-mark\nCOMMIT\n")

        with pytest.raises(errors.Busy):
            ipsets.destroy("MARKS")

    def test_without_commit_nothing_is_done(self, iptables):
        with pytest.raises(errors.CommandFailed, match="COMMIT"):
            iptables.restore(Family.IPV4, "*filter\n-A INPUT -j DROP\n")

        assert {} == present(iptables)

    def test_a_table_is_all_or_nothing_and_those_before_it_are_done(self, iptables):
        with pytest.raises(errors.CommandFailed):
            iptables.restore(
                Family.IPV4,
                "*nat\n:OURS - [0:0]\nCOMMIT\n*filter\n-A INPUT -j DROP\n-A NOPE -j DROP\nCOMMIT\n",
            )

        assert {"nat": {"OURS": []}} == present(iptables)

    def test_an_error_quotes_the_line(self, iptables):
        with pytest.raises(errors.CommandFailed, match="-D INPUT -j DROP"):
            iptables.restore(Family.IPV4, "*filter\n:OURS - [0:0]\n-D INPUT -j DROP\nCOMMIT\n")

    def test_a_set_in_a_rule_is_busy_until_the_rule_is_gone(self, iptables, ipsets):
        ipsets.create(IpSet("FOUR", SetType.HASH_IP, Family.IPV4))
        iptables.restore(Family.IPV4, "*filter\n-A INPUT -m set --match-set FOUR dst -j DROP\nCOMMIT\n")

        with pytest.raises(errors.Busy):
            ipsets.destroy("FOUR")

        iptables.restore(Family.IPV4, "*filter\n-F INPUT\nCOMMIT\n")
        ipsets.destroy("FOUR")

    @pytest.mark.parametrize(
        ("family", "network"),
        [
            pytest.param(Family.IPV4, "10.0.0.0/8", id="v4"),
            pytest.param(Family.IPV6, "fd00:10::/32", id="v6"),
        ],
    )
    @pytest.mark.parametrize("random_fully", [False, True])
    def test_the_rules_of_the_agent_are_saved_as_they_are_written(
        self, iptables, ipsets, family, network, random_fully
    ):
        """Or every start would write them anew; and nothing is left once they are removed."""
        wanted = shim.tables(
            family,
            shim.Masquerade(cluster_networks=(parse_network(network),), random_fully=random_fully),
        )
        for ip_set in sets.sets_of(family):
            ipsets.create(ip_set)

        iptables.restore(family, shim.restore_text(wanted, iptables.save(family)))

        assert "" == shim.restore_text(wanted, iptables.save(family))
        iptables.restore(family, shim.removal_text(iptables.save(family)))
        assert {} == present(iptables, family)
