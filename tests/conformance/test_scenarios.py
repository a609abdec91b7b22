"""The scenarios: each for rows of the list of kube-proxy's tests, or for a point of the agent's design."""

from __future__ import annotations

import pytest

from tests.conformance import differences, report
from tests.conformance.scenarios import SCENARIOS


@pytest.fixture(scope="module")
def results(arena):
    return {result.case.name: result for result in arena.run(SCENARIOS)}


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", [case.name for case in SCENARIOS])
def test_both_sides_do_the_same(results, name):
    result = results[name]
    assert not result.refusal
    assert not result.failed, report.text(result)


def test_every_rule_is_needed(results):
    used = {rule for result in results.values() for rule in result.rules}

    assert [] == [rule.name for rule in differences.RULES if rule.name not in used and not rule.is_by_chance]
