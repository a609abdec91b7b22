"""Rules of others that change a packet's mark before it has done its work.

IPVS compares the whole mark: one bit more or less, and it does not find the virtual server by mark. Between
writing and reading come the rest of mangle INPUT, filter INPUT and security INPUT; nat INPUT comes after. For
the node's own packets it is the rest of mangle OUTPUT: nat OUTPUT begins with our rules.

What IPVS sends on passes all of OUTPUT, once more or for the first time, and our last rule, in mangle
POSTROUTING, still needs the tag: there only who writes bits of the tag counts.

Whether one of our packets would reach such a rule, or match it, cannot be told from the text: each counts.
"""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Iterator, Mapping, Sequence

from ipvs_agent.desired.sets import PREFIX
from ipvs_agent.desired.shim import parse
from ipvs_agent.desired.split import TAG_MASK

_AFTER = (
    ("mangle", "INPUT", f"{PREFIX}-INPUT"),
    ("filter", "INPUT", None),
    ("security", "INPUT", None),
    ("mangle", "OUTPUT", f"{PREFIX}-OUTPUT"),
)
"""Table, chain, and the jump behind which rules count; None: all of them."""
_SENT_ON = (
    ("raw", "OUTPUT", None),
    ("mangle", "OUTPUT", None),
    ("filter", "OUTPUT", None),
    ("security", "OUTPUT", None),
    ("mangle", "POSTROUTING", f"{PREFIX}-POSTROUTING"),
)
"""Table, chain, and the jump before which rules count; None: all of them."""

# Their arguments may be any text, "-j" too.
_TEXT_OPTIONS = {"--comment", "--string"}
# The targets that write packet marks, and the option without which they write something else.
_WRITERS: Mapping[str, str | None] = {
    "MARK": None,
    "HMARK": None,
    "CONNMARK": "--restore-mark",
    "SET": "--map-mark",
}

_ALL = 0xFFFFFFFF

_Chains = Mapping[str, Sequence[str]]


def foreign_mark_writers(saved: str) -> list[str]:
    """Return the rules that may spoil a mark of ours, in iptables' words; saved: what iptables-save printed.

    Where we have no jump in mangle yet, ours will be the last rule there, and nothing is behind it.
    """
    tables = parse(saved)
    found: list[str] = []
    for table, chain, jump in _AFTER:
        chains = tables.get(table, {})
        rules = _writers(chains, chain, _behind(chains.get(chain, ()), jump))
        found += [f"-t {table} -A {name} {rule}" for name, rule in rules]
    return list(dict.fromkeys([*found, *foreign_tag_writers(saved)]))


def foreign_tag_writers(saved: str) -> list[str]:
    """Return those that may spoil the tag of a mark after IPVS has read it: no such mark must be written."""
    tables = parse(saved)
    found: list[str] = []
    for table, chain, jump in _SENT_ON:
        chains = tables.get(table, {})
        rules = _writers(chains, chain, _before(chains.get(chain, ()), jump))
        found += [f"-t {table} -A {name} {rule}" for name, rule in rules if _written(rule) & TAG_MASK]
    return list(dict.fromkeys(found))


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


def _behind(rules: Sequence[str], jump: str | None) -> Sequence[str]:
    if jump is None:
        return rules
    places = [place for place, rule in enumerate(rules) if _target(_words(rule)) == jump]
    return rules[places[0] + 1 :] if places else ()


def _before(rules: Sequence[str], jump: str | None) -> Sequence[str]:
    places = [place for place, rule in enumerate(rules) if _target(_words(rule)) == jump]
    return rules[: places[0]] if places else rules


def _written(rule: str) -> int:
    """Return the bits of the mark that a rule may change; all of them where it does not say."""
    words = dict(itertools.pairwise(_words(rule)))
    if "--set-xmark" in words:
        value, _, mask = words["--set-xmark"].partition("/")
        return _number(value) | _number(mask)
    if "--nfmask" in words:
        return _number(words["--nfmask"]) | _number(words.get("--ctmask", ""))
    return _ALL


def _number(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        return _ALL


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
