"""The two sides: kube-proxy and the agent, each on the node of a lab of its own."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from ipvs_agent.addresses import parse_address
from ipvs_agent.errors import NotFound
from ipvs_agent.kernel.ipvs import NetlinkIpvs
from ipvs_agent.model import Protocol, address_key
from tests.conformance import tables
from tests.conformance.dialling import Caller
from tests.conformance.lan import API, PODS, TARGET_PORTS, VIP_NETWORKS
from tests.kube import build
from tools.lab import talk
from tools.lab.agent import ROOT
from tools.lab.network import Lab

KUBE_PROXY, AGENT = "kube-proxy", "ipvs-agent"
_BRIDGE = "api0"
_ICMP = {"icmp_msgs_per_sec": "100000", "icmp_msgs_burst": "10000"}
_END_LIMIT = 20.0


class Side:
    """A lab, and who serves its node."""

    def __init__(self, name: str, api_address: str, command: Sequence[str], folder: Path) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self._api_address = api_address
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._ipvs: NetlinkIpvs | None = None
        self.lab = Lab()
        self.callers: Sequence[Caller] = ()

    @contextlib.contextmanager
    def running(self) -> Iterator[Side]:
        """Have the lab, its pods and its proxy for the length of a with block."""
        with self.lab:
            self._add_links()
            self._serve()
            with self.log.open("wb") as log:
                self._process = subprocess.Popen(
                    ["ip", "netns", "exec", self.lab.node.namespace, *self._command],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=ROOT,
                )
            try:
                yield self
            finally:
                self._process.terminate()
                self._process.wait(_END_LIMIT)
                if self._ipvs is not None:
                    self._ipvs.close()

    def real_server_ports(self, address: str, port: int) -> list[int] | None:
        """Return the ports of the real servers of a virtual server for TCP; None where it is not.

        This is cheap, and does not start a program. (/proc/net/ip_vs would be cheaper, but leaves out lines
        where several network namespaces have virtual servers.)
        """
        assert self._process is not None
        if self._process.poll() is not None:
            tail = self.log.read_text().splitlines()[-20:]
            raise AssertionError("\n".join([f"{self.name} ended:", *tail]))
        if self._ipvs is None:
            with talk.inside(self.lab.node.namespace):
                self._ipvs = NetlinkIpvs()
        key = address_key(Protocol.TCP, parse_address(address), port)
        try:
            self._ipvs.virtual_server(key)
        except NotFound:
            return None
        return [found.real_server.port for found in self._ipvs.real_servers(key)]

    def tables(self) -> tables.Tables:
        """Read what the node has in its kernel."""
        links = self._run("ip", "-json", "address", "show", "kube-ipvs0", allow_failure=True)
        addresses = [
            info["local"]
            for link in json.loads(links or "[]")
            for info in link.get("addr_info", ())
            if not info["local"].startswith("fe80:")
        ]
        saved = self._run("ipset", "save")
        marks = [line for line in saved.splitlines() if "-MARKS " in line and " skbmark " in line]
        return tables.parse(self._run("ipvsadm", "-Sn"), "\n".join(marks), addresses, self._api_address)

    def kept(self) -> tables.Kept:
        """Read at which real servers session affinity keeps clients."""
        return tables.kept(self._run("ipvsadm", "-Lnc"), self._api_address)

    def normal(self, outcome: str) -> str:
        """Return what a call met, without what differs between the sides."""
        name, _, source = outcome.partition(" ")
        return f"{name} {API}" if source == self._api_address else outcome

    def _run(self, *command: str, allow_failure: bool = False) -> str:
        inside = ["ip", "netns", "exec", self.lab.node.namespace, *command]
        done = subprocess.run(inside, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode and not allow_failure:
            raise AssertionError(f"{self.name}: {' '.join(command)}: status {done.returncode}")
        return done.stdout

    def _add_links(self) -> None:
        lab = self.lab
        node = lab.node.namespace
        _ip(
            f"link add eth1 netns {node} type veth peer name {node}",
            f"link set {node} master {_BRIDGE} up",
        )
        _write_sysctl(node, "net/ipv6/conf/eth1/disable_ipv6", "1")
        for limit in ("net/ipv4/icmp_ratelimit", "net/ipv6/icmp/ratelimit"):
            _write_sysctl(node, limit, "0")  # or refusals get lost among many
        _ip(f"addr add {self._api_address}/24 dev eth1", "link set eth1 up", namespace=node)
        for host in (lab.client, lab.node_b):
            routes = [f"route replace {cidr} via {lab.node.address(cidr)}" for cidr in VIP_NETWORKS]
            _ip(*routes, namespace=host.namespace)
        # Somebody outside may know the way to the node's address on the bridge of its pods.
        gateways = ("10.244.1.0/24", "fd00:10:244:1::/64")
        _ip(
            *(f"route add {cidr} via {lab.node.address(cidr)}" for cidr in gateways),
            namespace=lab.client.namespace,
        )
        d = PODS["d"]
        _ip(f"addr add {d[0]}/32 dev lo", f"addr add {d[1]}/128 dev lo nodad", namespace=lab.node_b.namespace)
        self.callers = (
            Caller("client", lab.client.namespace),
            Caller("a", lab.a.namespace),
            Caller("c", lab.c.namespace, PODS["c"]),
            Caller("node", node, has_vips=True),
        )

    def _serve(self) -> None:
        lab = self.lab
        homes = {"a": lab.a, "b": lab.b, "c": lab.node_b, "d": lab.node_b}
        for (name, addresses), protocol, port in itertools.product(
            PODS.items(), (talk.TCP, talk.UDP, talk.SCTP), TARGET_PORTS
        ):
            for address in addresses:
                lab.servers.listen(homes[name].namespace, f"{name}:{port}", protocol, port, address)


def prepare_machine() -> None:
    """Connect the machine's link to a bridge, on which the nodes of both sides find the API server.

    Lift limits that so many calls at a time would meet.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    _ip(
        f"link add {_BRIDGE} type bridge",
        "addr flush dev eth9",
        f"link set eth9 master {_BRIDGE} up",
        f"addr add 198.18.0.2/24 dev {_BRIDGE}",
        f"link set {_BRIDGE} up",
    )
    # A pod cannot load modules either, so kube-proxy counts on those of its node. Bridges are what most CNIs
    # make of them; kube-proxy would bring that in the middle, by a match of its rules for external IPs.
    subprocess.run(["modprobe", "--all", "nf_conntrack", "ip_vs", "ip_vs_rr", "br_netfilter"], check=True)
    for name, value in _ICMP.items():
        Path("/proc/sys/net/ipv4", name).write_text(value)


def both(folder: Path, configuration: dict[str, object]) -> tuple[Side, Side]:
    """Return kube-proxy and the agent, with the same configuration."""
    commands = {}
    for name, kubeconfig in ((KUBE_PROXY, "KUBECONFIG"), (AGENT, "IPVS_AGENT_KUBECONFIG")):
        path = folder / f"{name}.yaml"
        path.write_text(json.dumps(_configuration(os.environ[kubeconfig]) | configuration))
        commands[name] = [f"--config={path}", "--hostname-override=node-a"]
    kube_proxy = [str(build.program("kube-proxy")), *commands[KUBE_PROXY]]
    agent = [sys.executable, "-m", "ipvs_agent", "run", "--verbose", *commands[AGENT]]
    return (
        Side(KUBE_PROXY, "198.18.0.3", kube_proxy, folder),
        Side(AGENT, "198.18.0.4", agent, folder),
    )


def _configuration(kubeconfig: str) -> dict[str, object]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "ipvs",
        "clientConnection": {"kubeconfig": kubeconfig},
        "conntrack": {"maxPerCore": 0, "min": 0},
        # Long, so that a state is what the changes made of it; short waits for what kube-proxy does again.
        "ipvs": {"syncPeriod": "10m", "minSyncPeriod": "1s"},
    }


def _ip(*commands: str, namespace: str | None = None) -> None:
    where = ("-n", namespace) if namespace else ()
    subprocess.run(["ip", *where, "-batch", "-"], input="\n".join(commands) + "\n", text=True, check=True)


def _write_sysctl(namespace: str, name: str, value: str) -> None:
    path = f"/proc/sys/{name}"
    subprocess.run(["ip", "netns", "exec", namespace, "sh", "-c", f"echo {value} > {path}"], check=True)
