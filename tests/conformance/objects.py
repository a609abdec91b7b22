"""Words for the objects of cases."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from tests.conformance.cases import HEADLESS, Object
from tests.conformance.lan import NODES, PODS

CLUSTER = ("10.96.{slot}.1", "fd00:10:96::{slot}1")
EXTERNAL = ("172.20.{slot}.1", "2001:db8:20::{slot}1")
BALANCER = ("172.21.{slot}.1", "2001:db8:21::{slot}1")
V4, V6 = 0, 1
_FAMILIES = ("IPv4", "IPv6")


def port(number: int, protocol: str = "TCP", node_port: int = 0, name: str | None = None) -> Object:
    """Return a port of a Service, named after both."""
    found: Object = {"name": name or f"{protocol.lower()}-{number}", "port": number, "protocol": protocol}
    return found | ({"nodePort": node_port} if node_port else {})


def service(
    ports: Sequence[Object] = (port(80),),
    *,
    families: Sequence[int] = (V4, V6),
    addresses: Sequence[str] = CLUSTER,
    ingress: Iterable[str | Object] = (),
    labels: Object | None = None,
    **spec: Any,
) -> Object:
    """Return the Service of a case."""
    cluster_ips = [addresses[family] for family in families]
    metadata: Object = {"name": "web"} | ({"labels": labels} if labels else {})
    found: Object = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {
            "type": "ClusterIP",
            "clusterIP": cluster_ips[0],
            "clusterIPs": cluster_ips,
            "ipFamilies": [_FAMILIES[family] for family in families],
            "ipFamilyPolicy": "RequireDualStack" if len(families) > 1 else "SingleStack",
            "ports": list(ports),
            **spec,
        },
    }
    entries = [{"ip": one} if isinstance(one, str) else one for one in ingress]
    return found | ({"status": {"loadBalancer": {"ingress": entries}}} if entries else {})


def headless() -> Object:
    """Return a Service that only names its endpoints."""
    return service(addresses=(HEADLESS, HEADLESS), families=[V4])


def external_name() -> Object:
    """Return a Service that is another name for somebody else."""
    found = service(type="ExternalName", externalName="elsewhere.example")
    for field in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"):
        del found["spec"][field]
    return found


def pod(name: str, **more: Any) -> Object:
    """Return an endpoint without an address: a pod on its node, ready if its conditions do not deny it."""
    return {"pod": name, "nodeName": NODES[name], "conditions": {"ready": True}, **more}


def state_of(name: str, **conditions: bool) -> Object:
    """Return a pod with other conditions."""
    return pod(name, conditions=conditions)


LEAVING = {"ready": False, "serving": True, "terminating": True}
LEFT = {"ready": False, "serving": False, "terminating": True}


def endpoint_slice(
    pods: Iterable[str | Object],
    ports: Sequence[tuple[str, int]] = (("tcp-80", 8080),),
    *,
    family: int = V4,
    suffix: str = "",
    labels: Object | None = None,
) -> Object:
    """Return a slice; ports are (name, target port), and the protocol is in the name."""
    endpoints = [pod(one) if isinstance(one, str) else dict(one) for one in pods]
    for endpoint in endpoints:
        endpoint["addresses"] = [PODS[endpoint.pop("pod")][family]]
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"web-{family}{suffix}",
            "labels": {"kubernetes.io/service-name": "web", **(labels or {})},
        },
        "addressType": _FAMILIES[family],
        "ports": [
            {"name": name, "port": target, "protocol": (name.partition("-")[0] or "tcp").upper()}
            for name, target in ports
        ],
        "endpoints": endpoints,
    }


def slices(
    pods: Iterable[str | Object], ports: Sequence[tuple[str, int]] = (("tcp-80", 8080),), **more: Any
) -> tuple[Object, Object]:
    """Return a slice of each family with the same pods."""
    known = list(pods)
    return endpoint_slice(known, ports, family=V4, **more), endpoint_slice(known, ports, family=V6, **more)
