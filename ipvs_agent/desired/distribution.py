"""How connections to one port of a Service are distributed: scheduler, affinity, weights and caps.

What a Service asks for may not go together, or not with its endpoints or this kernel. Then something safe is
done, the same on every node with such a kernel, and said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Set

import msgspec

from ipvs_agent.desired.wishes import AFFINITY_SHARED, SLOW_START, WEIGHTS, Wishes
from ipvs_agent.model import FULL_NETMASK, Endpoint, RealServer, RealServerKey, Service, ServicePort, Skipped
from ipvs_agent.schedulers import SAFE, SCHEDULERS, Weight
from ipvs_agent.schedulers.annotations import Choice, Fault, choose, flags_key, scheduler_key
from ipvs_agent.schedulers.scheduler import RAMP_STEPS
from ipvs_agent.schedulers.weights import fit

_BY_SOURCE = Choice("sh", SCHEDULERS["sh"].safe_flags)
_SAFE = Choice(SAFE, 0)


class Distribution(msgspec.Struct, frozen=True):
    """How the virtual servers of a port distribute connections."""

    choice: Choice
    """The scheduler."""
    by_mark: Choice
    """That of a virtual server by mark, which cannot be persistent: it would not translate ports."""
    affinity_seconds: int
    """Persistence; 0: none."""
    netmask: int
    """Clients that persistence takes as one."""
    wishes: Wishes
    """What is left of the wishes: without what means nothing to the scheduler."""

    @property
    def hints_give_weights(self) -> bool:
        """Whether hints give endpoints their weight; otherwise they keep endpoints out."""
        return self.wishes.weights is not None and self.wishes.weights.hinted is not None


def of_port(
    service: Service,
    port: ServicePort,
    wishes: Wishes,
    count: int,
    default: Choice,
    missing_schedulers: Set[str],
) -> tuple[Distribution, list[Skipped]]:
    """Return how the connections to a port are distributed, and what is not done as it is asked for.

    count: endpoints of the port on all nodes, for which there must be room.
    default: the scheduler for Services that ask for no other.
    """
    choice, faults = choose(service.annotations, port.name, default)
    skipped = said(service, faults)
    asked_by = scheduler_key(service.annotations, port.name)
    is_refused = any(fault.annotation == asked_by for fault in faults)
    if is_refused:
        asked_by = ""
    if not asked_by and default.scheduler in missing_schedulers:
        choice = _SAFE  # which is the node's business, and said once for all Services
    is_shared = wishes.is_affinity_shared
    if is_shared:
        obstacle = _obstacle(_BY_SOURCE, port, count, missing_schedulers)
        if obstacle:
            is_shared = False
            skipped.append(_skipped(service, f"[{AFFINITY_SHARED}]", f"{obstacle}, so it is not shared"))
        else:
            blamed = asked_by if choice.scheduler != _BY_SOURCE.scheduler else ""
            blamed = blamed or flags_key(service.annotations, port.name)
            if blamed and choice != _BY_SOURCE:
                reason = f"means nothing beside {AFFINITY_SHARED}, which is done by sh without sh-port"
                skipped.append(_skipped(service, f"[{blamed}]", reason))
            choice = _BY_SOURCE
    obstacle = _obstacle(choice, port, count, missing_schedulers)
    if obstacle:
        choice = _SAFE if _obstacle(default, port, count, missing_schedulers) else default
        skipped.append(_of_scheduler(service, asked_by, f"{obstacle}, so {choice.scheduler} is used"))
    # What was meant for a scheduler that cannot be had, or for that of another port, is no fault of its own.
    is_as_asked = not (is_refused or obstacle)
    if wishes.weights is not None and not _heeds_weights(choice):
        reason = f"weights mean nothing to {choice.scheduler}; wrr, wlc and fo are schedulers that heed them"
        if is_as_asked and not _is_for_another_port(service, default, _heeds_weights):
            skipped.append(_skipped(service, f"[{WEIGHTS}]", reason))
        wishes = msgspec.structs.replace(wishes, weights=None)
    if wishes.slow_start_seconds and not _can_ramp(choice):
        reason = f"means nothing to {choice.scheduler}; use wrr, wlc, sed, nq or twos"
        if is_as_asked and not _is_for_another_port(service, default, _can_ramp):
            skipped.append(_skipped(service, f"[{SLOW_START}]", reason))
        wishes = msgspec.structs.replace(wishes, slow_start_seconds=0.0)
    obstacle = _obstacle(_BY_SOURCE, port, count, missing_schedulers)
    if obstacle and service.affinity_seconds and service.external_local and not _is_by_source(choice):
        reason = f"{obstacle}, so clients inside the cluster have none at addresses for clients outside"
        skipped.append(Skipped(f"Service {service.name}", "spec.sessionAffinity", reason))
    distribution = Distribution(
        choice=choice,
        by_mark=_BY_SOURCE if service.affinity_seconds and not obstacle else choice,
        affinity_seconds=0 if is_shared else service.affinity_seconds,
        netmask=wishes.netmasks.get(port.family, FULL_NETMASK),
        wishes=wishes,
    )
    return distribution, skipped


def _heeds_weights(choice: Choice) -> bool:
    return SCHEDULERS[choice.scheduler].weight is not Weight.IGNORED


def _can_ramp(choice: Choice) -> bool:
    return SCHEDULERS[choice.scheduler].can_ramp


def _is_for_another_port(service: Service, default: Choice, heeds: Callable[[Choice], bool]) -> bool:
    """Tell whether some port of a Service asks for a scheduler that heeds what it says for all of them."""
    return any(heeds(choose(service.annotations, port.name, default)[0]) for port in service.ports)


def _is_by_source(choice: Choice) -> bool:
    """Tell whether a scheduler with a larger table than `sh` keeps clients at their endpoint."""
    return choice.scheduler == "mh" and not choice.flags & SCHEDULERS["mh"].flag_bits["mh-port"]


def real_servers(
    serving: Sequence[Endpoint], choice: Choice, wishes: Wishes, node: str, zone: str
) -> list[RealServer]:
    """Return the real servers of a virtual server with a scheduler, in no order.

    node, zone: from where they are seen.
    """
    upper, lower = wishes.most_connections, wishes.resume_connections
    scheduler = SCHEDULERS[choice.scheduler]
    scale = RAMP_STEPS if wishes.slow_start_seconds and scheduler.can_ramp else 1
    if wishes.weights is None:
        return [
            RealServer(one.address, one.port, scale, upper_threshold=upper, lower_threshold=lower)
            for one in serving
        ]
    places = scheduler.weight_sum
    if places:
        # Who has to do with a place less must not depend on the order in which endpoints became known.
        serving = sorted(serving, key=_by_address)
    numbers = [wishes.weights.of(one, node, zone) for one in serving]
    if places:
        numbers = fit(numbers, places)
    return [
        RealServer(one.address, one.port, number * scale, upper_threshold=upper, lower_threshold=lower)
        for one, number in zip(serving, numbers, strict=True)
    ]


def _by_address(endpoint: Endpoint) -> RealServerKey:
    return (endpoint.address, endpoint.port)


def said(service: Service, faults: Iterable[Fault]) -> list[Skipped]:
    """Return what is said of annotations that make no sense."""
    return [
        _skipped(service, f"[{fault.annotation}]" if fault.annotation else "", fault.reason)
        for fault in faults
    ]


def _skipped(service: Service, annotation: str, reason: str) -> Skipped:
    return Skipped(f"Service {service.name}", f"metadata.annotations{annotation}", reason)


def _of_scheduler(service: Service, annotation: str, reason: str) -> Skipped:
    """Say something of a scheduler that an annotation names, or else the configuration."""
    if annotation:
        return _skipped(service, f"[{annotation}]", reason)
    return Skipped(f"Service {service.name}", "ipvs.scheduler", reason)


def _obstacle(choice: Choice, port: ServicePort, count: int, missing_schedulers: Set[str]) -> str:
    """Return why a scheduler cannot be used; mostly nothing."""
    scheduler = choice.scheduler
    if scheduler in missing_schedulers:
        return f"this kernel has no scheduler {scheduler}"
    room = SCHEDULERS[scheduler].table_size
    if room and count > room:
        # The number of endpoints would make another Event of it whenever one comes or goes.
        return f"{scheduler} has room for {room} endpoints and port {port.name!r} has more"
    return ""
