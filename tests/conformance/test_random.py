"""Random cases; a case that fails is shrunk before it is shown."""

from __future__ import annotations

import random

import pytest

from tests.conformance import generator, report
from tests.conformance.arena import batches
from tests.conformance.shrink import shrink

FIXED_SEED = 1
BATCH = 100
MOST_SHOWN = 2


def pytest_generate_tests(metafunc):
    seed = metafunc.config.getoption("seed")
    fresh = random.SystemRandom().randrange(10**6)
    metafunc.parametrize("seed", (FIXED_SEED, fresh) if seed is None else (seed,))


@pytest.mark.timeout(3600)
def test_both_sides_do_the_same(arena, seed, request):
    cases = generator.cases(seed, request.config.getoption("cases"))

    failed = [
        result
        for batch in batches(cases, BATCH)
        for result in arena.run(batch)
        if result.failed or result.refusal
    ]

    assert not failed, "\n\n".join(
        [
            f"{len(failed)} of {len(cases)} cases of seed {seed} fail",
            *map(_shown, [arena] * len(failed), failed[:MOST_SHOWN]),
        ]
    )


def _shown(arena, result):
    def fails(cases):
        return [one.failed for one in arena.run(cases)] if cases else []

    if result.refusal:
        return report.text(result)
    again = arena.run([result.source])[0]
    if not again.failed:
        return f"(not when it runs alone) {report.text(result)}"
    return report.text(arena.run([shrink(result.source, fails)])[0])
