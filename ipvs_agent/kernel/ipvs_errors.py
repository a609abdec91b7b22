"""What a refusal of an IPVS operation means: an errno says something only together with its operation."""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence

from ipvs_agent.errors import (
    InvalidRequest,
    KernelError,
    NotFound,
    NoVirtualServer,
    PartlyRefused,
    UnknownScheduler,
)
from ipvs_agent.kernel.netlink import Refusal, kernel_error
from ipvs_agent.operations import (
    AddRealServer,
    AddVirtualServer,
    DeleteRealServer,
    DeleteVirtualServer,
    IpvsOperation,
    SetRealServer,
    SetVirtualServer,
)

_MEANINGS: Mapping[tuple[type[IpvsOperation], int], tuple[type[KernelError], str]] = {
    (AddVirtualServer, errno.ENOENT): (UnknownScheduler, ""),
    (SetVirtualServer, errno.ENOENT): (UnknownScheduler, ""),
    (SetVirtualServer, errno.ESRCH): (NotFound, "there is no such virtual server"),
    (DeleteVirtualServer, errno.ESRCH): (NotFound, "there is no such virtual server"),
    (AddRealServer, errno.ESRCH): (NoVirtualServer, "the virtual server is not there"),
    (SetRealServer, errno.ESRCH): (NoVirtualServer, "the virtual server is not there"),
    (DeleteRealServer, errno.ESRCH): (NoVirtualServer, "the virtual server is not there"),
    (SetRealServer, errno.ENOENT): (NotFound, "the virtual server has no such real server"),
    (DeleteRealServer, errno.ENOENT): (NotFound, "the virtual server has no such real server"),
}


def refused(operation: IpvsOperation, refusal: Refusal) -> KernelError:
    """Return the error for an operation that the kernel refused."""
    meaning = _MEANINGS.get((type(operation), refusal.number))
    if meaning is None:
        return kernel_error(str(operation), refusal)
    kind, reason = meaning
    if kind is UnknownScheduler:
        reason = _lacking(operation)
    return kind(f"{operation}: {reason}", refusal.number)


def partly_refused(outcomes: Sequence[KernelError | None]) -> KernelError | None:
    """Return the error for an operation by what became of its parts; None where all were done."""
    return PartlyRefused(outcomes) if any(outcomes) else None


def _lacking(operation: IpvsOperation) -> str:
    assert isinstance(operation, AddVirtualServer | SetVirtualServer)
    scheduler = operation.virtual_server.scheduler
    engine = operation.virtual_server.persistence_engine
    text = f"this kernel has no scheduler {scheduler} (module ip_vs_{scheduler})"
    return text + (f", or no persistence engine {engine} (module ip_vs_pe_{engine})" if engine else "")


def unpackable(operation: IpvsOperation, error: Exception) -> KernelError:
    """Return the error for an operation that cannot even be packed."""
    return InvalidRequest(f"{operation}: a number is out of range: {error}")
