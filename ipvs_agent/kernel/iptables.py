"""The packet filter, through the node's own iptables tools.

A node may have iptables in two flavours, legacy and nft, whose rules are both in force. Rules belong where
the node's other rules are, so that their order is what people see; the kubelet says by a chain of its own
which flavour that is (KEP-3178). Rules of ours from before outweigh that: in another flavour they would stay.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from ipvs_agent.addresses import Family
from ipvs_agent.errors import CommandFailed, MissingModule
from ipvs_agent.kernel.api import Rules
from ipvs_agent.kernel.modules import NodeModules

_LEGACY = "-legacy"
_FLAVOURS = ("-nft", _LEGACY)
_UNNAMED = ""  # what a node has that has only one
_OURS = ":IPVS-AGENT-"
_HINTS = (":KUBE-IPTABLES-HINT ", ":KUBE-KUBELET-CANARY ")

# How long another program may hold /run/xtables.lock; the nft tools take the option and need no lock.
_LOCK_SECONDS = "30"
_LOCK_HELD = "xtables lock"
_TIMEOUT_SECONDS = 60

# Neither iptables-save nor --test notices that the kernel lacks all of a flavour, and a chain that comes and
# goes in one transaction changes no rule.
_PROBE = "*nat\n:IPVS-AGENT-PROBE - [0:0]\n-F IPVS-AGENT-PROBE\n-X IPVS-AGENT-PROBE\nCOMMIT\n"
_RANDOM_FULLY = "--random-fully"
# The first that knows it; every kernel since 3.13 has it.
_RANDOM_FULLY_SINCE = (1, 6, 2)
_VERSION = re.compile(r"\bv(\d+)\.(\d+)\.(\d+)")

_LEGACY_TABLES = {Family.IPV4: "/proc/net/ip_tables_names", Family.IPV6: "/proc/net/ip6_tables_names"}


class _Tools(NamedTuple):
    """The tools of one flavour."""

    flavour: str
    families: frozenset[Family]
    """The families for which they work."""
    refusals: Mapping[Family, str]
    """Why they do not work for the other families."""


class _Refused(CommandFailed):
    """A tool does not work; a plain CommandFailed says no more than that it did not work this time."""


class NodeIptables:
    """The rules in the network namespace of the calling thread, in the flavour that the node uses."""

    def __init__(self, modules: NodeModules | None = None) -> None:
        self._modules = modules or NodeModules()
        self._found: _Tools | None = None
        self._random_fully: bool | None = None
        """Whether MASQUERADE takes --random-fully; None: nothing was refused, so nobody had to ask."""

    def save(self, family: Family) -> str:
        """Return the rules of all tables, as iptables-save prints them."""
        return _saved(self._tools.flavour, family)

    def restore(self, family: Family, text: str, flavour: str | None = None) -> None:
        """Apply iptables-restore input without flushing what it does not name; all of a table or nothing."""
        try:
            _restore(self._tools.flavour if flavour is None else flavour, family, text)
        except _Refused:
            if self._random_fully is None and _RANDOM_FULLY in text:
                self._random_fully = _knows_random_fully(self._tools.flavour, family)
            raise

    def all_rules(self) -> list[Rules]:
        """Return the rules of every flavour and family that can be read; for this nothing is written."""
        candidates = [_candidate(flavour) for flavour in _FLAVOURS]
        if not any(candidate.saved for candidate in candidates):
            candidates = [_candidate(_UNNAMED)]
        return [
            Rules(candidate.flavour, family, saved)
            for candidate in candidates
            for family, saved in candidate.saved.items()
        ]

    def families(self) -> frozenset[Family]:
        """Return the families whose tools work on this node; never empty, or MissingModule is raised.

        Each call asks those again that did not work: what was in their way may have gone.
        """
        if self._found is not None and self._found.refusals:
            self._found = self._asked_again(self._found)
        return self._tools.families

    def refusals(self) -> Mapping[Family, str]:
        """Return for each family that is not among `families` why its tools do not work."""
        return self._tools.refusals

    def switched_off(self) -> frozenset[Family]:
        """Return the families that the node does not have, whatever its tools say."""
        return frozenset() if _has_ipv6() else frozenset({Family.IPV6})

    def supports_random_fully(self) -> bool:
        """Tell whether MASQUERADE takes --random-fully here, which is not known until rules are refused."""
        return self._random_fully is not False

    @property
    def _tools(self) -> _Tools:
        if self._found is None:
            self._found = self._find()
        return self._found

    def _find(self) -> _Tools:
        refused: list[str] = []
        for candidate in self._candidates():
            refusals = dict(candidate.refusals)
            working = set[Family]()
            if candidate.flavour == _LEGACY:
                self._modules.try_to_load(
                    *(name for family in candidate.saved for name in _legacy_modules(family))
                )
            for family in candidate.saved:
                try:
                    self._try(candidate.flavour, family)
                    working.add(family)
                except _Refused as error:
                    refusals[family] = str(error)
            if working:
                return _Tools(candidate.flavour, frozenset(working), refusals)
            refused += refusals.values()
        raise MissingModule(
            "no iptables of this node works: it needs the package iptables, and the kernel modules nf_tables"
            f" and nft_compat, or ip_tables and iptable_nat: {'; '.join(refused)}"
        )

    def _candidates(self) -> Iterator[_Candidate]:
        """Yield the flavours of this node, the one first that the node seems to use."""
        # The tools ask the kernel for a module even where it has none, which takes a modprobe each time.
        flavours = [name for name in _FLAVOURS if name == _LEGACY or self._modules.may_have("nf_tables")]
        if self._modules.is_idle("nf_tables") and self._modules.has("ip_tables"):
            # Without its module nft has no rules, and who has had the other one loaded uses that.
            yield _candidate(_LEGACY)
            flavours.remove(_LEGACY)
        named = [_candidate(flavour) for flavour in flavours]
        # A stable sort: nft where nothing else decides.
        yield from sorted(named, key=lambda candidate: candidate.usage, reverse=True)
        yield _candidate(_UNNAMED)

    def _asked_again(self, known: _Tools) -> _Tools:
        """Return the same flavour, in which the rules are, with what is known of its families now."""
        working = set(known.families)
        refusals: dict[Family, str] = {}
        for family in known.refusals:
            try:
                _require_family(family)
                _require(_command(known.flavour, family, "save"))
                if known.flavour == _LEGACY:
                    self._modules.try_to_load(*_legacy_modules(family))
                _saved(known.flavour, family)
                self._try(known.flavour, family)
                working.add(family)
            except CommandFailed as error:
                refusals[family] = str(error)
        return _Tools(known.flavour, frozenset(working), refusals)

    def _try(self, flavour: str, family: Family) -> None:
        """Raise _Refused where a flavour does not work for a family."""
        _require_family(family)
        if flavour == _LEGACY and self._modules.has(*_legacy_modules(family)):
            _require(_command(flavour, family, "restore"))  # the kernel's part is there
        else:
            _restore(flavour, family, _PROBE)


class _Candidate(NamedTuple):
    """A flavour of this node, as far as it can be told without writing."""

    flavour: str
    saved: Mapping[Family, str]
    """The rules of the families whose tools can at least print rules."""
    refusals: Mapping[Family, str]

    @property
    def usage(self) -> tuple[bool, bool, int]:
        """Whether rules of ours are in it, whether the kubelet uses it, and how many rules it holds."""
        rules = "".join(self.saved.values())
        return _OURS in rules, any(hint in rules for hint in _HINTS), rules.count("\n-A ")


def _candidate(flavour: str) -> _Candidate:
    saved: dict[Family, str] = {}
    refusals: dict[Family, str] = {}
    for family in Family:
        try:
            saved[family] = _saved(flavour, family)
        except _Refused as error:
            refusals[family] = str(error)
    return _Candidate(flavour, saved, refusals)


def _saved(flavour: str, family: Family) -> str:
    if flavour == _LEGACY and not _has_legacy_tables(family):
        return ""
    return _run(_command(flavour, family, "save"))


def _has_legacy_tables(family: Family) -> bool:
    """Tell without a process whether there can be legacy rules; asking for them would load their modules."""
    try:
        return bool(Path(_LEGACY_TABLES[family]).read_text())
    except FileNotFoundError:
        return False


def _legacy_modules(family: Family) -> tuple[str, ...]:
    """Return what the legacy tools and the kernel would start a modprobe for, one by one."""
    ip = "ip" if family is Family.IPV4 else "ip6"
    return (f"{ip}_tables", f"{ip}table_filter", f"{ip}table_nat", f"{ip}table_mangle")


def _has_ipv6() -> bool:
    # What a new interface such as kube-ipvs0 gets. No such file: the kernel has no IPv6, or ipv6.disable=1.
    try:
        return Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").read_text().strip() == "0"
    except FileNotFoundError:
        return False


def _command(flavour: str, family: Family, action: str) -> str:
    return f"{'iptables' if family is Family.IPV4 else 'ip6tables'}{flavour}-{action}"


def _restore(flavour: str, family: Family, text: str) -> None:
    _run(_command(flavour, family, "restore"), "--noflush", "-w", _LOCK_SECONDS, text=text)


def _knows_random_fully(flavour: str, family: Family) -> bool:
    """Ask for the version of a flavour's tools; those of both families come together."""
    try:
        said = _run(_command(flavour, family, "restore"), "--version")
    except CommandFailed:
        return False
    found = _VERSION.search(said)
    return found is not None and tuple(map(int, found.groups())) >= _RANDOM_FULLY_SINCE


def _require_family(family: Family) -> None:
    if family is Family.IPV6 and not _has_ipv6():
        raise _Refused("this node has no IPv6, or net.ipv6.conf.default.disable_ipv6 is 1")


def _require(command: str) -> None:
    # shutil.which would do; at a start its import takes as long as what it is asked for.
    found = (Path(folder, command) for folder in os.get_exec_path())
    if not any(path.is_file() and os.access(path, os.X_OK) for path in found):
        raise _not_in_path(command)


def _not_in_path(command: str) -> _Refused:
    return _Refused(f"{command} is not in PATH: install the package iptables")


def _run(command: str, *arguments: str, text: str = "") -> str:
    """Run a tool and return its output; raise CommandFailed with what it said and the line that it named."""
    try:
        done = subprocess.run(
            [command, *arguments],
            input=text,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_SECONDS,
            env=os.environ | {"LC_ALL": "C"},
            check=False,
        )
    except FileNotFoundError as error:
        raise _not_in_path(command) from error
    except OSError as error:
        raise CommandFailed(f"{command} cannot be started: {error.strerror}", error.errno or 0) from error
    except subprocess.TimeoutExpired as error:
        raise CommandFailed(f"{command} did not end within {_TIMEOUT_SECONDS} s and was killed") from error
    if done.returncode:
        said = " ".join(done.stderr.split()) or f"exit status {done.returncode}"
        # Status 4 would not do: it also is what the nft tools say where the kernel has no nf_tables.
        kind = CommandFailed if _LOCK_HELD in said else _Refused
        raise kind(f"{command}: {said}{_quoted_line(said, text)}")
    return done.stdout


def _quoted_line(said: str, text: str) -> str:
    """Return the line of the input that a tool complains of, to be put behind its words."""
    found = re.search(r"\bline:? (\d+)", said)
    lines = text.splitlines()
    if found is None or not 0 < int(found[1]) <= len(lines):
        return ""
    return f": {lines[int(found[1]) - 1]!r}"
