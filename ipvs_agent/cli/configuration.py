"""The options by which subcommands are told what the agent is to do; an option is stronger than a file."""

from __future__ import annotations

import argparse
from pathlib import Path

import msgspec

from ipvs_agent.config import AgentConfig, read_agent_configuration, read_kube_proxy_configuration
from ipvs_agent.durations import parse_timeout
from ipvs_agent.model import LONGEST_DRAIN, VipMode


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that `read` reads, and the name of the node."""
    parser.add_argument("--config", type=path, metavar="FILE", help="kube-proxy's configuration file")
    parser.add_argument(
        "--agent-config", type=path, metavar="FILE", help="the agent's own configuration file"
    )
    parser.add_argument("--node-name", "--hostname-override", metavar="NAME", help="the name of this Node")
    parser.add_argument(
        "--vip-mode",
        choices=[mode.value for mode in VipMode],
        help="make VIPs addresses of kube-ipvs0 or local routes; auto: addresses while they are few",
    )
    parser.add_argument(
        "--drain-timeout",
        type=_drain_timeout,
        metavar="DURATION",
        help="how long a real server that is to go may keep its connections, such as 90s (168h at most);"
        " else to their end",
    )


def read(arguments: argparse.Namespace) -> tuple[AgentConfig, tuple[str, ...]]:
    """Return the configuration, and the names of those fields of kube-proxy's file that have no effect."""
    config = AgentConfig()
    without_effect: tuple[str, ...] = ()
    if arguments.config is not None:
        config, without_effect = read_kube_proxy_configuration(arguments.config)
    if arguments.agent_config is not None:
        config = read_agent_configuration(arguments.agent_config, config)
    if arguments.drain_timeout is not None:
        config = msgspec.structs.replace(config, drain_seconds=arguments.drain_timeout)
    if arguments.vip_mode is not None:
        config = msgspec.structs.replace(config, vip_mode=VipMode(arguments.vip_mode))
    return config, without_effect


def path(text: str) -> Path:
    """Return the path of an option's argument."""
    if not text:
        raise argparse.ArgumentTypeError("the path is empty")  # Path("") would be the current folder
    return Path(text)


def _drain_timeout(text: str) -> float:
    try:
        return parse_timeout(text, LONGEST_DRAIN)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
