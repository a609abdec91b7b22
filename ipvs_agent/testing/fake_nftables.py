"""The native chains of nftables, in memory."""

from __future__ import annotations

from collections.abc import Iterable

from ipvs_agent.observed import NativeChain


class FakeNftables:
    """Chains of others; none at first."""

    def __init__(self) -> None:
        self._chains: list[NativeChain] = []

    def lay(self, chains: Iterable[NativeChain]) -> None:
        """Have these chains in place of those before; ValueError where one leads out of its table."""
        chains = list(chains)
        for chain in chains:
            known = {one.name for one in chains if one.table == chain.table}
            if not chain.leads_to <= known:
                raise ValueError(f"{chain.table} has no chains {sorted(chain.leads_to - known)}")
        self._chains = chains

    def chains(self) -> list[NativeChain]:
        """Return the chains."""
        return list(self._chains)
