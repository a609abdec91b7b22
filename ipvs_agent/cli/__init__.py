"""The command line: one module a subcommand, data on standard output, all else on standard error.

Exit status: 0 done, 1 failed, 2 wrong usage; 2 also where status finds no IPVS, as from ipvsadm.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from ipvs_agent import __version__
from ipvs_agent.errors import AgentError, ConfigError, PermissionDenied

COMMANDS = ("run", "status", "explain", "schedulers", "check", "cleanup")


def program() -> NoReturn:
    """Run a subcommand as the process that this is."""
    leave(main())


def leave(status: int) -> NoReturn:
    """End this process at once; to free what it has object by object would be a good part of its work."""
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="ipvs-agent", description="An IPVS-centric service load balancer for Kubernetes nodes."
    )
    parser.add_argument("--version", action="version", version=f"ipvs-agent {__version__}")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    words = sys.argv[1:] if argv is None else argv
    # A subcommand imports only what it needs; for their list all are imported.
    named = next((word for word in words if not word.startswith("-")), "")
    for command in (named,) if named in COMMANDS else COMMANDS:
        importlib.import_module(f"{__name__}.{command}").register(subparsers)
    arguments = parser.parse_args(words)
    try:
        return int(arguments.handler(arguments))
    except ConfigError as error:
        print(f"ipvs-agent: {error}", file=sys.stderr)
        return 2
    except PermissionDenied as error:
        print(f"ipvs-agent: {error} (run as root, or with CAP_NET_ADMIN)", file=sys.stderr)
        return 1
    except AgentError as error:
        print(f"ipvs-agent: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader has seen enough; what is still buffered must not raise again at exit.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
