"""Listings as text, as ipvsadm prints them: each format says how its lines look.

Tables may have hundreds of thousands of real servers, so a real server becomes a line as soon as it is read,
and only lines wait until virtual servers can be sorted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from ipvs_agent.observed import IpvsInfo, ObservedRealServer, ObservedVirtualServer, Outlined
from ipvs_agent.status.order import sort_outlined, sort_real_servers, sort_virtual_servers

_AT_ONCE = 200
"""Virtual servers whose lines are written together: one by one that takes longer than rendering them."""

Block = str
"""The lines of the real servers of one virtual server."""


class Format(NamedTuple):
    """A listing of ipvsadm's."""

    titles: str
    virtual_server: Callable[[ObservedVirtualServer], str]
    """Return its line."""
    real_server: Callable[[ObservedRealServer], str]
    """Return its line."""
    outlined: Callable[[str], str]
    """Return the line of an IPv4 real server for that of the kernel's own listing."""


def block(form: Format, real_servers: Sequence[ObservedRealServer]) -> Block:
    """Render the real servers of a virtual server."""
    return "".join(map(form.real_server, sort_real_servers(real_servers)))


def block_of(form: Format, outlined: Outlined) -> Block:
    """Render the real servers of a virtual server, from the kernel's own listing."""
    lines = sort_outlined(outlined.lines)
    return block(form, outlined.real_servers()) if lines is None else "".join(map(form.outlined, lines))


def render(
    form: Format, entries: Iterable[tuple[ObservedVirtualServer, Block]], info: IpvsInfo | None
) -> Iterator[str]:
    """Yield the text of a listing; info: what IPVS says of itself, None in that of one virtual server."""
    if info is not None:
        version = ".".join(map(str, info.version))
        yield f"IP Virtual Server version {version} (size={info.connection_table_size})\n"
    yield form.titles
    ordered = sort_virtual_servers(entries)
    for start in range(0, len(ordered), _AT_ONCE):
        some = ordered[start : start + _AT_ONCE]
        yield "".join([form.virtual_server(observed) + lines for observed, lines in some])
