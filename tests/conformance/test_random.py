"""Random cases; a case that fails is shrunk before it is shown."""

from __future__ import annotations

import time

import pytest

from tests.conformance import generator, report
from tests.conformance.arena import batches
from tests.conformance.shrink import shrink

BATCH = 100
MOST_SHRUNK = 2
SHRINK_SECONDS = 300.0
"""After which no further round of shrinking begins, so that what failed is told."""


@pytest.mark.timeout(3600)
def test_both_sides_do_the_same(arena, seed, request):
    numbers = request.config.getoption("case") or range(request.config.getoption("cases"))
    drawn = generator.cases(seed, max(numbers, default=-1) + 1)
    cases = [drawn[number] for number in numbers]

    failed = [
        result
        for batch in batches(cases, BATCH)
        for result in arena.run(batch)
        if result.failed or result.refusal
    ]

    for result in failed:  # at once, for shrinking takes minutes
        print(report.text(result), flush=True)
    assert not failed, "\n\n".join(
        [
            f"{len(failed)} of {len(cases)} cases of seed {seed} fail; to repeat one: {_repeat(failed[0])}",
            *map(_shrunk, [arena] * len(failed), failed[:MOST_SHRUNK]),
        ]
    )


def _repeat(result):
    seed, number = result.case.name.split("/")
    return f"make conformance SEED={seed} CASE={number}"


def _shrunk(arena, result):
    def fails(cases):
        return [one.failed for one in arena.run(cases)] if cases else []

    if result.refusal:
        return report.text(result)
    again = arena.run([result.source])[0]
    if not again.failed:
        return f"(not when it runs alone) {report.text(result)}"
    deadline = time.monotonic() + SHRINK_SECONDS
    smaller = shrink(result.source, fails, lambda: time.monotonic() < deadline)
    return report.text(arena.run([smaller])[0])
