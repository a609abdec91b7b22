"""iptables-restore and iptables-save, in memory.

Rules are kept as text, so only rules in the words of iptables-save are taken; whatever the real tools would
print otherwise than it was put in is refused, like everything else that is not modelled.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from ipvs_agent.addresses import Family
from ipvs_agent.errors import CommandFailed
from ipvs_agent.kernel.api import Rules
from ipvs_agent.testing.fake_ipsets import FakeIpSets
from ipvs_agent.testing.fake_rules import Place, Refused, check_rule

_FLAVOUR = "-nft"
_BUILT_IN: Mapping[str, tuple[str, ...]] = {
    "raw": ("PREROUTING", "OUTPUT"),
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
}
_LONGEST_CHAIN_NAME = 28


@dataclass
class _Chain:
    policy: str
    """ "-" for a chain that is not built in."""
    rules: list[str] = field(default_factory=list)


_Table = dict[str, _Chain]


class FakeIptables:
    """The rules of one network namespace."""

    def __init__(self, ipsets: FakeIpSets) -> None:
        self.usable = frozenset(Family)
        self.off: frozenset[Family] = frozenset()
        self.random_fully = True
        self._has_refused = False
        self.restored: list[tuple[Family, str]] = []
        """What restore was called with."""
        self._ipsets = ipsets
        self._tables: dict[Family, dict[str, _Table]] = {family: {} for family in Family}

    def save(self, family: Family) -> str:
        """Return the rules of all tables that were touched, as iptables-save prints them."""
        self._must_be_usable(family, "save")
        return "".join(_printed(name, table) for name, table in self._tables[family].items())

    def restore(self, family: Family, text: str, flavour: str | None = None) -> None:
        """Apply iptables-restore input without flushing what it does not name; all of a table or nothing."""
        if flavour not in (None, _FLAVOUR):
            raise CommandFailed(f"iptables{flavour}-restore is not in PATH")
        self._must_be_usable(family, "restore")
        self.restored.append((family, text))
        tables = self._tables[family]
        name, table = "", _Table()
        for number, line in enumerate(text.splitlines(), start=1):
            try:
                if not line or line.startswith("#"):
                    continue
                if line.startswith("*") and not name:
                    name = line[1:]
                    table = copy.deepcopy(tables.get(name) or _new_table(name))
                elif not name:
                    raise Refused("no command specified")
                elif line == "COMMIT":
                    tables[name] = table
                    self._note_references(family)
                    name = ""
                else:
                    self._apply(family, name, table, line)
            except Refused as error:
                self._has_refused |= "--random-fully" in text
                raise CommandFailed(f"iptables-restore: line {number} failed: {error}: {line!r}") from None
        if name:
            raise CommandFailed("iptables-restore: COMMIT expected at the end")

    def all_rules(self) -> list[Rules]:
        """Return the rules of every family that can be read, in the one flavour that there is."""
        return [Rules(_FLAVOUR, family, self.save(family)) for family in sorted(self.usable)]

    def families(self) -> frozenset[Family]:
        """Return the families whose tools work on this node."""
        return self.usable

    def refusals(self) -> Mapping[Family, str]:
        """Return for each family that is not usable that it is not."""
        return {family: "does not work on this node" for family in Family if family not in self.usable}

    def switched_off(self) -> frozenset[Family]:
        """Return the families that the node does not have, whatever its tools say."""
        return self.off

    def supports_random_fully(self) -> bool:
        """Tell whether MASQUERADE takes --random-fully, which is not known until rules are refused."""
        return self.random_fully or not self._has_refused

    def _must_be_usable(self, family: Family, action: str) -> None:
        if family not in self.usable:
            raise CommandFailed(f"iptables-{action}: {family.name} does not work on this node")

    def _note_references(self, family: Family) -> None:
        self._ipsets.referrers[f"iptables {family.name}"] = frozenset(
            match[1]
            for table in self._tables[family].values()
            for chain in table.values()
            for rule in chain.rules
            for match in re.finditer(r"--(?:match|map)-set (\S+)", rule)
        )

    def _apply(self, family: Family, table_name: str, table: _Table, line: str) -> None:
        if line.startswith(":"):
            _declare(table, line)
            return
        verb, _, rest = line.partition(" ")
        chain, _, rule = rest.partition(" ")
        if verb == "-N":
            _make_chain(table, chain)
        elif verb not in ("-A", "-I", "-D", "-F", "-X"):
            raise NotImplementedError(f"FakeIptables does not model {line!r}")
        elif chain not in table:
            raise Refused("No chain/target/match by that name")
        elif verb == "-F":
            table[chain].rules.clear()
        elif verb == "-X":
            _remove_chain(table, chain)
        else:
            targets = {name for name, each in table.items() if each.policy == "-"}
            place = Place(family, table_name, chain, targets, self._ipsets.sets(), self.random_fully)
            check_rule(rule, place)
            _edit(table[chain].rules, verb, rule)


def _new_table(name: str) -> _Table:
    if name not in _BUILT_IN:
        raise Refused("unable to initialize table")
    return {chain: _Chain("ACCEPT") for chain in _BUILT_IN[name]}


def _declare(table: _Table, line: str) -> None:
    match = re.fullmatch(r":(\S+) (ACCEPT|DROP|-)( \[0:0\])?", line)
    if match is None:
        raise NotImplementedError(f"FakeIptables does not model {line!r}")
    chain, policy = match[1], match[2]
    is_built_in = chain in table and table[chain].policy != "-"
    if is_built_in != (policy != "-"):
        raise NotImplementedError(f"FakeIptables: only a built-in chain has a policy, and always: {line!r}")
    if is_built_in:
        table[chain].policy = policy
    elif chain in table:
        table[chain].rules.clear()
    else:
        _make_chain(table, chain)


def _make_chain(table: _Table, chain: str) -> None:
    if chain in table:
        raise Refused("Chain already exists")
    if len(chain) > _LONGEST_CHAIN_NAME:
        raise Refused(f"chain name too long (must be under {_LONGEST_CHAIN_NAME + 1} chars)")
    table[chain] = _Chain("-")


def _remove_chain(table: _Table, chain: str) -> None:
    if table[chain].policy != "-" or table[chain].rules:
        raise Refused("Device or resource busy")
    if any(f"-j {chain}" in f"{rule} " for each in table.values() for rule in each.rules):
        raise Refused("Device or resource busy")
    del table[chain]


def _edit(rules: list[str], verb: str, rule: str) -> None:
    if verb == "-A":
        rules.append(rule)
    elif verb == "-I":
        rules.insert(0, rule)
    elif rule in rules:
        rules.remove(rule)
    else:
        raise Refused("Bad rule (does a matching rule exist in that chain?)")


def _printed(name: str, table: _Table) -> str:
    chains = [f":{chain} {each.policy} [0:0]" for chain, each in table.items()]
    rules = [f"-A {chain} {rule}" for chain, each in table.items() for rule in each.rules]
    return "\n".join([f"*{name}", *chains, *rules, "COMMIT", ""])
