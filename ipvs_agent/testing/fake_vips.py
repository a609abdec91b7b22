"""The dummy interface, in memory."""

from __future__ import annotations

import errno
from collections.abc import Sequence

from ipvs_agent.addresses import Address
from ipvs_agent.errors import AlreadyExists, InvalidRequest, KernelError, NotFound
from ipvs_agent.kernel.api import Outcomes
from ipvs_agent.operations import LINK, AddVip, VipOperation


class FakeVips:
    """The addresses of kube-ipvs0, which does not exist at first."""

    def __init__(self) -> None:
        self.kind: str | None = None
        """What the interface was made as; None: there is none."""
        self.batches: list[list[VipOperation]] = []
        """What apply was called with."""
        self._is_ours = False
        self._addresses: set[Address] = set()

    def ensure_link(self) -> None:
        """Make the interface where it is missing; one that exists is left as it is."""
        if self.kind is None:
            self.kind = "dummy"
            self._is_ours = True
        if self.kind != "dummy":
            raise InvalidRequest(f"the network interface {LINK} exists and is not a dummy interface")

    def link_is_ours(self) -> bool:
        """Tell whether the interface is there and was made by `ensure_link`."""
        return self._is_ours

    def remove_link(self) -> None:
        """Remove the interface with its addresses; NotFound where there is none."""
        if self.kind is None:
            raise NotFound(f"ip link delete {LINK}: no such device", errno.ENODEV)
        self.kind = None
        self._is_ours = False
        self._addresses.clear()

    def addresses(self) -> set[Address]:
        """Return the interface's addresses; empty where there is no interface."""
        return set(self._addresses)

    def apply(self, operations: Sequence[VipOperation]) -> Outcomes:
        """Run a batch; without the interface every operation is NotFound."""
        self.batches.append(list(operations))
        return [self._apply(operation) for operation in operations]

    def _apply(self, operation: VipOperation) -> KernelError | None:
        if self.kind is None:
            return NotFound(f"{operation}: there is no interface {LINK}", errno.ENODEV)
        is_bound = operation.address in self._addresses
        if isinstance(operation, AddVip):
            if is_bound:
                return AlreadyExists(f"{operation}: File exists", errno.EEXIST)
            self._addresses.add(operation.address)
        else:
            if not is_bound:
                return NotFound(f"{operation}: Cannot assign requested address", errno.EADDRNOTAVAIL)
            self._addresses.remove(operation.address)
        return None
