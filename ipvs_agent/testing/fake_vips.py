"""The dummy interface, in memory."""

from __future__ import annotations

import errno
from collections.abc import Sequence

from ipvs_agent.addresses import Address
from ipvs_agent.errors import AlreadyExists, InvalidRequest, KernelError, NotAnAddress, NotFound
from ipvs_agent.kernel.api import Outcomes
from ipvs_agent.model import Vip, VipForm
from ipvs_agent.operations import LINK, AddVip, DeleteVip, VipOperation
from ipvs_agent.testing.fake_node_addresses import FakeNodeAddresses


class FakeVips:
    """The VIPs on kube-ipvs0, which does not exist at first."""

    def __init__(self, node_addresses: FakeNodeAddresses) -> None:
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
        self._node_addresses = node_addresses
        self._vips: dict[tuple[Address, VipForm], Vip] = {}

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
        self._vips = {key: vip for key, vip in self._vips.items() if len(vip.address) == 4}

    def lose_sources(self) -> None:
        """Take from IPv6 routes the sources that the node does not have any more, as newer kernels do."""
        own = self._own_addresses()
        for key, vip in self._vips.items():
            if len(vip.address) == 16 and vip.source not in own:
                self._vips[key] = Vip(*key)

    def addresses(self) -> set[Address]:
        """Return the interface's addresses; empty where there is no interface."""
        return {vip.address for vip in self._vips.values() if vip.form is VipForm.ADDRESS}

    def routes(self) -> dict[Address, Address]:
        """Return the addresses that have a local route of ours, with the source that it prefers."""
        return {vip.address: vip.source for vip in self._vips.values() if vip.form is VipForm.ROUTE}

    def has_other_routes(self) -> bool:
        """Tell whether somebody else has made routes by the interface."""
        return bool(self.other_routes)

    def apply(self, operations: Sequence[VipOperation]) -> Outcomes:
        """Run a batch; without the interface every operation is NotFound."""
        self.batches.append(list(operations))
        return [self._apply(operation) for operation in operations]

    def tidy(self) -> None:
        """Remove from the interface what was there for IPv4 routes only, where there is none left."""
        self.has_keeper &= any(len(address) == 4 for address in self.routes())

    def _apply(self, operation: VipOperation) -> KernelError | None:
        if self.kind is None:
            return NotFound(f"{operation}: there is no interface {LINK}", errno.ENODEV)
        if isinstance(operation, DeleteVip):
            return self._delete(operation)
        form = operation.form if isinstance(operation, AddVip) else VipForm.ROUTE
        vip = Vip(operation.address, form, operation.source)
        key = (vip.address, form)
        if vip.source and vip.source not in self._own_addresses():
            return NotAnAddress(f"{operation}: Invalid argument", errno.EINVAL)
        if isinstance(operation, AddVip) and key in self._vips:
            return AlreadyExists(f"{operation}: File exists", errno.EEXIST)
        if form is VipForm.ROUTE:
            self.is_up |= len(vip.address) == 16
            self.has_keeper |= len(vip.address) == 4
        self._vips[key] = vip
        return None

    def _delete(self, operation: DeleteVip) -> KernelError | None:
        if self._vips.pop((operation.address, operation.form), None) is None:
            number = errno.ESRCH if operation.form is VipForm.ROUTE else errno.EADDRNOTAVAIL
            return NotFound(f"{operation}: it is not there", number)
        return None

    def _own_addresses(self) -> set[Address]:
        by_interface = self._node_addresses.addresses()
        return {address for addresses in by_interface.values() for address in addresses}
