"""ipvs-agent check from the command line, and how it looks at a node."""

from __future__ import annotations

import os

import pytest

from ipvs_agent import cli
from ipvs_agent.addresses import Family, parse_address
from ipvs_agent.check import observe
from ipvs_agent.check.facts import ModuleState, Setting
from ipvs_agent.check.findings import modules_to_look_at
from ipvs_agent.cli import check
from ipvs_agent.config import AgentConfig, DetectLocal, LocalMode
from ipvs_agent.desired import sets
from ipvs_agent.model import Protocol, VirtualServer, address_key
from ipvs_agent.operations import AddMember, AddVirtualServer
from ipvs_agent.testing.fake_kernel import FakeKernel

CONFIG = """\
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clusterCIDR: 10.244.0.0/16
"""
VIP = parse_address("10.96.0.1")
OURS, OTHERS = (address_key(Protocol.TCP, VIP, port) for port in (80, 81))


class ClosableKernel(FakeKernel):
    def close(self):
        self.is_closed = True


@pytest.fixture
def files(tmp_path):
    """The folders of a node with all modules loaded and all settings writable."""
    files = observe.Files(tmp_path / "module", tmp_path / "modules", tmp_path / "sys")
    for name in modules_to_look_at(AgentConfig()):
        (files.loaded / name).mkdir(parents=True)
    files.installed.mkdir()
    for name in FakeKernel().sysctls.values:
        (files.settings / name).parent.mkdir(parents=True, exist_ok=True)
        (files.settings / name).touch()
    return files


@pytest.fixture
def links(monkeypatch):
    """What the node's network interfaces were made as, by name."""
    links = {}
    monkeypatch.setattr(observe, "_link_kind", links.get)
    return links


@pytest.fixture
def kernel(monkeypatch, files, links):
    """The kernel of a node that has all it needs, with a virtual server that is ours."""
    kernel = ClosableKernel()
    kernel.sysctls.values["net/ipv6/conf/default/disable_ipv6"] = "0"
    for ip_set in sets.sets_of(Family.IPV4):
        kernel.ipsets.create(ip_set)
    kernel.ipsets.apply([AddMember(sets.port_member(sets.Purpose.SERVICES, OURS))])
    kernel.ipvs.apply([AddVirtualServer(VirtualServer(OURS, "rr"))])
    monkeypatch.setattr(check, "NodeKernel", lambda: kernel)
    monkeypatch.setattr(check, "Files", lambda: files)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(observe.shutil, "which", lambda tool: f"/sbin/{tool}")
    return kernel


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    return str(path)


def test_a_node_on_which_nothing_is_wrong(kernel, config, capsys):
    assert cli.main(["check", "--config", config, "--node-name", "Node-A"]) == 0

    assert ("node-a: nothing is wrong\n", "") == capsys.readouterr()
    assert kernel.is_closed


def test_a_finding(kernel, config, capsys):
    kernel.ipvs.apply([AddVirtualServer(VirtualServer(OTHERS, "rr"))])

    assert cli.main(["check", "--config", config, "--node-name", "node-a"]) == 1

    output, errors = capsys.readouterr()
    assert output.startswith("warning: virtual servers: not ours: `-t 10.96.0.1:81`; ")
    assert (2, "") == (output.count("\n"), errors)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param(["--node-name", "a b"], "--node-name: 'a b' cannot be", id="name"),
        pytest.param(["--config", "/nowhere"], "/nowhere: No such file", id="no file"),
        pytest.param(["--config", ""], "argument --config: the path is empty", id="empty path"),
        pytest.param(["--manifests", "x"], "unrecognized arguments: --manifests", id="option of run"),
    ],
)
def test_wrong_usage(kernel, capsys, words, message):
    try:
        status = cli.main(["check", *words])
    except SystemExit as exit_:
        status = exit_.code

    assert (2, True) == (status, message in capsys.readouterr().err)


def test_only_root_can_judge(kernel, config, capsys, monkeypatch):
    """Without rights no rule is seen, and that must not look like a node without faults."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)

    assert cli.main(["check", "--config", config, "--node-name", "node-a"]) == 1

    output, errors = capsys.readouterr()
    assert ("", True) == (output, "run as root" in errors)


def state_of(kernel, files, name):
    return observe.observe(kernel, AgentConfig(), files).modules[name]


def test_states_of_a_module(kernel, files):
    name = "xt_set"
    assert ModuleState.THERE is state_of(kernel, files, name)

    (files.loaded / name).rmdir()
    assert ModuleState.MISSING is state_of(kernel, files, name)

    (files.installed / "modules.dep").write_text("kernel/a/other.ko: kernel/net/netfilter/xt_set.ko\n")
    assert ModuleState.MISSING is state_of(kernel, files, name)

    (files.installed / "modules.dep").write_text("kernel/net/netfilter/xt-set.ko.xz: kernel/a/ip_set.ko.xz\n")
    assert ModuleState.INSTALLED is state_of(kernel, files, name)

    (files.installed / "modules.builtin").write_text("kernel/a/b.ko\nkernel/net/netfilter/xt_set.ko\n")
    assert ModuleState.THERE is state_of(kernel, files, name)


def test_without_the_folder_of_modules_it_cannot_be_told(kernel, files):
    (files.loaded / "xt_set").rmdir()
    files.installed.rmdir()

    assert ModuleState.UNKNOWN is state_of(kernel, files, "xt_set")


@pytest.mark.parametrize("name", ["ip_vs", "ip_set"])
def test_what_is_not_loaded_is_not_asked(kernel, files, monkeypatch, name):
    """The kernel would load it to answer."""

    def fail():
        raise AssertionError(f"{name} was asked")

    (files.loaded / name).rmdir()
    adapter, method = {"ip_vs": ("ipvs", "virtual_servers"), "ip_set": ("ipsets", "sets")}[name]
    monkeypatch.setattr(getattr(kernel, adapter), method, fail)

    observe.observe(kernel, AgentConfig(), files)


def test_without_sets_no_virtual_server_is_ours(kernel, files):
    (files.loaded / "ip_set").rmdir()

    assert (OURS,) == observe.observe(kernel, AgentConfig(), files).foreign


def test_settings_that_are_to_come_are_as_writable_as_others(kernel, files, monkeypatch):
    name = "net/ipv4/vs/conntrack"
    is_writable = {files.settings / name: False, files.settings / "net/ipv4/ip_forward": True}
    monkeypatch.setattr(os, "access", lambda path, mode: mode == os.W_OK and is_writable.get(path, False))
    assert Setting("0", False) == observe.observe(kernel, AgentConfig(), files).settings[name]

    del kernel.sysctls.values[name]
    assert Setting(None, True) == observe.observe(kernel, AgentConfig(), files).settings[name]


@pytest.mark.parametrize(("value", "expected"), [("0", True), ("1", False), (None, False)])
def test_whether_there_is_ipv6(kernel, files, value, expected):
    name = "net/ipv6/conf/default/disable_ipv6"
    kernel.sysctls.values.pop(name)
    if value is not None:
        kernel.sysctls.values[name] = value

    assert expected == observe.observe(kernel, AgentConfig(), files).has_ipv6


def test_the_bridge_of_the_configuration(kernel, files, links):
    config = AgentConfig(detect_local=DetectLocal(LocalMode.BRIDGE_INTERFACE, "cni0"))
    prefix = AgentConfig(detect_local=DetectLocal(LocalMode.INTERFACE_NAME_PREFIX, "cali+"))
    assert not observe.observe(kernel, config, files).bridge_is_there
    assert observe.observe(kernel, prefix, files).bridge_is_there

    links["cni0"] = "bridge"
    assert observe.observe(kernel, config, files).bridge_is_there


@pytest.mark.parametrize(
    ("addresses", "families"),
    [
        ([], set()),
        (["192.0.2.1", "10.244.1.1"], {Family.IPV4}),
        (["192.0.2.1", "2001:db8::1"], {Family.IPV4, Family.IPV6}),
    ],
)
def test_the_families_of_the_node_are_those_of_its_addresses(kernel, files, addresses, families):
    kernel.node_addresses.assign("eth0", addresses)

    assert families == observe.observe(kernel, AgentConfig(), files).families


def test_rules_are_asked_for_where_there_can_be_some(kernel, files, monkeypatch):
    for name in ("nf_tables", "ip_tables"):
        (files.loaded / name).rmdir()
    assert observe.observe(kernel, AgentConfig(), files).rules

    (files.loaded / "ip6_tables").rmdir()
    assert not observe.observe(kernel, AgentConfig(), files).rules


def test_the_rules_of_all_flavours_are_looked_at(kernel, files):
    text = "*filter\n-A INPUT -j MARK --set-xmark 0x1/0x1\nCOMMIT\n"
    kernel.iptables.restore(Family.IPV4, text)

    (rules,) = (rules for rules in observe.observe(kernel, AgentConfig(), files).rules if rules.saved)
    assert text.splitlines()[1] in rules.saved
