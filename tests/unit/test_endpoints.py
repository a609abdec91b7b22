"""Which copy of an endpoint is believed where slices contradict each other."""

from __future__ import annotations

import itertools

import pytest

from ipvs_agent.desired import endpoints
from ipvs_agent.testing.builders import endpoint, endpoint_slice, port

POD = "10.244.1.11"
READY = endpoint(POD, node="node-a")
UNREADY = endpoint(POD, ready=False, serving=False, node="node-a")
SERVING = endpoint(POD, ready=False, serving=True, node="node-a")
LEAVING = endpoint(POD, ready=False, serving=True, terminating=True, node="node-a")
ELSEWHERE = endpoint(POD, node="node-b")


@pytest.mark.parametrize(
    ("copies", "expected"),
    [
        pytest.param([READY, UNREADY], READY, id="one is ready"),
        pytest.param([UNREADY, READY, LEAVING], READY, id="one leaves"),
        pytest.param([LEAVING, UNREADY], UNREADY, id="who leaves is no more, though it serves"),
        pytest.param([UNREADY, SERVING], SERVING, id="one serves"),
        pytest.param([READY, ELSEWHERE], READY, id="they are as good: the first slice by name"),
        pytest.param([ELSEWHERE, READY], ELSEWHERE, id="and the other way round"),
    ],
)
def test_it_is_the_same_in_whatever_order_slices_come(copies, expected):
    slices = [endpoint_slice(endpoints=[one], suffix=str(number)) for number, one in enumerate(copies)]

    for order in itertools.permutations(slices):
        assert [expected] == endpoints.of_port(port(), order)
