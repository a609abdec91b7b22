"""What makes a Service reachable from outside: node ports, external IPs, load balancers and their ranges."""

from __future__ import annotations

from typing import Any

from tests.conformance.cases import Case, Object
from tests.conformance.objects import BALANCER, EXTERNAL, V4, V6, port, service, slices


def _balancer(*ranges: str, node_port: int = 1, ports: list[Object] | None = None, **spec: Any) -> Object:
    more: Object = {"loadBalancerSourceRanges": list(ranges)} if ranges else {}
    return service(
        ports or [port(80, "TCP", node_port)], type="LoadBalancer", ingress=BALANCER, **more, **spec
    )


_MODES = tuple(
    {"ip": address, "ipMode": mode} for address, mode in zip(BALANCER, ("Proxy", "VIP"), strict=True)
)

SCENARIOS = (
    Case(
        "node-port",
        (
            (service([port(80, "TCP", 1)], type="NodePort"), *slices("abc")),
            (service([port(80, "TCP", 2)], type="NodePort"), *slices("abcd")),
            (service(), *slices("abcd")),
        ),
    ),
    Case(
        "external-ips",
        (
            (service(externalIPs=list(EXTERNAL)), *slices("abc")),
            (service(externalIPs=[EXTERNAL[0]]), *slices("abc")),
            (service(), *slices("abc")),
        ),
    ),
    Case(
        "external-ips-of-the-other-family",
        ((service(families=[V4], externalIPs=list(EXTERNAL)), *slices("abc")),),
    ),
    Case("external-ips-without-endpoints", ((service(externalIPs=list(EXTERNAL)),),)),
    Case(
        "load-balancer",
        (
            (_balancer(), *slices("abc")),
            (service([port(80, "TCP", 1)], type="LoadBalancer"), *slices("abc")),
            (_balancer(), *slices("ab")),
        ),
    ),
    Case(
        "load-balancer-without-node-ports",
        ((_balancer(node_port=0, allocateLoadBalancerNodePorts=False), *slices("abc")),),
    ),
    Case(
        "ingress-modes",
        (
            (service([port(80, "TCP", 1)], type="LoadBalancer", ingress=_MODES), *slices("abc")),
            (
                service(
                    [port(80, "TCP", 1)], type="LoadBalancer", ingress=[{"hostname": "balancer.example"}]
                ),
                *slices("abc"),
            ),
            (_balancer(), *slices("abc")),
        ),
    ),
    Case("ranges-with-the-client", ((_balancer("192.0.2.100/32", "2001:db8::100/128"), *slices("abc")),)),
    Case("ranges-with-the-node", ((_balancer("192.0.2.1/32", "2001:db8::1/128"), *slices("abc")),)),
    Case("ranges-with-pods", ((_balancer("10.244.0.0/16", "fd00:10:244::/48"), *slices("abc")),)),
    Case(
        "ranges-with-nobody",
        (
            (_balancer("203.0.113.0/24", "2001:db8:99::/48"), *slices("abc")),
            (_balancer("203.0.113.0/24", "2001:db8:99::/48"),),
        ),
    ),
    Case("ranges-of-one-family", ((_balancer("192.0.2.0/24"), *slices("abc")),)),
    Case("ranges-with-everybody", ((_balancer("0.0.0.0/0", "::/0"), *slices("abc")),)),
    Case(
        "ranges-change",
        (
            (_balancer("203.0.113.0/24", "2001:db8:99::/48"), *slices("abc")),
            (_balancer("203.0.113.0/24", "192.0.2.0/24", "2001:db8::/64"), *slices("abc")),
            (_balancer(), *slices("abc")),
        ),
    ),
    Case(
        "ranges-and-several-ports",
        (
            (
                _balancer(
                    "192.0.2.0/24",
                    "2001:db8::/64",
                    ports=[port(80, "TCP", 1), port(53, "UDP", 2), port(99, "SCTP", 3)],
                ),
                *slices("abc", [("tcp-80", 8080), ("udp-53", 8081), ("sctp-99", 9090)]),
            ),
        ),
    ),
    Case(
        "ranges-and-external-ips",
        ((_balancer("203.0.113.0/24", "2001:db8:99::/48", externalIPs=list(EXTERNAL)), *slices("abc")),),
    ),
    Case(
        "kinds-come-and-go",
        ((service(families=[V6]), *slices("ab")), (_balancer(), *slices("ab")), (service(), *slices("ab"))),
    ),
)
