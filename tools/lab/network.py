"""The lab's network.

            client 192.0.2.100          node-b 192.0.2.2, with the pod c at 10.244.2.13 on its loopback
                 |                         |
   lan  ---------+-----------+-------------+---------
                             | eth0 192.0.2.1
                           node-a: the agent's node
                             | cni0 10.244.1.1
                     --------+--------
                     |               |
              a 10.244.1.11    b 10.244.1.12

Pods know nobody but their gateway, so all that they say passes node-a. Every host has an IPv6 address of the
same shape: 2001:db8::/64 for 192.0.2.0/24, fd00:10:244:N::/64 for 10.244.N.0/24. The client sends what is for
cluster IPs (10.96.0.0/12, fd00:10:96::/108) to node-a.
"""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Sequence
from typing import NamedTuple

from tools.lab.talk import Servers

CLUSTER_CIDRS = ("10.244.0.0/16", "fd00:10:244::/48")
SERVICE_CIDRS = ("10.96.0.0/12", "fd00:10:96::/108")
_GATEWAYS = ("10.244.1.1", "fd00:10:244:1::1")
_NODE_SYSCTLS = {
    "net/ipv6/conf/all/forwarding": "1",  # what a node's administrator or CNI does; ipv4 is the agent's part
    "net/ipv4/conf/all/send_redirects": "0",  # or pods would learn to pass the node by
    "net/ipv4/conf/cni0/send_redirects": "0",
    "net/ipv4/icmp_ratelimit": "0",  # tests are refused more often than once a second
    "net/ipv6/icmp/ratelimit": "0",
}


class Host(NamedTuple):
    """A namespace with its two addresses."""

    name: str
    namespace: str
    ipv4: str
    ipv6: str

    def address(self, like: str) -> str:
        """Return the address of the family that another address is of."""
        return self.ipv6 if ":" in like else self.ipv4


_numbers = itertools.count()


class Lab:
    """Namespaces, wires and servers; use as a context manager."""

    def __init__(self) -> None:
        self._tag = f"{os.getpid()}-{next(_numbers)}"
        self.node = self._host("node-a", "192.0.2.1", "2001:db8::1")
        self.client = self._host("client", "192.0.2.100", "2001:db8::100")
        self.node_b = self._host("node-b", "192.0.2.2", "2001:db8::2")
        self.a = self._host("a", "10.244.1.11", "fd00:10:244:1::11")
        self.b = self._host("b", "10.244.1.12", "fd00:10:244:1::12")
        self.c = Host("c", self.node_b.namespace, "10.244.2.13", "fd00:10:244:2::13")
        self._lan = f"lan-{self._tag}"
        self.servers = Servers()

    @property
    def pods(self) -> tuple[Host, ...]:
        """The pods: a and b on node-a, c on node-b."""
        return (self.a, self.b, self.c)

    def __enter__(self) -> Lab:
        namespaces = self._namespaces()
        _ip(*(f"netns add {namespace}" for namespace in namespaces))
        for namespace in namespaces:
            _ip("link set lo up", namespace=namespace)
        _ip("link add lan0 type bridge", "link set lan0 up", namespace=self._lan)
        _ip("link add cni0 type bridge", "link set cni0 up", namespace=self.node.namespace)
        for host in (self.node, self.client, self.node_b):
            self._wire(host, self._lan, "lan0", (24, 64))
        for host in (self.a, self.b):
            self._wire(host, self.node.namespace, "cni0", (32, 128))
        self._route()
        return self

    def __exit__(self, *exception: object) -> None:
        self.servers.close()
        _ip(*(f"netns del {namespace}" for namespace in self._namespaces()))

    def serve(self, host: Host, protocol: str, port: int) -> None:
        """Have a host answer on a port of its two addresses."""
        for address in (host.ipv4, host.ipv6):
            self.servers.listen(host.namespace, host.name, protocol, port, address)

    def _host(self, name: str, ipv4: str, ipv6: str) -> Host:
        return Host(name, f"{name}-{self._tag}", ipv4, ipv6)

    def _namespaces(self) -> list[str]:
        hosts = (self.node, self.client, self.node_b, self.a, self.b)
        return [self._lan, *(host.namespace for host in hosts)]

    def _wire(self, host: Host, switch: str, bridge: str, prefixes: tuple[int, int]) -> None:
        _ip(f"link add eth0 netns {host.namespace} type veth peer name to-{host.name} netns {switch}")
        _ip(f"link set to-{host.name} master {bridge} up", namespace=switch)
        _ip(
            "link set eth0 up",
            f"addr add {host.ipv4}/{prefixes[0]} dev eth0",
            f"addr add {host.ipv6}/{prefixes[1]} dev eth0 nodad",
            namespace=host.namespace,
        )

    def _route(self) -> None:
        node = self.node
        _ip(
            "addr add 10.244.1.1/24 dev cni0",
            "addr add fd00:10:244:1::1/64 dev cni0 nodad",
            f"route add 10.244.2.0/24 via {self.node_b.ipv4}",
            f"route add fd00:10:244:2::/64 via {self.node_b.ipv6}",
            namespace=node.namespace,
        )
        _ip(
            f"addr add {self.c.ipv4}/32 dev lo",
            f"addr add {self.c.ipv6}/128 dev lo nodad",
            f"route add 10.244.1.0/24 via {node.ipv4}",
            f"route add fd00:10:244:1::/64 via {node.ipv6}",
            namespace=self.node_b.namespace,
        )
        for pod in (self.a, self.b):
            _ip(
                *(f"route add {gateway} dev eth0" for gateway in _GATEWAYS),
                *(f"route add default via {gateway}" for gateway in _GATEWAYS),
                namespace=pod.namespace,
            )
            _sysctl(pod.namespace, "net/ipv6/conf/eth0/accept_redirects", "0")
        for host in (self.client, self.node_b):
            _ip(
                *(f"route add {cidr} via {node.address(cidr)}" for cidr in SERVICE_CIDRS),
                namespace=host.namespace,
            )
        for name, value in _NODE_SYSCTLS.items():
            _sysctl(node.namespace, name, value)


def _ip(*commands: str, namespace: str | None = None) -> None:
    where: Sequence[str] = ("-n", namespace) if namespace else ()
    subprocess.run(["ip", *where, "-batch", "-"], input="\n".join(commands) + "\n", text=True, check=True)


def _sysctl(namespace: str, name: str, value: str) -> None:
    subprocess.run(
        ["ip", "netns", "exec", namespace, "sh", "-c", f"echo {value} > /proc/sys/{name}"], check=True
    )
