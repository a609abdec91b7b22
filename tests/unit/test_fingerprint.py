"""Fingerprints: equal where nodes choose alike, different where they do not."""

from __future__ import annotations

import hashlib
import itertools

import msgspec
import pytest

from ipvs_agent.model import FULL_NETMASK, Protocol, ServiceFlags, VirtualServer, mark_key
from ipvs_agent.observed import ObservedRealServer
from ipvs_agent.schedulers import SCHEDULERS, Order
from ipvs_agent.status.fingerprint import fingerprint
from ipvs_agent.testing.builders import key, real_server

WEB = VirtualServer(key("10.96.0.80:80"), "mh", ServiceFlags.SCHEDULER_1)
TABLE = tuple(real_server(f"10.244.0.{host}:8080", weight=host) for host in (1, 2, 3))


def of(table, virtual_server=WEB):
    return fingerprint(virtual_server, [ObservedRealServer(each) for each in table])


def changed(value, **fields):
    return msgspec.structs.replace(value, **fields)


def schedulers(order):
    return [name for name, scheduler in SCHEDULERS.items() if scheduler.order is order]


def test_anybody_can_work_it_out():
    text = b"mh 0x8 0\n10.244.0.1:8080 1\n10.244.0.2:8080 2\n10.244.0.3:8080 3"

    assert hashlib.sha256(text).hexdigest()[:16] == of(TABLE)
    text = text.replace(b"0x8 0", b"0x9 60 255.255.255.0")
    sticky = changed(WEB, flags=WEB.flags | ServiceFlags.PERSISTENT, timeout=60, netmask=0xFFFFFF00)
    assert hashlib.sha256(text).hexdigest()[:16] == of(TABLE, sticky)


@pytest.mark.parametrize("scheduler", schedulers(Order.CANONICAL))
def test_the_order_counts_where_it_fills_a_table(scheduler):
    virtual_server = changed(WEB, scheduler=scheduler)

    assert 6 == len({of(table, virtual_server) for table in itertools.permutations(TABLE)})


@pytest.mark.parametrize(
    "scheduler", [*schedulers(Order.SPREAD), *schedulers(Order.RANKED), "", "unheard-of"]
)
def test_the_order_does_not_count_where_it_only_says_who_is_first(scheduler):
    virtual_server = changed(WEB, scheduler=scheduler)

    assert 1 == len({of(table, virtual_server) for table in itertools.permutations(TABLE)})


def test_what_drains_does_not_count():
    draining = real_server("10.244.0.9:8080", weight=0)

    assert {of(TABLE)} == {of((*TABLE[:n], draining, *TABLE[n:])) for n in range(4)}


@pytest.mark.parametrize(
    "other",
    [
        key("192.0.2.7:80"),
        key("10.96.0.80:30080"),
        key("[fd00:10:96::80]:80"),
        key("10.96.0.80:80", Protocol.UDP),
        mark_key(WEB.key.family, 7),
    ],
    ids=str,
)
def test_where_it_is_dialled_does_not_count(other):
    assert of(TABLE) == of(TABLE, changed(WEB, key=other))


@pytest.mark.parametrize(
    "fields",
    [
        {"scheduler": "sh"},
        {"scheduler": ""},
        {"flags": 0},
        {"flags": WEB.flags | ServiceFlags.PERSISTENT},
        {"flags": WEB.flags | ServiceFlags.PERSISTENT, "timeout": 60},
    ],
    ids=str,
)
def test_how_it_is_balanced_counts(fields):
    assert of(TABLE) != of(TABLE, changed(WEB, **fields))


@pytest.mark.parametrize(
    ("vip", "netmasks"),
    [("10.96.0.80:80", (FULL_NETMASK, 0xFFFFFF00)), ("[fd00:10:96::80]:80", (FULL_NETMASK, 64))],
)
def test_which_clients_are_one_counts_where_they_are_remembered(vip, netmasks):
    plain = [changed(WEB, key=key(vip), netmask=netmask) for netmask in netmasks]
    sticky = [changed(one, flags=one.flags | ServiceFlags.PERSISTENT, timeout=60) for one in plain]

    assert 1 == len({of(TABLE, one) for one in plain})
    assert 2 == len({of(TABLE, one) for one in sticky})


@pytest.mark.parametrize(
    "table",
    [
        (),
        TABLE[:2],
        (changed(TABLE[0], weight=9), *TABLE[1:]),
        (changed(TABLE[0], port=81), *TABLE[1:]),
        (*TABLE, real_server("[fd00::1]:80")),
    ],
    ids=["none", "one less", "a weight", "a port", "one more"],
)
def test_who_is_behind_it_counts(table):
    assert of(TABLE) != of(table)
