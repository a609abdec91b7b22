"""Scenarios that a field of the configuration has a say in, with that field on both sides."""

from __future__ import annotations

import pytest

from tests.conformance import differences, report
from tests.conformance.scenarios import SCENARIOS

CONFIGURATIONS = {"nodePortAddresses-of-one-family": {"nodePortAddresses": ["192.0.2.0/24"]}}
NAMES = (
    *("cluster-ip", "node-port", "node-port-v4", "node-port-v6", "node-port-local", "all-kinds-of-address"),
    *("health-check", "health-check-v6", "health-check-of-both-families", "health-check-when-a-family-goes"),
)
CASES = [case for case in SCENARIOS if case.name in NAMES]


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_both_sides_do_the_same(arena, name):
    configuration = CONFIGURATIONS[name]
    results = arena.run(CASES, configuration)

    failed = [result for result in results if result.failed or result.refusal]
    assert not failed, "\n\n".join(map(report.text, failed))
    used = {rule for result in results for rule in result.rules}
    needed = {rule.name for rule in differences.RULES if rule.configured in configuration}
    assert needed <= used
