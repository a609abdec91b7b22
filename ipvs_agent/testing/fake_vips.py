"""The dummy interface, in memory."""

from __future__ import annotations

import errno
from collections.abc import Sequence

from ipvs_agent.addresses import Address
from ipvs_agent.errors import AlreadyExists, InvalidRequest, KernelError, NotFound
from ipvs_agent.kernel.api import Outcomes
from ipvs_agent.model import Vip, VipForm
from ipvs_agent.operations import LINK, AddVip, VipOperation


class FakeVips:
    """The VIPs on kube-ipvs0, which does not exist at first."""

    def __init__(self) -> None:
        self.kind: str | None = None
        """What the interface was made as; None: there is none."""
        self.batches: list[list[VipOperation]] = []
        """What apply was called with."""
        self.is_up = False
        self.has_keeper = False
        """Whether an address that is no VIP keeps the IPv4 routes."""
        self.other_routes: set[Address] = set()
        """Routes by the interface that others have made."""
        self._is_ours = False
        self._vips: set[Vip] = set()

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
        self.is_up = self.has_keeper = False
        self.other_routes.clear()
        self._vips.clear()

    def take_down(self) -> None:
        """Set the interface down, as others may: IPv6 routes by it, and its IPv6 addresses, are lost."""
        self.is_up = False
        self._vips = {vip for vip in self._vips if len(vip.address) == 4}

    def addresses(self) -> set[Address]:
        """Return the interface's addresses; empty where there is no interface."""
        return self._in_form(VipForm.ADDRESS)

    def routes(self) -> set[Address]:
        """Return the addresses that have a local route of ours."""
        return self._in_form(VipForm.ROUTE)

    def has_other_routes(self) -> bool:
        """Tell whether somebody else has made routes by the interface."""
        return bool(self.other_routes)

    def apply(self, operations: Sequence[VipOperation]) -> Outcomes:
        """Run a batch; without the interface every operation is NotFound."""
        self.batches.append(list(operations))
        return [self._apply(operation) for operation in operations]

    def tidy(self) -> None:
        """Remove from the interface what was there for IPv4 routes only, where there is none left."""
        self.has_keeper &= any(vip.form is VipForm.ROUTE and len(vip.address) == 4 for vip in self._vips)

    def _apply(self, operation: VipOperation) -> KernelError | None:
        if self.kind is None:
            return NotFound(f"{operation}: there is no interface {LINK}", errno.ENODEV)
        vip = Vip(operation.address, operation.form)
        if isinstance(operation, AddVip):
            if vip in self._vips:
                return AlreadyExists(f"{operation}: File exists", errno.EEXIST)
            if vip.form is VipForm.ROUTE:
                self.is_up |= len(vip.address) == 16
                self.has_keeper |= len(vip.address) == 4
            self._vips.add(vip)
        else:
            if vip not in self._vips:
                number = errno.ESRCH if vip.form is VipForm.ROUTE else errno.EADDRNOTAVAIL
                return NotFound(f"{operation}: it is not there", number)
            self._vips.remove(vip)
        return None

    def _in_form(self, form: VipForm) -> set[Address]:
        return {vip.address for vip in self._vips if vip.form is form}
