"""ipvs-agent schedulers: the kernel's schedulers, and which of them this kernel has."""

from __future__ import annotations

import argparse
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
    modules = NodeModules(LOADED, INSTALLED)
    loadable = modules.loadable

    def presence(module: str) -> Presence:
        if modules.has(module):
            return Presence.LOADED
        if loadable is None:
            return Presence.UNKNOWN
        return Presence.MODULE if module in loadable else Presence.NO

    return {scheduler.name: presence(scheduler.module) for scheduler in SCHEDULERS.values()}
