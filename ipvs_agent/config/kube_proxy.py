"""kube-proxy's configuration file, so that a node moves from kube-proxy without a new one.

Fields that the agent does not know are accepted, as kube-proxy's grow with each of its versions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path

import msgspec

from ipvs_agent import schedulers
from ipvs_agent.addresses import UNSPECIFIED, Network, family_of, parse_address, parse_network, split_endpoint
from ipvs_agent.config import interfaces
from ipvs_agent.config.document import FieldError, read_document, require, seconds
from ipvs_agent.config.values import AgentConfig, DetectLocal, Listen, LocalMode
from ipvs_agent.sources.checks import quoted

API_VERSION = "kubeproxy.config.k8s.io/v1alpha1"
KIND = "KubeProxyConfiguration"

_WITH_EFFECT = frozenset(
    {
        "apiVersion",
        "kind",
        "clientConnection.kubeconfig",
        "detectLocalMode",
        "healthzBindAddress",
        "hostnameOverride",
        "iptables.localhostNodePorts",
        "iptables.masqueradeAll",
        "iptables.masqueradeBit",
        "ipvs.minSyncPeriod",
        "ipvs.scheduler",
        "ipvs.strictARP",
        "ipvs.syncPeriod",
        "metricsBindAddress",
        "nodePortAddresses",
    }
)
_EFFECTIVE_VALUES: Mapping[str, Sequence[object]] = {
    "mode": ("", "ipvs"),
    "clusterCIDR": ("",),
    "detectLocal.bridgeInterface": ("",),
    "detectLocal.interfaceNamePrefix": ("",),
}
"""Fields that say what the agent does anyway with these values, and have no effect with others."""
_INPUTS: Mapping[LocalMode, str] = {
    LocalMode.CLUSTER_CIDR: "clusterCIDR",
    LocalMode.BRIDGE_INTERFACE: "detectLocal.bridgeInterface",
    LocalMode.INTERFACE_NAME_PREFIX: "detectLocal.interfaceNamePrefix",
}
"""The field that a mode needs, which has no effect in another mode."""

_MAPPED = bytes(10) + b"\xff\xff"
"""How IPv6 addresses begin that are IPv4's, on which nothing that is IPv6 alone can be heard."""


class _Section(msgspec.Struct, rename="camel"):
    pass


class _ClientConnection(_Section):
    kubeconfig: str | None = None


class _DetectLocal(_Section):
    bridge_interface: str | None = None
    interface_name_prefix: str | None = None


class _Iptables(_Section):
    localhost_node_ports: bool | None = None
    masquerade_bit: int | None = None
    masquerade_all: bool | None = None


class _Ipvs(_Section):
    sync_period: str | None = None
    min_sync_period: str | None = None
    scheduler: str | None = None
    exclude_cidrs: list[str] | None = msgspec.field(default=None, name="excludeCIDRs")
    strict_arp: bool | None = msgspec.field(default=None, name="strictARP")
    tcp_timeout: str | None = None
    tcp_fin_timeout: str | None = None
    udp_timeout: str | None = None


class _File(_Section):
    api_version: str | None = None
    kind: str | None = None
    hostname_override: str | None = None
    client_connection: _ClientConnection | None = None
    cluster_cidr: str | None = msgspec.field(default=None, name="clusterCIDR")
    detect_local_mode: str | None = None
    detect_local: _DetectLocal | None = None
    healthz_bind_address: str | None = None
    metrics_bind_address: str | None = None
    node_port_addresses: list[str] | None = None
    iptables: _Iptables | None = None
    ipvs: _Ipvs | None = None


def read_kube_proxy_configuration(path: Path) -> tuple[AgentConfig, tuple[str, ...]]:
    """Read the file; return the configuration and the names of the file's fields that have no effect."""

    def build(document: object) -> tuple[AgentConfig, tuple[str, ...]]:
        config = _config(msgspec.convert(document, _File))
        with_effect = _WITH_EFFECT | {_INPUTS.get(config.detect_local.mode, "")}
        return config, tuple(_without_effect(document, with_effect))

    return read_document(path, KIND, build)


def _without_effect(document: object, with_effect: Set[str], prefix: str = "") -> Iterator[str]:
    """Name the fields that say something to which the agent does not listen."""
    if not isinstance(document, dict):
        return
    for key, value in document.items():
        field = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            yield from _without_effect(value, with_effect, f"{field}.")
        elif value is not None and field not in with_effect and value not in _EFFECTIVE_VALUES.get(field, ()):
            yield field


def _config(file: _File) -> AgentConfig:
    require("apiVersion", file.api_version, API_VERSION)
    require("kind", file.kind, KIND)
    defaults = AgentConfig()
    ipvs = file.ipvs or _Ipvs()
    iptables = file.iptables or _Iptables()
    _check_what_has_no_effect(ipvs)
    sync_period, min_sync_period = _sync_periods(ipvs, defaults)
    node_port_addresses, node_port_primary = _node_port_addresses(file.node_port_addresses or [])
    return AgentConfig(
        hostname_override=file.hostname_override or "",
        kubeconfig=(file.client_connection and file.client_connection.kubeconfig) or "",
        cluster_networks=_cluster_networks(file.cluster_cidr or ""),
        detect_local=_detect_local(file.detect_local_mode, file.detect_local or _DetectLocal()),
        node_port_addresses=node_port_addresses,
        node_port_primary=node_port_primary,
        scheduler=_scheduler(ipvs.scheduler or defaults.scheduler),
        sync_period=sync_period,
        min_sync_period=min_sync_period,
        masquerade_bit=_masquerade_bit(iptables.masquerade_bit, defaults),
        masquerade_all=bool(iptables.masquerade_all),
        localhost_node_ports=iptables.localhost_node_ports,
        strict_arp=bool(ipvs.strict_arp),
        healthz=_listen("healthzBindAddress", file.healthz_bind_address, defaults.healthz),
        metrics=_listen("metricsBindAddress", file.metrics_bind_address, defaults.metrics),
    )


def _check_what_has_no_effect(ipvs: _Ipvs) -> None:
    for field, text in (
        ("ipvs.tcpTimeout", ipvs.tcp_timeout),
        ("ipvs.tcpFinTimeout", ipvs.tcp_fin_timeout),
        ("ipvs.udpTimeout", ipvs.udp_timeout),
    ):
        _seconds(field, text)
    _networks("ipvs.excludeCIDRs", ipvs.exclude_cidrs or [])


def _cluster_networks(text: str) -> tuple[Network, ...]:
    networks = _networks("clusterCIDR", [part for part in text.split(",") if text])
    if len({family_of(network.address) for network in networks}) < len(networks):
        raise FieldError("clusterCIDR", f"{text!r} has more than one range of a family")
    return networks


def _detect_local(name: str | None, inputs: _DetectLocal) -> DetectLocal:
    try:
        mode = LocalMode(name or LocalMode.CLUSTER_CIDR)
    except ValueError:
        raise FieldError("detectLocalMode", f"{name!r} is none of {', '.join(LocalMode)}") from None
    try:
        if mode is LocalMode.BRIDGE_INTERFACE:
            return DetectLocal(mode, interfaces.check_name(inputs.bridge_interface or ""))
        if mode is LocalMode.INTERFACE_NAME_PREFIX:
            return DetectLocal(mode, interfaces.prefix_match(inputs.interface_name_prefix or ""))
    except ValueError as error:
        raise FieldError(_INPUTS[mode], str(error)) from error
    return DetectLocal(mode)


def _node_port_addresses(texts: Sequence[str]) -> tuple[tuple[Network, ...], bool]:
    if "primary" not in texts:
        return _networks("nodePortAddresses", texts), False
    if len(texts) > 1:
        raise FieldError("nodePortAddresses", "primary must stand alone")
    return (), True


def _networks(field: str, texts: Sequence[str]) -> tuple[Network, ...]:
    try:
        return tuple(parse_network(text) for text in texts)
    except ValueError as error:
        raise FieldError(field, str(error)) from error


def _scheduler(name: str) -> str:
    try:
        return schedulers.configured(name).name
    except ValueError as error:
        raise FieldError("ipvs.scheduler", str(error)) from error


def _sync_periods(ipvs: _Ipvs, defaults: AgentConfig) -> tuple[float, float]:
    # kubeadm writes 0s, which kube-proxy takes as its default (SetDefaults_KubeProxyConfiguration).
    period = _seconds("ipvs.syncPeriod", ipvs.sync_period) or defaults.sync_period
    shortest = _seconds("ipvs.minSyncPeriod", ipvs.min_sync_period)
    if shortest > period:
        raise FieldError("ipvs.minSyncPeriod", "must not be longer than ipvs.syncPeriod")
    return period, shortest or defaults.min_sync_period


def _masquerade_bit(bit: int | None, defaults: AgentConfig) -> int:
    if bit is None:
        return defaults.masquerade_bit
    if not 0 <= bit <= 31:
        raise FieldError("iptables.masqueradeBit", f"{bit} is not a bit of a mark (0 to 31)")
    return bit


def _listen(field: str, text: str | None, default: Listen) -> Listen:
    """Return where to listen; as in kube-proxy the default stands in for what is left out.

    Either unspecified address stands for all of both families there, too.
    """
    if not text:
        return default
    try:
        host, number = text, default.port
        if text.count(":") == 1 or text.startswith("["):
            host, port = split_endpoint(text)
            if not (port.isascii() and port.isdecimal() and 0 < int(port) <= 0xFFFF):
                raise ValueError(port)
            number = int(port)
        address = parse_address(host)
        if address.startswith(_MAPPED):
            raise ValueError(host)
        return Listen(number, UNSPECIFIED if address in UNSPECIFIED else (address,))
    except ValueError:
        raise FieldError(field, f"{quoted(text)} is no IP address and port such as 0.0.0.0:10256") from None


def _seconds(field: str, text: str | None) -> float:
    return 0 if text is None else seconds(field, text)
