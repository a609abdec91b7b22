"""Scenarios that a field of the configuration has a say in, with that field on both sides."""

from __future__ import annotations

import pytest

from tests.conformance import report
from tests.conformance.scenarios import SCENARIOS

FIELDS = {"nodePortAddresses-of-one-family": {"nodePortAddresses": ["192.0.2.0/24"]}}
# Not those with health checks: kube-proxy has a server for each family, which listens where the CIDRs of
# its own family say, or where there are none on all addresses of both; the agent has one server for both.
NAMES = (
    "cluster-ip",
    "node-port",
    "node-port-v4",
    "node-port-v6",
    "node-port-local",
    "all-kinds-of-address",
)
CASES = [case for case in SCENARIOS if case.name in NAMES]


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("field", FIELDS)
def test_both_sides_do_the_same(arena, field):
    failed = [result for result in arena.run(CASES, FIELDS[field]) if result.failed or result.refusal]

    assert not failed, "\n\n".join(map(report.text, failed))
