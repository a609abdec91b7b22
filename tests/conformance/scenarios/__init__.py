"""Hand-written cases. `row` names the tests of kube-proxy that a case stands for (README.md)."""

from tests.conformance.scenarios import changes, endpoints, exposure, kinds, policies

SCENARIOS = (
    *kinds.SCENARIOS,
    *exposure.SCENARIOS,
    *policies.SCENARIOS,
    *endpoints.SCENARIOS,
    *changes.SCENARIOS,
)
