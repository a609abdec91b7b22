"""ipvs-agent status beside ipvsadm, on the same kernel."""

from __future__ import annotations

import contextlib
import random
import subprocess

import pytest

from ipvs_agent import cli
from ipvs_agent.addresses import parse_address
from ipvs_agent.kernel.ipvs import NetlinkIpvs
from ipvs_agent.model import Protocol, RealServer, VirtualServer, address_key
from ipvs_agent.operations import AddRealServer, AddVirtualServer
from tests.contract.ipvs_tables import KEY, KEY6, MARK6, POD, random_table


def ipvsadm(*words):
    return subprocess.run(["ipvsadm", *words], capture_output=True, text=True, check=False)


@pytest.fixture
def ipvs(namespace):
    with contextlib.closing(NetlinkIpvs()) as ipvs:
        yield ipvs


def assert_same(capsys, *words):
    expected = ipvsadm("-Ln", *words)
    status = cli.main(["status", "-Ln", *words])
    assert (expected.returncode, expected.stdout, expected.stderr) == (status, *capsys.readouterr())


def test_an_empty_table(ipvs, capsys):
    assert_same(capsys)


@pytest.mark.parametrize("seed", range(4))
def test_any_table(ipvs, capsys, seed):
    for virtual_server, real_servers in random_table(random.Random(seed), 150).items():
        additions = [AddRealServer(virtual_server.key, each) for each in sorted(real_servers)]
        assert set(ipvs.apply([AddVirtualServer(virtual_server), *additions])) == {None}

    assert_same(capsys)


def test_addresses_whose_order_wraps(ipvs, capsys):
    for prefix in ("10.96.0.", "192.168.1.", "172.16.0.", "100.64.0.", "203.0.113."):
        for host in range(1, 9):
            key = address_key(Protocol.TCP, parse_address(f"{prefix}{host}"), 80)
            assert ipvs.apply([AddVirtualServer(VirtualServer(key, "rr"))]) == [None]

    assert_same(capsys)


@pytest.mark.parametrize("scheduler", ["rr", "sh", "mh", ""])
@pytest.mark.parametrize("flags", [0x8, 0x10, 0x20, 0x38])
def test_the_flags_of_every_kind_of_scheduler(ipvs, capsys, scheduler, flags):
    ipvs.apply([AddVirtualServer(VirtualServer(KEY, scheduler, flags))])

    assert_same(capsys)


def test_one_virtual_server(ipvs, capsys):
    for key in (KEY, KEY6, MARK6):
        ipvs.apply([AddVirtualServer(VirtualServer(key, "rr"))])
    ipvs.apply([AddRealServer(KEY, RealServer(POD, port)) for port in (81, 80)])

    assert_same(capsys, "-t", "10.96.0.1:443")
    assert_same(capsys, "-u", "[fd00:10:96::a]:53")
    assert_same(capsys, "-f", "77", "-6")


def test_a_missing_virtual_server(ipvs, capsys):
    assert_same(capsys, "-t", "10.96.0.1:443")
