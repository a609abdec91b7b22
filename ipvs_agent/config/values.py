"""The agent's configuration as typed values, with kube-proxy's defaults where kube-proxy has the setting."""

from __future__ import annotations

import enum
import socket

import msgspec

from ipvs_agent.addresses import UNSPECIFIED, Address, Network, parse_address
from ipvs_agent.errors import ConfigError
from ipvs_agent.model import VipMode
from ipvs_agent.sources.checks import is_subdomain


class LocalMode(enum.StrEnum):
    """How clients inside the cluster are told from those outside, in kube-proxy's words."""

    CLUSTER_CIDR = "ClusterCIDR"
    """By `AgentConfig.cluster_networks`."""
    NODE_CIDR = "NodeCIDR"
    """By the Node's spec.podCIDRs."""
    BRIDGE_INTERFACE = "BridgeInterface"
    INTERFACE_NAME_PREFIX = "InterfaceNamePrefix"


class DetectLocal(msgspec.Struct, frozen=True):
    """How to tell that a client is inside the cluster."""

    mode: LocalMode = LocalMode.CLUSTER_CIDR
    interface: str = ""
    """Where its packets come in, as `-i` of a rule has it: a bridge, or a prefix and a plus sign."""


class Listen(msgspec.Struct, frozen=True):
    """Where a server of the agent is heard."""

    port: int
    addresses: tuple[Address, ...]


class Lists(enum.StrEnum):
    """How all objects of the API are asked for at once."""

    STREAMED = "streamed"
    """As initial events of a watch (WatchList), where the server has those."""
    COMPRESSED = "compressed"


class AgentConfig(msgspec.Struct, frozen=True):
    """What the agent is told to do; durations are in seconds."""

    hostname_override: str = ""
    """The name of this Node where it is not the host's name."""
    kubeconfig: str = ""
    """Empty: the service account of the pod that this runs in."""
    cluster_networks: tuple[Network, ...] = ()
    """Where pods are, at most one range in each family; from there cluster IPs are reached unmasqueraded."""
    detect_local: DetectLocal = DetectLocal()
    node_port_addresses: tuple[Network, ...] = ()
    """The ranges of the node's addresses that serve node ports; none: all of its addresses."""
    node_port_primary: bool = False
    """Only the node's primary addresses serve node ports."""
    scheduler: str = "rr"
    sync_period: float = 30.0
    """How often all of the kernel is compared with what it should hold."""
    min_sync_period: float = 0.1
    """How long a Service that changes all the time may wait, so that its changes are made together."""
    masquerade_bit: int = 14
    masquerade_all: bool = False
    localhost_node_ports: bool | None = None
    """Whether node ports are asked for on 127.0.0.1, where IPVS cannot serve them; None: nobody said."""
    strict_arp: bool = False
    """Answer ARP for an address on the interface alone that holds it."""
    vip_mode: VipMode = VipMode.AUTO
    lists: Lists = Lists.STREAMED
    healthz: Listen = Listen(10256, UNSPECIFIED)
    """Where it is asked whether this node's agent works."""
    metrics: Listen = Listen(10249, (parse_address("127.0.0.1"), parse_address("::1")))
    """Where its metrics are."""
    drain_seconds: float | None = None
    """A draining real server goes after so long at the latest; None: once its connections have ended."""


def node_name(flag: str | None, config: AgentConfig) -> str:
    """Return the name of this Node: the flag's, else the file's, else the host's, as kube-proxy does."""
    if flag is not None:
        origin, given = "--node-name", flag
    elif config.hostname_override:
        origin, given = "hostnameOverride", config.hostname_override
    else:
        origin, given = "the host's name", socket.gethostname()
    name = given.strip().lower()
    if not is_subdomain(name):
        raise ConfigError(
            f"{origin}: {given!r} cannot be the name of a Node:"
            " use --node-name with the one that `kubectl get nodes` shows"
        )
    return name
