"""The Kubernetes API as a source: Services, EndpointSlices and the node's own Node, each in a thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from ipvs_agent.sources.api_client import ApiClient
from ipvs_agent.sources.changes import Kind, Sink
from ipvs_agent.sources.watch import WATCH_SILENCE, Resource, Watcher

_OURS = "!service.kubernetes.io/service-proxy-name,!service.kubernetes.io/headless"
"""Leaves out what asks for another proxy and what has no virtual address, as kube-proxy does."""

_STOP_LIMIT = 1.0


class KubeSource:
    """Reads what the Kubernetes API says.

    kubeconfig: the file's path, or None for the service account of the pod that this runs in.
    is_streamed: whether lists are streams of initial events, where the server has those.
    stopping: set by stop(), and waited on between attempts; a test may pass one that does not wait.
    Raises ConfigError where the kubeconfig cannot be used.
    """

    def __init__(
        self,
        kubeconfig: str | None,
        node_name: str,
        sink: Sink,
        *,
        is_streamed: bool = True,
        stopping: threading.Event | None = None,
        silence: float = WATCH_SILENCE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stopping = stopping or threading.Event()
        self._clients = []
        self._threads = []
        for resource in resources(node_name):
            client = ApiClient(kubeconfig)
            watcher = Watcher(resource, client, sink, self._stopping, silence, clock, is_streamed=is_streamed)
            self._clients.append(client)
            self._threads.append(
                # A daemon, because the one wait that cannot be cut short is that for a TCP connection.
                threading.Thread(target=watcher.run, name=f"watch {resource.title}", daemon=True)
            )

    def start(self) -> None:
        """Begin to read."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the threads, within a second."""
        self._stopping.set()
        for client in self._clients:
            client.end()
        deadline = time.monotonic() + _STOP_LIMIT
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))


def resources(node_name: str) -> tuple[Resource, ...]:
    """Return what is watched on a node."""
    return (
        Resource(
            Kind.SERVICE,
            "/api/v1/services",
            "services",
            label_selector=_OURS,
            optional_field_selector="spec.clusterIP!=None",
        ),
        Resource(
            Kind.ENDPOINT_SLICE,
            "/apis/discovery.k8s.io/v1/endpointslices",
            "endpointslices.discovery.k8s.io",
            label_selector=_OURS,
        ),
        Resource(Kind.NODE, "/api/v1/nodes", "nodes", field_selector=f"metadata.name={node_name}"),
    )
