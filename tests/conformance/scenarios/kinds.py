"""Kinds of Services: which of them are served, in which family, for which protocol."""

from __future__ import annotations

from tests.conformance.cases import Case, Object
from tests.conformance.objects import (
    BALANCER,
    EXTERNAL,
    V4,
    V6,
    endpoint_slice,
    external_name,
    headless,
    port,
    service,
    slices,
)

_ALL = (("tcp-80", 8080), ("udp-53", 8081), ("sctp-99", 9090))
_OTHERS = {"service.kubernetes.io/service-proxy-name": "other"}


def _three_protocols(first_node_port: int = 0) -> list[Object]:
    numbers = range(first_node_port, first_node_port + 3) if first_node_port else (0, 0, 0)
    kinds = ((80, "TCP"), (53, "UDP"), (99, "SCTP"))
    return [port(*kind, number) for kind, number in zip(kinds, numbers, strict=True)]


SCENARIOS = (
    Case("cluster-ip", ((service(), *slices("abc")), (service(),), (service(), *slices("ab")), ())),
    Case("v4-only", ((service(_three_protocols(), families=[V4]), *slices("abc", _ALL)),)),
    Case("v6-only", ((service(_three_protocols(), families=[V6]), *slices("abc", _ALL)),)),
    Case(
        "dual-stack-v6-first",
        (
            (service(families=[V6, V4]), *slices("abc")),
            (service(families=[V6]), *slices("abc")),
            (service(families=[V6, V4]), *slices("ac")),
        ),
    ),
    Case(
        "endpoints-of-one-family",
        ((service(), endpoint_slice("abc", family=V4)), (service(), endpoint_slice("abc", family=V6))),
    ),
    Case(
        "node-port-v4",
        (
            (service(_three_protocols(1), families=[V4], type="NodePort"), *slices("abc", _ALL)),
            (service(_three_protocols(1), families=[V4], type="NodePort"),),
        ),
    ),
    Case(
        "node-port-v6",
        (
            (service(_three_protocols(1), families=[V6], type="NodePort"), *slices("abc", _ALL)),
            (service(_three_protocols(1), families=[V6], type="NodePort"),),
        ),
    ),
    Case(
        "all-kinds-of-address",
        (
            (
                service(
                    _three_protocols(1), type="LoadBalancer", externalIPs=list(EXTERNAL), ingress=BALANCER
                ),
                *slices("abcd", _ALL),
            ),
        ),
    ),
    Case(
        "several-ports",
        (
            (
                service([port(80), port(81), port(53, "UDP")]),
                *slices("ac", [("tcp-80", 8080), ("tcp-81", 8081), ("udp-53", 9090)]),
            ),
            (service([port(80)]), *slices("ac")),
            (service([port(82)]), *slices("ac", [("tcp-82", 8080)])),
            (),
        ),
    ),
    Case(
        "two-protocols-on-one-port",
        (
            (
                service([port(53, "TCP", 1), port(53, "UDP", 1)], type="NodePort"),
                *slices("ac", [("tcp-53", 8080), ("udp-53", 8081)]),
            ),
        ),
    ),
    Case("port-without-a-name", ((service([{"port": 80}]), *slices("ac", [("", 8080)])),)),
    Case(
        "sctp",
        (
            (
                service([port(99, "SCTP", 1)], type="NodePort", externalIPs=list(EXTERNAL)),
                *slices("abc", [("sctp-99", 9090)]),
            ),
        ),
    ),
    Case(
        "somebody-else-serves-it",
        (
            (service(labels=_OTHERS), *slices("abc")),
            (service(), *slices("abc")),
            (service(labels=_OTHERS), *slices("abc")),
        ),
    ),
    Case(
        "slices-of-somebody-else", ((service(), *slices("abc", labels=_OTHERS)), (service(), *slices("ab")))
    ),
    Case(
        "slices-with-the-headless-label",
        ((service(), *slices("abc", labels={"service.kubernetes.io/headless": ""})),),
    ),
    Case("headless", ((headless(), *slices("abc")), (service(), *slices("abc")))),
    Case(
        "external-name", ((external_name(), *slices("abc")), (service(), *slices("abc")), (external_name(),))
    ),
)
