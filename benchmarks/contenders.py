"""Who keeps the tables of a node: the agent or the real kube-proxy, as a process on a node of its own.

A real API server is beside the machine (python -m tests.kube run); the nodes are network namespaces that
reach it over a bridge.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks import bench, cluster, progress
from benchmarks.sizes import Size
from ipvs_agent.addresses import Address, parse_address
from ipvs_agent.kernel.ipvs import NetlinkIpvs
from ipvs_agent.kernel.vips import NetlinkVips
from ipvs_agent.model import Protocol, VirtualServerKey, address_key
from tests.kube import build
from tools.lab import talk
from tools.lab.agent import ROOT

AGENT, KUBE_PROXY = "ipvs-agent", "kube-proxy"
NODE, ADDRESS = "node-a", "198.18.0.3"

_BRIDGE = "api0"
_POLL = 0.05
_POLL_ENDPOINT = 0.003
_POLL_METRICS = 1.0
"""kube-proxy works for its answer."""
_SHARE, _LONGEST_REST = 0.01, 1.0
"""The looks at one who has worked for long rest for this part of that, in seconds at most."""
_SAMPLE = 20
_END_LIMIT = 60.0
_METRICS = "http://127.0.0.1:10249/metrics"
_SYNCS = re.compile(r"^kubeproxy_sync_proxy_rules_duration_seconds_count.* (\d+)$", re.MULTILINE)


def prepare_machine() -> None:
    """Make the bridge over which all nodes reach the API server, and load what a pod cannot."""
    subprocess.run(["modprobe", "--all", "nf_conntrack", "ip_vs", "ip_vs_rr"], check=True)
    _ip(
        f"link add {_BRIDGE} type bridge",
        "address flush dev eth9",
        f"link set eth9 master {_BRIDGE} up",
        f"link set {_BRIDGE} up",
        f"address add 198.18.0.2/24 dev {_BRIDGE}",
    )


class Contender:
    """A running process; made by `running`."""

    def __init__(self, name: str, namespace: str, log: Path, process: subprocess.Popen[bytes]) -> None:
        self.name = name
        self._namespace = namespace
        self._log = log
        self._process = process
        with talk.inside(namespace):
            self._ipvs = NetlinkIpvs()
            self._vips = NetlinkVips()

    def close(self) -> None:
        """End the process; the kernel keeps its tables until the node goes."""
        self._ipvs.close()
        self._vips.close()
        self._process.terminate()
        self._process.wait(_END_LIMIT)

    def wait_for_tables(self, size: Size, limit: float) -> float:
        """Wait until every Service has its virtual server, all real servers and its VIP; TimeoutError.

        Return when that was, by the monotonic clock.
        """
        begin = time.monotonic()
        tables = Tables(size.services, lambda service: len(self._real_servers(service)) == size.endpoints)
        vips = {_key(service).address for service in range(size.services)}

        def are_complete() -> bool:
            progress.since(begin, f"{self.name} at {size}: complete tables of {tables.known:.0%}")
            return tables.are_complete() and vips <= self._vips.addresses() | self._vips.routes().keys()

        complete = self._wait(are_complete, limit, _POLL)
        progress.say("")
        return complete

    def wait_for_sync(self, limit: float) -> float:
        """Wait until it says that all of it is done, rules included; TimeoutError. Return when that was."""
        begin = time.monotonic()

        def is_synced() -> bool:
            progress.since(begin, f"{self.name}: the end of the first sync")
            return self._says_synced()

        synced = self._wait(is_synced, limit, _POLL if self.name == AGENT else _POLL_METRICS)
        progress.say("")
        return synced

    def wait_for_endpoint(self, service: int, address: Address, limit: float) -> float:
        """Wait until a Service has a real server; TimeoutError. Return when that was."""
        return self._wait(lambda: address in self._real_servers(service), limit, _POLL_ENDPOINT)

    def cpu(self) -> float:
        """Return the seconds of CPU time that the process has had."""
        return bench.cpu(self._process.pid)

    def memory(self) -> tuple[float, float]:
        """Return how much memory the process has now, and the most that it had, in MB."""
        return bench.memory(self._process.pid)

    def stages(self) -> dict[str, float]:
        """Return the seconds of each stage of the start, where it tells of them."""
        return bench.stages(self._log.read_text()) if self.name == AGENT else {}

    def _real_servers(self, service: int) -> set[Address]:
        return {found.real_server.address for found in self._ipvs.real_servers(_key(service))}

    def _says_synced(self) -> bool:
        if self.name == AGENT:
            return " serving " in self._log.read_text()
        try:
            with talk.inside(self._namespace), urllib.request.urlopen(_METRICS, timeout=60) as answer:
                count = _SYNCS.search(answer.read().decode())
        except (urllib.error.URLError, ConnectionError):
            return False
        return count is not None and int(count[1]) > 0

    def _wait(self, condition: Callable[[], bool], limit: float, poll: float) -> float:
        """Wait until a condition holds; return when the look at it began that found so.

        Whoever is looked at has the same CPU, so the looks are few.
        """
        begin = looked = time.monotonic()
        deadline = begin + limit
        while not condition():
            if self._process.poll() is not None:
                end = "\n".join(self._log.read_text().splitlines()[-20:])
                raise RuntimeError(f"{self.name} ended:\n{end}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.name}: not within {limit:g} s")
            time.sleep(min(_LONGEST_REST, max(poll, _SHARE * (looked - begin))))
            looked = time.monotonic()
        return looked


class Tables:
    """Tells whether all Services are complete in the kernel, from few looks while they are not.

    Tables only grow meanwhile, so that what was complete once need not be read again.
    """

    def __init__(self, services: int, is_complete: Callable[[int], bool]) -> None:
        self.complete = 0
        """So many are known to be complete, from the first one on."""
        self._services = services
        self._is_complete = is_complete
        # The last one, and some that lie far apart: as long as one of them lacks something, the others are
        # not looked at.
        self._sample = list(range(services - 1, -1, -max(1, services // _SAMPLE)))
        self._looks = len(self._sample)

    @property
    def known(self) -> float:
        """Return the part of the looks that have found one complete."""
        return (self.complete + self._looks - len(self._sample)) / (self._services + self._looks)

    def are_complete(self) -> bool:
        """Look at one that was not complete, and at others as long as they are."""
        while self._sample and self._is_complete(self._sample[-1]):
            self._sample.pop()
        if self._sample:
            return False
        while self.complete < self._services and self._is_complete(self.complete):
            self.complete += 1
        return self.complete == self._services


@contextlib.contextmanager
def running(name: str, folder: Path) -> Iterator[Contender]:
    """Start a contender on a fresh node for the length of a with block."""
    with bench.namespace() as namespace:
        _connect(namespace)
        log = folder / f"{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["ip", "netns", "exec", namespace, *_command(name, folder)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=ROOT,
            )
        with contextlib.closing(Contender(name, namespace, log, process)) as contender:
            yield contender


def _command(name: str, folder: Path) -> list[str]:
    kubeconfig = os.environ["IPVS_AGENT_KUBECONFIG" if name == AGENT else "KUBECONFIG"]
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps(_configuration(kubeconfig)))
    program = [sys.executable, "-m", "ipvs_agent", "run"] if name == AGENT else [str(build.program(name))]
    return [*program, f"--config={path}", f"--hostname-override={NODE}"]


def _configuration(kubeconfig: str) -> dict[str, object]:
    """Return what both are told; where it says nothing, each has its defaults (a syncPeriod of 30 s)."""
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "ipvs",
        "clusterCIDR": "10.128.0.0/9",
        "clientConnection": {"kubeconfig": kubeconfig},
        "conntrack": {"maxPerCore": 0, "min": 0},
    }


def _connect(namespace: str) -> None:
    _ip(
        f"link add {namespace} type veth peer name eth1 netns {namespace}",
        f"link set {namespace} master {_BRIDGE} up",
    )
    _ip(f"address add {ADDRESS}/24 dev eth1", "link set eth1 up", namespace=namespace)


def _key(service: int) -> VirtualServerKey:
    return address_key(Protocol.TCP, parse_address(cluster.cluster_ip(service + 256)), 80)


def _ip(*commands: str, namespace: str | None = None) -> None:
    where = ("-n", namespace) if namespace else ()
    subprocess.run(["ip", *where, "-batch", "-"], input="\n".join(commands) + "\n", text=True, check=True)
