"""What packet tests of policies put into the lab: numbered Services of both families, and who asks them.

A module has one agent serve many Services, and each test asks its own. The one with number 7 has the cluster
IPs 10.96.1.7 and fd00:10:96::1:7, the load balancer's addresses 10.96.2.7 and fd00:10:96::2:7, the external
IPs 10.96.3.7 and fd00:10:96::3:7, and the NodePort 31007; what it serves on port 80 is on 8080 at its pods.
"""

from __future__ import annotations

import contextlib
import time
from typing import NamedTuple

import pytest

from tests import objects
from tests.lab import PATIENCE
from tools.lab import talk
from tools.lab.network import Host

PROTOCOLS = (talk.TCP, talk.UDP, talk.SCTP)
# Where a masqueraded flow leaves node-a: towards its own pods, and towards node-b.
GATEWAYS = {4: "10.244.1.1", 6: "fd00:10:244:1::1"}
SILENCE = 1.0
"""Seconds without an answer that are taken for silence; what answers or refuses does so at once."""

families = pytest.mark.parametrize("family", [4, 6], ids=["IPv4", "IPv6"])
protocols = pytest.mark.parametrize("protocol", PROTOCOLS)


class Client(NamedTuple):
    """Somebody who asks; pod c shares its namespace with node-b, so it says which address it has."""

    host: Host
    is_bound: bool = False

    def address(self, family):
        """The client's own address."""
        return self.host.ipv4 if family == 4 else self.host.ipv6

    def source(self, family):
        """The address to ask from; empty where the kernel chooses it."""
        return self.address(family) if self.is_bound else ""


def client(lab, name):
    """A client by its name in the lab."""
    return Client(getattr(lab, name), is_bound=name == "c")


class Stock(NamedTuple):
    """A Service by its number."""

    number: int

    @property
    def name(self):
        return f"web-{self.number}"

    @property
    def node_port(self):
        return 31000 + self.number

    def cluster_ip(self, family):
        return f"10.96.1.{self.number}" if family == 4 else f"fd00:10:96::1:{self.number}"

    def balancer(self, family):
        return f"10.96.2.{self.number}" if family == 4 else f"fd00:10:96::2:{self.number}"

    def external(self, family):
        return f"10.96.3.{self.number}" if family == 4 else f"fd00:10:96::3:{self.number}"

    def ways_in(self, lab, family):
        """Addresses and ports for clients outside the cluster."""
        node = lab.node.ipv4 if family == 4 else lab.node.ipv6
        return [(self.balancer(family), 80), (self.external(family), 80), (node, self.node_port)]

    def service(self, protocols=PROTOCOLS, **spec):
        """The Service, of type LoadBalancer."""
        made = objects.service(
            self.name,
            (self.cluster_ip(4), self.cluster_ip(6)),
            tuple((80, protocol.upper(), self.node_port) for protocol in protocols),
            **{
                "type": "LoadBalancer",
                "externalIPs": [self.external(4), self.external(6)],
                **spec,
            },
        )
        made["status"] = {"loadBalancer": {"ingress": [{"ip": self.balancer(4)}, {"ip": self.balancer(6)}]}}
        return made

    def slices(self, lab, pods, protocols=PROTOCOLS, **fields):
        """Its slices; fields: of every endpoint."""
        targets = tuple((80, protocol.upper(), 8080) for protocol in protocols)
        return [
            objects.endpoint_slice(
                self.name,
                [
                    (address(pod), {"nodeName": "node-b" if pod is lab.c else "node-a", **fields})
                    for pod in pods
                ],
                targets,
                suffix=suffix,
            )
            for suffix, address in (("4", lambda pod: pod.ipv4), ("6", lambda pod: pod.ipv6))
            if pods
        ]

    def objects(self, lab, pods, protocols=PROTOCOLS, **spec):
        """The Service over some pods."""
        return [self.service(protocols, **spec), *self.slices(lab, pods, protocols)]


def node_object(lab, **labels):
    """The Node object of node-a."""
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "node-a", "labels": labels},
        "spec": {"podCIDRs": ["10.244.1.0/24", "fd00:10:244:1::/64"]},
        "status": {
            "addresses": [
                {"type": "InternalIP", "address": lab.node.ipv4},
                {"type": "InternalIP", "address": lab.node.ipv6},
            ]
        },
    }


@contextlib.contextmanager
def running(node):
    """Have a module's agent run, and clean up behind it; what it said is shown where the last test failed."""
    try:
        with node.agent:
            yield
    finally:
        print(node.log.read_text())
    node.agent.command("cleanup")


def ask(node, client, protocol, address, port, **options):
    """Ask once as a client."""
    source = client.source(6 if ":" in address else 4)
    return node.ask(client.host, protocol, address, port, source=source, **options)


def sources(node, client, protocol, address, port, names, *, at_least=8):
    """Ask, and on until all of these pods have answered; return which source each one that did saw."""
    deadline = time.monotonic() + PATIENCE
    seen = {}
    count = 0
    while count < at_least or (not seen.keys() >= names and time.monotonic() < deadline):
        answer = ask(node, client, protocol, address, port)
        seen.setdefault(answer.name, set()).add(answer.source)
        count += 1
    return {name: "+".join(sorted(found)) for name, found in seen.items()}


def pods(node, client, protocol, address, port, names, *, at_least=8):
    """Ask, and on until all of these pods have answered; return all that did."""
    return set(sources(node, client, protocol, address, port, names, at_least=at_least))


def is_silent(node, client, protocol, address, port):
    """Tell whether nothing at all comes back."""
    try:
        ask(node, client, protocol, address, port, timeout=SILENCE)
    except TimeoutError:
        return True
    except OSError:
        return False
    return False


def is_refused(node, client, protocol, address, port):
    """Tell whether a client hears at once, or nearly, that nobody is there."""
    try:
        ask(node, client, protocol, address, port)
    except ConnectionRefusedError:
        return True
    except PermissionError:
        return True  # IPVS drops what the node itself sends, and a UDP sender is told so
    except OSError:
        return False
    return False
