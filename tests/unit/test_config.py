"""kube-proxy's file read into the agent's configuration."""

from __future__ import annotations

import json
import socket

import msgspec
import pytest

from ipvs_agent.addresses import parse_address, parse_network
from ipvs_agent.config import (
    AgentConfig,
    DetectLocal,
    LocalMode,
    node_name,
    read_kube_proxy_configuration,
    remarks,
)
from ipvs_agent.config.values import Listen
from ipvs_agent.durations import parse_duration
from ipvs_agent.errors import ConfigError

HEAD = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"

KUBEADM = (
    HEAD
    + """\
bindAddress: 0.0.0.0
clientConnection:
  burst: 0
  kubeconfig: /var/lib/kube-proxy/kubeconfig.conf
clusterCIDR: 10.244.0.0/16
conntrack:
  maxPerCore: null
detectLocal:
  bridgeInterface: ""
  interfaceNamePrefix: ""
detectLocalMode: ""
featureGates: {}
hostnameOverride: ""
iptables:
  localhostNodePorts: null
  masqueradeAll: false
  masqueradeBit: null
ipvs:
  minSyncPeriod: 0s
  scheduler: ""
  syncPeriod: 0s
mode: ipvs
nodePortAddresses: null
somethingNew:
  of: the next version
"""
)


def listen(port, *texts):
    return Listen(port, tuple(map(parse_address, texts)))


@pytest.fixture
def read(tmp_path):
    """Return a function that reads a text as kube-proxy's file."""

    def read_text(text):
        path = tmp_path / "config.conf"
        path.write_text(text)
        return read_kube_proxy_configuration(path)

    return read_text


def networks(*texts):
    return tuple(parse_network(text) for text in texts)


def test_of_fields_that_stand_twice_the_last_counts(read):
    """kube-proxy falls back to reading such a file so."""
    assert "sh" == read(HEAD + "ipvs: {scheduler: wlc}\nipvs: {scheduler: sh}")[0].scheduler


def test_file_of_kubeadm(read):
    """What kubeadm writes is read: its zeros and nulls are defaults, and what has no effect is named."""
    expected = AgentConfig(
        kubeconfig="/var/lib/kube-proxy/kubeconfig.conf", cluster_networks=networks("10.244.0.0/16")
    )
    without_effect = (
        "bindAddress",
        "clientConnection.burst",
        "featureGates",
        "somethingNew.of",
    )

    assert (expected, without_effect) == read(KUBEADM)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("", {}, id="nothing said"),
        pytest.param("hostnameOverride: node-1", {"hostname_override": "node-1"}, id="hostnameOverride"),
        pytest.param(
            "clusterCIDR: 10.244.0.0/16, fd00::/56",
            {"cluster_networks": networks("10.244.0.0/16", "fd00::/56")},
            id="clusterCIDR of both families",
        ),
        pytest.param(
            "nodePortAddresses: [192.168.0.7/24]",
            {"node_port_addresses": networks("192.168.0.0/24")},
            id="nodePortAddresses",
        ),
        pytest.param("nodePortAddresses: [primary]", {"node_port_primary": True}, id="primary addresses"),
        pytest.param("iptables: {masqueradeBit: 0}", {"masquerade_bit": 0}, id="masqueradeBit"),
        pytest.param("iptables: {masqueradeAll: true}", {"masquerade_all": True}, id="masqueradeAll"),
        pytest.param("iptables: {localhostNodePorts: true}", {"localhost_node_ports": True}, id="localhost"),
        pytest.param(
            "iptables: {localhostNodePorts: false}", {"localhost_node_ports": False}, id="no localhost"
        ),
        pytest.param("detectLocalMode: ''", {}, id="detectLocalMode left to kube-proxy"),
        pytest.param(
            "detectLocalMode: ClusterCIDR", {"detect_local": DetectLocal(LocalMode.CLUSTER_CIDR)}, id="CIDR"
        ),
        pytest.param(
            "detectLocalMode: NodeCIDR", {"detect_local": DetectLocal(LocalMode.NODE_CIDR)}, id="NodeCIDR"
        ),
        pytest.param(
            "detectLocalMode: BridgeInterface\ndetectLocal: {bridgeInterface: cni0}",
            {"detect_local": DetectLocal(LocalMode.BRIDGE_INTERFACE, "cni0")},
            id="BridgeInterface",
        ),
        pytest.param(
            "detectLocalMode: BridgeInterface\ndetectLocal: {bridgeInterface: br-0123456789.a}",
            {"detect_local": DetectLocal(LocalMode.BRIDGE_INTERFACE, "br-0123456789.a")},
            id="the longest name of a bridge",
        ),
        pytest.param(
            "detectLocalMode: InterfaceNamePrefix\ndetectLocal: {interfaceNamePrefix: cali}",
            {"detect_local": DetectLocal(LocalMode.INTERFACE_NAME_PREFIX, "cali+")},
            id="InterfaceNamePrefix",
        ),
        pytest.param("ipvs: {scheduler: wlc}", {"scheduler": "wlc"}, id="scheduler"),
        pytest.param("ipvs: {syncPeriod: 1m30s}", {"sync_period": 90.0}, id="syncPeriod"),
        pytest.param("ipvs: {minSyncPeriod: 1s}", {"min_sync_period": 1.0}, id="minSyncPeriod"),
        pytest.param("ipvs: {minSyncPeriod: 0s}", {}, id="minSyncPeriod left to kube-proxy"),
        pytest.param("ipvs: {strictARP: true}", {"strict_arp": True}, id="strictARP"),
        *(
            pytest.param(f"{name}BindAddress: '{text}'", expected, id=f"{name} {text}")
            for name, port in (("healthz", 10256), ("metrics", 10249))
            for text, expected in (
                ("", {}),
                ("0.0.0.0", {name: listen(port, "0.0.0.0", "::")}),
                ("[::]:80", {name: listen(80, "0.0.0.0", "::")}),
                ("::", {name: listen(port, "0.0.0.0", "::")}),
                ("10.0.0.1", {name: listen(port, "10.0.0.1")}),
                ("10.0.0.1:1", {name: listen(1, "10.0.0.1")}),
                ("[fd00::1]:65535", {name: listen(65535, "fd00::1")}),
            )
        ),
        pytest.param("ipvs: null", {}, id="null section"),
        pytest.param("mode: ''", {}, id="mode left to kube-proxy"),
    ],
)
def test_fields_with_effect(read, text, expected):
    assert (AgentConfig(**expected), ()) == read(HEAD + text)


@pytest.mark.parametrize(
    ("text", "field"),
    [
        pytest.param("ipvs: {excludeCIDRs: [10.0.0.0/8]}", "ipvs.excludeCIDRs", id="excludeCIDRs"),
        pytest.param("ipvs: {tcpTimeout: 15m}", "ipvs.tcpTimeout", id="tcp"),
        pytest.param("ipvs: {tcpFinTimeout: 2m}", "ipvs.tcpFinTimeout", id="fin"),
        pytest.param("ipvs: {udpTimeout: 300s}", "ipvs.udpTimeout", id="udp"),
        pytest.param("mode: nftables", "mode", id="another mode"),
        pytest.param(
            "detectLocal: {bridgeInterface: cni0}", "detectLocal.bridgeInterface", id="bridge of another mode"
        ),
        pytest.param(
            "detectLocal: {interfaceNamePrefix: the longest of all names}",
            "detectLocal.interfaceNamePrefix",
            id="prefix of another mode",
        ),
    ],
)
def test_fields_that_are_named_as_without_effect(read, text, field):
    assert (AgentConfig(), (field,)) == read(HEAD + text)


def test_the_range_of_the_cluster_has_no_effect_where_the_nodes_own_decides(read):
    """As in kube-proxy, which hands clusterCIDR to the detector of that mode alone."""
    config, without_effect = read(HEAD + "detectLocalMode: NodeCIDR\nclusterCIDR: 10.244.0.0/16")

    assert (LocalMode.NODE_CIDR, ("clusterCIDR",)) == (config.detect_local.mode, without_effect)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(
            "ipvs:\n  syncPeriod: 30 s",
            "line 4: ipvs.syncPeriod: '30 s' is not a duration such as 30s or 1m30s",
            id="duration",
        ),
        pytest.param(
            "ipvs: {syncPeriod: 30}", "line 3: ipvs.syncPeriod: expected str, got int", id="wrong type"
        ),
        pytest.param("ipvs: {syncPeriod: -1s}", "line 3: ipvs.syncPeriod: '-1s' is negative", id="negative"),
        pytest.param(
            "ipvs:\n  syncPeriod: 10s\n  minSyncPeriod: 1m",
            "line 5: ipvs.minSyncPeriod: must not be longer than ipvs.syncPeriod",
            id="minSyncPeriod above syncPeriod",
        ),
        pytest.param(
            "ipvs: {udpTimeout: 5}", "line 3: ipvs.udpTimeout: expected str, got int", id="of no effect"
        ),
        pytest.param(
            "ipvs: {tcpTimeout: 5d}",
            "line 3: ipvs.tcpTimeout: '5d' is not a duration such as 30s or 1m30s",
            id="duration of no effect",
        ),
        pytest.param(
            "ipvs: {scheduler: WLC}",
            "line 3: ipvs.scheduler: there is no scheduler 'WLC'; did you mean wlc?",
            id="scheduler",
        ),
        pytest.param(
            "iptables: {masqueradeBit: 32}",
            "line 3: iptables.masqueradeBit: 32 is not a bit of a mark (0 to 31)",
            id="masqueradeBit",
        ),
        pytest.param(
            "ipvs: {syncPeriod: 2562048h}",
            "line 3: ipvs.syncPeriod: '2562048h' is longer than 2562047h",
            id="syncPeriod for ever",
        ),
        pytest.param(
            "clusterCIDR: 10.0.0.0/33",
            "line 3: clusterCIDR: '10.0.0.0/33' is not a network in CIDR form",
            id="clusterCIDR",
        ),
        pytest.param(
            "clusterCIDR: 10.0.0.0/16,10.1.0.0/16",
            "line 3: clusterCIDR: '10.0.0.0/16,10.1.0.0/16' has more than one range of a family",
            id="clusterCIDR twice in a family",
        ),
        pytest.param(
            "detectLocalMode: clusterCIDR",
            "line 3: detectLocalMode: 'clusterCIDR' is none of"
            " ClusterCIDR, NodeCIDR, BridgeInterface, InterfaceNamePrefix",
            id="detectLocalMode",
        ),
        pytest.param(
            "detectLocalMode: BridgeInterface",
            "line 1: detectLocal.bridgeInterface: must not be empty with this detectLocalMode",
            id="bridge that nobody names",
        ),
        pytest.param(
            "detectLocalMode: InterfaceNamePrefix\ndetectLocal:\n  interfaceNamePrefix: ' '",
            "line 5: detectLocal.interfaceNamePrefix: must not be empty with this detectLocalMode",
            id="blank prefix",
        ),
        pytest.param(
            "detectLocalMode: BridgeInterface\ndetectLocal:\n  bridgeInterface: br-0123456789.ab",
            "line 5: detectLocal.bridgeInterface: 'br-0123456789.ab' is longer than 15 characters",
            id="long name of a bridge",
        ),
        pytest.param(
            "detectLocalMode: InterfaceNamePrefix\ndetectLocal: {interfaceNamePrefix: veth0123456789a}",
            "line 4: detectLocal.interfaceNamePrefix: 'veth0123456789a' is longer than 14 characters",
            id="prefix that is too long with its plus sign",
        ),
        *(
            pytest.param(
                f"{field}: '{text}'",
                f"line 3: {field}: '{text}' is no IP address and port such as 0.0.0.0:10256",
                id=f"{field} {text}",
            )
            for field in ("healthzBindAddress", "metricsBindAddress")
            for text in (
                "all:1",
                "10.0.0.1]:1",
                "10.0.0.1:0",
                "10.0.0.1:65536",
                "10.0.0.1:",
                "[::1]",
                "[::1]:x",
                ":10256",
                "[::ffff:10.0.0.1]:1",
            )
        ),
        pytest.param(
            "iptables: {localhostNodePorts: 1}",
            "line 3: iptables.localhostNodePorts: expected bool, got int",
            id="localhostNodePorts",
        ),
        pytest.param(
            "nodePortAddresses: [primary, 10.0.0.0/8]",
            "line 3: nodePortAddresses: primary must stand alone",
            id="primary beside a range",
        ),
        pytest.param(
            "ipvs:\n  excludeCIDRs: [all]",
            "line 4: ipvs.excludeCIDRs: 'all' is not an IP address",
            id="excludeCIDRs",
        ),
        pytest.param(
            "---\nmode: ''",
            "one document is needed, of kind KubeProxyConfiguration, and there are 2",
            id="two",
        ),
        pytest.param(
            "ipvs: {\n", "line 4: while parsing a flow node did not find expected node content", id="cut"
        ),
    ],
)
def test_refused_values(read, tmp_path, text, message):
    """A value that cannot be used is refused by file, line, field and reason."""
    with pytest.raises(ConfigError) as caught:
        read(HEAD + text)

    assert f"{tmp_path}/config.conf: {message}" == str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(
            "", "one document is needed, of kind KubeProxyConfiguration, and there are 0", id="empty"
        ),
        pytest.param("[]", "line 1: object: expected object, got array", id="a list"),
        pytest.param(
            "kind: KubeProxyConfiguration",
            "line 1: apiVersion: is missing, and must be kubeproxy.config.k8s.io/v1alpha1",
            id="no apiVersion",
        ),
        pytest.param(
            "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeletConfiguration",
            "line 2: kind: 'KubeletConfiguration' must be KubeProxyConfiguration",
            id="another kind",
        ),
    ],
)
def test_refused_files(read, tmp_path, text, message):
    with pytest.raises(ConfigError) as caught:
        read(text)

    assert f"{tmp_path}/config.conf: {message}" == str(caught.value)


@pytest.mark.parametrize("character", [*" /:%!*+'\"\\", "\t", "\x7f", "ä"])
def test_characters_that_no_rule_can_match(read, character):
    """Each would end the rule, mean something else in it, or stand in no interface's name."""
    names = json.dumps({"bridgeInterface": f"a{character}b"})

    with pytest.raises(ConfigError, match=r"detectLocal\.bridgeInterface: .*no network interface"):
        read(HEAD + f"detectLocalMode: BridgeInterface\ndetectLocal: {names}")


@pytest.mark.parametrize("name", [".", ".."])
def test_names_that_are_folders_in_sysfs(read, name):
    with pytest.raises(ConfigError, match=r"detectLocal\.bridgeInterface: .*cannot be the name"):
        read(HEAD + f"detectLocalMode: BridgeInterface\ndetectLocal: {{bridgeInterface: {name}}}")


@pytest.mark.parametrize(("asked", "count"), [(None, 0), (False, 0), (True, 1)])
def test_node_ports_on_localhost_are_remarked_on_where_they_are_asked_for(asked, count):
    sentences = remarks(AgentConfig(localhost_node_ports=asked))

    assert count == len(sentences)
    assert all("IPVS cannot serve node ports on 127.0.0.1" in sentence for sentence in sentences)


def test_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.conf: No such file or directory"):
        read_kube_proxy_configuration(tmp_path / "none.conf")


def test_file_that_is_not_text(tmp_path):
    path = tmp_path / "config.conf"
    path.write_bytes(b"a: b\n\xff")

    with pytest.raises(ConfigError, match="line 2: not UTF-8 text"):
        read_kube_proxy_configuration(path)


def test_json(read):
    """The file may be JSON."""
    document = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "ipvs": {"scheduler": "sh"},
    }

    assert (AgentConfig(scheduler="sh"), ()) == read(json.dumps(document, indent="\t"))


@pytest.mark.parametrize(
    ("flag", "override", "expected"),
    [
        pytest.param("Flag", "file", "flag", id="the flag is stronger than the file"),
        pytest.param(None, " File ", "file", id="the file is stronger than the host"),
        pytest.param(None, "", "host.example", id="the host's name in lower case"),
    ],
)
def test_node_name(monkeypatch, flag, override, expected):
    monkeypatch.setattr(socket, "gethostname", lambda: "Host.Example")

    assert expected == node_name(flag, msgspec.structs.replace(AgentConfig(), hostname_override=override))


@pytest.mark.parametrize(
    ("flag", "override", "message"),
    [
        pytest.param("", "file", "--node-name: '' cannot be", id="an empty flag"),
        pytest.param("a b", "", "--node-name: 'a b' cannot be", id="a space"),
        pytest.param("x,y=z", "", "--node-name: 'x,y=z' cannot be", id="what selectors are made of"),
        pytest.param(None, "node_1", "hostnameOverride: 'node_1' cannot be", id="the file's"),
        pytest.param(None, "", "the host's name: 'my_host' cannot be", id="the host's"),
    ],
)
def test_names_that_no_node_can_have(monkeypatch, flag, override, message):
    monkeypatch.setattr(socket, "gethostname", lambda: "my_host")

    with pytest.raises(ConfigError, match=message):
        node_name(flag, msgspec.structs.replace(AgentConfig(), hostname_override=override))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("0s", 0),
        ("30s", 30),
        ("1m30s", 90),
        ("1h", 3600),
        ("1.5h", 5400),
        ("100ms", 0.1),
        ("-2s", -2),
    ],
)
def test_durations(text, seconds):
    assert pytest.approx(seconds) == parse_duration(text)


@pytest.mark.parametrize("text", ["", "30", "30 s", "s", "1d", "1m 30s", "٣s", "-", "1e3s", "\n0"])
def test_texts_that_are_no_durations(text):
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(text)
