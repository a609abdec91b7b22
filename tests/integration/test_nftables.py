"""Native nftables on the real kernel, with rules by `nft`; a cloud kernel has it, user-mode Linux has not."""

from __future__ import annotations

import contextlib
import subprocess

import pytest

from ipvs_agent.kernel.modules import NodeModules
from ipvs_agent.kernel.nftables import NetlinkNftables
from ipvs_agent.observed import EVERY_BIT, Hook, NativeChain
from tests.contract.nftables import IPV4, NftablesContract
from tests.integration.nft import HAS_NFTABLES


def run(*words, text=""):
    return subprocess.run(words, input=text, capture_output=True, text=True, check=True).stdout


def rule_of(marks):
    """A rule that may write these bits of the mark."""
    if marks == EVERY_BIT:
        return "meta mark set 0x1234"
    kept, added = marks ^ EVERY_BIT, marks & 0x55555555
    return f"meta l4proto udp counter meta mark set meta mark and {kept:#x} or {added:#x}"


def script(chains):
    """What `nft -f` makes these chains of."""
    lines = []
    for chain in chains:
        lines += [f"add table {chain.table}", f"add chain {chain.table} {chain.name} {{ {_base(chain)} }}"]
    for chain in chains:
        rules = [f"tcp dport 80 jump {name}" for name in sorted(chain.leads_to)]
        rules += ["ct state vmap { established : accept, invalid : drop }"] * chain.leads_anywhere
        rules += [rule_of(chain.marks)] if chain.marks else []
        lines += [f"add rule {chain.table} {chain.name} {rule}" for rule in rules]
    return "\n".join(lines) + "\n"


def _base(chain):
    if chain.hook is None:
        return ""
    return f"type filter hook {Hook(chain.hook).name.lower()} priority {chain.priority};"


@pytest.fixture
def nftables(namespace):
    with contextlib.closing(NetlinkNftables()) as found:
        yield found


class TestNetlinkNftables(NftablesContract):
    __test__ = HAS_NFTABLES

    @pytest.fixture
    def lay(self, namespace):
        return lambda chains: run("nft", "-f", "-", text=script(chains))

    def test_rules_of_iptables_are_left_to_its_tools(self, nftables):
        self.have_marks_by_iptables()
        run("iptables-nft", "-w", "-t", "mangle", "-A", "INPUT", "-j", "marks")

        assert [] == nftables.chains()

    def test_chains_of_others_in_tables_of_iptables_count(self, nftables):
        chain = NativeChain(IPV4, "ip mangle", "input", Hook.INPUT, 0, leads_to=frozenset({"marks"}))
        self.have_marks_by_iptables()
        run("nft", "-f", "-", text=script([chain]))

        expected = [chain, NativeChain(IPV4, "ip mangle", "marks", marks=EVERY_BIT)]
        assert expected == sorted(nftables.chains(), key=lambda one: one.name)

    def have_marks_by_iptables(self):
        run("iptables-nft", "-w", "-t", "mangle", "-N", "marks")
        run("iptables-nft", "-w", "-t", "mangle", "-A", "marks", "-j", "MARK", "--set-mark", "1")

    def test_a_table_none_of_whose_chains_is_on_the_way_is_left_out(self, nftables):
        chain = "type filter hook prerouting priority 0;"
        run("nft", f"add table ip wall; add chain ip wall marks {{ {chain} }}")
        run("nft", "add rule ip wall marks meta mark set 1")

        assert [] == nftables.chains()

    @pytest.mark.parametrize(
        ("rule", "marks"),
        [
            pytest.param("meta mark set ct mark", EVERY_BIT, id="another mark"),
            pytest.param("meta mark set ct mark and 0xff", EVERY_BIT, id="a part of another mark"),
            pytest.param("meta mark set jhash ip saddr mod 8", EVERY_BIT, id="a hash"),
            pytest.param(
                "meta mark 5 meta mark set numgen inc mod 2", EVERY_BIT, id="a number, asked before"
            ),
            pytest.param("meta mark set meta mark or 0x4000", 0x4000, id="a bit more"),
            pytest.param("meta mark set meta mark and 0xffffbfff", 0x4000, id="a bit less"),
            pytest.param("meta mark set meta mark xor 0x30", 0x30, id="bits turned round"),
            pytest.param("meta mark and 0xff00 == 0x100 ct mark set meta mark", 0, id="only read"),
            pytest.param("meta priority set 1:1", 0, id="what is no mark"),
            pytest.param("meta mark set tcp dport map { 80: 0x1, 443: 0x2 }", EVERY_BIT, id="from a map"),
        ],
    )
    def test_what_a_rule_may_write(self, nftables, rule, marks):
        chain = NativeChain(IPV4, "ip wall", "marks", Hook.OUTPUT, -150)
        run("nft", "-f", "-", text=f"{script([chain])}add rule ip wall marks {rule}\n")

        assert [marks] == [found.marks for found in nftables.chains()]

    def test_families_that_are_not_ours_are_left_out(self, nftables):
        run("nft", "add table bridge wall")
        run("nft", "add chain bridge wall input { type filter hook input priority 0; }")
        run("nft", "add rule bridge wall input meta mark set 1")

        assert [] == nftables.chains()


def test_a_kernel_without_nftables_has_no_chains_and_is_not_asked(namespace, tmp_path):
    modules = NodeModules(loaded=tmp_path, installed=tmp_path)
    with contextlib.closing(NetlinkNftables(modules)) as found:
        assert [] == found.chains()
