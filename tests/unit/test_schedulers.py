from __future__ import annotations

import pytest

from ipvs_agent import schedulers
from ipvs_agent.addresses import parse_address
from ipvs_agent.model import Protocol, VirtualServer, address_key
from ipvs_agent.operations import AddVirtualServer

EVERY_NAME = ["rr", "wrr", "lc", "wlc", "sed", "nq", "sh", "dh", "lblc", "lblcr", "mh", "fo", "ovf", "twos"]
KEY = address_key(Protocol.TCP, parse_address("10.96.0.1"), 80)


def test_the_registry_has_all_schedulers_of_the_kernel():
    """Those of net/netfilter/ipvs/Kconfig in Linux 6.12."""
    assert sorted(EVERY_NAME) == sorted(schedulers.SCHEDULERS)


@pytest.mark.parametrize("name", EVERY_NAME)
def test_a_scheduler_says_what_it_does_in_one_line_each(name):
    scheduler = schedulers.SCHEDULERS[name]

    assert name == scheduler.name
    assert f"ip_vs_{name}" == scheduler.module
    for text in (scheduler.summary, scheduler.weight_meaning, scheduler.poor_choice):
        assert text.endswith(".")
        assert "\n" not in text


@pytest.mark.parametrize(
    ("expected", "scheduler", "flags"),
    [
        pytest.param(["sh-fallback", "sh-port"], "sh", 0x18, id="sh"),
        pytest.param(["mh-port"], "mh", 0x10, id="mh"),
        pytest.param(["mh-fallback", "flag-3"], "mh", 0x28, id="mh has two names of its own"),
        pytest.param(["flag-1", "flag-3"], "wrr", 0x28, id="plain names"),
        pytest.param(["flag-2"], "theirs", 0x10, id="a scheduler that we do not know"),
        pytest.param([], "rr", 0x5, id="flags that are not the scheduler's"),
    ],
)
def test_flag_names(expected, scheduler, flags):
    assert expected == schedulers.flag_names(scheduler, flags)


@pytest.mark.parametrize(
    ("expected", "name"),
    [
        pytest.param(["mh-fallback", "mh-port"], "mh", id="mh: the port as in kube-proxy, and the fallback"),
        pytest.param(["sh-fallback"], "sh", id="sh: the fallback"),
        pytest.param([], "rr", id="rr"),
    ],
)
def test_default_flags(expected, name):
    assert expected == schedulers.flag_names(name, schedulers.SCHEDULERS[name].default_flags)


@pytest.mark.parametrize(
    ("expected", "name"),
    [
        pytest.param(["mh-fallback"], "mh", id="mh: the port only where the configuration names it"),
        pytest.param(["sh-fallback"], "sh", id="sh"),
        pytest.param([], "dh", id="dh: it has none"),
    ],
)
def test_safe_flags(expected, name):
    assert expected == schedulers.flag_names(name, schedulers.SCHEDULERS[name].safe_flags)


def test_the_flags_that_a_scheduler_takes_by_name():
    plain = {"flag-1": 0x8, "flag-2": 0x10, "flag-3": 0x20}

    assert plain == schedulers.SCHEDULERS["rr"].flag_bits
    assert {**plain, "sh-fallback": 0x8, "sh-port": 0x10} == schedulers.SCHEDULERS["sh"].flag_bits
    assert {**plain, "mh-fallback": 0x8, "mh-port": 0x10} == schedulers.SCHEDULERS["mh"].flag_bits


@pytest.mark.parametrize("name", EVERY_NAME)
@pytest.mark.parametrize("flags", range(0, 0x40, 8))
def test_flag_bits_and_flag_names_agree(name, flags):
    bits = schedulers.SCHEDULERS[name].flag_bits

    assert flags == sum(bits[each] for each in schedulers.flag_names(name, flags))


@pytest.mark.parametrize(
    ("expected", "name", "flags"),
    [
        pytest.param(True, "rr", 0, id="one without a table"),
        pytest.param(True, "sh", 0x8, id="sh with its fallback"),
        pytest.param(False, "sh", 0x10, id="sh with another flag"),
        pytest.param(True, "mh", 0x18, id="mh as kube-proxy's configuration has it here"),
        pytest.param(False, "mh", 0x10, id="mh as kube-proxy has it"),
        pytest.param(False, "dh", 0x38, id="dh has no flag for it"),
    ],
)
def test_whether_a_real_server_of_weight_0_is_passed_over(expected, name, flags):
    assert expected is schedulers.SCHEDULERS[name].can_drain(flags)


def test_tables_orders_and_weights():
    """As net/netfilter/ipvs/ip_vs_*.c has them."""
    told = {
        name: (each.weight.value, each.order.value, each.table_size, each.since)
        for name, each in schedulers.SCHEDULERS.items()
    }

    assert told == {
        "rr": ("ignored", "spread", 0, "2.6"),
        "wrr": ("share", "spread", 0, "2.6"),
        "lc": ("ignored", "spread", 0, "2.6"),
        "wlc": ("share", "spread", 0, "2.6"),
        "sed": ("share", "spread", 0, "2.6"),
        "nq": ("share", "spread", 0, "2.6"),
        "sh": ("share", "canonical", 256, "2.6"),
        "dh": ("ignored", "canonical", 256, "2.6"),
        "lblc": ("capacity", "spread", 0, "2.6"),
        "lblcr": ("capacity", "spread", 0, "2.6"),
        "mh": ("share", "canonical", 4093, "4.18"),
        "fo": ("priority", "ranked", 0, "3.18"),
        "ovf": ("capacity", "ranked", 0, "4.3"),
        "twos": ("share", "spread", 0, "5.12"),
    }


@pytest.mark.parametrize("name", EVERY_NAME)
def test_a_known_name_can_be_configured(name):
    assert schedulers.SCHEDULERS[name] is schedulers.configured(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        pytest.param("wr", "there is no scheduler 'wr'; did you mean wrr?", id="a slip"),
        pytest.param("LC", "there is no scheduler 'LC'; did you mean lc?", id="capitals"),
        pytest.param(
            "maglev",
            f"there is no scheduler 'maglev'; use one of {', '.join(EVERY_NAME)}",
            id="far",
        ),
    ],
)
def test_an_unknown_name_is_refused_with_advice(name, message):
    with pytest.raises(ValueError, match="there is no scheduler") as caught:
        schedulers.configured(name)

    assert message == str(caught.value)


def test_operations_print_the_schedulers_own_flag_names():
    operation = AddVirtualServer(VirtualServer(KEY, "mh", 0x1 | 0x4 | 0x18, 60))

    assert "ipvsadm -A -t 10.96.0.1:80 -s mh -p 60 -o -b mh-fallback,mh-port" == str(operation)
