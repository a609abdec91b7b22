"""Clusters of any size: Services and their slices, as manifests and as JSON of the API."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

CREATED = "2026-01-01T00:00:00Z"
SLICE = 100
"""Endpoints in a slice at most, as Kubernetes has it where nobody says otherwise."""


def cluster_ip(number: int) -> str:
    """Return the cluster IP of a Service by its number."""
    return f"10.{96 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"


def pod_ip(service: int, endpoint: int, endpoints: int) -> str:
    """Return the address of an endpoint; no two Services share one."""
    number = service * endpoints + endpoint + 256
    return f"10.{128 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"


def service(number: int) -> dict[str, Any]:
    """Return a Service with one TCP port."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": f"s{number}",
            "namespace": "bench",
            "uid": f"00000000-0000-4000-8000-{number:012d}",
            "creationTimestamp": CREATED,
        },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": cluster_ip(number + 256),
            "clusterIPs": [cluster_ip(number + 256)],
            "ports": [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}],
        },
    }


def endpoint_slice(number: int, addresses: Sequence[str], part: int = 0) -> dict[str, Any]:
    """Return a slice of a Service, with what the API server writes into a real one.

    part: which of its slices it is.
    """
    first = part * SLICE
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"s{number}-{part}",
            "namespace": "bench",
            "labels": {"kubernetes.io/service-name": f"s{number}"},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [
            {
                "addresses": [address],
                "conditions": {"ready": True, "serving": True, "terminating": False},
                "nodeName": f"node-{index % 100}",
                "targetRef": {"kind": "Pod", "namespace": "bench", "name": f"s{number}-{index}"},
                "zone": f"zone-{index % 3}",
            }
            for index, address in enumerate(addresses, first)
        ],
    }


def endpoint_slices(number: int, endpoints: int) -> Iterator[dict[str, Any]]:
    """Yield the slices of a Service."""
    for part in range(-(-endpoints // SLICE)):
        yield endpoint_slice(number, _addresses(number, endpoints, part), part)


def changed_slice(number: int, endpoints: int, index: int, address: str) -> dict[str, Any]:
    """Return the slice of an endpoint that has got another address."""
    part, place = divmod(index, SLICE)
    addresses = _addresses(number, endpoints, part)
    addresses[place] = address
    return endpoint_slice(number, addresses, part)


def _addresses(number: int, endpoints: int, part: int) -> list[str]:
    indices = range(part * SLICE, min((part + 1) * SLICE, endpoints))
    return [pod_ip(number, index, endpoints) for index in indices]


def count(services: int, endpoints: int) -> int:
    """Return how many objects there are."""
    return services * (1 + -(-endpoints // SLICE))


def objects(services: int, endpoints: int) -> Iterator[dict[str, Any]]:
    """Yield all objects of a cluster: each Service, then its slices."""
    for number in range(services):
        yield service(number)
        yield from endpoint_slices(number, endpoints)


def write_manifest(path: Path, services: int, endpoints: int) -> None:
    """Write a cluster as one JSON List."""
    items = list(objects(services, endpoints))
    path.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
