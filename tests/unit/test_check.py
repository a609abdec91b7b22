"""What check makes of a node that it has seen."""

from __future__ import annotations

import msgspec
import pytest

from ipvs_agent import schedulers
from ipvs_agent.addresses import Family, parse_address, parse_network
from ipvs_agent.check import findings
from ipvs_agent.check.facts import Facts, Finding, Level, ModuleState, Setting
from ipvs_agent.check.text import render
from ipvs_agent.config import AgentConfig, DetectLocal, LocalMode
from ipvs_agent.kernel.api import Rules
from ipvs_agent.model import Protocol, address_key
from ipvs_agent.observed import Hook, NativeChain
from ipvs_agent.reconcile import foundation
from ipvs_agent.testing.fake_kernel import FakeKernel

BOTH = AgentConfig(cluster_networks=(parse_network("10.244.0.0/16"), parse_network("fd00:10:244::/48")))
IPV4_ALONE = AgentConfig(cluster_networks=(parse_network("10.244.0.0/16"),))
NOTHING_SAID = AgentConfig()


def config(mode, interface=""):
    return AgentConfig(detect_local=DetectLocal(mode, interface))


@pytest.fixture
def facts():
    """A node on which nothing is wrong."""
    return Facts(
        modules=dict.fromkeys(findings.modules_to_look_at(BOTH), ModuleState.THERE),
        tools=frozenset(findings.TOOLS),
        settings={name: Setting(value, True) for name, value in findings.settings(BOTH, "6.1.0").items()},
        has_ipv6=True,
        rules=tuple(Rules(flavour, family, "") for flavour in ("-nft", "-legacy") for family in Family),
        families=frozenset(Family),
        link_kind="dummy",
        link_is_ours=True,
    )


def but(facts, **fields):
    return msgspec.structs.replace(facts, **fields)


def modules(facts, state, *names):
    assert set(names) <= facts.modules.keys()
    return but(facts, modules={**facts.modules, **dict.fromkeys(names, state)})


def heads(found):
    return [(finding.level.value, finding.subject) for finding in found]


def the_one(found):
    (finding,) = found
    return finding


def test_a_node_that_has_all_it_needs(facts):
    assert [] == findings.find(facts, BOTH)
    assert [] == findings.find(but(facts, link_kind=None, link_is_ours=False), BOTH)


@pytest.mark.parametrize(
    ("state", "words", "mend"),
    [
        pytest.param(ModuleState.MISSING, "this kernel does not have", "boot a kernel", id="missing"),
        pytest.param(ModuleState.UNKNOWN, "no folder of this kernel's modules", "/lib/modules", id="unknown"),
    ],
)
@pytest.mark.parametrize("name", ["ip_vs", "ip_vs_rr", "ip_set_bitmap_port", "xt_set", "dummy"])
def test_a_module_that_is_not_there(facts, state, words, mend, name):
    finding = the_one(findings.find(modules(facts, state, name), BOTH))

    assert (Level.ERROR, "kernel modules") == (finding.level, finding.subject)
    assert words in finding.what
    assert finding.what.endswith(f" {name}")
    assert mend in finding.mend


def test_a_module_that_few_services_need(facts):
    finding = the_one(findings.find(modules(facts, ModuleState.MISSING, "ip_vs_sh"), BOTH))

    assert (Level.WARNING, "kernel modules") == (finding.level, finding.subject)
    assert "does not have ip_vs_sh" in finding.what
    for state in (ModuleState.INSTALLED, ModuleState.UNKNOWN):
        assert [] == findings.find(modules(facts, state, "ip_vs_sh"), BOTH)


def test_a_module_is_missed_once(facts):
    asked = msgspec.structs.replace(BOTH, scheduler="sh")

    finding = the_one(findings.find(modules(facts, ModuleState.MISSING, "ip_vs_sh"), asked))

    assert Level.ERROR is finding.level


def test_modules_to_be_loaded_need_modprobe(facts):
    facts = modules(facts, ModuleState.INSTALLED, "ip_vs", "xt_set")
    without = but(facts, tools=facts.tools - {"modprobe"})

    assert [] == findings.find(facts, BOTH)
    assert (
        "not loaded, and modprobe is not in PATH: ip_vs, xt_set" == the_one(findings.find(without, BOTH)).what
    )


def test_the_scheduler_of_the_configuration_counts():
    for scheduler in schedulers.SCHEDULERS.values():
        config = AgentConfig(scheduler=scheduler.name)

        assert scheduler.module in findings.modules_to_look_at(config)


@pytest.mark.parametrize("release", ["5.4.0-216-generic", "6.1.0-44-cloud-amd64"])
def test_the_agent_needs_no_module_and_writes_no_setting_that_is_not_looked_at(release):
    for config, strict_arp in ((BOTH, False), (msgspec.structs.replace(BOTH, strict_arp=True), True)):
        kernel = FakeKernel()
        kernel.sysctls.values["kernel/osrelease"] = release
        foundation.lay(kernel, foundation.Needs(strict_arp=strict_arp))

        assert dict(kernel.sysctls.written) == findings.settings(config, release)
        assert kernel.modules.loaded <= set(findings.modules_to_look_at(config))


@pytest.mark.parametrize(
    ("setting", "what"),
    [
        pytest.param(Setting("0", False), "0, must be 1, and cannot be written", id="wrong"),
        pytest.param(Setting(None, False), "not there yet, must be 1, and cannot be written", id="to come"),
        pytest.param(Setting("1", False), None, id="right"),
        pytest.param(Setting("0", True), None, id="wrong, but the agent will write it"),
        pytest.param(Setting(None, True), None, id="to come, and the agent will write it"),
    ],
)
def test_settings(facts, setting, what):
    name = "net/ipv4/vs/conntrack"
    found = findings.find(but(facts, settings={**facts.settings, name: setting}), BOTH)

    expected = [("error", "sysctl net.ipv4.vs.conntrack", what)] if what else []
    assert expected == [(finding.level.value, finding.subject, finding.what) for finding in found]
    assert all("sysctl -w net.ipv4.vs.conntrack=1" in finding.mend for finding in found)


LEGACY4, LEGACY6 = ("ip_tables", "iptable_nat"), ("ip6_tables", "ip6table_nat")
NFT = ("nf_tables", "nft_compat")


@pytest.mark.parametrize(
    ("tools", "missing", "expected"),
    [
        pytest.param("iptables-nft ip6tables-nft", LEGACY4 + LEGACY6, [], id="nft alone"),
        pytest.param("iptables-legacy ip6tables-legacy", NFT, [], id="legacy alone"),
        pytest.param("iptables ip6tables", NFT, [], id="tools of one kind on a kernel of the same"),
        pytest.param("iptables ip6tables", LEGACY4 + LEGACY6, [], id="or of the other kind"),
        pytest.param("iptables-nft ip6tables-nft", ["nft_compat"], [("error", "iptables")], id="no kernel"),
        pytest.param("", [], [("error", "iptables")], id="no tools"),
        pytest.param("iptables-nft", [], [("warning", "IPv6")], id="no ip6tables"),
        pytest.param("ip6tables", [], [("warning", "IPv4")], id="no iptables"),
        pytest.param(
            "iptables-legacy ip6tables-legacy", LEGACY6, [("warning", "IPv6")], id="kernel of one family"
        ),
    ],
)
def test_tools_of_iptables(facts, tools, missing, expected):
    tools = frozenset(f"{tool}-restore" for tool in tools.split()) | {"modprobe"}
    facts = but(modules(facts, ModuleState.MISSING, *missing), tools=tools)

    assert expected == heads(findings.find(facts, BOTH))


def test_the_words_for_a_family_that_cannot_be_served(facts):
    without_kernel = modules(facts, ModuleState.MISSING, *NFT, *LEGACY6)
    without_tools = but(
        facts, tools=facts.tools - {f"ip6tables{each}-restore" for each in ("", "-nft", "-legacy")}
    )

    assert "does not have what ip6tables needs: nf_tables, nft_compat, ip6_tables, ip6table_nat" in str(
        findings.find(without_kernel, BOTH)
    )
    assert "ip6tables-restore is not in PATH" in str(findings.find(without_tools, BOTH))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        pytest.param(BOTH, [("warning", "IPv6")], id="ranges of both families"),
        pytest.param(IPV4_ALONE, [], id="a range of IPv4 alone: nobody asks for IPv6"),
        pytest.param(config(LocalMode.NODE_CIDR), [("warning", "IPv6")], id="nobody says which families"),
    ],
)
def test_a_node_without_ipv6(facts, config, expected):
    facts = but(facts, has_ipv6=False, families=frozenset({Family.IPV4}))

    assert expected == heads(findings.find(facts, config))


def test_a_node_without_ipv6_needs_the_tools_of_ipv4(facts):
    facts = but(facts, has_ipv6=False, tools=frozenset({"ip6tables-nft-restore"}))

    assert ("error", "iptables") in heads(findings.find(facts, BOTH))


@pytest.mark.parametrize(
    ("kind", "is_ours", "expected"),
    [
        pytest.param("dummy", False, [("warning", "kube-ipvs0")], id="of kube-proxy"),
        pytest.param("veth", False, [("error", "kube-ipvs0")], id="of another kind"),
        pytest.param("", False, [("error", "kube-ipvs0")], id="hardware"),
    ],
)
def test_the_link(facts, kind, is_ours, expected):
    assert expected == heads(findings.find(but(facts, link_kind=kind, link_is_ours=is_ours), BOTH))


@pytest.mark.parametrize(
    ("config", "families", "names"),
    [
        pytest.param(NOTHING_SAID, {Family.IPV4, Family.IPV6}, "IPv4 and IPv6", id="no clusterCIDR"),
        pytest.param(NOTHING_SAID, {Family.IPV4}, "IPv4", id="no clusterCIDR on a node of one family"),
        pytest.param(IPV4_ALONE, {Family.IPV4, Family.IPV6}, "IPv6", id="clusterCIDR of the other family"),
        pytest.param(IPV4_ALONE, {Family.IPV4}, None, id="clusterCIDR of the family"),
        pytest.param(config(LocalMode.NODE_CIDR), {Family.IPV4, Family.IPV6}, None, id="NodeCIDR"),
        pytest.param(config(LocalMode.BRIDGE_INTERFACE, "cni0"), {Family.IPV4}, None, id="bridge"),
    ],
)
def test_how_clients_inside_the_cluster_are_told(facts, config, families, names):
    found = findings.find(but(facts, families=frozenset(families)), config)

    assert ([("warning", "clusterCIDR")] if names else []) == heads(found)
    assert all(finding.what.startswith(f"says nothing of {names}, so") for finding in found)


@pytest.mark.parametrize(("everything", "is_said"), [(False, True), (True, False)])
def test_clients_outside_are_masqueraded_without_a_range_where_all_are(facts, everything, is_said):
    found = the_one(findings.find(facts, AgentConfig(masquerade_all=everything)))

    assert is_said == ("clients outside that dial cluster IPs keep their address" in found.what)


def test_a_bridge_that_is_not_there(facts):
    bridge = config(LocalMode.BRIDGE_INTERFACE, "cni0")
    finding = the_one(findings.find(but(facts, bridge_is_there=False), bridge))

    assert "there is no network interface cni0 on this node" == finding.what


MARKED = "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -i eth0 -j MARK --set-xmark 0x1/0x1\n"


@pytest.mark.parametrize(
    ("flavour", "family", "saved", "words"),
    [
        pytest.param(
            "-nft",
            Family.IPV4,
            MARKED,
            "`iptables-nft -t filter -A INPUT -i eth0 -j MARK --set-xmark 0x1/0x1`; ",
            id="one",
        ),
        pytest.param(
            "", Family.IPV6, MARKED + "-A INPUT -j MARK --set-xmark 0x2/0x2\n", "` and 1 more; ", id="two"
        ),
    ],
)
def test_rules_of_others_that_write_marks(facts, flavour, family, saved, words):
    rules = (*facts.rules, Rules(flavour, family, saved))
    finding = the_one(findings.find(but(facts, rules=rules), BOTH))

    assert (Level.WARNING, "packet marks") == (finding.level, finding.subject)
    assert words in finding.what


def test_chains_of_nftables_that_write_marks(facts):
    families = frozenset(Family)
    chains = (
        NativeChain(families, "inet wall", "input", Hook.INPUT, 0, marks=1),
        NativeChain(families, "inet wall", "forward", 2, 0, marks=1),
        NativeChain(frozenset({Family.IPV6}), "ip6 wall", "input", Hook.INPUT, 0, marks=1),
    )
    finding = the_one(findings.find(but(facts, native=chains), BOTH))

    assert (Level.WARNING, "packet marks") == (finding.level, finding.subject)
    assert "see `nft list chain inet wall input` and 1 more; so with externalTrafficPolicy" in finding.what


def test_virtual_servers_of_others(facts):
    keys = tuple(address_key(Protocol.TCP, parse_address("192.0.2.1"), port) for port in range(80, 85))
    finding = the_one(findings.find(but(facts, foreign=keys), BOTH))

    assert finding.what.startswith(
        "not ours: `-t 192.0.2.1:80`, `-t 192.0.2.1:81`, `-t 192.0.2.1:82` and 2 more; a Service"
    )


def test_what_the_configuration_cannot_have(facts):
    finding = the_one(findings.find(facts, msgspec.structs.replace(BOTH, localhost_node_ports=True)))

    assert "IPVS cannot serve node ports on 127.0.0.1" in finding.what
    assert "set iptables.localhostNodePorts to false" == finding.mend


def test_errors_come_before_warnings(facts):
    facts = but(modules(facts, ModuleState.MISSING, "ip_vs"), link_kind="veth", link_is_ours=False)
    levels = [level for level, _ in heads(findings.find(facts, NOTHING_SAID))]

    assert ["error", "error", "warning"] == levels


def test_what_people_read():
    found = [
        Finding(Level.ERROR, "iptables", "is not there", "install it"),
        Finding(Level.WARNING, "IPv6", "is off", "switch it on"),
    ]

    assert render(found, "node-a") == (
        "error: iptables: is not there\n    install it\nwarning: IPv6: is off\n    switch it on\n"
    )
    assert render([], "node-a") == "node-a: nothing is wrong\n"
