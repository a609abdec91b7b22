"""Operations to the kernel, phase by phase."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import cast

import msgspec

from ipvs_agent.addresses import Address
from ipvs_agent.desired import sets
from ipvs_agent.desired.sets import Purpose
from ipvs_agent.errors import AlreadyExists, KernelError, NotFound, PartlyRefused
from ipvs_agent.kernel.api import Kernel, Outcomes
from ipvs_agent.model import Frontend, SetMember, VirtualServerKey
from ipvs_agent.operations import (
    AddMember,
    AddRealServer,
    AddRealServers,
    AddVip,
    AddVirtualServer,
    DeleteMember,
    DeleteRealServer,
    DeleteVip,
    DeleteVirtualServer,
    IpvsOperation,
    Operation,
    Phase,
    SetOperation,
    SetRealServer,
    SetVip,
    SetVirtualServer,
    VipOperation,
)
from ipvs_agent.reconcile.achieved import Achieved
from ipvs_agent.reconcile.claims import Key

_SET_PHASES = {Phase.ADD_MEMBERS, Phase.RESTRICT, Phase.UNRESTRICT, Phase.DELETE_MEMBERS}
_VIP_PHASES = {Phase.ADD_VIPS, Phase.DELETE_VIPS}
_RESTRICTING = {Phase.ADD_MEMBERS: Phase.RESTRICT, Phase.DELETE_MEMBERS: Phase.UNRESTRICT}
"""When members go or come that shut out clients."""
_ON_REAL_SERVERS = (AddRealServer, SetRealServer)


_Wanted = Callable[[VirtualServerKey], Frontend | None]


class Failure(msgspec.Struct, frozen=True):
    """An operation that was not done."""

    operation: Operation
    error: KernelError


class WaitingError(KernelError):
    """An operation was not tried, because what it stands on is not there yet, or still stands on it."""


def key_of(operation: Operation) -> Key:
    """Return the object that an operation changes; real servers are part of their virtual server."""
    if isinstance(operation, (AddMember, DeleteMember)):
        return operation.member
    if isinstance(operation, (AddVip, SetVip, DeleteVip)):
        return operation.address
    if isinstance(operation, (AddVirtualServer, SetVirtualServer)):
        return operation.virtual_server.key
    return operation.key


def execute(
    operations: Iterable[Operation],
    kernel: Kernel,
    achieved: Achieved,
    wanted: _Wanted,
) -> list[Failure]:
    """Run operations in the order of their phases, record what was done, and return what was not.

    wanted: says what a virtual server is to be.
    """
    failures: list[Failure] = []
    for phase, group in sorted(_by_phase(operations).items()):
        batch = _ready(group, achieved, wanted, failures)
        for operation, error in zip(batch, _apply(phase, batch, kernel), strict=True):
            if error is None or _is_as_wanted(operation, error):
                achieved.record(operation)
            elif isinstance(operation, AddRealServers) and isinstance(error, PartlyRefused):
                failures += _record_parts(operation, error, achieved)
            else:
                failures.append(Failure(operation, error))
    return failures


def _record_parts(operation: AddRealServers, error: PartlyRefused, achieved: Achieved) -> Iterator[Failure]:
    """Record which real servers were added, and yield those that were not."""
    for one, outcome in zip(operation.one_by_one(), error.outcomes, strict=True):
        if outcome is None:
            achieved.record(one)
        else:
            yield Failure(one, outcome)


def _by_phase(operations: Iterable[Operation]) -> dict[Phase, list[Operation]]:
    by_phase: defaultdict[Phase, list[Operation]] = defaultdict(list)
    for operation in operations:
        by_phase[operation.phase].append(operation)
    for phase, of_restrictions in _RESTRICTING.items():
        members = cast("list[SetOperation]", by_phase.pop(phase, []))
        for operation in members:
            by_phase[of_restrictions if sets.restricts(operation.member) else phase].append(operation)
    return by_phase


def _ready(
    group: Iterable[Operation], achieved: Achieved, wanted: _Wanted, failures: list[Failure]
) -> list[Operation]:
    """Return the operations of a phase that need not wait; note those that must."""
    batch: list[Operation] = []
    last_key: VirtualServerKey | None = None
    lack = ""
    for operation in group:
        if isinstance(operation, _ON_REAL_SERVERS) and operation.real_server.weight:
            # What one lacks, its neighbours behind the virtual server lack too.
            if operation.key is not last_key:
                last_key, lack = operation.key, _obstacle(operation, achieved, wanted)
            obstacle = lack
        elif isinstance(operation, DeleteMember) and operation.member not in achieved.members:
            continue  # another mark has taken its place
        else:
            obstacle = _obstacle(operation, achieved, wanted)
        if obstacle:
            failures.append(Failure(operation, WaitingError(f"{operation}: {obstacle}")))
        else:
            batch.append(operation)
    return batch


def _obstacle(operation: Operation, achieved: Achieved, wanted: _Wanted) -> str:
    """Return why an operation must wait, whatever else failed before it; mostly nothing.

    What is ours must be known as ours for as long as it is there, a virtual server must not be open to
    clients that a set is to shut out, and a VIP must not swallow packets that no virtual server takes.
    """
    match operation:
        case AddRealServer() | SetRealServer():
            obstacle = _what_real_server_lacks(operation, achieved, wanted)
        case AddRealServers() if operation.key not in achieved.virtual_servers:
            obstacle = _NO_VIRTUAL_SERVER  # one that was just made has waited for all that it needs
        case AddMember():
            obstacle = _what_comes_first(operation.member, achieved, wanted)
        case DeleteMember():
            obstacle = _what_stands_on(operation.member, achieved, wanted)
        case AddVip():
            obstacle = _what_vip_lacks(operation.address, achieved)
        case AddVirtualServer():
            obstacle = _missing_member(wanted(operation.virtual_server.key), achieved)
        case SetVirtualServer() if operation.virtual_server.key not in achieved.virtual_servers:
            obstacle = _NO_VIRTUAL_SERVER
        case _:
            obstacle = ""
    return obstacle


_NO_VIRTUAL_SERVER = "its virtual server is not there"


def _what_real_server_lacks(
    operation: AddRealServer | SetRealServer, achieved: Achieved, wanted: _Wanted
) -> str:
    if operation.key not in achieved.virtual_servers:
        return _NO_VIRTUAL_SERVER
    if not operation.real_server.weight:
        # One that drains is there without a restriction, and is not opened before it has one again.
        return ""
    return _missing_member(wanted(operation.key), achieved, restricts_only=True)


def _what_vip_lacks(vip: Address, achieved: Achieved) -> str:
    if not sets.is_vip(vip, achieved.members):
        return "no set names it as a VIP"
    return "" if achieved.serves(vip) else "it has no virtual server"


def _missing_member(frontend: Frontend | None, achieved: Achieved, *, restricts_only: bool = False) -> str:
    for member in frontend.members if frontend is not None else ():
        if member not in achieved.members and (sets.restricts(member) or not restricts_only):
            return f"the set {member.set_name} does not know it yet"
    return ""


def _what_comes_first(member: SetMember, achieved: Achieved, wanted: _Wanted) -> str:
    """Return what must be there before a member: who is allowed, before the others are shut out."""
    if sets.purpose_of(member) != Purpose.RESTRICTED:
        return ""
    frontend = wanted(sets.dialled(member))
    is_missing = frontend is not None and not _allowed(frontend) <= achieved.members
    return "not all whom it is to let in are known yet" if is_missing else ""


def _what_stands_on(member: SetMember, achieved: Achieved, wanted: _Wanted) -> str:
    """Return what must be gone, or there, before a member goes."""
    match sets.purpose_of(member):
        case Purpose.VIPS:
            return "the VIP is still there" if achieved.has_vip(member.address) else ""
        case Purpose.SERVICES:
            return (
                "the virtual server is still there"
                if sets.dialled(member) in achieved.virtual_servers
                else ""
            )
        case Purpose.RESTRICTED:
            is_open = _takes_unwanted_connections(sets.dialled(member), achieved, wanted)
            return "a real server that goes still takes connections" if is_open else ""
        case Purpose.ALLOWED:
            is_needed = _shuts_out_too_many(sets.dialled(member), achieved, wanted)
            return "the restriction is not yet as it should be" if is_needed else ""
        case _:
            return ""


def _takes_unwanted_connections(key: VirtualServerKey, achieved: Achieved, wanted: _Wanted) -> bool:
    held, frontend = achieved.virtual_servers.get(key), wanted(key)
    staying = {server.endpoint for server in frontend.real_servers} if frontend is not None else set()
    leaving = held.real_servers.keys() - staying if held is not None else set()
    return held is not None and any(held.real_servers[endpoint].weight for endpoint in leaving)


def _shuts_out_too_many(key: VirtualServerKey, achieved: Achieved, wanted: _Wanted) -> bool:
    """Tell whether clients are shut out whom no member lets in though one should."""
    restriction, frontend = sets.port_member(Purpose.RESTRICTED, key), wanted(key)
    if restriction not in achieved.members:
        return False
    is_wanted = frontend is not None and restriction in frontend.members
    return not is_wanted or (frontend is not None and not _allowed(frontend) <= achieved.members)


def _allowed(frontend: Frontend) -> set[SetMember]:
    return {member for member in frontend.members if sets.purpose_of(member) == Purpose.ALLOWED}


def _apply(phase: Phase, batch: Sequence[Operation], kernel: Kernel) -> Outcomes:
    if phase in _SET_PHASES:
        return kernel.ipsets.apply(cast("Sequence[SetOperation]", batch))
    if phase in _VIP_PHASES:
        return kernel.vips.apply(cast("Sequence[VipOperation]", batch))
    return kernel.ipvs.apply(cast("Sequence[IpvsOperation]", batch))


def _is_as_wanted(operation: Operation, error: KernelError) -> bool:
    """Tell whether the kernel refused only because what was asked for is so already."""
    if isinstance(operation, AddVip):
        return isinstance(error, AlreadyExists)
    if isinstance(operation, DeleteVip | DeleteRealServer | DeleteVirtualServer):
        return isinstance(error, NotFound)
    return False
