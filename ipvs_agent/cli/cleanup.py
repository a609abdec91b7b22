"""ipvs-agent cleanup: remove what the agent made, and only that."""

from __future__ import annotations

import argparse
import sys

from ipvs_agent.kernel.node import NodeKernel
from ipvs_agent.reconcile import cleanup
from ipvs_agent.serve import notes


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "cleanup",
        help="remove what the agent made",
        description="Remove the virtual servers, addresses, sets and rules that the agent made, and its file"
        " of notes, and only those. Sysctls and loaded modules stay. Stop the agent first.",
    )
    parser.add_argument("--dry-run", action="store_true", help="only print what would be done")
    parser.set_defaults(handler=run)


def run(arguments: argparse.Namespace) -> int:
    """Remove, or print what would be removed; return the exit status."""
    kernel = NodeKernel()
    removal = cleanup.plan(kernel)
    for line in removal.lines():
        print(line)
    has_notes = notes.is_left(notes.PATH)
    if has_notes:
        print(f"rm {notes.PATH}")
    if arguments.dry_run:
        return 0
    errors: list[Exception] = [*cleanup.carry_out(kernel, removal)]
    if has_notes:
        try:
            notes.remove(notes.PATH)
        except OSError as failure:
            errors.append(failure)
    for error in errors:
        print(f"ipvs-agent: {error}", file=sys.stderr)
    return 1 if errors else 0
