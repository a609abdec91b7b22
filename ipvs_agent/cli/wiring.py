"""From options and configuration to the parts that a subcommand works with."""

from __future__ import annotations

import argparse

from ipvs_agent import schedulers
from ipvs_agent.cli import configuration
from ipvs_agent.config import AgentConfig, Lists, LocalMode
from ipvs_agent.desired.shim import Masquerade
from ipvs_agent.reconcile.foundation import Needs
from ipvs_agent.reconcile.settings import Settings
from ipvs_agent.schedulers.annotations import Choice
from ipvs_agent.sources.changes import Sink, Source
from ipvs_agent.sources.manifests import Manifests


def add_source_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where Services come from."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--manifests", type=configuration.path, metavar="PATH", help="a file or folder of JSON or YAML"
    )
    group.add_argument(
        "--kubeconfig", type=configuration.path, metavar="FILE", help="how to reach the API server"
    )


def settings(config: AgentConfig, name: str) -> Settings:
    """Return what the reconciler is told on a node of some name."""
    scheduler = schedulers.SCHEDULERS[config.scheduler]
    detection = config.detect_local
    return Settings(
        node_name=name,
        scheduler=Choice(scheduler.name, scheduler.default_flags),
        node_port_networks=config.node_port_addresses,
        node_port_primary=config.node_port_primary,
        sync_period=config.sync_period,
        min_sync_period=config.min_sync_period,
        drain_seconds=config.drain_seconds,
        vip_mode=config.vip_mode,
        detects_by_node=detection.mode is LocalMode.NODE_CIDR,
        needs=Needs(
            scheduler_module=scheduler.module,
            masquerade=Masquerade(
                bit=config.masquerade_bit,
                everything=config.masquerade_all,
                cluster_networks=config.cluster_networks if detection.mode is LocalMode.CLUSTER_CIDR else (),
                cluster_interface=detection.interface,
                knows_node=detection.mode is not LocalMode.CLUSTER_CIDR,
            ),
            strict_arp=config.strict_arp,
        ),
    )


def source(arguments: argparse.Namespace, config: AgentConfig, node_name: str, sink: Sink) -> Source:
    """Return the source that the options name; it is not started yet."""
    if arguments.manifests is not None:
        return Manifests(arguments.manifests, sink)
    # The client of the Kubernetes API takes half a second to import, and a run on manifests need not wait.
    from ipvs_agent.sources.kube import KubeSource  # noqa: PLC0415

    is_streamed = config.lists is Lists.STREAMED
    return KubeSource(kubeconfig(arguments, config), node_name, sink, is_streamed=is_streamed)


def kubeconfig(arguments: argparse.Namespace, config: AgentConfig) -> str | None:
    """Return the file that says how to reach the API server; None: the ServiceAccount of the pod."""
    return str(arguments.kubeconfig or config.kubeconfig) or None
