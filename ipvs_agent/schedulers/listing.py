"""The schedulers, and which of them a kernel has: as a table for people, and as JSON."""

from __future__ import annotations

import enum
import itertools
import textwrap
from collections.abc import Mapping, Sequence

import msgspec

from ipvs_agent.schedulers import SCHEDULERS, flag_names
from ipvs_agent.schedulers.scheduler import Scheduler


class Presence(enum.Enum):
    """Whether a kernel has a scheduler, as far as can be told without loading it."""

    LOADED = "loaded"
    """Or built in."""
    MODULE = "module"
    """To be loaded when it is first used."""
    NO = "no"
    UNKNOWN = "unknown"
    """Neither loaded nor built in, and there is no list of modules."""


Presences = Mapping[str, Presence]
"""By the scheduler's name."""

_COLUMNS = {"NAME": 5, "KERNEL": 7, "WEIGHT": 8, "FLAGS": 12, "WHAT IT DOES": 29, "A POOR CHOICE WHEN": 29}
"""Titles and widths: with two blanks between them, 100 columns."""

_LEGEND = """
KERNEL  loaded: or built in; module: will be loaded when it is first used; no: not in this kernel
WEIGHT  0 takes a real server out. Above that: ignored; share: in proportion to the others;
        priority: the highest first; capacity: active connections, above which it is full
FLAGS   *: set unless told otherwise
"""
_UNKNOWN = "unknown: not loaded, and there is no list of this kernel's modules here"


class _Row(msgspec.Struct, rename="camel"):
    name: str
    kernel: Presence
    module: str
    since: str
    summary: str
    weight: str
    weight_meaning: str
    flags: tuple[str, ...]
    default_flags: list[str]
    order: str
    most_real_servers: int | None
    poor_choice: str


def render(presences: Presences) -> str:
    """Return a table of all schedulers."""
    lines = [_line(list(_COLUMNS))]
    for scheduler in SCHEDULERS.values():
        lines += _cells(scheduler, presences[scheduler.name])
    legend = _LEGEND
    if Presence.UNKNOWN in presences.values():
        legend = legend.replace("\nWEIGHT", f";\n        {_UNKNOWN}\nWEIGHT")
    return "\n".join(lines) + "\n" + legend


def encode(presences: Presences) -> bytes:
    """Return a JSON list with an object for each scheduler."""
    rows = [_row(scheduler, presences[scheduler.name]) for scheduler in SCHEDULERS.values()]
    return msgspec.json.format(msgspec.json.encode(rows), indent=2) + b"\n"


def _cells(scheduler: Scheduler, presence: Presence) -> list[str]:
    safe = flag_names(scheduler.name, scheduler.safe_flags)
    cells = (
        scheduler.name,
        presence.value,
        scheduler.weight.value,
        " ".join(f"{flag}*" if flag in safe else flag for flag in scheduler.flags),
        scheduler.summary,
        scheduler.poor_choice,
    )
    columns = [textwrap.wrap(cell, width) for cell, width in zip(cells, _COLUMNS.values(), strict=True)]
    return [_line(line) for line in itertools.zip_longest(*columns, fillvalue="")]


def _line(cells: Sequence[str]) -> str:
    padded = (f"{cell:<{width}}" for cell, width in zip(cells, _COLUMNS.values(), strict=True))
    return "  ".join(padded).rstrip()


def _row(scheduler: Scheduler, presence: Presence) -> _Row:
    return _Row(
        name=scheduler.name,
        kernel=presence,
        module=scheduler.module,
        since=scheduler.since,
        summary=scheduler.summary,
        weight=scheduler.weight.value,
        weight_meaning=scheduler.weight_meaning,
        flags=scheduler.flags,
        default_flags=flag_names(scheduler.name, scheduler.safe_flags),
        order=scheduler.order.value,
        most_real_servers=scheduler.table_size or None,
        poor_choice=scheduler.poor_choice,
    )
