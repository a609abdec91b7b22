"""ipvs-agent check: what this node lacks, or what will not work on it as asked."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from pathlib import Path

from ipvs_agent.check.findings import find
from ipvs_agent.check.observe import Files, observe
from ipvs_agent.check.text import render
from ipvs_agent.config import AgentConfig, node_name, read_kube_proxy_configuration
from ipvs_agent.errors import PermissionDenied
from ipvs_agent.kernel.node import NodeKernel


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "check",
        help="say what this node lacks",
        description="Say what this node lacks, or what will not work on it as the configuration asks, and how"
        " to mend it. Changes nothing. Exit status 0: nothing is wrong; 1: something is.",
    )
    parser.add_argument("--config", type=_path, metavar="FILE", help="kube-proxy's configuration file")
    parser.add_argument("--node-name", "--hostname-override", metavar="NAME", help="the name of this Node")
    parser.set_defaults(handler=run)


def run(arguments: argparse.Namespace) -> int:
    """Print what was found and return the exit status."""
    config = AgentConfig()
    if arguments.config is not None:
        config, _ = read_kube_proxy_configuration(arguments.config)
    name = node_name(arguments.node_name, config)
    if os.geteuid() != 0:
        # Tools that may not look say so in many ways, and silence must not pass for a node without faults.
        raise PermissionDenied("the rules and settings of this node can only be judged by root")
    with contextlib.closing(NodeKernel()) as kernel:
        found = find(observe(kernel, config, Files()), config)
    sys.stdout.write(render(found, name))
    return 1 if found else 0


def _path(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("the path is empty")  # Path("") would be the current folder
    return Path(text)
