"""ipvs-agent check: what this node lacks, or what will not work on it as asked."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys

from ipvs_agent.check.findings import find
from ipvs_agent.check.observe import Files, observe
from ipvs_agent.check.text import render
from ipvs_agent.cli import configuration
from ipvs_agent.config import node_name
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
    configuration.add_options(parser)
    parser.set_defaults(handler=run)


def run(arguments: argparse.Namespace) -> int:
    """Print what was found and return the exit status."""
    config, _ = configuration.read(arguments)
    name = node_name(arguments.node_name, config)
    if os.geteuid() != 0:
        # Tools that may not look say so in many ways, and silence must not pass for a node without faults.
        raise PermissionDenied("the rules and settings of this node can only be judged by root")
    with contextlib.closing(NodeKernel()) as kernel:
        found = find(observe(kernel, config, Files()), config)
    sys.stdout.write(render(found, name))
    return 1 if found else 0
