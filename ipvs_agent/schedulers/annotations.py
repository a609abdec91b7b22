"""Which scheduler and which of its flags a Service asks for in its annotations.

This is asked for each port of each Service, so that nothing is done where no annotation is. Annotations are
written by users: one that makes no sense gives what holds without it, and a fault with a short quote of it.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from ipvs_agent.schedulers import SCHEDULERS, nearest
from ipvs_agent.schedulers.guess import closest
from ipvs_agent.schedulers.scheduler import Scheduler

SCHEDULER = "ipvs-agent.io/scheduler"
"""With a dot and the name of a port behind it: for this port alone. So for the flags."""
FLAGS = "ipvs-agent.io/scheduler-flags"
KUBE_ROUTER_SCHEDULER = "kube-router.io/service.scheduler"
KUBE_ROUTER_FLAGS = "kube-router.io/service.schedflags"

NO_FLAGS = "none"
"""The value that takes also those flags away that a scheduler gets unless told otherwise."""
NO_FALLBACK = "no-fallback"
"""The word beside other flags that takes these away."""

LONGEST_VALUE = 4096
"""Characters. A longer one is not looked at, which would take its time at every change of the Service."""

_QUOTED = 24


class Choice(msgspec.Struct, frozen=True, gc=False):
    """A scheduler by name, and the flags for it."""

    scheduler: str
    flags: int


class Fault(msgspec.Struct, frozen=True, gc=False):
    """An annotation that makes no sense."""

    annotation: str
    """Its key; empty: of several."""
    reason: str
    """What is wrong with it: a line of printable ASCII, whatever the value is."""


def choose(
    annotations: Mapping[str, str], port_name: str, default: Choice
) -> tuple[Choice, tuple[Fault, ...]]:
    """Return what a Service asks for one of its ports, and what of it makes no sense.

    default: the configuration's scheduler with its flags, for Services that ask for nothing else.
    """
    if not annotations:
        return default, ()
    choice = default
    key = scheduler_key(annotations, port_name)
    is_kube_routers = key in ("", KUBE_ROUTER_SCHEDULER)
    if key:
        name = annotations[key].strip(" ")
        scheduler = SCHEDULERS.get(name)
        if scheduler is None:
            # Flags beside it were meant for it, and are no second fault.
            return default, (Fault(key, _no_scheduler(name)),)
        choice = Choice(scheduler.name, scheduler.safe_flags)
    key = "" if _has_its_own(annotations, key, port_name) else flags_key(annotations, port_name)
    # kube-router's flags are for its own scheduler: flag-2 of its mh is not what flag-2 is to our sh.
    if not key and is_kube_routers and KUBE_ROUTER_FLAGS in annotations:
        key = KUBE_ROUTER_FLAGS
    if key:
        scheduler = SCHEDULERS[choice.scheduler]
        # kube-router gives flags to mh alone, and exactly those.
        is_exact = key == KUBE_ROUTER_FLAGS and scheduler.name == "mh"
        try:
            flags = _flags(annotations[key], scheduler, 0 if is_exact else scheduler.safe_flags)
        except ValueError as error:
            return choice, (Fault(key, str(error)),)
        choice = Choice(choice.scheduler, flags)
    return choice, ()


def _has_its_own(annotations: Mapping[str, str], scheduler_by: str, port_name: str) -> bool:
    """Tell whether a port has a scheduler by its name, and the flags are those of the other ports'."""
    is_its_own = scheduler_by == f"{SCHEDULER}.{port_name}" and SCHEDULER in annotations
    return is_its_own and flags_key(annotations, port_name) == FLAGS


def flags_key(annotations: Mapping[str, str], port_name: str) -> str:
    """Return the key that names the flags for a port, empty where there is none."""
    return _key(annotations, FLAGS, port_name)


def scheduler_key(annotations: Mapping[str, str], port_name: str) -> str:
    """Return the key that names the scheduler of a port, empty where there is none."""
    key = _key(annotations, SCHEDULER, port_name)
    return key or (KUBE_ROUTER_SCHEDULER if KUBE_ROUTER_SCHEDULER in annotations else "")


def _key(annotations: Mapping[str, str], key: str, port_name: str) -> str:
    """Return the key that counts for a port, empty where there is none."""
    if port_name and (for_port := f"{key}.{port_name}") in annotations:
        return for_port
    return key if key in annotations else ""


def check_length(text: str) -> None:
    """Raise ValueError for a value that is too long to be looked at."""
    if len(text) > LONGEST_VALUE:
        raise ValueError(f"{quote(text)} is longer than {LONGEST_VALUE} characters")


def _flags(text: str, scheduler: Scheduler, safe_flags: int) -> int:
    check_length(text)
    if text.strip(" ") == NO_FLAGS:
        return 0
    bits = scheduler.flag_bits
    flags = 0
    words = [padded.strip(" ") for padded in text.split(",")]
    for word in words:
        if word == NO_FALLBACK and scheduler.safe_flags:
            safe_flags = 0
        elif word in bits:
            flags |= bits[word]
        else:
            raise ValueError(_no_flag(word, scheduler))
    if NO_FALLBACK in words and flags & scheduler.safe_flags:
        raise ValueError(f"{NO_FALLBACK} stands beside the flag for it")
    return flags | safe_flags


def _no_scheduler(name: str) -> str:
    if not name:
        return f"names no scheduler; use one of {', '.join(SCHEDULERS)}"
    guess = nearest(name)
    advice = f"did you mean {guess}?" if guess else f"use one of {', '.join(SCHEDULERS)}"
    return f"{quote(name)} is not a scheduler; {advice}"


def _no_flag(word: str, scheduler: Scheduler) -> str:
    own = tuple(scheduler.flag_bits)
    if not word:
        return f"a flag is missing; for no flags at all use {NO_FLAGS}"
    if word == NO_FLAGS:
        return f"{NO_FLAGS} must stand alone"
    owner = next((each.name for each in SCHEDULERS.values() if word in each.flags), "")
    head = f"{word} is a flag of {owner}, not" if owner else f"{quote(word)} is not a flag"
    guess = closest(word, own)
    advice = f"did you mean {guess}?" if guess else f"use {', '.join(own)} or {NO_FLAGS}"
    return f"{head} of {scheduler.name}; {advice}"


def quote(text: str) -> str:
    """Return a short quote of what a user wrote: printable ASCII."""
    return ascii(text[:_QUOTED]) + ("..." if len(text) > _QUOTED else "")
