"""What benchmarks share: fresh namespaces, and an agent within this process."""

from __future__ import annotations

import itertools
import json
import logging
import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec

from benchmarks import cluster, progress
from benchmarks.sizes import Size
from ipvs_agent.addresses import Address, parse_network
from ipvs_agent.cli import run
from ipvs_agent.desired.shim import Masquerade
from ipvs_agent.kernel.api import Outcomes
from ipvs_agent.kernel.node import NodeKernel
from ipvs_agent.model import VipMode
from ipvs_agent.operations import AddRealServer, IpvsOperation, SetVirtualServer
from ipvs_agent.reconcile.audits import Audits
from ipvs_agent.reconcile.foundation import Ground, Needs
from ipvs_agent.reconcile.messages import Stop
from ipvs_agent.reconcile.reconciler import Reconciler
from ipvs_agent.reconcile.settings import Settings
from ipvs_agent.reconcile.worker import ThreadWorker
from ipvs_agent.sources.changes import Change, Kind, Listed
from ipvs_agent.sources.decode import decode
from tools.lab import talk

_PATIENCE = 600.0
_LOOK_AGAIN = 0.1
_LAID, _SERVING, _DRIFT = " foundation laid ", " serving ", " the kernel was changed by others"
"""How lines of the agent's log begin behind their time."""
_STAGE = re.compile(r" (\w+)_ms=(\d+)")
_INSIDE = Masquerade(cluster_networks=(parse_network("10.128.0.0/9"),))
SETTINGS = Settings("node-0", sync_period=3600.0, needs=Needs(masquerade=_INSIDE))
"""So that no audit comes meanwhile."""
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
def serving(size: Size, settings: Settings = SETTINGS) -> Iterator[AgentInProcess]:
    """Have an agent in a namespace of its own that serves a cluster of this size, with nothing left to do."""
    with namespace() as name:
        agent = AgentInProcess(name, settings=settings)
        said = [
            decode(Kind(thing["kind"]), json.dumps(thing).encode())
            for thing in progress.over(cluster.objects(*size), cluster.count(*size), f"cluster of {size}")
        ]
        names = {kind: frozenset(one.name for one in said if one.kind is kind and one.name) for kind in Kind}
        agent.tell([*said, *(Listed(kind, names[kind]) for kind in Kind)])
        del said
        agent.wait_until_serving()
        try:
            yield agent
        finally:
            agent.end()


def cpu(pid: int) -> float:
    """Return the seconds of CPU time that a process has had."""
    # What clock_getcpuclockid(3) makes of another process's number.
    return time.clock_gettime((~pid << 3) | 2)


def memory(pid: int) -> tuple[float, float]:
    """Return how much memory a process has now, and the most that it had, in MB."""
    text = Path(f"/proc/{pid}/status").read_text()
    kilobytes = dict(re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE))
    return int(kilobytes["VmRSS"]) / 1024, int(kilobytes["VmHWM"]) / 1024


class Moment(NamedTuple):
    """When something was, by two clocks."""

    at: float
    cpu: float
    """The CPU time that this process had had, in seconds."""

    @classmethod
    def now(cls) -> Moment:
        """Read the clocks."""
        return cls(time.perf_counter(), time.process_time())


def stages(words: str) -> dict[str, float]:
    """Return the seconds of each stage of a start, from the line in which the agent says that it serves."""
    (line,) = (line for line in words.splitlines() if _SERVING in line)
    return {name: int(milliseconds) / 1000 for name, milliseconds in _STAGE.findall(line)}


class AgentInProcess:
    """A reconciler on the real kernel of a namespace, which can be watched more closely than a process."""

    def __init__(self, name: str, vip_mode: VipMode = VipMode.AUTO, settings: Settings = SETTINGS) -> None:
        self.applied = 0.0
        """When the last batch for IPVS was done."""
        self.added: dict[Address, float] = {}
        """When a real server was last added, by its address."""
        self.edited = 0
        """How many virtual servers were changed after they had been made."""
        self.serving_at = 0.0
        """When all that was told first was there."""
        self.stages: dict[str, float] = {}
        """The seconds of each stage of its start, in its own words."""
        self.audits_begun: list[Moment] = []
        self.audits_ended: list[Moment] = []
        """The laying of the foundation at its start counts as the first one."""
        self.repairs = 0
        """How often it found that the kernel had been changed by others."""
        self._rounds = 0
        self._said: dict[str, int] = {}
        """In which round its log first had the words that are waited for."""
        self._is_at_work = False
        self._news = threading.Condition()
        settings = msgspec.structs.replace(settings, vip_mode=vip_mode)
        run.tune_interpreter()
        made: Future[Reconciler] = Future()
        self._thread = threading.Thread(target=self._run, args=(name, settings, made), daemon=True)
        self._thread.start()
        self._reconciler = made.result()

    def tell(self, changes: Sequence[Change]) -> None:
        """Hand over changes as a source does."""
        self._reconciler.tell(changes)

    def wait_until_ready(self) -> None:
        """Wait until all is there that does not depend on what it is told."""
        self._wait_for_words(_LAID)

    def wait_until_serving(self) -> None:
        """Wait until all that was told first is there; then nothing happens until something is told."""
        self._wait_for_words(_SERVING)

    def wait_until_added(self, address: Address) -> float:
        """Wait until there is a real server of this address and nothing left to do; return when it came."""
        self.wait_until(lambda: address in self.added and not self._is_at_work)
        return self.added[address]

    def wait_until(self, condition: Callable[[], bool], seconds: float = _PATIENCE) -> None:
        """Wait until a condition holds; it is looked at when the agent has done something."""
        deadline = time.monotonic() + seconds
        with self._news:
            while not condition():
                if time.monotonic() > deadline:
                    raise TimeoutError("the agent did not get there in time")
                self._news.wait(_LOOK_AGAIN)

    def end(self) -> None:
        """End the reconciler's thread."""
        self._reconciler.tell(Stop())
        self._thread.join()

    def _wait_for_words(self, words: str) -> None:
        # They are said a little before the round is over.
        self.wait_until(lambda: self._said.get(words, self._rounds) < self._rounds)

    def _run(self, name: str, settings: Settings, made: Future[Reconciler]) -> None:
        try:
            with talk.inside(name), closing(NodeKernel()) as kernel, closing(NodeKernel()) as background:
                self._watch(kernel)
                # The worker's thread is made here, so that it is in the same namespace.
                reconciler = Reconciler(kernel, background, ThreadWorker(), settings, time.monotonic)
                self._watch_rounds(reconciler)
                self._watch_audits(reconciler._audits)
                made.set_result(reconciler)
                with self._listening():
                    reconciler.run()
        except BaseException as error:
            if made.done():
                raise
            made.set_exception(error)

    def _watch_rounds(self, reconciler: Reconciler) -> None:
        catch_up = reconciler.catch_up

        def watched() -> None:
            self._is_at_work = True
            catch_up()
            self._is_at_work = False
            self._rounds += 1
            self._tell_news()

        reconciler.catch_up = watched  # type: ignore[method-assign]

    def _watch_audits(self, audits: Audits) -> None:
        start, end = audits.start, audits.end

        def watched_start(needs: Needs, before: Ground | None) -> None:
            was_laying, now = audits.is_laying, Moment.now()
            start(needs, before)
            if audits.is_laying and not was_laying:  # and it was not put off
                self.audits_begun.append(now)

        def watched_end() -> None:
            end()
            self.audits_ended.append(Moment.now())

        audits.start, audits.end = watched_start, watched_end  # type: ignore[method-assign]

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """Have the agent's own words say how far it is."""

        def hear(record: logging.LogRecord) -> bool:
            line = f" {record.getMessage()}"
            for words in (_LAID, _SERVING):
                if line.startswith(words):
                    self._said.setdefault(words, self._rounds)
            self.repairs += line.startswith(_DRIFT)
            if line.startswith(_SERVING) and not self.serving_at:
                self.serving_at = time.perf_counter()
                self.stages = stages(line)
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

    def _tell_news(self) -> None:
        with self._news:
            self._news.notify_all()
