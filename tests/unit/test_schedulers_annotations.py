"""Which scheduler a Service gets by its annotations."""

from __future__ import annotations

import random
import timeit

import pytest

from ipvs_agent.schedulers import SCHEDULERS
from ipvs_agent.schedulers.annotations import Choice, Fault, choose

OURS = "ipvs-agent.io/scheduler"
FLAGS = "ipvs-agent.io/scheduler-flags"
THEIRS = "kube-router.io/service.scheduler"
THEIR_FLAGS = "kube-router.io/service.schedflags"
DEFAULT = Choice("wrr", 0)
EVERY = ", ".join(SCHEDULERS)


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("key", [OURS, f"{OURS}.http", THEIRS])
def test_every_scheduler_can_be_chosen(name, key):
    assert (Choice(name, {"sh": 0x8, "mh": 0x8}.get(name, 0)), ()) == choose({key: name}, "http", DEFAULT)


@pytest.mark.parametrize(
    ("expected", "annotations"),
    [
        pytest.param(DEFAULT, {}, id="nothing is asked"),
        pytest.param(
            DEFAULT, {"ipvs-agent.io/schedule": "lc", "kube-router.io/service.local": ""}, id="others"
        ),
        pytest.param(DEFAULT, {f"{OURS}.https": "lc"}, id="another port"),
        pytest.param(Choice("sh", 0x8), {OURS: "  sh "}, id="blanks at either end"),
        pytest.param(Choice("lc", 0), {OURS: "sed", f"{OURS}.http": "lc"}, id="the port before the Service"),
        pytest.param(Choice("sed", 0), {OURS: "sed", f"{OURS}.https": "lc"}, id="but not another port"),
        pytest.param(Choice("lc", 0), {OURS: "lc", THEIRS: "dh"}, id="ours before kube-router's"),
        pytest.param(Choice("lc", 0), {f"{OURS}.http": "lc", THEIRS: "dh"}, id="ours for the port, too"),
        pytest.param(Choice("sh", 0x18), {OURS: "sh", FLAGS: "sh-port"}, id="the flags, and the safe one"),
        pytest.param(Choice("sh", 0x10), {OURS: "sh", FLAGS: "sh-port, no-fallback"}, id="not the safe one"),
        pytest.param(Choice("mh", 0), {OURS: "mh", FLAGS: "no-fallback"}, id="nor any other"),
        pytest.param(Choice("sh", 0x18), {OURS: "sh", FLAGS: "sh-fallback,sh-port"}, id="two"),
        pytest.param(Choice("mh", 0x18), {OURS: "mh", FLAGS: " mh-port , mh-fallback"}, id="blanks between"),
        pytest.param(Choice("mh", 0x8), {OURS: "mh", FLAGS: "flag-1,mh-fallback"}, id="one by two names"),
        pytest.param(
            Choice("wrr", 0x38), {FLAGS: "flag-3,flag-2,flag-1"}, id="plain names for any scheduler"
        ),
        pytest.param(Choice("mh", 0), {OURS: "mh", FLAGS: "none"}, id="no flags"),
        pytest.param(Choice("mh", 0), {OURS: "mh", FLAGS: " none "}, id="no flags, with blanks"),
        pytest.param(
            Choice("mh", 0x18),
            {OURS: "sh", f"{OURS}.http": "mh", FLAGS: "no-fallback", f"{FLAGS}.http": "mh-port"},
            id="flags for the port",
        ),
        pytest.param(
            Choice("mh", 0x18), {THEIRS: "mh", THEIR_FLAGS: "flag-1, flag-2"}, id="kube-router's flags"
        ),
        pytest.param(
            Choice("mh", 0x10), {THEIRS: "mh", THEIR_FLAGS: "flag-2"}, id="exactly as kube-router has them"
        ),
        pytest.param(
            Choice("sh", 0x18), {THEIRS: "sh", THEIR_FLAGS: "flag-2"}, id="which it has for mh alone"
        ),
        pytest.param(
            Choice("mh", 0x28), {THEIRS: "mh", THEIR_FLAGS: "flag-2", FLAGS: "flag-3"}, id="but ours"
        ),
        pytest.param(Choice("sh", 0x8), {OURS: "sh", THEIRS: "mh", THEIR_FLAGS: "flag-2"}, id="not for ours"),
        pytest.param(
            Choice("sh", 0x8),
            {f"{OURS}.http": "sh", THEIRS: "mh", THEIR_FLAGS: "flag-2"},
            id="nor the port's",
        ),
    ],
)
def test_what_is_chosen(expected, annotations):
    assert (expected, ()) == choose(annotations, "http", DEFAULT)


def test_flags_alone_are_for_the_default():
    default = Choice("mh", 0x18)

    assert (Choice("mh", 0x8), ()) == choose({FLAGS: "mh-fallback"}, "", default)
    assert (Choice("mh", 0x20), ()) == choose({THEIR_FLAGS: "flag-3"}, "", default)


def test_a_port_without_a_name_is_not_meant_by_a_key_that_ends_in_a_dot():
    assert (DEFAULT, ()) == choose({f"{OURS}.": "lc", f"{FLAGS}.": "flag-1"}, "", DEFAULT)


@pytest.mark.parametrize(
    ("reason", "value"),
    [
        pytest.param("'wr' is not a scheduler; did you mean wrr?", "wr", id="misspelt"),
        pytest.param("'LC' is not a scheduler; did you mean lc?", "LC", id="capitals"),
        pytest.param("'r r' is not a scheduler; did you mean rr?", " r r ", id="blanks within"),
        pytest.param(
            f"'r{'':23}'... is not a scheduler; use one of {EVERY}", f"r{'':32}r", id="far too many blanks"
        ),
        pytest.param("'mh\\n' is not a scheduler; did you mean mh?", "mh\n", id="line feed"),
        pytest.param(f"names no scheduler; use one of {EVERY}", "", id="empty"),
        pytest.param(f"names no scheduler; use one of {EVERY}", "  ", id="blank"),
        pytest.param(f"'maglev' is not a scheduler; use one of {EVERY}", "maglev", id="unknown"),
        pytest.param(
            f"'$(reboot); `id`' is not a scheduler; use one of {EVERY}", "$(reboot); `id`", id="shell"
        ),
        pytest.param(f"'\\x1b[2J\\x00' is not a scheduler; use one of {EVERY}", "\x1b[2J\0", id="terminal"),
        pytest.param(
            f"'\\u202e\\xe9\\ud800' is not a scheduler; use one of {EVERY}", "\u202eé\ud800", id="unicode"
        ),
        pytest.param(
            f"'xrrxrrxrrxrrxrrxrrxrrxrr'... is not a scheduler; use one of {EVERY}", "xrr" * 3400, id="10 kB"
        ),
    ],
)
@pytest.mark.parametrize("key", [OURS, f"{OURS}.http", THEIRS])
def test_a_scheduler_that_makes_no_sense_gives_the_default(reason, value, key):
    annotations = {key: value, FLAGS: "mh-port", THEIR_FLAGS: "?"}

    assert (DEFAULT, (Fault(key, reason),)) == choose(annotations, "http", DEFAULT)


TAKES = "use flag-1, flag-2, flag-3 or none"


@pytest.mark.parametrize(
    ("reason", "scheduler", "value"),
    [
        pytest.param("'mh-prot' is not a flag of mh; did you mean mh-port?", "mh", "mh-prot"),
        pytest.param(
            "'\\tmh-port' is not a flag of mh; did you mean mh-port?", "mh", "mh-fallback,\tmh-port"
        ),
        pytest.param("'fallback' is not a flag of sh; did you mean sh-fallback?", "sh", "fallback"),
        pytest.param("'MH-PORT' is not a flag of mh; did you mean mh-port?", "mh", "MH-PORT"),
        pytest.param("mh-port is a flag of mh, not of sh; did you mean sh-port?", "sh", "mh-port"),
        pytest.param(f"sh-port is a flag of sh, not of lc; {TAKES}", "lc", "flag-1,sh-port"),
        pytest.param(f"'0x8' is not a flag of lc; {TAKES}", "lc", "0x8"),
        pytest.param(
            "'mh-port\\tmh-port' is not a flag of mh; did you mean mh-port?", "mh", "mh-port\tmh-port"
        ),
        pytest.param(f"'\\x1b]0;x\\x07' is not a flag of lc; {TAKES}", "lc", "\x1b]0;x\7"),
        pytest.param(f"'$(reboot)' is not a flag of lc; {TAKES}", "lc", "$(reboot)"),
        pytest.param(f"'{24 * 'a'}'... is not a flag of lc; {TAKES}", "lc", 4000 * "a"),
        pytest.param(f"'{24 * 'a'}'... is longer than 4096 characters", "lc", 10240 * "a"),
        pytest.param("none must stand alone", "mh", "none,mh-port"),
        pytest.param("no-fallback stands beside the flag for it", "mh", "no-fallback,mh-fallback"),
        pytest.param("no-fallback stands beside the flag for it", "sh", "flag-1,no-fallback"),
        pytest.param(f"'no-fallback' is not a flag of lc; {TAKES}", "lc", "no-fallback"),
        pytest.param("a flag is missing; for no flags at all use none", "mh", ""),
        pytest.param("a flag is missing; for no flags at all use none", "mh", "  "),
        pytest.param("a flag is missing; for no flags at all use none", "mh", "mh-port,"),
    ],
)
def test_flags_that_make_no_sense_leave_the_scheduler_with_its_own(reason, scheduler, value):
    safe = Choice(scheduler, SCHEDULERS[scheduler].safe_flags)

    for key in (FLAGS, f"{FLAGS}.http"):
        found = choose({OURS: scheduler, key: value}, "http", DEFAULT)
        assert (safe, (Fault(key, reason),)) == found
    found = choose({THEIRS: scheduler, THEIR_FLAGS: value}, "http", DEFAULT)
    assert (safe, (Fault(THEIR_FLAGS, reason),)) == found


def test_flags_that_make_no_sense_leave_the_default_as_it_is():
    default = Choice("mh", 0x18)

    choice, (fault,) = choose({FLAGS: "?"}, "http", default)

    assert (default, FLAGS) == (choice, fault.annotation)


def test_whatever_is_written_there_is_one_line_at_most():
    rng = random.Random(5)
    alphabet = [*"rwlcmshd-,.$`'\"\\ \t\n\0\x1b", "\u2028", "\U0001f600", "\ud800", "port", "flag-1", "none"]
    for _ in range(3000):
        values = ["".join(rng.choices(alphabet, k=rng.randrange(40))) for _ in range(4)]
        annotations = dict(zip((OURS, FLAGS, THEIRS, THEIR_FLAGS), values, strict=True))
        for key in rng.sample(sorted(annotations), k=rng.randrange(4)):
            del annotations[key]

        choice, faults = choose(annotations, "", DEFAULT)

        assert choice.scheduler in SCHEDULERS
        assert 0 == choice.flags & ~0x38
        assert len(faults) <= 1
        for fault in faults:
            assert fault.annotation in annotations
            assert fault.reason.isascii()
            assert fault.reason.isprintable()
            assert len(fault.reason) < 350


@pytest.mark.parametrize(
    ("values", "microseconds"),
    [
        pytest.param([{}], 2, id="none"),
        pytest.param([{"kube-router.io/service.local": "true"}], 10, id="others"),
        pytest.param([{OURS: f"{n}{3400 * 'xrr'}"} for n in range(100)], 100, id="10 kB"),
    ],
)
def test_it_costs_next_to_nothing(values, microseconds):
    """Bounds of some twenty times what it takes on an idle machine."""

    def run():
        for each in values:
            choose(each, "http", DEFAULT)

    seconds = min(timeit.repeat(run, number=1000 // len(values), repeat=5)) / 1000

    assert seconds * 1e6 < microseconds
