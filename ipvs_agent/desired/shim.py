"""The iptables rules: the same few for any number of Services, because what differs is in the sets.

Rules are spelled exactly as iptables-save prints them, legacy and nft alike, so that "is it there already" is
a comparison of lines. How a packet travels, by table:

nat PREROUTING, OUTPUT    the flow gets the masquerade mark, or not, before IPVS takes it
filter INPUT              what is not a Service's is refused on VIPs; IPVS has not yet seen the packet here
nat POSTROUTING           IPVS has chosen the real server: marked and hairpin flows are masqueraded
filter FORWARD            answers of real servers on their way back to clients
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from ipvs_agent.addresses import Family, Network
from ipvs_agent.desired.sets import PREFIX, Purpose, set_name

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
    """How flows are masqueraded."""

    bit: int = 14
    """The bit of the packet mark that says "masquerade"."""
    everything: bool = False
    """Also what cluster clients send to cluster IPs."""
    cluster_networks: tuple[Network, ...] = ()
    """Where cluster clients have their addresses, at most one network for each family."""
    random_fully: bool = False
    """Whether the node's iptables knows --random-fully."""


_JUMPS = {
    "nat": (
        Jump("PREROUTING", f"{PREFIX}-PREROUTING", first=True),
        Jump("OUTPUT", f"{PREFIX}-OUTPUT", first=True),
        Jump("POSTROUTING", f"{PREFIX}-POSTROUTING", first=True),
    ),
    "filter": (
        Jump("INPUT", f"{PREFIX}-INPUT", first=True),
        Jump("INPUT", f"{PREFIX}-ACCEPT", first=False),
        Jump("FORWARD", f"{PREFIX}-FORWARD", first=True),
    ),
}

# At the rule's end, since nothing follows a jump to a chain, and a comment before it may say anything.
_JUMP_TO_OURS = re.compile(rf"(?:^| )-j {PREFIX}-[\w-]+$")


def tables(family: Family, masquerade: Masquerade) -> list[Table]:
    """Return the rules that a family needs."""
    services, cluster, external, vips, hairpin = (
        f"-m set --match-set {set_name(purpose, family)}"
        for purpose in (
            Purpose.SERVICES,
            Purpose.CLUSTER,
            Purpose.EXTERNAL,
            Purpose.VIPS,
            Purpose.HAIRPIN,
        )
    )
    bit = f"{1 << masquerade.bit:#x}"
    mark = f"-j MARK --set-xmark {bit}/{bit}"
    masquerading = "-j MASQUERADE" + (" --random-fully" if masquerade.random_fully else "")
    unreachable = "icmp-port-unreachable" if family is Family.IPV4 else "icmp6-port-unreachable"
    nat = {
        f"{PREFIX}-PREROUTING": (
            *(f"{match}{cluster} dst,dst {mark}" for match in _off_cluster(family, masquerade)),
            f"{external} dst,dst {mark}",
            f"{services} dst,dst -j ACCEPT",  # or a CNI's hostPort could take the flow away (k/k#61938)
        ),
        # The node dials a VIP from the VIP itself, an address that only this node answers for.
        f"{PREFIX}-OUTPUT": (f"{services} dst,dst {mark}", f"{services} dst,dst -j ACCEPT"),
        f"{PREFIX}-POSTROUTING": (
            f"{hairpin} dst,dst,src {masquerading}",
            f"-m mark ! --mark {bit}/{bit} -j RETURN",
            f"-j MARK --set-xmark 0x0/{bit}",  # a tunnel's outer packet inherits the mark, and is not ours
            masquerading,
        ),
    }
    is_new = "-m conntrack --ctstate NEW"
    packet_filter = {
        f"{PREFIX}-INPUT": (
            f"{services} dst,dst -j RETURN",
            f"-p tcp {vips} dst {is_new} -j REJECT --reject-with tcp-reset",
            f"{vips} dst {is_new} -j REJECT --reject-with {unreachable}",
        ),
        f"{PREFIX}-ACCEPT": (f"{services} dst,dst -j ACCEPT",),
        f"{PREFIX}-FORWARD": ("-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",),
    }
    return [Table("nat", nat, _JUMPS["nat"]), Table("filter", packet_filter, _JUMPS["filter"])]


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
        ours = [chain for chain in chains if chain.startswith(PREFIX)]
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
            _, chain, rule = line.split(" ", 2)
            chains.setdefault(chain, []).append(rule.strip())
    return found


def _off_cluster(family: Family, masquerade: Masquerade) -> list[str]:
    """Return the match for clients outside the cluster; none where nobody said what is inside."""
    if masquerade.everything:
        return [""]
    width = 4 if family is Family.IPV4 else 16
    return [f"! -s {net} " for net in masquerade.cluster_networks if len(net.address) == width]


def _is_there(table: Table, present: Mapping[str, Mapping[str, Sequence[str]]]) -> bool:
    chains = present.get(table.name, {})
    ours = {chain: tuple(rules) for chain, rules in chains.items() if chain.startswith(PREFIX)}
    jumps = [(jump.chain, f"-j {jump.target}") for jump in table.jumps]
    return ours == dict(table.rules) and sorted(_our_jumps(chains)) == sorted(jumps)


def _our_jumps(chains: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
    return [
        (chain, rule)
        for chain, rules in chains.items()
        if not chain.startswith(PREFIX)
        for rule in rules
        if _JUMP_TO_OURS.search(rule)
    ]


def _rewrite(table: Table, chains: Mapping[str, Sequence[str]]) -> str:
    lines = [f"*{table.name}"]
    lines += [f":{chain} - [0:0]" for chain in table.rules]
    lines += [f"-A {chain} {rule}" for chain, rules in table.rules.items() for rule in rules]
    lines += [f"-D {chain} {rule}" for chain, rule in _our_jumps(chains)]
    lines += [f"{'-I' if jump.first else '-A'} {jump.chain} -j {jump.target}" for jump in table.jumps]
    stray = [chain for chain in chains if chain.startswith(PREFIX) and chain not in table.rules]
    lines += [f"-F {chain}" for chain in stray] + [f"-X {chain}" for chain in stray]
    return "\n".join([*lines, "COMMIT", ""])
