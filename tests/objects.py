"""Objects of the Kubernetes API as plain JSON values, in the shortest words that tests need."""

from __future__ import annotations

import json

from tools.lab import files

CREATED = "2026-01-01T00:00:00Z"


def service(
    name, cluster_ips=("10.96.0.80",), ports=((80, "TCP"),), *, namespace="shop", created=CREATED, **spec
):
    """A Service; ports are (port, protocol) or (port, protocol, nodePort), each named after both."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": f"uid-{name}",
            "creationTimestamp": created,
        },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": cluster_ips[0],
            "clusterIPs": list(cluster_ips),
            "ports": [_port(*port) for port in ports],
            **spec,
        },
    }


def endpoint_slice(of, addresses, ports=((80, "TCP", 8080),), *, namespace="shop", suffix="1", **metadata):
    """A slice; addresses are texts or (text, fields), ports are (Service port, protocol, target port)."""
    first = addresses[0] if addresses else "10.0.0.0"
    first = first if isinstance(first, str) else first[0]
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{of}-{suffix}",
            "namespace": namespace,
            "labels": {"kubernetes.io/service-name": of},
            **metadata,
        },
        "addressType": "IPv6" if ":" in first else "IPv4",
        "ports": [
            {"name": port_name(port, protocol), "port": target, "protocol": protocol}
            for port, protocol, target in ports
        ],
        "endpoints": [_endpoint(address) for address in addresses],
    }


def port_name(port, protocol):
    """The name that a Service's port has here."""
    return f"{protocol.lower()}-{port}"


def _port(port, protocol, node_port=0):
    fields = {"name": port_name(port, protocol), "port": port, "protocol": protocol}
    return fields | ({"nodePort": node_port} if node_port else {})


def _endpoint(address):
    text, fields = (address, {}) if isinstance(address, str) else address
    return {"addresses": [text], "conditions": {"ready": True}, **fields}


def write(path, objects):
    """Put objects into a manifest file in one step."""
    files.replace(path, json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)}))
