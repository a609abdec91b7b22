"""ipvs-agent status: the kernel's table, as ipvsadm lists it or as JSON."""

from __future__ import annotations

import argparse
import contextlib
import functools
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ipvs_agent.addresses import Family, parse_address, split_endpoint
from ipvs_agent.errors import ConfigError, MissingModule, NotFound
from ipvs_agent.kernel.api import Ipvs
from ipvs_agent.kernel.ipvs import NetlinkIpvs
from ipvs_agent.model import Protocol, VirtualServerKey, address_key, mark_key
from ipvs_agent.status import FORMATS, text
from ipvs_agent.status.text import Format

# What only -o needs is imported there: it takes a good part of the time of a listing like ipvsadm's.
if TYPE_CHECKING:
    from ipvs_agent.status.notes import Notes


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "status",
        help="show the kernel's virtual servers, as ipvsadm does",
        description="Show the virtual servers of this network namespace, whoever made them, in the format of"
        " ipvsadm -Ln or as JSON.",
    )
    parser.add_argument("-L", "-l", "--list", action="store_true", help="as ipvsadm: what status always does")
    parser.add_argument("-n", "--numeric", action="store_true", help="as ipvsadm: what status always does")
    which = parser.add_mutually_exclusive_group()
    for options, protocol in (
        (("-t", "--tcp-service"), Protocol.TCP),
        (("-u", "--udp-service"), Protocol.UDP),
        (("--sctp-service",), Protocol.SCTP),
    ):
        which.add_argument(
            *options,
            dest="key",
            metavar="ADDRESS:PORT",
            type=functools.partial(_key, protocol),
            help=f"only this {protocol.name} virtual server",
        )
    which.add_argument(
        "-f",
        "--fwmark-service",
        dest="mark",
        metavar="MARK",
        type=_mark,
        help="only this firewall mark",
    )
    parser.add_argument("-6", "--ipv6", action="store_true", help="with -f: the IPv6 one of this mark")
    parser.add_argument(
        "-o",
        "--output",
        choices=("wide", "json"),
        help="wide: then the Services that the agent here does not serve as they ask; json: that and all that"
        " the kernel says, with a fingerprint of each virtual server, by which nodes can be compared",
    )
    parser.set_defaults(handler=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the listing and return the exit status; 1 where the wanted virtual server is not there."""
    if arguments.ipv6 and not arguments.mark:
        raise ConfigError("-6 goes with -f MARK; an address says its family itself")
    if arguments.output == "wide" and (arguments.key or arguments.mark):
        raise ConfigError("-o wide is for the whole table, not for one virtual server")
    key = arguments.key
    if arguments.mark:
        key = mark_key(Family.IPV6 if arguments.ipv6 else Family.IPV4, arguments.mark)
    try:
        with contextlib.closing(NetlinkIpvs()) as ipvs:
            is_json = arguments.output == "json"
            sys.stdout.writelines(_json(ipvs, key) if is_json else _text(ipvs, key, FORMATS["default"]))
    except NotFound:
        print("No such service", file=sys.stderr)
        return 1
    except MissingModule as error:
        print(f"ipvs-agent: {error}", file=sys.stderr)
        return 2
    if arguments.output == "wide":
        from ipvs_agent.status import notes  # noqa: PLC0415

        sys.stdout.write(notes.render(_notes() or {}))
    return 0


def _notes() -> Notes | None:
    from ipvs_agent.serve import notes as notes_file  # noqa: PLC0415

    try:
        return notes_file.read(notes_file.PATH)
    except notes_file.NotesError as error:
        print(f"ipvs-agent: no notes of the agent: {error}", file=sys.stderr)
        return None


def _text(ipvs: Ipvs, key: VirtualServerKey | None, form: Format) -> Iterator[str]:
    """Yield a listing of ipvsadm's: of one virtual server, or of all; NotFound before any of it."""
    if key is not None:
        return text.render(form, [(ipvs.virtual_server(key), text.block(form, ipvs.real_servers(key)))], None)
    virtual_servers = ipvs.virtual_servers()
    blocks = {outlined.key: text.block_of(form, outlined) for outlined in ipvs.outline()}
    rest = [one for observed in virtual_servers if (one := observed.virtual_server.key) not in blocks]
    blocks.update((one, text.block(form, ipvs.real_servers(one))) for one in rest)
    entries = ((observed, blocks[observed.virtual_server.key]) for observed in virtual_servers)
    return text.render(form, entries, ipvs.info())


def _json(ipvs: Ipvs, key: VirtualServerKey | None) -> Iterator[str]:
    """Yield a listing as JSON: of one virtual server, or of all with what the agent does not serve."""
    from ipvs_agent.status import as_json  # noqa: PLC0415
    from ipvs_agent.status.listing import Listing  # noqa: PLC0415

    if key is not None:
        listing = Listing([(ipvs.virtual_server(key), ipvs.real_servers(key))])
    else:
        virtual_servers = ipvs.virtual_servers()
        behind = ipvs.real_servers_of([observed.virtual_server.key for observed in virtual_servers])
        listing = Listing(list(zip(virtual_servers, behind, strict=True)), ipvs.info(), _notes())
    yield as_json.render(listing)


def _key(protocol: Protocol, text: str) -> VirtualServerKey:
    """Parse ADDRESS:PORT or [ADDRESS]:PORT."""
    if ":" not in text or text.endswith("]"):
        raise argparse.ArgumentTypeError(f"{text!r} is not ADDRESS:PORT: the port is missing")
    address, port = split_endpoint(text)
    try:
        number = int(port)
        if not 0 <= number <= 0xFFFF:
            raise ValueError(f"{number} is not a port")
        return address_key(protocol, parse_address(address), number)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not ADDRESS:PORT: {error}") from None


def _mark(text: str) -> int:
    if not (text.isdecimal() and text.isascii() and 0 < int(text) < 1 << 32):
        raise argparse.ArgumentTypeError(f"{text!r} is not a firewall mark, a number from 1 to 4294967295")
    return int(text)
