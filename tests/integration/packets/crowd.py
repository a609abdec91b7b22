"""A crowd of clients, and Services that ask for something in annotations.

The client in the lab gets the addresses 198.51.100.0/24 and 2001:db8:64::/120 on top of its own.
"""

from __future__ import annotations

import resource
import socket
import struct
import subprocess
from pathlib import Path
from typing import NamedTuple

from tests import objects
from tools.lab import talk

SCHEDULER = "ipvs-agent.io/scheduler"
WEIGHTS = "ipvs-agent.io/weights"

_RESET = struct.pack("ii", 1, 0)


def source(family, number):
    """The client's address with this number, from 1 to 254."""
    return f"198.51.100.{number}" if family == 4 else f"2001:db8:64::{number:x}"


def service(stock, annotations, **spec):
    """A Service with annotations and with cluster IPs alone."""
    made = objects.service(stock.name, (stock.cluster_ip(4), stock.cluster_ip(6)), **spec)
    made["metadata"]["annotations"] = annotations
    return made


def endpoints(stock, family, pods, fields=None, *, target=8080):
    """Its slice of a family over pods; fields: of endpoints, by the name of their pod."""
    return objects.endpoint_slice(
        stock.name,
        [(address_of(pod, family), (fields or {}).get(pod.name, {})) for pod in pods],
        ((80, "TCP", target),),
        suffix=f"{family}-{target}",
    )


def asking(stock, pods, annotations, fields=None, **spec):
    """A Service with annotations over pods, as objects."""
    made = service(stock, annotations, **spec)
    return [made, *(endpoints(stock, family, pods, fields) for family in (4, 6))]


def address_of(pod, family):
    """A pod's address."""
    return pod.ipv4 if family == 4 else pod.ipv6


def weights(node):
    """The weights of real servers by their pod, for each cluster IP."""
    names = {address_of(pod, family): pod.name for pod in node.lab.pods for family in (4, 6)}
    found = {}
    for line in node.virtual_servers():
        words = line.split()
        if words[0] == "-a":
            dialled, behind = (words[at].rpartition(":")[0].strip("[]") for at in (2, 4))
            found.setdefault(dialled, {})[names[behind]] = int(words[7])
    return found


def allow_many_sockets():
    """Let this process have as many as it may; the pods' ends of connections are its own, too."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def give_addresses(lab):
    """Give the client its addresses, and the node the way to them."""
    for host, route in (
        (lab.client, "local 198.51.100.0/24 dev lo"),
        (lab.node, f"198.51.100.0/24 via {lab.client.ipv4}"),
        (lab.client, "local 2001:db8:64::/120 dev lo"),
        (lab.node, f"2001:db8:64::/120 via {lab.client.ipv6}"),
    ):
        subprocess.run(["ip", "-n", host.namespace, "route", "add", *route.split()], check=True)
    with talk.inside(lab.client.namespace):
        # An IPv6 address that is the host's by a route alone can else not be bound.
        Path("/proc/sys/net/ipv6/ip_nonlocal_bind").write_text("1")


class Connection(NamedTuple):
    """An open connection, and the pod at its other end."""

    pod: str
    socket: socket.socket

    def lives(self):
        """Tell whether the pod still answers on it."""
        try:
            return talk.ask_on(self.socket).name == self.pod
        except OSError:
            return False

    def reset(self):
        """End it without the wait of TIME_WAIT, so that it does not count any longer."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.socket.close()


class Crowd:
    """Open connections of the lab's client; use as a context manager."""

    def __init__(self, lab, stock, family):
        self._where = (lab.client.namespace, talk.TCP, stock.cluster_ip(family), 80)
        self._family = family
        self.open = []

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.leave()

    def come(self, count):
        """Open so many connections, one after the other; return which pods they went to, in order."""
        return [self._open("") for _ in range(count)]

    def leave(self, pod=""):
        """End all connections, or those to one pod."""
        staying = [one for one in self.open if pod and one.pod != pod]
        for one in self.open:
            if one not in staying:
                one.reset()
        self.open = staying

    def come_from(self, numbers):
        """Open a connection from each of these addresses; return which pods they went to, by number."""
        return {number: self._open(source(self._family, number)) for number in numbers}

    def pass_by(self, numbers):
        """Ask from each of these addresses, and leave at once; return who answered, by number."""
        answers = {}
        for number in numbers:
            answers[number] = self._open(source(self._family, number))
            self.open.pop().reset()
        return answers

    def _open(self, address):
        sock = talk.connect(*self._where, source=address)
        pod = talk.ask_on(sock).name
        self.open.append(Connection(pod, sock))
        return pod
