"""What a Service asks for in its annotations beside the scheduler, for all of its ports.

Annotations are written by users: one that makes no sense gives what holds without it, and a fault.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

import msgspec

from ipvs_agent.addresses import FAMILY_NAMES, Family
from ipvs_agent.durations import parse_duration
from ipvs_agent.model import FULL_NETMASK, LONGEST_DRAIN, Service
from ipvs_agent.schedulers.annotations import FLAGS, SCHEDULER, Fault, check_length, quote
from ipvs_agent.schedulers.guess import closest
from ipvs_agent.schedulers.weights import Weights, parse_weights

PREFIX = "ipvs-agent.io/"
WEIGHTS = "ipvs-agent.io/weights"
MOST_CONNECTIONS = "ipvs-agent.io/max-connections"
RESUME_CONNECTIONS = "ipvs-agent.io/resume-connections"
AFFINITY_MASK = "ipvs-agent.io/affinity-mask"
AFFINITY_SHARED = "ipvs-agent.io/affinity-shared"
SLOW_START = "ipvs-agent.io/slow-start"
DRAIN_TIMEOUT = "ipvs-agent.io/drain-timeout"

_BY_PORT = (SCHEDULER, FLAGS)
_KNOWN = (
    *(*_BY_PORT, WEIGHTS, MOST_CONNECTIONS, RESUME_CONNECTIONS),
    *(AFFINITY_MASK, AFFINITY_SHARED, SLOW_START, DRAIN_TIMEOUT),
)
MOST_UNKNOWN = 4
"""How many are named that the agent does not know; a Service has room for thousands."""
_KEY = re.compile(r"[-A-Za-z0-9_./]{1,128}")

HIGHEST_THRESHOLD = 2**31 - 1
"""What the kernel takes (ip_vs_ctl.c)."""
FEW_CONNECTIONS = 120
"""A cap below this lets in less than one short connection a second, since a closed one counts for 120 s."""
LONGEST_SLOW_START = 3600.0
"""Seconds."""

_AFFINITY_MASK = re.compile(r"([0-9]{1,3})?(?:/([0-9]{1,3}))?")
_Value = TypeVar("_Value")


class Wishes(msgspec.Struct, frozen=True):
    """What a Service asks for."""

    weights: Weights | None = None
    """None: all endpoints are alike."""
    most_connections: int = 0
    """By endpoint; 0: no cap."""
    resume_connections: int = 0
    """An endpoint that was at its cap takes connections again below this; 0: below three quarters of it."""
    netmasks: Mapping[Family, int] = {}
    """As VirtualServer's, of families in which clients are not to be told apart one by one."""
    is_affinity_shared: bool = False
    """Whether a client's endpoint is the same behind all ports."""
    slow_start_seconds: float = 0.0
    """As Frontend's."""
    drain_seconds: float | None = None
    """As Frontend's."""


def read_wishes(service: Service, drain_seconds: float | None) -> tuple[Wishes, list[Fault]]:
    """Return what a Service asks for, and what of it makes no sense.

    drain_seconds: how long drains last at most where the Service does not say.
    """
    if not service.annotations:
        return Wishes(drain_seconds=drain_seconds), []
    reader = _Reader(service.annotations)
    most, resume = _caps(reader)
    drain = reader.read(DRAIN_TIMEOUT, lambda text: _seconds(text, 0, LONGEST_DRAIN))
    wishes = Wishes(
        weights=reader.read(WEIGHTS, parse_weights),
        most_connections=most,
        resume_connections=resume,
        netmasks=reader.read(AFFINITY_MASK, lambda text: _netmasks(text, service)) or {},
        is_affinity_shared=reader.read(AFFINITY_SHARED, lambda text: _is_shared(text, service)) or False,
        slow_start_seconds=reader.read(SLOW_START, lambda text: _seconds(text, 1, LONGEST_SLOW_START)) or 0.0,
        drain_seconds=drain_seconds if drain is None else drain,
    )
    if wishes.netmasks and wishes.is_affinity_shared:
        reader.fault(AFFINITY_MASK, f"means nothing beside {AFFINITY_SHARED}, which goes by whole addresses")
    reader.faults += _first(_unknown(service))
    return wishes, reader.faults


class _Reader:
    """Reads annotations, and keeps what makes no sense."""

    def __init__(self, annotations: Mapping[str, str]) -> None:
        self.faults: list[Fault] = []
        self._annotations = annotations

    def read(self, key: str, parse: Callable[[str], _Value]) -> _Value | None:
        """Return what an annotation says; None where it is not there or makes no sense."""
        text = self._annotations.get(key)
        if text is None:
            return None
        try:
            check_length(text)
            return parse(text.strip(" "))
        except ValueError as error:
            self.fault(key, str(error))
            return None

    def has(self, key: str) -> bool:
        """Tell whether an annotation is there, whatever it says."""
        return key in self._annotations

    def fault(self, key: str, reason: str) -> None:
        """Say of an annotation what is wrong with it."""
        self.faults.append(Fault(key, reason))


def _first(unknown: Iterator[Fault]) -> Iterator[Fault]:
    yield from itertools.islice(unknown, MOST_UNKNOWN)
    if next(unknown, None) is not None:
        yield Fault("", f"more than these {MOST_UNKNOWN} are not annotations that the agent knows")


def _unknown(service: Service) -> Iterator[Fault]:
    """Yield a fault for each annotation that is meant for the agent and that it does not know."""
    names = {port.name: None for port in service.ports}
    for key in service.annotations:
        if key in _KNOWN or not key.startswith(PREFIX):
            continue
        name, _, port_name = key.removeprefix(PREFIX).partition(".")
        if PREFIX + name in _BY_PORT:
            if port_name and port_name in names:
                continue
            reason, guess = f"the Service has no port {quote(port_name)}", closest(port_name, tuple(names))
        else:
            known = tuple(one.removeprefix(PREFIX) for one in _KNOWN)
            reason, guess = "is not an annotation that the agent knows", closest(name, known)
        yield Fault(
            key if _KEY.fullmatch(key) else quote(key), reason + (f"; did you mean {guess}?" if guess else "")
        )


def _caps(reader: _Reader) -> tuple[int, int]:
    most = reader.read(MOST_CONNECTIONS, _connections) or 0
    resume = reader.read(RESUME_CONNECTIONS, _connections) or 0
    if resume and not most:
        if not reader.has(MOST_CONNECTIONS):
            reader.fault(RESUME_CONNECTIONS, f"means nothing without {MOST_CONNECTIONS}")
        resume = 0
    if resume > most:
        reader.fault(RESUME_CONNECTIONS, f"{resume} is more than {MOST_CONNECTIONS}, which is {most}")
        resume = 0
    if 0 < most < FEW_CONNECTIONS:
        reader.fault(
            MOST_CONNECTIONS,
            f"{most} is few: a closed connection counts for up to two minutes, "
            "so that short ones are let in less than once a second",
        )
    return most, resume


def _connections(text: str) -> int:
    if text.isascii() and text.isdigit() and len(text) <= len(str(HIGHEST_THRESHOLD)):
        number = int(text)
        if 1 <= number <= HIGHEST_THRESHOLD:
            return number
    raise ValueError(f"{quote(text)} is not a number from 1 to {HIGHEST_THRESHOLD}")


def _netmasks(text: str, service: Service) -> dict[Family, int]:
    match = _AFFINITY_MASK.fullmatch(text)
    if not text or match is None:
        raise ValueError(f"{quote(text)} is not a prefix length as 24 (IPv4), /64 (IPv6) or 24/64 (both)")
    lengths = {
        family: int(digits)
        for family, digits in ((Family.IPV4, match[1]), (Family.IPV6, match[2]))
        if digits is not None
    }
    for family, length in lengths.items():
        longest = 32 if family == Family.IPV4 else 128
        if not 1 <= length <= longest:
            raise ValueError(f"{length} is not an {FAMILY_NAMES[family]} prefix length from 1 to {longest}")
    _need_affinity(service)
    served = {port.family for port in service.ports}
    if not served & lengths.keys():
        absent = next(iter(lengths))
        raise ValueError(f"{quote(text)} is for {FAMILY_NAMES[absent]}, which the Service does not have")
    return {family: _netmask(family, length) for family, length in lengths.items()}


def _netmask(family: Family, length: int) -> int:
    """Return a netmask as VirtualServer has it."""
    if length == (32 if family == Family.IPV4 else 128):
        return FULL_NETMASK
    return 0xFFFFFFFF << (32 - length) & 0xFFFFFFFF if family == Family.IPV4 else length


def _is_shared(text: str, service: Service) -> bool:
    if text not in ("true", "false"):
        raise ValueError(f"{quote(text)} is not true or false")
    if text == "true":
        _need_affinity(service)
    return text == "true"


def _need_affinity(service: Service) -> None:
    if not service.affinity_seconds:
        raise ValueError("means nothing without sessionAffinity: ClientIP")


def _seconds(text: str, shortest: float, longest: float) -> float:
    if not text:
        raise ValueError("says no duration; write one such as 60s, 5m or 1h30m")
    try:
        seconds = parse_duration(text)
    except ValueError:
        raise ValueError(f"{quote(text)} is not a duration such as 60s, 5m or 1h30m") from None
    if not shortest <= seconds <= longest:
        raise ValueError(f"{quote(text)} is not within {shortest:g}s to {longest / 3600:g}h")
    return seconds
