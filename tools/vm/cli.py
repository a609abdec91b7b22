"""The command line of the launcher."""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from tools.vm import choose, guest, machine
from tools.vm.errors import MachineError

USAGE = "python3 -m tools.vm [OPTION...] -- COMMAND [ARGUMENT...]"

EPILOGUE = """\
Exit status: the command's own; 124 when the time limit ended it; 125 when there was no machine, or it
went away. IPVS_AGENT_VM holds the backend's name in the command's environment.
"""

ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command on a kernel that has IPVS; return its exit status."""
    options, command = parse(sys.argv[1:] if arguments is None else arguments)
    backend = choose.choose(options.backend)
    if options.which:
        print(backend.name)
        return 0
    request = guest.Request(
        command=command,
        directory=Path.cwd(),
        environment={name: os.environ[name] for name in options.env if name in os.environ},
        memory=options.memory,
        network=options.network,
    )
    for number in ENDING_SIGNALS:
        signal.signal(number, _end)
    try:
        backend.require()
        return machine.run(backend, request, options.timeout, sys.stdout.buffer)
    except MachineError as error:
        print(f"vm: {error}", file=sys.stderr)
        return error.exit_status
    except BrokenPipeError:
        # Nobody reads on; keep Python from complaining about it when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, Sequence[str]]:
    """Split the arguments into our options and the command, which starts after the first `--`."""
    parser = argparse.ArgumentParser(prog="tools.vm", usage=USAGE, description=__doc__, epilog=EPILOGUE)
    parser.add_argument(
        "--backend",
        choices=(choose.AUTO, *choose.BACKENDS),
        default=choose.AUTO,
        help="auto: host where its kernel has what it takes, else uml",
    )
    parser.add_argument("--memory", type=_memory, default="2G", metavar="SIZE", help="of a VM (2G)")
    parser.add_argument(
        "--timeout", type=_seconds, default=900, metavar="SECONDS", help="limit, boot included (900)"
    )
    parser.add_argument(
        "--network",
        type=_namespace,
        metavar="NAMESPACE",
        help="connect eth9 (198.18.0.2/30) to the tap device tap0 (198.18.0.1) of this network namespace",
    )
    parser.add_argument(
        "--env", type=_variable, action="append", default=[], metavar="NAME", help="pass this variable on"
    )
    parser.add_argument("--which", action="store_true", help="print which backend it would be, run nothing")
    end = arguments.index("--") if "--" in arguments else len(arguments)
    options = parser.parse_args(arguments[:end])
    command = arguments[end + 1 :]
    if not command and not options.which:
        parser.error("no command: name it after --")
    return options, command


def _memory(text: str) -> str:
    if not re.fullmatch(r"\d+[MG]", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 512M or 2G")
    return text


def _seconds(text: str) -> float:
    if not re.fullmatch(r"\d+(\.\d+)?", text) or not float(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return float(text)


def _namespace(text: str) -> str:
    if not re.fullmatch(r"[\w.-]+", text) or not Path("/run/netns", text).exists():
        raise argparse.ArgumentTypeError(f"no network namespace {text!r} in /run/netns; see: ip netns list")
    return text


def _variable(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z_]\w*", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not the name of a variable")
    return text


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    for each in ENDING_SIGNALS:  # a second Ctrl-C must not break off the cleaning up
        signal.signal(each, signal.SIG_IGN)
    raise SystemExit(128 + number)
