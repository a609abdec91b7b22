"""The iptables rules: the same few for any number of Services, because what differs is in the sets.

Rules are spelled exactly as iptables-save prints them, legacy and nft alike, so that "is it there already" is
a comparison of lines. How a packet travels, by table:

nat PREROUTING, OUTPUT      the flow gets the masquerade mark, or not, before IPVS takes it
mangle INPUT, OUTPUT        clients inside the cluster get the mark of a virtual server (desired/split.py)
filter INPUT                who may not reach a Service is dropped, and what is not a Service's is refused on
                            VIPs; IPVS has not yet seen the packet here
mangle POSTROUTING          IPVS has chosen the real server: the mark of a virtual server has done its work
nat POSTROUTING             marked and hairpin flows are masqueraded
filter FORWARD              answers of real servers on their way back to clients
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from ipvs_agent.addresses import Family, Network, family_of
from ipvs_agent.desired import sets
from ipvs_agent.desired.sets import PREFIX, Purpose, set_name
from ipvs_agent.desired.split import OF_OTHERS, TAG, TAG_MASK

Rules = Mapping[str, tuple[str, ...]]
"""Rules by chain, without "-A CHAIN"."""


class Jump(msgspec.Struct, frozen=True):
    """A rule in a chain that is not ours."""

    chain: str
    target: str
    first: bool
    """At the chain's head; else at its end, where rules of the node's administrator come before it."""


class Table(msgspec.Struct, frozen=True):
    """What is ours in one table."""

    name: str
    rules: Rules
    jumps: tuple[Jump, ...]


class Masquerade(msgspec.Struct, frozen=True):
    """How flows are masqueraded, and how clients inside the cluster are known."""

    bit: int = 14
    """The bit of the packet mark that says "masquerade"."""
    everything: bool = False
    """Also what cluster clients send to cluster IPs."""
    cluster_networks: tuple[Network, ...] = ()
    """Where clients inside the cluster have their addresses, at most one network for each family."""
    cluster_interface: str = ""
    """Where packets of this node's pods come in, "cni0" or "veth+"; empty: their addresses tell."""
    knows_node: bool = False
    """Whether clients that are known to be inside the cluster are known to be on this node too: networks of
    the whole cluster do not say so, nor does the Node's podCIDRs where a CNI has its own idea of them."""
    random_fully: bool = False
    """Whether the node's iptables knows --random-fully."""
    writes_marks: bool = True
    """Whether clients inside the cluster get the marks of virtual servers: not where rules of others would
    change them before they have done their work."""

    def inside(self, family: Family) -> list[str]:
        """Return the matches for clients inside the cluster; none where nobody said how to know them."""
        if self.cluster_interface:
            return [f"-i {self.cluster_interface}"]
        return [f"-s {network}" for network in self.cluster_networks if _is_of(network, family)]


_JUMPS = {
    "nat": (
        Jump("PREROUTING", f"{PREFIX}-PREROUTING", first=True),
        Jump("OUTPUT", f"{PREFIX}-OUTPUT", first=True),
        Jump("POSTROUTING", f"{PREFIX}-POSTROUTING", first=True),
    ),
    "mangle": (
        Jump("INPUT", f"{PREFIX}-INPUT", first=False),
        Jump("OUTPUT", f"{PREFIX}-OUTPUT", first=False),
        Jump("POSTROUTING", f"{PREFIX}-POSTROUTING", first=False),
    ),
    "filter": (
        Jump("INPUT", f"{PREFIX}-INPUT", first=True),
        Jump("INPUT", f"{PREFIX}-ACCEPT", first=False),
        Jump("FORWARD", f"{PREFIX}-FORWARD", first=True),
    ),
}

# At the rule's end, since nothing follows a jump to a chain, and a comment before it may say anything.
_JUMP_TO_OURS = re.compile(rf"(?:^| )-j {PREFIX}-[\w-]+$")

_IS_NEW = "-m conntrack --ctstate NEW"
# Of what raw rules keep from conntrack nobody can say whether it is new.
_MAY_BE_NEW = "-m conntrack --ctstate NEW,UNTRACKED"
_IS_SPLIT = f"-m mark --mark {TAG:#x}/{TAG_MASK:#x}"
_IS_NOT_SPLIT = f"-m mark ! --mark {TAG:#x}/{TAG_MASK:#x}"
_TO_HEALTH = f"-p tcp -m set --match-set {sets.HEALTH.name} dst"


def tables(family: Family, masquerade: Masquerade) -> list[Table]:
    """Return the rules that a family needs."""
    rules = {
        "nat": _nat(family, masquerade),
        "mangle": _mangle(family, masquerade),
        "filter": _filter(family),
    }
    return [Table(name, chains, _JUMPS[name]) for name, chains in rules.items()]


def _nat(family: Family, masquerade: Masquerade) -> Rules:
    services, external = _to(Purpose.SERVICES, family), _to(Purpose.EXTERNAL, family)
    bit = f"{1 << masquerade.bit:#x}"
    mark = f"-j MARK --set-xmark {bit}/{bit}"
    masquerading = "-j MASQUERADE" + (" --random-fully" if masquerade.random_fully else "")
    off_cluster = [""] if masquerade.everything else [f"! {match} " for match in masquerade.inside(family)]
    # Whom a mark would have masqueraded.
    by_address = not masquerade.writes_marks and not masquerade.knows_node
    unmarked = masquerade.inside(family) if by_address else []
    return {
        f"{PREFIX}-PREROUTING": (
            *(f"{match}{_to(Purpose.CLUSTER, family)} {mark}" for match in off_cluster),
            f"{external} {mark}",
            *(f"{match} {_to(Purpose.MARKS, family)} {mark}" for match in unmarked),
            f"{services} -j ACCEPT",  # or a CNI's hostPort could take the flow away (k/k#61938)
        ),
        f"{PREFIX}-OUTPUT": (
            f"{_IS_SPLIT} -j ACCEPT",  # it must stay as it is until IPVS has seen it
            # The node may dial a VIP from the VIP itself, an address that every node takes for its own.
            f"{services} {mark}",
            f"{services} -j ACCEPT",
        ),
        f"{PREFIX}-POSTROUTING": (
            f"-m set --match-set {set_name(Purpose.HAIRPIN, family)} dst,dst,src {masquerading}",
            f"-m mark ! --mark {bit}/{bit} -j RETURN",
            f"-j MARK --set-xmark 0x0/{bit}",  # a tunnel's outer packet inherits the mark, and is not ours
            masquerading,
        ),
    }


def _mangle(family: Family, masquerade: Masquerade) -> Rules:
    to_mark = f"-j SET --map-set {set_name(Purpose.MARKS, family)} dst,dst --map-mark"
    # Answers to pods of other nodes would not pass this one.
    of_node_alone = "-m addrtype --src-type LOCAL " if masquerade.knows_node else ""
    bit = 1 << masquerade.bit
    ours = 0xFFFFFFFF ^ OF_OTHERS
    masquerading = f"{of_node_alone}-j MARK --set-xmark {bit:#x}/{ours | bit:#x}"
    inside = masquerade.inside(family) if masquerade.writes_marks else []
    return {
        f"{PREFIX}-INPUT": tuple(f"{match} {to_mark}" for match in inside),
        f"{PREFIX}-OUTPUT": (_not_allowed(family), *([to_mark] if masquerade.writes_marks else [])),
        f"{PREFIX}-POSTROUTING": (
            f"{_IS_SPLIT} {_IS_NEW} {masquerading}",
            f"{_IS_SPLIT} -j MARK --set-xmark 0x0/{ours:#x}",
        ),
    }


def _filter(family: Family) -> Rules:
    services = _to(Purpose.SERVICES, family)
    vips = f"-m set --match-set {set_name(Purpose.VIPS, family)} dst"
    unreachable = "icmp-port-unreachable" if family is Family.IPV4 else "icmp6-port-unreachable"
    return {
        f"{PREFIX}-INPUT": (
            _not_allowed(family),
            # What is established goes on: to an endpoint that drains, on this node.
            f"{_to(Purpose.NOLOCAL, family)} {_IS_NOT_SPLIT} {_IS_NEW} -j DROP",
            f"{services} -j RETURN",
            f"{_to(Purpose.OTHERS, family)} -j RETURN",
            f"{_TO_HEALTH} -j RETURN",
            f"-p tcp {vips} {_MAY_BE_NEW} -j REJECT --reject-with tcp-reset",
            f"{vips} {_MAY_BE_NEW} -j REJECT --reject-with {unreachable}",
        ),
        f"{PREFIX}-ACCEPT": (f"{services} -j ACCEPT", f"{_TO_HEALTH} -j ACCEPT"),
        f"{PREFIX}-FORWARD": ("-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",),
    }


def _to(purpose: str, family: Family) -> str:
    """Return the match for what is sent to an address and port of a set."""
    return f"-m set --match-set {set_name(purpose, family)} dst,dst"


def _not_allowed(family: Family) -> str:
    allowed = set_name(Purpose.ALLOWED, family)
    return f"{_to(Purpose.RESTRICTED, family)} -m set ! --match-set {allowed} dst,dst,src -j DROP"


def _is_of(network: Network, family: Family) -> bool:
    return family_of(network.address) is family


def restore_text(wanted: Iterable[Table], saved: str) -> str:
    """Return the iptables-restore input that brings a node to the wanted rules; empty where it has them.

    saved: what iptables-save printed. A table is committed as a whole, so no packet sees half of it.
    """
    present = parse(saved)
    return "".join(
        _rewrite(table, present.get(table.name, {})) for table in wanted if not _is_there(table, present)
    )


def removal_text(saved: str) -> str:
    """Return the iptables-restore input that removes all that is ours; empty where there is nothing."""
    text = []
    for name, chains in parse(saved).items():
        ours = [chain for chain in chains if sets.is_our_name(chain)]
        lines = [f"-D {chain} {rule}" for chain, rule in _our_jumps(chains)]
        lines += [f"-F {chain}" for chain in ours] + [f"-X {chain}" for chain in ours]
        if lines:
            text.append("\n".join([f"*{name}", *lines, "COMMIT", ""]))
    return "".join(text)


def parse(saved: str) -> dict[str, dict[str, list[str]]]:
    """Return rules by table and chain from what iptables-save printed, without counters and "-A CHAIN"."""
    found: dict[str, dict[str, list[str]]] = {}
    chains: dict[str, list[str]] = {}
    for line in saved.splitlines():
        if line.startswith("*"):
            chains = found.setdefault(line[1:].strip(), {})
        elif line.startswith(":"):
            chains.setdefault(line[1:].split(" ", 1)[0], [])
        elif line.startswith("-A "):
            chain, _, rule = line.removeprefix("-A ").partition(" ")  # a rule that only counts is empty
            chains.setdefault(chain, []).append(rule.strip())
    return found


def _is_there(table: Table, present: Mapping[str, Mapping[str, Sequence[str]]]) -> bool:
    chains = present.get(table.name, {})
    ours = {chain: tuple(rules) for chain, rules in chains.items() if sets.is_our_name(chain)}
    jumps = [(jump.chain, f"-j {jump.target}") for jump in table.jumps]
    return ours == dict(table.rules) and sorted(_our_jumps(chains)) == sorted(jumps)


def _our_jumps(chains: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
    return [
        (chain, rule)
        for chain, rules in chains.items()
        if not sets.is_our_name(chain)
        for rule in rules
        if _JUMP_TO_OURS.search(rule)
    ]


def _rewrite(table: Table, chains: Mapping[str, Sequence[str]]) -> str:
    lines = [f"*{table.name}"]
    lines += [f":{chain} - [0:0]" for chain in table.rules]
    lines += [f"-A {chain} {rule}" for chain, rules in table.rules.items() for rule in rules]
    lines += [f"-D {chain} {rule}" for chain, rule in _our_jumps(chains)]
    lines += [f"{'-I' if jump.first else '-A'} {jump.chain} -j {jump.target}" for jump in table.jumps]
    stray = [chain for chain in chains if sets.is_our_name(chain) and chain not in table.rules]
    lines += [f"-F {chain}" for chain in stray] + [f"-X {chain}" for chain in stray]
    return "\n".join([*lines, "COMMIT", ""])
