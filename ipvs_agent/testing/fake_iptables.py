"""iptables-restore and iptables-save, in memory.

Rules are kept as text, so only rules in the words of iptables-save are taken; whatever the real tools would
print otherwise than it was put in is refused, like everything else that is not modelled.
"""

from __future__ import annotations

import copy
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ipvs_agent.addresses import Family, parse_network
from ipvs_agent.errors import CommandFailed
from ipvs_agent.kernel.api import Rules
from ipvs_agent.testing.fake_ipsets import FakeIpSets

_FLAVOUR = "-nft"
_BUILT_IN: Mapping[str, tuple[str, ...]] = {
    "raw": ("PREROUTING", "OUTPUT"),
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
}
_LONGEST_CHAIN_NAME = 28

_VERDICTS = {"ACCEPT", "DROP", "RETURN"}
# The tables that each target works in.
_TARGETS = {
    "MARK": {"raw", "mangle", "nat", "filter"},
    "MASQUERADE": {"nat"},
    "REJECT": {"filter"},
}
_MATCHES = {"set", "mark", "conntrack", "comment"}
_MARK = r"0x[0-9a-f]+(/0x[0-9a-f]+)?"
_REJECTS = {
    Family.IPV4: {"icmp-port-unreachable", "tcp-reset"},
    Family.IPV6: {"icmp6-port-unreachable", "tcp-reset"},
}


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
        self.random_fully = True
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
                    raise _Refused("no command specified")
                elif line == "COMMIT":
                    tables[name] = table
                    self._note_references(family)
                    name = ""
                else:
                    self._apply(family, name, table, line)
            except _Refused as error:
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

    def supports_random_fully(self) -> bool:
        """Tell whether MASQUERADE takes --random-fully here."""
        return self.random_fully

    def _must_be_usable(self, family: Family, action: str) -> None:
        if family not in self.usable:
            raise CommandFailed(f"iptables-{action}: {family.name} does not work on this node")

    def _note_references(self, family: Family) -> None:
        self._ipsets.referrers[f"iptables {family.name}"] = frozenset(
            match[1]
            for table in self._tables[family].values()
            for chain in table.values()
            for rule in chain.rules
            for match in re.finditer(r"--match-set (\S+)", rule)
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
            raise _Refused("No chain/target/match by that name")
        elif verb == "-F":
            table[chain].rules.clear()
        elif verb == "-X":
            _remove_chain(table, chain)
        else:
            _Rule(family, table_name, table, self._ipsets, self.random_fully).check(rule)
            _edit(table[chain].rules, verb, rule)


class _Refused(Exception):
    """What the tools say of a line that they do not take."""


def _new_table(name: str) -> _Table:
    if name not in _BUILT_IN:
        raise _Refused("unable to initialize table")
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
        raise _Refused("Chain already exists")
    if len(chain) > _LONGEST_CHAIN_NAME:
        raise _Refused(f"chain name too long (must be under {_LONGEST_CHAIN_NAME + 1} chars)")
    table[chain] = _Chain("-")


def _remove_chain(table: _Table, chain: str) -> None:
    if table[chain].policy != "-" or table[chain].rules:
        raise _Refused("Device or resource busy")
    if any(f"-j {chain}" in f"{rule} " for each in table.values() for rule in each.rules):
        raise _Refused("Device or resource busy")
    del table[chain]


def _edit(rules: list[str], verb: str, rule: str) -> None:
    if verb == "-A":
        rules.append(rule)
    elif verb == "-I":
        rules.insert(0, rule)
    elif rule in rules:
        rules.remove(rule)
    else:
        raise _Refused("Bad rule (does a matching rule exist in that chain?)")


@dataclass
class _Rule:
    """What a rule is checked against."""

    family: Family
    table_name: str
    table: _Table
    ipsets: FakeIpSets
    random_fully: bool

    def check(self, text: str) -> None:
        """Refuse a rule as the tools do."""
        loaded: set[str] = set()
        words = iter(shlex.split(text))
        for word in words:
            if word != "!":
                self._check_option(word, words, loaded)

    def _check_option(self, option: str, words: Iterator[str], loaded: set[str]) -> None:
        if option in ("-m", "-j", "-p"):
            loaded.add(self._loaded(option, _argument(words)))
        elif option in ("-s", "-d"):
            self._check_network(_argument(words))
        elif option == "--match-set":
            _must_be_loaded("set", option, loaded)
            self._check_set(_argument(words), _argument(words))
        elif option == "--ctstate":
            _must_be_loaded("conntrack", option, loaded)
            _check_form(r"(INVALID|NEW|RELATED|ESTABLISHED)(,(RELATED|ESTABLISHED))*", _argument(words))
        elif option == "--mark":
            _must_be_loaded("mark", option, loaded)
            _check_form(_MARK, _argument(words))
        elif option == "--set-xmark":
            _must_be_loaded("MARK", option, loaded)
            _check_form(_MARK, _argument(words))
        elif option == "--comment":
            _must_be_loaded("comment", option, loaded)
            _argument(words)
        elif option == "--random-fully":
            _must_be_loaded("MASQUERADE", option, loaded)
            if not self.random_fully:
                raise _Refused(f'unknown option "{option}"')
        elif option == "--reject-with":
            _must_be_loaded("REJECT", option, loaded)
            self._check_reject(_argument(words), loaded)
        else:
            raise NotImplementedError(f"FakeIptables does not model the option {option}")

    def _loaded(self, option: str, name: str) -> str:
        if option == "-p" and name not in ("tcp", "udp", "sctp"):
            raise NotImplementedError(f"FakeIptables does not model the protocol {name}")
        if option == "-m" and name not in _MATCHES:
            raise NotImplementedError(f"FakeIptables does not model the match {name}")
        if option == "-j":
            is_chain = name in self.table and self.table[name].policy == "-"
            is_target = name in _VERDICTS or self.table_name in _TARGETS.get(name, ())
            if not (is_chain or is_target):
                raise _Refused(f"Couldn't load target `{name}'")
        return name

    def _check_network(self, text: str) -> None:
        try:
            network = parse_network(text)
        except ValueError as error:
            raise NotImplementedError(f"FakeIptables: {error}") from None
        if str(network) != text:
            raise NotImplementedError(f"FakeIptables: iptables-save would print {network}, not {text}")
        if len(network.address) != (4 if self.family is Family.IPV4 else 16):
            raise _Refused(f"host/network `{text}' not found")

    def _check_set(self, name: str, directions: str) -> None:
        _check_form(r"(src|dst)(,(src|dst)){0,2}", directions)
        sets = self.ipsets.sets()
        if name not in sets:
            raise _Refused(f"Set {name} doesn't exist")
        found = sets[name]
        if found is not None and found.family not in (None, self.family):
            raise _Refused(f"The protocol family of set {name} is {found.family.name}, not applicable")

    def _check_reject(self, kind: str, loaded: set[str]) -> None:
        if kind not in _REJECTS[self.family]:
            raise _Refused(f'unknown reject type "{kind}"')
        if kind == "tcp-reset" and "tcp" not in loaded:
            raise _Refused("Invalid argument")


def _argument(words: Iterator[str]) -> str:
    try:
        return next(words)
    except StopIteration:
        raise _Refused("option requires an argument") from None


def _must_be_loaded(module: str, option: str, loaded: set[str]) -> None:
    if module not in loaded:
        raise _Refused(f'unknown option "{option}"')


def _check_form(form: str, text: str) -> None:
    if re.fullmatch(form, text) is None:
        raise NotImplementedError(f"FakeIptables: iptables-save would not print {text!r}")


def _printed(name: str, table: _Table) -> str:
    chains = [f":{chain} {each.policy} [0:0]" for chain, each in table.items()]
    rules = [f"-A {chain} {rule}" for chain, each in table.items() for rule in each.rules]
    return "\n".join([f"*{name}", *chains, *rules, "COMMIT", ""])
