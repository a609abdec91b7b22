"""Which rules iptables takes, as far as the agent and its tests write them.

The tools print a rule's options in an order of their own and numbers in a form of their own; a rule that they
would print otherwise than it was put in is not modelled, and neither is one that could never match.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from ipvs_agent.addresses import Family, parse_network
from ipvs_agent.model import IpSet, SetType

_VERDICTS = {"ACCEPT", "DROP", "RETURN"}
_EVERY_TABLE = {"raw", "mangle", "nat", "filter"}
# The tables that each target works in.
_TARGETS = {
    "MARK": _EVERY_TABLE,
    "MASQUERADE": {"nat"},
    "REJECT": {"filter"},
    "SET": {"mangle"},  # that is --map-set; --add-set and --del-set would work in every table
}
# What the tools demand of a module that is named, all of one of these.
_NEEDS: Mapping[str, tuple[frozenset[str], ...]] = {
    "set": (frozenset({"--match-set"}),),
    "mark": (frozenset({"--mark"}),),
    "conntrack": (frozenset({"--ctstate"}),),
    "comment": (frozenset({"--comment"}),),
    "addrtype": (frozenset({"--src-type"}), frozenset({"--dst-type"})),
    "MARK": (frozenset({"--set-xmark"}),),
    "SET": (frozenset({"--map-set", "--map-mark"}),),
}
_MATCHES = {"set", "mark", "conntrack", "comment", "addrtype"}
_GENERAL = ("-s", "-d", "-i", "-o", "-p")  # printed in this order, before all others
_MODULES = {
    "--match-set": "set",
    "--mark": "mark",
    "--ctstate": "conntrack",
    "--comment": "comment",
    "--src-type": "addrtype",
    "--dst-type": "addrtype",
    "--set-xmark": "MARK",
    "--random-fully": "MASQUERADE",
    "--reject-with": "REJECT",
    "--map-set": "SET",
    "--map-mark": "SET",
}
_INVERTIBLE = {"-s", "-d", "-i", "-o", "--match-set", "--mark", "--ctstate", "--src-type", "--dst-type"}
_WITHOUT_INPUT = {"OUTPUT", "POSTROUTING"}
_WITHOUT_OUTPUT = {"PREROUTING", "INPUT"}

_NUMBER = r"0x(?:0|[1-9a-f][0-9a-f]{0,7})"
_MARK = rf"{_NUMBER}(?:/(?!0xffffffff){_NUMBER})?"
_MARK_AND_MASK = rf"{_NUMBER}/{_NUMBER}"
_STATES = r"(INVALID|NEW|RELATED|ESTABLISHED)(,(RELATED|ESTABLISHED))*(,UNTRACKED)?"
_ADDRESS_TYPES = {"LOCAL", "UNICAST", "BROADCAST", "MULTICAST"}
_REJECTS = {
    Family.IPV4: {"icmp-port-unreachable", "tcp-reset"},
    Family.IPV6: {"icmp6-port-unreachable", "tcp-reset"},
}
_DIMENSIONS = {
    SetType.HASH_IP: 1,
    SetType.BITMAP_PORT: 1,
    SetType.HASH_IP_PORT: 2,
    SetType.HASH_IP_PORT_IP: 3,
    SetType.HASH_IP_PORT_NET: 3,
}


class Refused(Exception):
    """What the tools say of a line that they do not take."""


@dataclass
class Place:
    """Where a rule is to go, and what it may refer to there."""

    family: Family
    table: str
    chain: str
    chains: Collection[str]
    """Chains that it may jump to."""
    sets: Mapping[str, IpSet | None]
    random_fully: bool


def check_rule(text: str, place: Place) -> None:
    """Refuse a rule as the tools do."""
    _Rule(place).check(text)


class _Rule:
    """A rule that is being read."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._loaded: set[str] = set()
        self._unmet: dict[str, tuple[frozenset[str], ...]] = {}
        self._protocol = ""
        self._last_general = -1

    def check(self, text: str) -> None:
        words = iter(shlex.split(text))
        for word in words:
            is_inverted = word == "!"
            option = _argument(words) if is_inverted else word
            if is_inverted and option in ("-m", "-j"):
                raise Refused(f'unexpected "!" before "{option}"')
            if is_inverted and option not in _INVERTIBLE:
                raise NotImplementedError(f"FakeIptables does not model ! before {option}")
            self._check_option(option, words)
        if self._unmet:
            raise Refused(f"{', '.join(self._unmet)}: an option is missing")

    def _check_option(self, option: str, words: Iterator[str]) -> None:
        if option in _GENERAL:
            self._check_general(option, _argument(words))
        elif option == "-m":
            self._load_match(_argument(words))
        elif option == "-j":
            self._load_target(_argument(words))
        elif option in _MODULES:
            module = _MODULES[option]
            if module not in self._loaded:
                raise Refused(f'unknown option "{option}"')
            self._meet(module, option)
            self._check_value(option, words)
        else:
            raise NotImplementedError(f"FakeIptables does not model the option {option}")

    def _check_general(self, option: str, value: str) -> None:
        rank = _GENERAL.index(option)
        if rank <= self._last_general or self._loaded:
            raise NotImplementedError(f"FakeIptables: iptables-save would not print {option} there")
        self._last_general = rank
        if option in ("-s", "-d"):
            self._check_network(value)
        elif option == "-p":
            if value not in ("tcp", "udp", "sctp"):
                raise NotImplementedError(f"FakeIptables does not model the protocol {value}")
            self._protocol = value
        else:
            self._check_interface(option, value)

    def _check_network(self, text: str) -> None:
        try:
            network = parse_network(text)
        except ValueError as error:
            raise NotImplementedError(f"FakeIptables: {error}") from None
        if str(network) != text:
            raise NotImplementedError(f"FakeIptables: iptables-save would print {network}, not {text}")
        if len(network.address) != (4 if self._place.family is Family.IPV4 else 16):
            raise Refused(f"host/network `{text}' not found")

    def _check_interface(self, option: str, name: str) -> None:
        if len(name) > 15:
            raise Refused(f"interface name `{name}' must be shorter than IFNAMSIZ (15)")
        if self._place.chain in (_WITHOUT_INPUT if option == "-i" else _WITHOUT_OUTPUT):
            raise Refused(f"Can't use {option} with {self._place.chain}")
        if name == "+":
            raise NotImplementedError("FakeIptables: iptables-save would leave out an interface of any name")

    def _load_match(self, name: str) -> None:
        if name not in _MATCHES:
            raise NotImplementedError(f"FakeIptables does not model the match {name}")
        self._load(name)

    def _load_target(self, name: str) -> None:
        is_target = name in _VERDICTS or self._place.table in _TARGETS.get(name, ())
        if not (name in self._place.chains or is_target):
            raise Refused(f"Couldn't load target `{name}'")
        self._load(name)

    def _load(self, name: str) -> None:
        self._loaded.add(name)
        if name in _NEEDS:
            self._unmet[name] = _NEEDS[name]

    def _meet(self, module: str, option: str) -> None:
        """Note that one of the options that a module needs is there."""
        rest = tuple(needs - {option} for needs in self._unmet.pop(module, ()))
        if all(rest):
            self._unmet |= {module: rest} if rest else {}

    def _check_value(self, option: str, words: Iterator[str]) -> None:
        if option in ("--match-set", "--map-set"):
            self._check_set(option, _argument(words), _argument(words))
        elif option == "--ctstate":
            _check_form(_STATES, _argument(words))
        elif option == "--mark":
            _check_form(_MARK, _argument(words))
        elif option == "--set-xmark":
            _check_form(_MARK_AND_MASK, _argument(words))
        elif option in ("--src-type", "--dst-type"):
            kind = _argument(words)
            if kind not in _ADDRESS_TYPES:
                raise Refused(f'addrtype: bad type "{kind}"')
        elif option == "--comment":
            _argument(words)
        elif option == "--random-fully":
            if not self._place.random_fully:
                raise Refused(f'unknown option "{option}"')
        elif option == "--reject-with":
            self._check_reject(_argument(words))

    def _check_set(self, option: str, name: str, directions: str) -> None:
        _check_form(r"(src|dst)(,(src|dst)){0,2}", directions)
        if name not in self._place.sets:
            raise Refused(f"Set {name} doesn't exist")
        found = self._place.sets[name]
        if found is None:
            return
        if found.family not in (None, self._place.family):
            raise Refused(f"The protocol family of set {name} is {found.family}, which is not applicable")
        # The kernel takes these without a word.
        if directions.count(",") + 1 < _DIMENSIONS[found.type]:
            raise NotImplementedError(f"FakeIptables: with {directions} nothing is ever in the set {name}")
        if option == "--map-set" and not found.has_marks:
            raise NotImplementedError(f"FakeIptables: the set {name} has no marks to give")

    def _check_reject(self, kind: str) -> None:
        if kind not in _REJECTS[self._place.family]:
            raise Refused(f'unknown reject type "{kind}"')
        if kind == "tcp-reset" and self._protocol != "tcp":
            raise Refused("Invalid argument")


def _argument(words: Iterator[str]) -> str:
    try:
        return next(words)
    except StopIteration:
        raise Refused("option requires an argument") from None


def _check_form(form: str, text: str) -> None:
    if re.fullmatch(form, text) is None:
        raise NotImplementedError(f"FakeIptables: iptables-save would not print {text!r}")
