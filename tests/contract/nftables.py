"""What every implementation of kernel.api.Nftables does."""

from __future__ import annotations

import pytest

from ipvs_agent.addresses import Family
from ipvs_agent.observed import EVERY_BIT, Hook, NativeChain

BOTH, IPV4, IPV6 = frozenset(Family), frozenset({Family.IPV4}), frozenset({Family.IPV6})


class NftablesContract:
    """Needs a fixture `nftables` and, to have chains, `lay(chains)`."""

    def test_a_chain_says_whether_it_may_lead_anywhere(self, nftables, lay):
        chains = [
            NativeChain(BOTH, "inet wall", "first", Hook.INPUT, 0, leads_anywhere=True),
            NativeChain(BOTH, "inet wall", "second", marks=EVERY_BIT),
        ]
        lay(chains)

        assert sorted(chains, key=_name) == sorted(nftables.chains(), key=_name)

    def test_a_node_without_native_chains(self, nftables):
        assert [] == nftables.chains()

    @pytest.mark.parametrize(
        ("families", "table"), [(BOTH, "inet wall"), (IPV4, "ip wall"), (IPV6, "ip6 wall")]
    )
    @pytest.mark.parametrize("hook", Hook)
    @pytest.mark.parametrize("priority", [-300, 0, 99])
    def test_a_chain_says_whose_packets_pass_it_and_where(
        self, nftables, lay, families, table, hook, priority
    ):
        chain = NativeChain(families, table, "passed", hook, priority)
        lay([chain])

        assert [chain] == nftables.chains()

    @pytest.mark.parametrize("marks", [EVERY_BIT, 0x80000000, 0xFF00, 1])
    def test_a_chain_says_which_bits_of_a_mark_its_rules_may_write(self, nftables, lay, marks):
        chain = NativeChain(BOTH, "inet wall", "marks", Hook.INPUT, 0, marks)
        lay([chain])

        assert [chain] == nftables.chains()

    def test_a_chain_says_where_it_leads(self, nftables, lay):
        chains = [
            NativeChain(BOTH, "inet wall", "first", Hook.INPUT, 0, 0, frozenset({"second", "third"})),
            NativeChain(BOTH, "inet wall", "second", marks=EVERY_BIT),
            NativeChain(BOTH, "inet wall", "third", leads_to=frozenset({"second"})),
        ]
        lay(chains)

        assert sorted(chains, key=_name) == sorted(nftables.chains(), key=_name)

    def test_tables_may_have_chains_of_the_same_name(self, nftables, lay):
        chains = [
            NativeChain(families, f"{family} {name}", "input", Hook.INPUT, 0, marks)
            for marks, (families, family, name) in enumerate(
                (
                    (BOTH, "inet", "wall"),
                    (IPV4, "ip", "wall"),
                    (IPV6, "ip6", "wall"),
                    (BOTH, "inet", "other"),
                ),
                start=1,
            )
        ]
        lay(chains)

        assert sorted(chains, key=_name) == sorted(nftables.chains(), key=_name)


def _name(chain):
    return chain.table, chain.name
