"""Pods that answer on several ports, so that a Service has more endpoints than there are pods."""

from __future__ import annotations

import itertools

from tools.lab import talk

PORTS = range(8090, 8094)


def answer(lab):
    """Have every pod answer on these ports, by its own name and the port's number."""
    for pod, number in itertools.product(lab.pods, PORTS):
        for address in (pod.ipv4, pod.ipv6):
            lab.servers.listen(pod.namespace, f"{pod.name}-{number}", talk.TCP, number, address)
