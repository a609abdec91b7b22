"""What benchmarks share: fresh namespaces, and an agent within this process."""

from __future__ import annotations

import itertools
import json
import logging
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing, contextmanager

from benchmarks import cluster, progress
from benchmarks.sizes import Size
from ipvs_agent.addresses import Address, parse_network
from ipvs_agent.desired.shim import Masquerade
from ipvs_agent.kernel.api import Outcomes
from ipvs_agent.kernel.node import NodeKernel
from ipvs_agent.operations import AddRealServer, IpvsOperation, SetVirtualServer
from ipvs_agent.reconcile.foundation import Needs
from ipvs_agent.reconcile.messages import Stop
from ipvs_agent.reconcile.reconciler import Reconciler
from ipvs_agent.reconcile.settings import Settings
from ipvs_agent.reconcile.worker import ThreadWorker
from ipvs_agent.sources.changes import Change, Kind, Listed
from ipvs_agent.sources.decode import decode
from tools.lab import talk

_PATIENCE = 600.0
_numbers = itertools.count()


@contextmanager
def namespace() -> Iterator[str]:
    """Make a fresh network namespace for the length of a with block."""
    name = f"bench-{os.getpid()}-{next(_numbers)}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    # Without any address a namespace has no routing tables, and IPVS takes no real server.
    subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
    try:
        yield name
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


@contextmanager
def serving(size: Size) -> Iterator[AgentInProcess]:
    """Have an agent in a namespace of its own that serves a cluster of this size, with nothing left to do."""
    with namespace() as name:
        agent = AgentInProcess(name)
        said = [
            decode(Kind(thing["kind"]), json.dumps(thing).encode())
            for thing in progress.over(cluster.objects(*size), 2 * size.services, f"cluster of {size}")
        ]
        names = {kind: frozenset(one.name for one in said if one.kind is kind and one.name) for kind in Kind}
        agent.tell([*said, *(Listed(kind, names[kind]) for kind in Kind)])
        del said
        agent.wait_until_serving()
        try:
            yield agent
        finally:
            agent.end()


class AgentInProcess:
    """A reconciler on the real kernel of a namespace, which can be watched more closely than a process."""

    def __init__(self, name: str) -> None:
        self.applied = 0.0
        """When the last batch for IPVS was done."""
        self.added: dict[Address, float] = {}
        """When a real server was last added, by its address."""
        self.edited = 0
        """How many virtual servers were changed after they had been made."""
        self.busy = 0.0
        """Seconds that its thread did not wait; a clock of CPU time misses what is over before it ticks."""
        self._is_at_work = False
        self._is_serving = threading.Event()
        made: Future[Reconciler] = Future()
        self._thread = threading.Thread(target=self._run, args=(name, made), daemon=True)
        self._thread.start()
        self._reconciler = made.result()

    def tell(self, changes: Sequence[Change]) -> None:
        """Hand over changes as a source does."""
        self._reconciler.tell(changes)

    def wait_until_serving(self) -> None:
        """Wait until all that was told first is there; then nothing happens until something is told."""
        if not self._is_serving.wait(_PATIENCE):
            raise TimeoutError("the agent did not get to serve in time")
        self.wait_until(lambda: not self._is_at_work)  # it says so a little before it is done

    def wait_until(self, condition: Callable[[], bool], seconds: float = _PATIENCE) -> None:
        """Wait until a condition holds."""
        deadline = time.perf_counter() + seconds
        while not condition():
            if time.perf_counter() > deadline:
                raise TimeoutError("the agent did not get there in time")
            time.sleep(0.001)

    def end(self) -> None:
        """End the reconciler's thread."""
        self._reconciler.tell(Stop())
        self._thread.join()

    def _run(self, name: str, made: Future[Reconciler]) -> None:
        try:
            with talk.inside(name), closing(NodeKernel()) as kernel, closing(NodeKernel()) as background:
                reconciler = self._make(kernel, background)
                made.set_result(reconciler)
                with self._listening():
                    reconciler.run()
        except BaseException as error:
            if made.done():
                raise
            made.set_exception(error)

    def _make(self, kernel: NodeKernel, background: NodeKernel) -> Reconciler:
        self._watch(kernel)
        network = parse_network("10.128.0.0/9")
        needs = Needs(masquerade=Masquerade(cluster_networks=(network,)))
        settings = Settings("node-0", sync_period=3600.0, needs=needs)  # no audit meanwhile
        # The worker's thread is made here, so that it is in the same namespace.
        reconciler = Reconciler(kernel, background, ThreadWorker(), settings, time.monotonic)
        catch_up = reconciler.catch_up

        def timed() -> None:
            self._is_at_work = True
            started = time.perf_counter()
            catch_up()
            self.busy += time.perf_counter() - started
            self._is_at_work = False

        reconciler.catch_up = timed  # type: ignore[method-assign]
        return reconciler

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """Have the agent's own words say when it serves."""

        def hear(record: logging.LogRecord) -> bool:
            if record.getMessage().startswith("serving "):
                self._is_serving.set()
            return True

        log = logging.getLogger("ipvs_agent")
        level = log.level
        log.setLevel(logging.INFO)
        log.addFilter(hear)
        try:
            yield
        finally:
            log.removeFilter(hear)
            log.setLevel(level)

    def _watch(self, kernel: NodeKernel) -> None:
        apply = kernel.ipvs.apply

        def timed(operations: Sequence[IpvsOperation]) -> Outcomes:
            outcomes = apply(operations)
            self.applied = time.perf_counter()
            for operation in operations:
                if isinstance(operation, AddRealServer):
                    self.added[operation.real_server.address] = self.applied
                elif isinstance(operation, SetVirtualServer):
                    self.edited += 1
            return outcomes

        kernel.ipvs.apply = timed  # type: ignore[method-assign]
