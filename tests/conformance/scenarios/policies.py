"""Traffic policies, and who answers health checks of load balancers."""

from __future__ import annotations

from typing import Any

from tests.conformance.cases import Case, Object
from tests.conformance.objects import (
    BALANCER,
    EXTERNAL,
    LEAVING,
    LEFT,
    V4,
    V6,
    endpoint_slice,
    port,
    service,
    slices,
    state_of,
)

_ALL = (("tcp-80", 8080), ("udp-53", 8081), ("sctp-99", 9090))
_PORTS = [port(80, "TCP", 1), port(53, "UDP", 2), port(99, "SCTP", 3)]
_HEALTH = 19


def _local(kind: str = "NodePort", **spec: Any) -> Object:
    spec.setdefault("ports", [port(80, "TCP", 1)])
    more: Any = {"healthCheckNodePort": _HEALTH, "ingress": BALANCER} if kind == "LoadBalancer" else {}
    return service(type=kind, externalTrafficPolicy="Local", **more, **spec)


def _inside() -> Object:
    return service([port(80), port(53, "UDP"), port(99, "SCTP")], internalTrafficPolicy="Local")


SCENARIOS = (
    Case(
        "node-port-local",
        (
            (_local(ports=_PORTS), *slices("abc", _ALL)),
            (_local(ports=_PORTS), *slices("cd", _ALL)),
            (_local(ports=_PORTS),),
        ),
    ),
    Case(
        "node-port-local-on-no-known-node",
        ((_local(), *slices([{"pod": "a", "conditions": {"ready": True}}, "c"])),),
    ),
    Case(
        "external-ips-local",
        (
            (service(externalIPs=list(EXTERNAL), externalTrafficPolicy="Local"), *slices("ac")),
            (service(externalIPs=list(EXTERNAL), externalTrafficPolicy="Local"), *slices("cd")),
            (service(externalIPs=list(EXTERNAL), externalTrafficPolicy="Local"),),
        ),
    ),
    Case(
        "load-balancer-local",
        (
            (_local("LoadBalancer"), *slices("abc")),
            (_local("LoadBalancer"), *slices("cd")),
            (_local("LoadBalancer"),),
        ),
    ),
    Case(
        "policy-changes",
        (
            (service([port(80, "TCP", 1)], type="NodePort"), *slices("bc")),
            (_local(), *slices("bc")),
            (service([port(80, "TCP", 1)], type="NodePort"), *slices("bc")),
        ),
    ),
    Case(
        "load-balancer-local-with-ranges",
        (
            (
                _local("LoadBalancer", loadBalancerSourceRanges=["192.0.2.100/32", "2001:db8:99::/48"]),
                *slices("bc"),
            ),
        ),
    ),
    Case(
        "local-affinity",
        (
            (_local("LoadBalancer", sessionAffinity="ClientIP"), *slices("abcd")),
            (_local("LoadBalancer", sessionAffinity="ClientIP"), *slices("cd")),
        ),
    ),
    Case(
        "health-check",
        (
            (_local("LoadBalancer", families=[V4]), *slices("abc")),
            (_local("LoadBalancer", families=[V4]), *slices(["a", state_of("b", **LEAVING), "c"])),
            (_local("LoadBalancer", families=[V4]), *slices([state_of("a", **LEAVING), "c"])),
            (service(families=[V4]), *slices("abc")),
        ),
    ),
    Case(
        "health-check-of-both-families",
        (
            (
                _local("LoadBalancer"),
                endpoint_slice("abc", family=V4),
                endpoint_slice("a", family=V6),
            ),
        ),
    ),
    Case(
        "health-check-when-a-family-goes",
        (
            (_local("LoadBalancer"), *slices("abc")),
            (_local("LoadBalancer", families=[V6]), *slices("abc")),
            (_local("LoadBalancer", families=[V4]), *slices("abc")),
        ),
    ),
    Case("health-check-v6", ((_local("LoadBalancer", families=[V6]), *slices("ac")),)),
    Case(
        "internal-cluster",
        (
            (service(internalTrafficPolicy="Cluster"), *slices("ac")),
            (service(internalTrafficPolicy="Cluster"), *slices("c")),
        ),
    ),
    Case(
        "internal-local",
        (
            (_inside(), *slices("abcd", _ALL)),
            (_inside(), *slices("cd", _ALL)),
            (_inside(),),
        ),
    ),
    Case(
        "internal-local-leaves-the-rest",
        (
            (
                service(
                    [port(80, "TCP", 1)],
                    type="LoadBalancer",
                    internalTrafficPolicy="Local",
                    externalIPs=list(EXTERNAL),
                    ingress=BALANCER,
                ),
                *slices("bc"),
            ),
        ),
    ),
    Case(
        "both-local",
        (
            (_local(internalTrafficPolicy="Local"), *slices("ac")),
            (_local(internalTrafficPolicy="Local"), *slices("c")),
        ),
    ),
    Case(
        "terminating-cluster",
        (
            (
                _local(),
                *slices(
                    [
                        "a",
                        "b",
                        "c",
                        state_of("d", **LEAVING),
                    ]
                ),
            ),
            (_local(), *slices(["a", state_of("b", ready=False), "c", state_of("d", **LEFT)])),
        ),
    ),
    Case(
        "terminating-local",
        ((_local(), *slices(["a", "b", "c", state_of("d", ready=False, serving=False)])),),
    ),
    Case(
        "only-terminating-cluster",
        ((_local(), *slices([state_of(name, **LEAVING) for name in "abc"] + [state_of("d", **LEFT)])),),
    ),
    Case(
        "only-terminating-local",
        (
            (
                _local(),
                *slices([state_of("a", **LEAVING), state_of("b", **LEAVING), "c", state_of("d", **LEFT)]),
            ),
        ),
    ),
    Case("all-have-left", ((_local(), *slices([state_of("a", **LEFT), state_of("c", **LEFT)])),)),
    Case(
        "session-affinity",
        (
            (
                service(
                    [port(80, "TCP", 1)],
                    type="LoadBalancer",
                    ingress=BALANCER,
                    externalIPs=list(EXTERNAL),
                    sessionAffinity="ClientIP",
                ),
                *slices("abc"),
            ),
            (
                service(
                    [port(80, "TCP", 1)],
                    type="NodePort",
                    sessionAffinity="ClientIP",
                    sessionAffinityConfig={"clientIP": {"timeoutSeconds": 100}},
                ),
                *slices("abc"),
            ),
            (service(), *slices("abc")),
        ),
    ),
    Case(
        "session-affinity-of-other-protocols",
        ((service(_PORTS, type="NodePort", sessionAffinity="ClientIP"), *slices("abc", _ALL)),),
    ),
)
