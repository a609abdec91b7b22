"""What is wrong with a node, from what was seen of it; pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from ipvs_agent import schedulers
from ipvs_agent.addresses import FAMILY_NAMES, Family, family_of
from ipvs_agent.check.facts import Facts, Finding, Level, ModuleState
from ipvs_agent.config import AgentConfig, LocalMode, remarks
from ipvs_agent.desired import releases
from ipvs_agent.desired.marks import foreign_writers, native_writers
from ipvs_agent.model import SetType
from ipvs_agent.operations import LINK

_FLAVOURS = ("-nft", "-legacy", "")
"""What the names of iptables' tools have behind them, where a node has one or both kinds."""
MODPROBE = "modprobe"
TOOLS = (
    MODPROBE,
    *(f"{name}{flavour}-restore" for name in ("iptables", "ip6tables") for flavour in _FLAVOURS),
)

_MODULES = (
    *("ip_vs", "nf_conntrack", "dummy", "ip_set"),
    *(f"ip_set_{kind.value.replace(':', '_').replace(',', '')}" for kind in SetType),
    *("xt_set", "xt_mark", "xt_conntrack", "xt_addrtype"),
)
_BY_SOURCE = schedulers.SCHEDULERS["sh"].module
_NFT = ("nf_tables", "nft_compat")
_LEGACY = {Family.IPV4: ("ip_tables", "iptable_nat"), Family.IPV6: ("ip6_tables", "ip6table_nat")}
BACKENDS = ("nf_tables", "ip_tables", "ip6_tables")
"""The modules without which there are no rules."""

_NAMED = 3
"""How many of many are named."""

Findings = Iterator[Finding]


def modules_to_look_at(config: AgentConfig) -> tuple[str, ...]:
    """Return the modules whose state the findings are made of."""
    needed = (*_MODULES, schedulers.SCHEDULERS[config.scheduler].module)
    return (*needed, _BY_SOURCE, *_NFT, *(name for names in _LEGACY.values() for name in names))


def settings(config: AgentConfig, release: str) -> Mapping[str, str]:
    """Return the sysctls that the agent sets on a kernel of some release."""
    wanted = {
        "net/ipv4/vs/conntrack": "1",
        "net/ipv4/vs/expire_nodest_conn": "1",
        "net/ipv4/vs/expire_quiescent_template": "1",
        "net/ipv4/ip_forward": "1",
    }
    if config.strict_arp:
        wanted |= {"net/ipv4/conf/all/arp_ignore": "1", "net/ipv4/conf/all/arp_announce": "2"}
    if releases.drops_reused_ports(release):
        wanted["net/ipv4/vs/conn_reuse_mode"] = "0"
    return wanted


def find(facts: Facts, config: AgentConfig) -> list[Finding]:
    """Return all that is wrong, errors first."""
    found = [
        *_modules(facts, config),
        *_settings(facts, config),
        *_packet_filter(facts, config),
        *_link(facts),
        *_detector(facts, config),
        *_marks(facts),
        *_foreign(facts),
        *_remarks(config),
    ]
    return sorted(found, key=lambda finding: finding.level is not Level.ERROR)


def _modules(facts: Facts, config: AgentConfig) -> Findings:
    needed = (*_MODULES, schedulers.SCHEDULERS[config.scheduler].module)
    subject = "kernel modules"
    missing = _in_state(facts, ModuleState.MISSING, needed)
    if missing:
        yield Finding(
            Level.ERROR,
            subject,
            f"this kernel does not have {', '.join(missing)}",
            "boot a kernel that has them, such as the distribution's full one (Debian: linux-image-amd64)",
        )
    unknown = _in_state(facts, ModuleState.UNKNOWN, needed)
    if unknown:
        yield Finding(
            Level.ERROR,
            subject,
            f"not loaded, and no folder of this kernel's modules to load from: {', '.join(unknown)}",
            "in a container, mount the node's /lib/modules; or `modprobe` them on the node",
        )
    installed = _in_state(facts, ModuleState.INSTALLED, needed)
    if installed and MODPROBE not in facts.tools:
        yield Finding(
            Level.ERROR,
            subject,
            f"not loaded, and {MODPROBE} is not in PATH: {', '.join(installed)}",
            "install the package kmod; or `modprobe` them on the node",
        )
    if _BY_SOURCE not in missing and facts.modules[_BY_SOURCE] is ModuleState.MISSING:
        yield Finding(
            Level.WARNING,
            subject,
            f"this kernel does not have {_BY_SOURCE}: with session affinity and externalTrafficPolicy Local,"
            " clients inside the cluster are not kept at one endpoint",
            "boot a kernel that has it, if there are such Services",
        )


def _in_state(facts: Facts, state: ModuleState, names: Iterable[str]) -> list[str]:
    return [name for name in names if facts.modules[name] is state]


def _settings(facts: Facts, config: AgentConfig) -> Findings:
    for name, wanted in settings(config, facts.release).items():
        setting = facts.settings[name]
        if setting.value == wanted or setting.is_writable:
            continue
        dotted = name.replace("/", ".")
        yield Finding(
            Level.ERROR,
            f"sysctl {dotted}",
            f"{setting.value or 'not there yet'}, must be {wanted}, and cannot be written",
            f"run `sysctl -w {dotted}={wanted}` on the node, or let the agent write to /proc/sys"
            " (in a container: privileged)",
        )


def _packet_filter(facts: Facts, config: AgentConfig) -> Findings:
    refusals = {family: _refusal(facts, family) for family in Family}
    if all(refusals.values()):
        yield Finding(
            Level.ERROR,
            "iptables",
            f"nothing can be served, for no tool of this node can work: {'; '.join(refusals.values())}",
            "install the package iptables; boot a kernel with nf_tables and nft_compat, or with iptable_nat",
        )
        return
    for family, refusal in refusals.items():
        if refusal and _is_asked_for(family, config):
            yield Finding(
                Level.WARNING,
                FAMILY_NAMES[family],
                f"Services are not served over it: {refusal}",
                "mend that; or say by a clusterCIDR of the other family alone that it is not wanted",
            )


def _refusal(facts: Facts, family: Family) -> str:
    """Return why no tool can work for a family; empty where one may."""
    if family is Family.IPV6 and not facts.has_ipv6:
        return "this node has no IPv6, or net.ipv6.conf.default.disable_ipv6 is 1"
    name = "iptables" if family is Family.IPV4 else "ip6tables"
    present = [flavour for flavour in _FLAVOURS if f"{name}{flavour}-restore" in facts.tools]
    if not present:
        return f"{name}-restore is not in PATH"
    backends = {"-nft": [_NFT], "-legacy": [_LEGACY[family]], "": [_NFT, _LEGACY[family]]}
    missing = []
    for backend in dict.fromkeys(backend for flavour in present for backend in backends[flavour]):
        absent = _in_state(facts, ModuleState.MISSING, backend)
        if not absent:
            return ""
        missing += absent
    return f"this kernel does not have what {name} needs: {', '.join(missing)}"


def _link(facts: Facts) -> Findings:
    if facts.link_kind is None or facts.link_is_ours:
        return
    if facts.link_kind == "dummy":
        yield Finding(
            Level.WARNING,
            LINK,
            "not made by ipvs-agent, so another may still write to it, and addresses of others stay on it",
            f"stop kube-proxy; then `kube-proxy --cleanup` or `ip link del {LINK}` removes what it has left",
        )
    else:
        yield Finding(
            Level.ERROR,
            LINK,
            f"not a dummy interface but {facts.link_kind or 'a device'}",
            "rename or remove it",
        )


def _is_asked_for(family: Family, config: AgentConfig) -> bool:
    """Tell whether a family may be wanted; a clusterCIDR of the other one alone says that it is not."""
    is_told_by_networks = config.detect_local.mode is LocalMode.CLUSTER_CIDR and config.cluster_networks
    return not is_told_by_networks or family in _detected(config)


def _detected(config: AgentConfig) -> set[Family]:
    return {family_of(network.address) for network in config.cluster_networks}


def _detector(facts: Facts, config: AgentConfig) -> Findings:
    mode = config.detect_local.mode
    without = sorted(facts.families - _detected(config))
    if mode is LocalMode.CLUSTER_CIDR and without:
        masquerade = (
            "" if config.masquerade_all else "; clients outside that dial cluster IPs keep their address"
        )
        yield Finding(
            Level.WARNING,
            "clusterCIDR",
            f"says nothing of {' and '.join(FAMILY_NAMES[family] for family in without)}, so clients inside"
            " the cluster cannot be told from those outside: with externalTrafficPolicy Local all of them get"
            f" endpoints of this node, or of any node where this one has none{masquerade}",
            "set clusterCIDR to the addresses of all pods, or detectLocalMode to what tells this node's pods",
        )
    if mode is LocalMode.BRIDGE_INTERFACE and not facts.bridge_is_there:
        yield Finding(
            Level.WARNING,
            "detectLocal.bridgeInterface",
            f"there is no network interface {config.detect_local.interface} on this node",
            "name the bridge of this node's pods; where it is made with the first pod, nothing is wrong",
        )


def _marks(facts: Facts) -> Findings:
    for rules in facts.rules:
        tool = f"{'iptables' if rules.family is Family.IPV4 else 'ip6tables'}{rules.flavour}"
        yield from _spoiled([f"`{tool} {rule}`" for rule in foreign_writers(rules.saved).of_marks])
    native = [text for family in Family for text in native_writers(facts.native, family).of_marks]
    yield from _spoiled([f"see `{text}`" for text in dict.fromkeys(native)])


def _spoiled(writers: Sequence[str]) -> Findings:
    if writers:
        yield Finding(
            Level.WARNING,
            "packet marks",
            f"changed by a rule that is not ours, before they have done their work: {writers[0]}"
            f"{_and_more(writers, 1)}; so with externalTrafficPolicy Local clients inside the cluster may"
            " get endpoints of this node alone, and clients outside any where this node has none",
            "have whatever writes these rules leave out packets to the addresses of Services, if it can",
        )


def _foreign(facts: Facts) -> Findings:
    if facts.foreign:
        named = ", ".join(f"`{key}`" for key in facts.foreign[:_NAMED])
        yield Finding(
            Level.WARNING,
            "virtual servers",
            f"not ours: {named}{_and_more(facts.foreign, _NAMED)}; a Service that wants such an address and"
            " port does not get it",
            "leave them if something else needs them; else `kube-proxy --cleanup`, or `ipvsadm -D` for each",
        )


def _remarks(config: AgentConfig) -> Findings:
    for remark in remarks(config):
        yield Finding(Level.WARNING, "configuration", remark, "set iptables.localhostNodePorts to false")


def _and_more(all_of_them: Sequence[object], named: int) -> str:
    return f" and {len(all_of_them) - named} more" if len(all_of_them) > named else ""
