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
    for text in (scheduler.summary, scheduler.weight, scheduler.poor_choice):
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
