"""The time of a round."""

from __future__ import annotations

from ipvs_agent.reconcile.clock import RoundClock


def test_it_stands_still_until_it_is_set():
    readings = iter([1.0, 2.0])
    now = RoundClock(lambda: next(readings))

    assert (1.0, 1.0) == (now(), now())
    now.set()
    assert (2.0, 2.0) == (now(), now())
