"""What a Service asks for in its annotations beside the scheduler."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from ipvs_agent.addresses import Family
from ipvs_agent.desired.wishes import (
    AFFINITY_MASK,
    AFFINITY_SHARED,
    DRAIN_TIMEOUT,
    MOST_CONNECTIONS,
    RESUME_CONNECTIONS,
    SLOW_START,
    WEIGHTS,
    Wishes,
    read_wishes,
)
from ipvs_agent.model import FULL_NETMASK
from ipvs_agent.schedulers.annotations import Fault
from ipvs_agent.testing.builders import port, service

DEFAULT = Wishes(drain_seconds=30.0)
DUAL = (port(), port("fd00:10:96::80"))
EVERY = [
    *(WEIGHTS, MOST_CONNECTIONS, RESUME_CONNECTIONS, AFFINITY_MASK, AFFINITY_SHARED),
    *(DRAIN_TIMEOUT, SLOW_START),
]
DURATIONS = {DRAIN_TIMEOUT: "drain_seconds", SLOW_START: "slow_start_seconds"}


def read(annotations, *ports, affinity_seconds=10800):
    asking = service("shop/web", *ports, annotations=annotations, affinity_seconds=affinity_seconds)
    return read_wishes(asking, DEFAULT.drain_seconds)


NONE_SAID = "says no duration; write one such as 60s, 5m or 1h30m"


def test_nothing_asked_for_is_the_default():
    assert (DEFAULT, []) == read({})
    assert (DEFAULT, []) == read({"ipvs-agent.io/scheduler": "lc"})


@pytest.mark.parametrize(
    ("seconds", "text"), [(60, "60s"), (300, "5m"), (3600, "1h"), (90, "1m30s"), (1.5, " 1500ms "), (1, "1s")]
)
@pytest.mark.parametrize("key", DURATIONS)
def test_durations_are_as_kubernetes_users_write_them(key, seconds, text):
    wishes, faults = read({key: text})

    assert (seconds, []) == (getattr(wishes, DURATIONS[key]), faults)


@pytest.mark.parametrize("text", ["0", "999ms"])
def test_a_slow_start_takes_a_second_at_least(text):
    _, faults = read({SLOW_START: text})

    assert [Fault(SLOW_START, f"'{text}' is not within 1s to 1h")] == faults


@pytest.mark.parametrize(("seconds", "text"), [(7 * 86400, "168h"), (5400, "1h30m"), (0, "0s")])
def test_a_drain_may_take_a_week_or_no_time(seconds, text):
    assert (Wishes(drain_seconds=seconds), []) == read({DRAIN_TIMEOUT: text})


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
        pytest.param(f"'{24 * '7'}'... is not a duration such as 60s, 5m or 1h30m", 4000 * "7", id="long"),
        pytest.param("'-5s' is not within {bounds}", "-5s", id="negative"),
        pytest.param("'169h' is not within {bounds}", "169h", id="too long"),
        pytest.param(f"'{24 * '9'}'... is not within {{bounds}}", 4000 * "9" + "h", id="infinite"),
    ],
)
@pytest.mark.parametrize(("key", "bounds"), [(DRAIN_TIMEOUT, "0s to 168h"), (SLOW_START, "1s to 1h")])
def test_a_duration_that_makes_no_sense_gives_the_default(key, bounds, reason, text):
    assert (DEFAULT, [Fault(key, reason.format(bounds=bounds))]) == read({key: text})


@pytest.mark.parametrize(
    ("expected", "text"),
    [
        ({Family.IPV4: 0xFFFFFF00}, "24"),
        ({Family.IPV6: 64}, "/64"),
        ({Family.IPV4: 0xFFFF0000, Family.IPV6: 48}, " 16/48 "),
        ({Family.IPV4: FULL_NETMASK, Family.IPV6: FULL_NETMASK}, "32/128"),
        ({Family.IPV4: 0x80000000, Family.IPV6: 1}, "1/1"),
    ],
)
def test_a_mask_says_which_clients_are_one(expected, text):
    wishes, faults = read({AFFINITY_MASK: text}, *DUAL)

    assert (expected, []) == (wishes.netmasks, faults)


NO_MASK = "is not a prefix length as 24 (IPv4), /64 (IPv6) or 24/64 (both)"


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        pytest.param(f"'' {NO_MASK}", "", id="empty"),
        pytest.param(f"'/' {NO_MASK}", "/", id="no number"),
        pytest.param(f"'24,/64' {NO_MASK}", "24,/64", id="comma"),
        pytest.param(f"'255.255.255.0' {NO_MASK}", "255.255.255.0", id="dotted"),
        pytest.param(f"'-1' {NO_MASK}", "-1", id="negative"),
        pytest.param(f"'\\u0662\\u0664' {NO_MASK}", "\u0662\u0664", id="other digits"),
        pytest.param(f"'$(reboot)' {NO_MASK}", "$(reboot)", id="shell"),
        pytest.param(f"'{24 * '2'}'... {NO_MASK}", 4000 * "2", id="long"),
        pytest.param("0 is not an IPv4 prefix length from 1 to 32", "0", id="everybody"),
        pytest.param("33 is not an IPv4 prefix length from 1 to 32", "33/64", id="too long"),
        pytest.param("129 is not an IPv6 prefix length from 1 to 128", "24/129", id="too long for IPv6"),
        pytest.param("0 is not an IPv6 prefix length from 1 to 128", "/0", id="everybody by IPv6"),
        pytest.param("'/24' is for IPv6, which the Service does not have", "/24", id="not its family"),
    ],
)
def test_a_mask_that_makes_no_sense_is_none(reason, text):
    assert (DEFAULT, [Fault(AFFINITY_MASK, reason)]) == read({AFFINITY_MASK: text}, port())


def test_affinity_of_the_whole_service_is_asked_for_by_a_word():
    wishes, faults = read({AFFINITY_SHARED: "true"})

    assert (True, []) == (wishes.is_affinity_shared, faults)
    assert (DEFAULT, []) == read({AFFINITY_SHARED: "false"})
    for text in ("", "True", "yes", "1"):
        assert (DEFAULT, [Fault(AFFINITY_SHARED, f"'{text}' is not true or false")]) == read(
            {AFFINITY_SHARED: text}
        )


@pytest.mark.parametrize(("key", "text"), [(AFFINITY_MASK, "24"), (AFFINITY_SHARED, "true")])
def test_without_affinity_they_mean_nothing(key, text):
    reason = "means nothing without sessionAffinity: ClientIP"

    assert (DEFAULT, [Fault(key, reason)]) == read({key: text}, affinity_seconds=0)


def test_affinity_of_the_whole_service_knows_no_mask():
    _, faults = read({AFFINITY_SHARED: "true", AFFINITY_MASK: "24"})

    reason = "means nothing beside ipvs-agent.io/affinity-shared, which goes by whole addresses"
    assert [Fault(AFFINITY_MASK, reason)] == faults


@pytest.mark.parametrize(
    ("expected", "most", "resume"),
    [((120, 0), "120", None), ((1000, 800), "1000", "800"), ((500, 500), " 500", "500 ")],
)
def test_caps_are_numbers_of_connections(expected, most, resume):
    asked = {MOST_CONNECTIONS: most} | ({RESUME_CONNECTIONS: resume} if resume else {})
    wishes, faults = read(asked)

    assert (expected, []) == ((wishes.most_connections, wishes.resume_connections), faults)


NO_NUMBER = "is not a number from 1 to 2147483647"


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        pytest.param(f"'' {NO_NUMBER}", "", id="empty"),
        pytest.param(f"'0' {NO_NUMBER}", "0", id="nothing"),
        pytest.param(f"'-5' {NO_NUMBER}", "-5", id="negative"),
        pytest.param(f"'1k' {NO_NUMBER}", "1k", id="unit"),
        pytest.param(f"'1e3' {NO_NUMBER}", "1e3", id="exponent"),
        pytest.param(f"'1_000' {NO_NUMBER}", "1_000", id="as Python writes it"),
        pytest.param(f"'2147483648' {NO_NUMBER}", "2147483648", id="too many"),
        pytest.param(f"'; ipvsadm -C' {NO_NUMBER}", "; ipvsadm -C", id="shell"),
        pytest.param(f"'{24 * '9'}'... {NO_NUMBER}", 4000 * "9", id="long"),
    ],
)
@pytest.mark.parametrize("key", [MOST_CONNECTIONS, RESUME_CONNECTIONS])
def test_a_cap_that_makes_no_sense_is_none(key, reason, text):
    wishes, (fault, *_) = read({key: text})

    assert (0, 0, Fault(key, reason)) == (wishes.most_connections, wishes.resume_connections, fault)


@pytest.mark.parametrize(
    ("reason", "asked"),
    [
        ("means nothing without ipvs-agent.io/max-connections", {RESUME_CONNECTIONS: "800"}),
        (
            "1001 is more than ipvs-agent.io/max-connections, which is 1000",
            {MOST_CONNECTIONS: "1000", RESUME_CONNECTIONS: "1001"},
        ),
    ],
)
def test_a_low_water_mark_needs_a_higher_cap(reason, asked):
    wishes, faults = read(asked)

    assert (0, [Fault(RESUME_CONNECTIONS, reason)]) == (wishes.resume_connections, faults)


def test_a_small_cap_is_set_and_said():
    wishes, (fault,) = read({MOST_CONNECTIONS: "119"})

    assert (119, MOST_CONNECTIONS) == (wishes.most_connections, fault.annotation)
    assert (
        "119 is few: a closed connection counts for up to two minutes, "
        "so that short ones are let in less than once a second"
    ) == fault.reason


def test_one_that_makes_no_sense_does_not_take_another_along():
    wishes, (fault,) = read({DRAIN_TIMEOUT: "never", SLOW_START: "1m"})

    assert (30, 60, DRAIN_TIMEOUT) == (wishes.drain_seconds, wishes.slow_start_seconds, fault.annotation)


@pytest.mark.parametrize("key", EVERY)
def test_what_is_longer_than_anybody_would_write_is_not_looked_at(key):
    text = 20000 * "1h,a=1"
    _, (fault, *_) = read({key: text})

    assert Fault(key, "'1h,a=11h,a=11h,a=11h,a=1'... is longer than 4096 characters") == fault


UNKNOWN = "is not an annotation that the agent knows"


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("max-connection", f"{UNKNOWN}; did you mean max-connections?"),
        ("Weights", f"{UNKNOWN}; did you mean weights?"),
        ("weights.http", f"{UNKNOWN}; did you mean weights?"),
        ("schedler.http", f"{UNKNOWN}; did you mean scheduler?"),
        ("colour", UNKNOWN),
        ("", UNKNOWN),
        ("scheduler.htp", "the Service has no port 'htp'; did you mean http?"),
        ("scheduler-flags.metrics", "the Service has no port 'metrics'"),
        ("scheduler.", "the Service has no port ''"),
    ],
)
def test_an_annotation_that_nobody_knows_is_said(key, reason):
    assert (DEFAULT, [Fault(f"ipvs-agent.io/{key}", reason)]) == read({f"ipvs-agent.io/{key}": "1"})


def test_of_thousands_that_nobody_knows_a_few_are_named():
    asked = {f"ipvs-agent.io/weighs{number}": "" for number in range(9000)}
    wishes, faults = read(asked | {DRAIN_TIMEOUT: "never", WEIGHTS: "local=2"})

    assert 2 == wishes.weights.local
    assert [DRAIN_TIMEOUT, *(f"ipvs-agent.io/weighs{number}" for number in range(4)), ""] == [
        fault.annotation for fault in faults
    ]
    assert "more than these 4 are not annotations that the agent knows" == faults[-1].reason


@pytest.mark.parametrize("key", ["\x1b[2J", 10240 * "x", "$(reboot)"])
def test_whatever_its_name_is_it_does_no_harm(key):
    _, (fault,) = read({f"ipvs-agent.io/{key}": "1"})

    assert fault.annotation.isascii()
    assert fault.annotation.isprintable()
    assert len(fault.annotation) <= 128


def test_annotations_of_ports_and_of_others_are_known():
    asked = {"ipvs-agent.io/scheduler.http": "lc", "kube-router.io/service.local": "", "example.org/x": ""}

    assert (DEFAULT, []) == read(asked)


def test_the_examples_of_the_page_about_annotations_are_taken():
    text = (Path(__file__).parents[2] / "docs" / "annotations.md").read_text()
    examples = [
        dict(word.split("=", 1) for word in line.split()[4:])
        for line in text.splitlines()
        if line.startswith("kubectl annotate service web ")
    ]
    rows = re.findall(r"^\| `(ipvs-agent.io/[a-z-]+)` \| `([^`]+)` \|", text, re.MULTILINE)

    assert [[]] * len(examples) == [read(example, *DUAL)[1] for example in examples]
    assert set(EVERY) == {key for example in examples for key in example} - {"ipvs-agent.io/scheduler"}
    assert set(EVERY) == {key for key, _ in rows}
    needed = {MOST_CONNECTIONS: "1000"}
    assert [[]] * len(rows) == [read(needed | {key: value}, *DUAL)[1] for key, value in rows]


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
        keys = rng.sample(EVERY, k=rng.randrange(len(EVERY) + 1))
        annotations = {key: "".join(rng.choices(alphabet, k=rng.randrange(12))) for key in keys}

        _, faults = read(annotations, *DUAL)

        for fault in faults:
            assert fault.annotation in annotations
            assert fault.reason.isascii()
            assert fault.reason.isprintable()
            assert len(fault.reason) < 350
