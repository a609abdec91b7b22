"""A kernel that fails at random."""

from __future__ import annotations

import errno
import itertools
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
        """Run the operations that do not fail here; of one for several each part may fail."""
        outcomes: Outcomes = []
        for are_for_several, group in itertools.groupby(operations, _is_for_several):
            run = self._run_all if are_for_several else self._run
            outcomes += run(list(group))
        return outcomes

    def _run_all(self, operations: Sequence[AddRealServers]) -> Outcomes:
        return [self._run_parts(operation) for operation in operations]

    def _run_parts(self, operation: AddRealServers) -> KernelError | None:
        faults = [self._fails() for _ in operation.real_servers]
        if not any(faults):
            return self._inner.apply([operation])[0]  # type: ignore[no-any-return]
        return partly_refused(self._run(operation.one_by_one(), faults))

    def _run(self, operations: Sequence[Any], fails: Sequence[bool] | None = None) -> Outcomes:
        fails = fails or [self._fails() for _ in operations]
        chosen = [operation for operation, fault in zip(operations, fails, strict=True) if not fault]
        done = iter(self._inner.apply(chosen))
        return [
            _fault(operation) if fault else next(done)
            for operation, fault in zip(operations, fails, strict=True)
        ]

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            if self._fails():
                raise _fault(name)
            return getattr(self._inner, name)(*arguments)

        return call


def _is_for_several(operation: Any) -> bool:
    return isinstance(operation, AddRealServers)


def _fault(what: object) -> KernelError:
    return KernelError(f"{what}: injected fault", errno.ENOMEM)
