"""The scenarios: each for rows of the list of kube-proxy's tests, or for a point of the agent's design."""

from __future__ import annotations

import pytest

from tests.conformance import differences, report
from tests.conformance.scenarios import SCENARIOS


@pytest.fixture(scope="module")
def results(arena, request):
    names = {item.name for item in request.session.items}
    is_whole = test_every_rule_is_needed.__name__ in names
    chosen = [case for case in SCENARIOS if is_whole or f"test_both_sides_do_the_same[{case.name}]" in names]
    return {result.case.name: result for result in arena.run(chosen)}


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", [case.name for case in SCENARIOS])
def test_both_sides_do_the_same(results, name):
    result = results[name]
    assert not result.refusal
    assert not result.failed, report.text(result)


def test_every_rule_is_needed(results):
    used = {rule for result in results.values() for rule in result.rules}

    needed = [rule for rule in differences.RULES if not rule.is_by_chance and not rule.configured]
    assert [] == [rule.name for rule in needed if rule.name not in used]
