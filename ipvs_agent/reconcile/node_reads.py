"""Reading the node again when the kernel says that something about it has changed; the worker does it."""

from __future__ import annotations

from collections.abc import Callable

from ipvs_agent.errors import KernelError
from ipvs_agent.kernel.api import Kernel
from ipvs_agent.reconcile import audit
from ipvs_agent.reconcile.messages import AddressesFailed, AddressesRead, Message, VipsRead
from ipvs_agent.reconcile.worker import Worker


class NodeReads:
    """Has the worker read the node, and the loop told what it found."""

    def __init__(self, background: Kernel, worker: Worker, tell: Callable[[Message], None]) -> None:
        self._background = background
        self._worker = worker
        self._tell = tell

    def read_addresses(self) -> None:
        """Have the node's own addresses read."""
        self._worker.submit(self._read_addresses)

    def mend_link(self) -> None:
        """Have the interface of the VIPs made where it is missing, and what is on it read."""
        self._worker.submit(self._mend_link)

    def _read_addresses(self) -> None:
        try:
            addresses = audit.read_node_addresses(self._background)
        except KernelError as error:
            self._tell(AddressesFailed(error))
        else:
            self._tell(AddressesRead(addresses))

    def _mend_link(self) -> None:
        try:
            self._background.vips.ensure_link()
            self._tell(VipsRead(audit.read_vips(self._background)))
        except KernelError:
            self._tell(VipsRead(None))
