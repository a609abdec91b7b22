"""Hand-written cases; README.md says which tests of kube-proxy each stands for."""

from tests.conformance.scenarios import changes, endpoints, exposure, kinds, policies

SCENARIOS = (
    *kinds.SCENARIOS,
    *exposure.SCENARIOS,
    *policies.SCENARIOS,
    *endpoints.SCENARIOS,
    *changes.SCENARIOS,
)
