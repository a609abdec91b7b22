"""Rules of others that change a packet's mark before it has done its work.

IPVS compares the whole mark: one bit more or less, and it does not find the virtual server by mark. Between
writing and reading come the rest of mangle INPUT, filter INPUT and security INPUT; nat INPUT comes after. For
the node's own packets it is the rest of mangle OUTPUT: nat OUTPUT begins with our rules.

What IPVS sends on passes all of OUTPUT, once more or for the first time, and our last rule, in mangle
POSTROUTING, still needs the tag: there only who writes bits of the tag counts.

That goes for chains of iptables and, by their hooks and priorities, for those that only nftables has.

Whether one of our packets would reach such a rule, or match it, cannot be told from the text: each counts.
"""

from __future__ import annotations

import enum
import itertools
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from ipvs_agent.addresses import Family
from ipvs_agent.desired.sets import PREFIX
from ipvs_agent.desired.shim import parse
from ipvs_agent.desired.split import TAG_MASK
from ipvs_agent.observed import EVERY_BIT, Hook, NativeChain


class _Part(enum.Enum):
    """Which rules of a chain count, seen from the jump to ours."""

    ALL = enum.auto()
    BEHIND = enum.auto()
    BEFORE = enum.auto()


class _Place(NamedTuple):
    """Where rules count."""

    table: str
    chain: str
    part: _Part = _Part.ALL
    jump: str = ""
    is_sent_on: bool = False
    """Whether it is on the way of what IPVS sends on, of whose mark the tag alone is still needed."""


_PLACES = (
    _Place("mangle", "INPUT", _Part.BEHIND, f"{PREFIX}-INPUT"),
    _Place("filter", "INPUT"),
    _Place("security", "INPUT"),
    _Place("mangle", "OUTPUT", _Part.BEHIND, f"{PREFIX}-OUTPUT"),
    _Place("raw", "OUTPUT", is_sent_on=True),
    _Place("mangle", "OUTPUT", is_sent_on=True),
    _Place("filter", "OUTPUT", is_sent_on=True),
    _Place("security", "OUTPUT", is_sent_on=True),
    _Place("mangle", "POSTROUTING", _Part.BEFORE, f"{PREFIX}-POSTROUTING", is_sent_on=True),
)

# Their arguments may be any text, "-j" too.
_TEXT_OPTIONS = {"--comment", "--string"}
# The targets that write packet marks, and the option without which they write something else.
_WRITERS: Mapping[str, str | None] = {
    "MARK": None,
    "HMARK": None,
    "CONNMARK": "--restore-mark",
    "SET": "--map-mark",
}

_Chains = Mapping[str, Sequence[str]]
_ChainName = tuple[str, str]
"""Table and name."""


class _Span(NamedTuple):
    """Where chains of nftables count: those of a hook, from one priority to another."""

    hook: Hook
    first: int
    last: int
    is_sent_on: bool = False


# Priorities of linux/netfilter_ipv4.h: our rules are in mangle, and IPVS looks behind the filter's INPUT and
# nat OUTPUT. Chains of one priority are passed in the order in which they came, which nobody tells.
_MANGLE, _IPVS_IN, _IPVS_OUT = -150, 99, -98
_FIRST, _LAST = -(1 << 31), (1 << 31) - 1
_SPANS = (
    _Span(Hook.INPUT, _MANGLE, _IPVS_IN),
    _Span(Hook.OUTPUT, _MANGLE, _IPVS_OUT),
    _Span(Hook.OUTPUT, _FIRST, _LAST, is_sent_on=True),
    _Span(Hook.POSTROUTING, _FIRST, _MANGLE, is_sent_on=True),
)


class ForeignWriters(NamedTuple):
    """Rules of others, in the words of a tool."""

    of_marks: tuple[str, ...]
    """Those that may spoil a mark of ours."""
    of_tags: tuple[str, ...]
    """Those of them that may spoil its tag after IPVS has read it: no such mark must be written."""


def foreign_writers(saved: str) -> ForeignWriters:
    """Return the rules of others that may spoil a mark; saved: what iptables-save printed.

    Where we have no jump in mangle yet, ours will be the last rule there, and nothing is behind it.
    """
    tables = parse(saved)
    of_marks: list[str] = []
    of_tags: list[str] = []
    for place in _PLACES:
        chains = tables.get(place.table, {})
        for chain, rule in _writers(chains, place.chain, _part(chains.get(place.chain, ()), place)):
            if place.is_sent_on and not _written(rule) & TAG_MASK:
                continue
            text = f"-t {place.table} -A {chain} {rule}"
            of_marks.append(text)
            if place.is_sent_on:
                of_tags.append(text)
    return ForeignWriters(tuple(dict.fromkeys(of_marks)), tuple(dict.fromkeys(of_tags)))


def native_writers(chains: Iterable[NativeChain], family: Family) -> ForeignWriters:
    """Return the chains of nftables that may spoil a mark of a family, each as what shows its rules."""
    passed = {
        (chain.table, chain.name): chain
        for chain in chains
        if family in chain.families and not chain.name.startswith(f"{PREFIX}-")
    }
    of_marks: list[str] = []
    of_tags: list[str] = []
    for span in _SPANS:
        starts = [
            chain
            for chain in passed.values()
            if chain.hook == span.hook and span.first <= chain.priority <= span.last
        ]
        for chain in _reached(passed, starts):
            if chain.marks & (TAG_MASK if span.is_sent_on else EVERY_BIT):
                text = _listing(chain)
                of_marks.append(text)
                if span.is_sent_on:
                    of_tags.append(text)
    return ForeignWriters(tuple(dict.fromkeys(of_marks)), tuple(dict.fromkeys(of_tags)))


def _listing(chain: NativeChain) -> str:
    # A chain without a name is shown where it is led to.
    is_anonymous = chain.name.startswith("__chain")
    return f"nft list table {chain.table}" if is_anonymous else f"nft list chain {chain.table} {chain.name}"


def _reached(chains: Mapping[_ChainName, NativeChain], starts: Iterable[NativeChain]) -> list[NativeChain]:
    """Return some chains and all to which they may lead."""
    reached = {(chain.table, chain.name): chain for chain in starts}
    waiting = list(reached.values())
    are_taken = set[str]()
    """The tables of which all chains are, to which one may be led."""
    while waiting:
        chain = waiting.pop()
        names = [(chain.table, name) for name in sorted(chain.leads_to)]
        if chain.leads_anywhere and chain.table not in are_taken:
            are_taken.add(chain.table)
            names += [key for key, one in chains.items() if key[0] == chain.table and one.hook is None]
        for key in names:
            if key in chains and key not in reached:
                reached[key] = chains[key]
                waiting.append(chains[key])
    return list(reached.values())


def _writers(chains: _Chains, start: str, rules: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the rules that write marks, and their chains: of some, and of the chains that they lead to."""
    waiting = [(start, rules)]
    seen = {start}
    while waiting:
        chain, rules = waiting.pop()
        for rule in rules:
            words = _words(rule)
            target = _target(words)
            if target in chains:
                if target not in seen and not target.startswith(f"{PREFIX}-"):
                    seen.add(target)
                    waiting.append((target, chains[target]))
            elif target in _WRITERS:
                option = _WRITERS[target]
                if option is None or option in words:
                    yield chain, rule


def _part(rules: Sequence[str], place: _Place) -> Sequence[str]:
    """Return the rules of a chain that count."""
    if place.part is _Part.ALL:
        return rules
    jumps = [number for number, rule in enumerate(rules) if _target(_words(rule)) == place.jump]
    if place.part is _Part.BEHIND:
        return rules[jumps[0] + 1 :] if jumps else ()
    return rules[: jumps[0]] if jumps else rules


def _written(rule: str) -> int:
    """Return the bits of the mark that a rule may change; all of them where it does not say."""
    words = dict(itertools.pairwise(_words(rule)))
    if "--set-xmark" in words:
        value, _, mask = words["--set-xmark"].partition("/")
        return _number(value) | _number(mask)
    if "--nfmask" in words:
        return _number(words["--nfmask"]) | _number(words.get("--ctmask", ""))
    return EVERY_BIT


def _number(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        return EVERY_BIT


def _target(words: Sequence[str]) -> str:
    """Return the target of a rule or the chain that it leads to; empty where it only counts."""
    before = ""
    for word, after in itertools.pairwise(words):
        if word in ("-j", "-g") and before not in _TEXT_OPTIONS:
            return after
        before = word
    return ""


def _words(rule: str) -> list[str]:
    try:
        return shlex.split(rule)
    except ValueError:  # a quote without its other half
        return rule.split()
