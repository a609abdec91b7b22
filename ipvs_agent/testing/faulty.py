"""A kernel that fails at random."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Sequence
from typing import Any, cast

from ipvs_agent.errors import KernelError
from ipvs_agent.kernel.api import (
    Conntrack,
    IpSets,
    Iptables,
    Ipvs,
    Kernel,
    Modules,
    Nftables,
    NodeAddresses,
    Outcomes,
    Sysctls,
    Vips,
)
from ipvs_agent.kernel.ipvs_errors import partly_refused
from ipvs_agent.operations import AddRealServers


class FaultyKernel:
    """A kernel.api.Kernel in front of another one, which fails each call and each operation at some rate.

    What fails has not been done. The rate can be changed at any time; at 0 all is well.
    """

    def __init__(self, kernel: Kernel, rng: random.Random, rate: float = 0.1) -> None:
        self.rate = rate
        self._rng = rng
        self.ipvs = cast("Ipvs", _Faulty(kernel.ipvs, self._fails))
        self.vips = cast("Vips", _Faulty(kernel.vips, self._fails))
        self.node_addresses = cast("NodeAddresses", _Faulty(kernel.node_addresses, self._fails))
        self.ipsets = cast("IpSets", _Faulty(kernel.ipsets, self._fails))
        self.iptables = cast("Iptables", _Faulty(kernel.iptables, self._fails))
        self.nftables = cast("Nftables", _Faulty(kernel.nftables, self._fails))
        self.conntrack = cast("Conntrack", _Faulty(kernel.conntrack, self._fails))
        self.sysctls = cast("Sysctls", _Faulty(kernel.sysctls, self._fails))
        self.modules = cast("Modules", _Faulty(kernel.modules, self._fails))

    def _fails(self) -> bool:
        return self._rng.random() < self.rate


class _Faulty:
    def __init__(self, inner: Any, fails: Callable[[], bool]) -> None:
        self._inner = inner
        self._fails = fails

    def apply(self, operations: Sequence[Any]) -> Outcomes:
        """Run the operations that do not fail here, as one batch; of one for several each may fail."""
        parts = [_parts(operation) for operation in operations]
        done = iter(self._apply([one for each in parts for one in each]))
        outcomes = [[next(done) for _ in each] for each in parts]
        return [
            partly_refused(each) if isinstance(operation, AddRealServers) else each[0]
            for operation, each in zip(operations, outcomes, strict=True)
        ]

    def _apply(self, operations: Sequence[Any]) -> Outcomes:
        faults: Outcomes = [_fault(operation) if self._fails() else None for operation in operations]
        chosen = [operation for operation, fault in zip(operations, faults, strict=True) if fault is None]
        done = iter(self._inner.apply(chosen))
        return [next(done) if fault is None else fault for fault in faults]

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            if self._fails():
                raise _fault(name)
            return getattr(self._inner, name)(*arguments)

        return call


def _parts(operation: Any) -> list[Any]:
    return [*operation.one_by_one()] if isinstance(operation, AddRealServers) else [operation]


def _fault(what: object) -> KernelError:
    return KernelError(f"{what}: injected fault", errno.ENOMEM)
