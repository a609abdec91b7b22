"""ipvs-agent schedulers: the kernel's schedulers, and which of them this kernel has."""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path

from ipvs_agent.kernel.modules import NodeModules
from ipvs_agent.schedulers import SCHEDULERS, listing
from ipvs_agent.schedulers.listing import Presence

LOADED = Path("/sys/module")
INSTALLED = Path("/lib/modules")


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "schedulers",
        help="show the kernel's schedulers",
        description="Show all schedulers of IPVS: what each does, what a weight means to it, its flags, when"
        " it is a poor choice, and whether this kernel has it. Loads nothing, and needs no rights.",
    )
    parser.add_argument("-o", "--output", choices=("json",), help="json: all that is known of each")
    parser.set_defaults(handler=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the schedulers and return the exit status."""
    presences = _presences()
    if arguments.output:
        sys.stdout.write(listing.encode(presences).decode())
    else:
        sys.stdout.write(listing.render(presences))
    return 0


def _presences() -> dict[str, Presence]:
    there = NodeModules(LOADED, INSTALLED)
    try:
        text = (INSTALLED / os.uname().release / "modules.dep").read_text()
    except OSError:
        elsewhere, loadable = Presence.UNKNOWN, set[str]()
    else:
        # A line is "kernel/net/netfilter/ipvs/ip_vs_rr.ko.xz: what it needs".
        elsewhere, loadable = Presence.NO, set(re.findall(r"/(\w+)\.ko[^/\s]*:", text))

    def presence(module: str) -> Presence:
        if there.has(module):
            return Presence.LOADED
        return Presence.MODULE if module in loadable else elsewhere

    return {scheduler.name: presence(scheduler.module) for scheduler in SCHEDULERS.values()}
