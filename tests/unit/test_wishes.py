"""What a Service asks for in its annotations beside the scheduler."""

from __future__ import annotations

import random

import pytest

from ipvs_agent.desired.wishes import DRAIN_TIMEOUT, SLOW_START, Wishes, read_wishes
from ipvs_agent.schedulers.annotations import Fault

DEFAULT = Wishes(drain_seconds=30.0)
DURATIONS = {DRAIN_TIMEOUT: "drain_seconds", SLOW_START: "slow_start_seconds"}
NONE_SAID = "says no duration; write one such as 60s, 5m or 1h30m"


def test_nothing_asked_for_is_the_default():
    assert (DEFAULT, []) == read_wishes({}, DEFAULT)
    assert (DEFAULT, []) == read_wishes({"ipvs-agent.io/scheduler": "lc"}, DEFAULT)


@pytest.mark.parametrize(
    ("seconds", "text"), [(60, "60s"), (300, "5m"), (3600, "1h"), (90, "1m30s"), (1.5, " 1500ms "), (1, "1s")]
)
@pytest.mark.parametrize("key", DURATIONS)
def test_durations_are_as_kubernetes_users_write_them(key, seconds, text):
    wishes, faults = read_wishes({key: text}, DEFAULT)

    assert (seconds, []) == (getattr(wishes, DURATIONS[key]), faults)


@pytest.mark.parametrize("text", ["0", "999ms"])
def test_a_slow_start_takes_a_second_at_least(text):
    _, faults = read_wishes({SLOW_START: text}, DEFAULT)

    assert [Fault(SLOW_START, f"'{text}' is not within 1s to 1h")] == faults


@pytest.mark.parametrize(("seconds", "text"), [(7 * 86400, "168h"), (5400, "1h30m"), (0, "0s")])
def test_a_drain_may_take_a_week_or_no_time(seconds, text):
    assert (Wishes(drain_seconds=seconds), []) == read_wishes({DRAIN_TIMEOUT: text}, DEFAULT)


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        pytest.param(NONE_SAID, "", id="empty"),
        pytest.param(NONE_SAID, "  ", id="blank"),
        pytest.param("'60' is not a duration such as 60s, 5m or 1h30m", "60", id="no unit"),
        pytest.param("'3 d' is not a duration such as 60s, 5m or 1h30m", "3 d", id="unknown unit"),
        pytest.param("'60S' is not a duration such as 60s, 5m or 1h30m", "60S", id="capitals"),
        pytest.param("'60s\\n' is not a duration such as 60s, 5m or 1h30m", "60s\n", id="line feed"),
        pytest.param("'$(reboot); `id`' is not a duration such as 60s, 5m or 1h30m", "$(reboot); `id`"),
        pytest.param(f"'{24 * '7'}'... is not a duration such as 60s, 5m or 1h30m", 10240 * "7", id="10 kB"),
        pytest.param("'-5s' is not within {bounds}", "-5s", id="negative"),
        pytest.param("'169h' is not within {bounds}", "169h", id="too long"),
        pytest.param(f"'{24 * '9'}'... is not within {{bounds}}", 10240 * "9" + "h", id="infinite"),
    ],
)
@pytest.mark.parametrize(("key", "bounds"), [(DRAIN_TIMEOUT, "0s to 168h"), (SLOW_START, "1s to 1h")])
def test_a_duration_that_makes_no_sense_gives_the_default(key, bounds, reason, text):
    assert (DEFAULT, [Fault(key, reason.format(bounds=bounds))]) == read_wishes({key: text}, DEFAULT)


def test_one_that_makes_no_sense_does_not_take_another_along():
    wishes, (fault,) = read_wishes({DRAIN_TIMEOUT: "never", SLOW_START: "1m"}, DEFAULT)

    assert (30, 60, DRAIN_TIMEOUT) == (wishes.drain_seconds, wishes.slow_start_seconds, fault.annotation)


def test_whatever_is_written_there_is_one_line_at_most_for_each():
    rng = random.Random(5)
    alphabet = [
        *"0123456789smh-,.:=/$`'\" \t\n\0\x1b",
        "ms",
        "\u2028",
        "\U0001f600",
        "\ud800",
        "zone",
        "node",
    ]
    for _ in range(3000):
        keys = rng.sample(sorted(DURATIONS), k=rng.randrange(len(DURATIONS) + 1))
        annotations = {key: "".join(rng.choices(alphabet, k=rng.randrange(12))) for key in keys}

        _, faults = read_wishes(annotations, DEFAULT)

        assert len(faults) == len({fault.annotation for fault in faults})
        for fault in faults:
            assert fault.annotation in annotations
            assert fault.reason.isascii()
            assert fault.reason.isprintable()
            assert len(fault.reason) < 350
