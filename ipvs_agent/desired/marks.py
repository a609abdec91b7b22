"""Rules of others that change a packet's mark after we have written it and before IPVS reads it.

IPVS compares the whole mark: one bit more or less, and it does not find the virtual server by mark. Between
writing and reading come the rest of mangle INPUT, filter INPUT and security INPUT; nat INPUT comes after. For
the node's own packets it is the rest of mangle OUTPUT: nat OUTPUT begins with our rules. Whether one of our
packets would reach such a rule, or match it, cannot be told from the text: each counts.
"""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Iterator, Mapping, Sequence

from ipvs_agent.desired.sets import PREFIX
from ipvs_agent.desired.shim import parse

_AFTER = (
    ("mangle", "INPUT", f"{PREFIX}-INPUT"),
    ("filter", "INPUT", None),
    ("security", "INPUT", None),
    ("mangle", "OUTPUT", f"{PREFIX}-OUTPUT"),
)
"""Table, chain, and the jump behind which rules count; None: all of them."""

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


def foreign_mark_writers(saved: str) -> list[str]:
    """Return the rules that may spoil a mark of ours, in iptables' words; saved: what iptables-save printed.

    Where we have no jump in mangle yet, ours will be the last rule there, and nothing is behind it.
    """
    tables = parse(saved)
    found: list[str] = []
    for table, chain, jump in _AFTER:
        chains = tables.get(table, {})
        found += [f"-t {table} {rule}" for rule in _writers(chains, chain, jump)]
    return found


def _writers(chains: _Chains, start: str, jump: str | None) -> Iterator[str]:
    """Yield the rules that write marks in a chain and those that it leads to, each chain once."""
    waiting = [(start, _behind(chains.get(start, ()), jump))]
    seen = {start}
    while waiting:
        chain, rules = waiting.pop()
        for rule in rules:
            words = _words(rule)
            target = _target(words)
            if target in chains:
                if target not in seen and not target.startswith(PREFIX):
                    seen.add(target)
                    waiting.append((target, chains[target]))
            elif target in _WRITERS:
                option = _WRITERS[target]
                if option is None or option in words:
                    yield f"-A {chain} {rule}"


def _behind(rules: Sequence[str], jump: str | None) -> Sequence[str]:
    if jump is None:
        return rules
    places = [place for place, rule in enumerate(rules) if _target(_words(rule)) == jump]
    return rules[places[0] + 1 :] if places else ()


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
