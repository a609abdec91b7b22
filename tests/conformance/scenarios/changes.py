"""Changes of Services and endpoints, as kube-proxy's tests of its maps have them."""

from __future__ import annotations

from tests.conformance.cases import Case
from tests.conformance.objects import V4, V6, port, service, slices

_TWO = [port(80), port(53, "UDP")]
_TWO_TARGETS = (("tcp-80", 8080), ("udp-53", 8081))

SCENARIOS = (
    Case(
        "nothing-changes",
        ((service(_TWO), *slices("ac", _TWO_TARGETS)), (service(_TWO), *slices("ac", _TWO_TARGETS))),
    ),
    Case(
        "endpoint-is-added",
        ((service(), *slices("a")), (service(), *slices("ab")), (service(), *slices("abcd"))),
    ),
    Case(
        "endpoint-is-removed",
        ((service(_TWO), *slices("abcd", _TWO_TARGETS)), (service(_TWO), *slices("c", _TWO_TARGETS))),
    ),
    Case(
        "endpoints-are-replaced",
        ((service(_TWO), *slices("ab", _TWO_TARGETS)), (service(_TWO), *slices("cd", _TWO_TARGETS))),
    ),
    Case("port-is-added", ((service(), *slices("ac")), (service(_TWO), *slices("ac", _TWO_TARGETS)))),
    Case("port-is-removed", ((service(_TWO), *slices("ac", _TWO_TARGETS)), (service(), *slices("ac")))),
    Case(
        "port-is-renamed",
        (
            (service(), *slices("ac")),
            (service([port(80, name="tcp-web")]), *slices("ac")),
            (service([port(80, name="tcp-web")]), *slices("ac", [("tcp-web", 8080)])),
        ),
    ),
    Case(
        "port-is-renumbered",
        ((service(), *slices("ac")), (service([port(81, name="tcp-80")]), *slices("ac"))),
    ),
    Case(
        "target-port-is-renumbered",
        (
            (service(_TWO), *slices("ac", _TWO_TARGETS)),
            (service(_TWO), *slices("ac", [("tcp-80", 9090), ("udp-53", 9090)])),
        ),
    ),
    Case(
        "from-none-to-one", ((service(_TWO),), (service(_TWO), *slices("a", _TWO_TARGETS)), (service(_TWO),))
    ),
    Case(
        "all-at-once",
        (
            (service(_TWO), *slices("ab", _TWO_TARGETS)),
            (
                service([port(80), port(99, "SCTP")], families=[V4]),
                *slices("bcd", [("tcp-80", 8081), ("sctp-99", 9090)]),
            ),
        ),
    ),
    Case("service-after-its-slices", ((*slices("ac"),), (service(), *slices("ac")))),
    Case(
        "service-is-made-again",
        ((service(), *slices("ac")), (*slices("ac"),), (service(families=[V6]), *slices("ac"))),
    ),
)
